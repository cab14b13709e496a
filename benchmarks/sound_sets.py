"""ESC-50, UrbanSound8K, FSD50K and AudioSet as they are unpacked: their classes, clips and official folds or splits."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from published import published

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from data import Clip, ParquetFolder  # noqa: E402
from hyperbolic_clap.plumbing.config import CLASS_LABELS  # noqa: E402
from hyperbolic_clap.plumbing.errors import UserError, warn  # noqa: E402
from hyperbolic_clap.reading.labels import ClassList  # noqa: E402


@dataclass
class Round:
    """Names of the parts that train, validate and test. validation empty: a fifth of the training's videos."""

    train: list[str]
    validation: list[str]
    test: str


class Files:
    """Sound files with labels, read as rows when iterated."""

    def __init__(self, files: list[tuple[Path, list[str]]], classes: ClassList):
        self.files, self.classes = files, classes

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Clip]:
        for i, (path, labels) in enumerate(self.files):
            yield Clip(sample_id=i, video_id=path.stem, human_labels=labels, machine_labels=[],
                       positions=self.classes.match(labels), audio=path.read_bytes())  # fmt: skip


@dataclass
class SoundSet:
    """parts: {fold or split: rows}. rounds: what is trained and tested on what. published: figures of others."""

    name: str
    classes: ClassList
    parts: dict[str, Iterable[Clip]]
    rounds: list[Round]
    sizes: dict[str, int]
    published: list[dict] = field(default_factory=list)
    missing: int = 0


CLASSES = {"ESC-50": 50, "UrbanSound8K": 10}  # of the sets that published figures are about


def esc50(folder: Path) -> SoundSet:
    """ESC-50 or ESC-10: audio/ and meta/esc50.csv (or meta.csv), 5 folds."""
    table = _first(folder, "meta/esc50.csv", "meta.csv")
    rows = _rows(table, "filename", "fold", "category")
    files = [(row["fold"], folder / "audio" / row["filename"], [row["category"]]) for row in rows]
    name = "ESC-10" if len({row["category"] for row in rows}) == 10 else "ESC-50"
    return _folded(name, folder, files, [str(i) for i in range(1, 6)])


def urbansound8k(folder: Path) -> SoundSet:
    """UrbanSound8K: audio/fold1 ... fold10 and metadata/UrbanSound8K.csv."""
    rows = _rows(_first(folder, "metadata/UrbanSound8K.csv"), "slice_file_name", "fold", "class")
    files = [(r["fold"], folder / "audio" / f"fold{r['fold']}" / r["slice_file_name"], [r["class"]]) for r in rows]
    return _folded("UrbanSound8K", folder, files, [str(i) for i in range(1, 11)])


def fsd50k(folder: Path) -> SoundSet:
    """FSD50K: FSD50K.ground_truth/dev.csv and eval.csv, FSD50K.dev_audio/ and FSD50K.eval_audio/; its own splits."""
    parts: dict[str, list] = {"train": [], "val": [], "eval": []}
    for kind in ("dev", "eval"):
        wanted = ("fname", "labels", "split") if kind == "dev" else ("fname", "labels")
        for row in _rows(_first(folder, f"FSD50K.ground_truth/{kind}.csv"), *wanted):
            part = row["split"] if kind == "dev" else "eval"
            if part not in parts:
                raise UserError(f"{folder}: dev.csv has the split {part!r}; FSD50K has train and val")
            parts[part].append((folder / f"FSD50K.{kind}_audio" / f"{row['fname']}.wav", row["labels"].split(",")))
    return _of_files("FSD50K", folder, parts, [Round(["train"], ["val"], "eval")])


def audioset(folder: Path) -> SoundSet:
    """AudioSet in this project's form: parquet files in train_balanced/ and eval/, or in the hub's folders."""
    classes, parts = ClassList.read(CLASS_LABELS), {}
    for name, of_hub in (("train_balanced", "data/bal_train"), ("eval", "data/eval")):
        given = folder / of_hub if (folder / of_hub).is_dir() and not (folder / name).is_dir() else folder / name
        parts[name] = ParquetFolder(given, classes)
    sizes = {name: part.num_rows for name, part in parts.items()}
    return SoundSet("AudioSet", classes, parts, [Round(["train_balanced"], [], "eval")], sizes)


READERS = {"esc50": esc50, "urbansound8k": urbansound8k, "fsd50k": fsd50k, "audioset": audioset}


def shorten(given: SoundSet, limit: int) -> None:
    """Keep the first `limit` clips of each class in each part, for a trial; published figures no longer apply."""
    for name, part in given.parts.items():
        if isinstance(part, Files):
            taken: dict[str, int] = {}
            kept = []
            for path, labels in part.files:
                if taken.get(labels[0], 0) < limit:
                    taken[labels[0]] = taken.get(labels[0], 0) + 1
                    kept.append((path, labels))
            given.parts[name] = Files(kept, given.classes)
            given.sizes[name] = len(kept)
        else:
            raise UserError(f"--limit does not apply to {given.name}; give it a folder with fewer rows")
    given.published = []


def _folded(name: str, folder: Path, files: list, expected: list[str]) -> SoundSet:
    """Each fold is tested once; the next one validates, the others train."""
    parts: dict[str, list] = {fold: [] for fold in expected}
    for fold, path, labels in files:
        if fold not in parts:
            raise UserError(f"{folder} has the fold {fold!r}; {name} has {', '.join(expected)}")
        parts[fold].append((path, labels))
    if empty := [fold for fold in expected if not parts[fold]]:
        raise UserError(f"{folder} lacks the folds {', '.join(empty)} of {name}, so its figures would be no {name}'s")
    rounds = []
    for i, fold in enumerate(expected):
        following = expected[(i + 1) % len(expected)]
        rounds.append(Round([f for f in expected if f not in (fold, following)], [following], fold))
    return _of_files(name, folder, parts, rounds)


def _of_files(name: str, folder: Path, parts: dict[str, list], rounds: list[Round]) -> SoundSet:
    spoken = {part: [(path, [label.replace("_", " ").strip() for label in labels]) for path, labels in files]
              for part, files in parts.items()}  # fmt: skip
    classes = ClassList(sorted({label for files in spoken.values() for _, labels in files for label in labels}))
    present = {part: [(path, labels) for path, labels in files if path.is_file()] for part, files in spoken.items()}
    missing = sum(map(len, spoken.values())) - sum(map(len, present.values()))
    if missing:
        first = next(path for part in spoken for path, _ in spoken[part] if not path.is_file())
        if any(not files for files in present.values()):
            raise UserError(f"{folder} is not {name} as it is unpacked: {missing} of its files are missing, the first "
                            f"is {first}")  # fmt: skip
        warn(f"{missing} files of {name} are missing and left out, the first is {first}")
    others = published(name) if CLASSES.get(name) == len(classes.names) else []
    return SoundSet(name, classes, {part: Files(files, classes) for part, files in present.items()}, rounds,
                    {part: len(files) for part, files in present.items()}, others, missing)  # fmt: skip


def _first(folder: Path, *names: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has another layout: it lacks {' and '.join(names)}")


def _rows(path: Path, *columns: str) -> list[dict]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 CSV: {error}") from None
    lacking = [column for column in columns if not rows or column not in rows[0]]
    if lacking:
        raise UserError(f"{path} lacks the column {lacking[0]!r} or has no rows")
    return [{column: (row[column] or "").strip() for column in columns} for row in rows]
