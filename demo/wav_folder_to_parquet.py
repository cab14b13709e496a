"""A folder of WAV (or FLAC, OGG, MP3 ...) files and a CSV of labels -> parquet in this project's form.

    python demo/wav_folder_to_parquet.py --audio-dir sounds --csv labels.csv --output-dir data/mine

The CSV has a header and the columns `filename` and `label`: several labels of a file stand in one cell, separated by
';', or with --merge-rows in a row each. The output folder gets sounds.parquet with the columns video_id (the file name
without its ending), audio (the file's bytes as they are), human_labels and the CSV's other columns (for --split-by),
and class_labels.json (class name -> index).
Underscores in labels become spaces, since the names go into the prompt "This is a sound of ...".

ESC-50 (folders audio and meta, 5 folds; train on four, test on the fifth):

    python demo/wav_folder_to_parquet.py --audio-dir ESC-50-master/audio --csv ESC-50-master/meta/esc50.csv \\
        --label-column category --where fold=1,2,3,4 --output-dir data/esc50/train
    python demo/wav_folder_to_parquet.py --audio-dir ESC-50-master/audio --csv ESC-50-master/meta/esc50.csv \\
        --label-column category --where fold=5 --output-dir data/esc50/test
    python train_hyperbolic_clap.py --parquet-dir data/esc50/train --class-labels data/esc50/train/class_labels.json
    python test_clap_modelscope.py --parquet-dir data/esc50/test --class-labels data/esc50/train/class_labels.json \\
        --num-samples 400 --output-json results_original.json

UrbanSound8K (its files lie in the folders fold1 ... fold10): --filename-column slice_file_name --label-column class
--where fold=10. FSD50K (names without their ending, labels with commas): --filename-column fname
--label-column labels --separator ,
VGGSound, whose files are named by video and start: --filename-template "{video_id}_{start:06d}.wav"

Captions (for --text captions and test_retrieval.py) go into a column `captions`; a file may have several rows. Clotho:
--filename-column file_name --caption-columns caption_1,caption_2,caption_3,caption_4,caption_5. AudioCaps, its clips
saved under their YouTube ids: --filename-column youtube_id --caption-columns caption. Labels are then optional.
The class list always holds every label of the CSV, whatever --where selects, so train and test agree on it.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.plumbing.errors import UserError, log, warn  # noqa: E402
from hyperbolic_clap.plumbing.files import write_atomic, write_json  # noqa: E402
from hyperbolic_clap.plumbing.flags import Parser  # noqa: E402
from hyperbolic_clap.plumbing.run import run  # noqa: E402
from hyperbolic_clap.reading.labels import normalise  # noqa: E402
from hyperbolic_clap.reading.sound_files import once_each, sounds_below  # noqa: E402

OWN = ("video_id", "audio", "human_labels", "labels", "captions")  # columns that the parquet file has itself
FIELD = re.compile(r"\{(\w+)(?::(\d*)d)?\}")
ROWS_AT_ONCE = 64  # clips in memory, and in a row group


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--audio-dir", type=Path, required=True, help="folder with the audio files, sub-folders included")
    add("--csv", type=Path, required=True, help="the labels, with a header line")
    add("--output-dir", type=Path, required=True, help="gets sounds.parquet and class_labels.json")
    add("--filename-column", default="filename", help="default: filename")
    add("--filename-template", default=None, metavar="TEMPLATE", help="the file's name made of several columns: "
        "{video_id}_{start:06d}.wav fills a whole number up with zeros")
    add("--label-column", default="label", help="default: label")
    add("--merge-rows", action="store_true", help="several rows of one file are one clip with the labels of all")
    add("--caption-columns", default=None, metavar="COLUMN,...", help="columns with captions, one caption in each cell")
    add("--separator", default=";", help="between several labels in one cell (default: ;)")
    add("--where", default=None, metavar="COLUMN=VALUE,...", help="only the rows with one of these values")
    return parser


def main(args: argparse.Namespace) -> None:
    captioned = [name.strip() for name in (args.caption_columns or "").split(",") if name.strip()]
    template = args.filename_template or f"{{{args.filename_column}}}"
    named_by = [match[1] for match in FIELD.finditer(template)] if args.filename_template else [args.filename_column]
    if args.filename_template and (not named_by or "{" in FIELD.sub("", template)):
        raise UserError(f"--filename-template {template} must name columns as {{name}} or {{name:06d}}")
    rows = read_csv(args.csv, *named_by, *(captioned or [args.label_column]))
    if not args.separator:
        raise UserError("--separator is empty; give the text between several labels in one cell")
    columns = {name: [part.strip() for part in value] for name, value in selection(args.where).items()}
    for column in columns:
        if column not in rows[0]:
            raise UserError(f"--where {args.where} names a column that {args.csv} lacks; it has {', '.join(rows[0])}")
    classes: set[str] = set()
    spelled: dict[str, str] = {}  # names that differ in case or space alone are one class, in its first spelling
    chosen: list[Row] = []
    for row in rows:
        named = [name.replace("_", " ").strip() for name in (row.get(args.label_column) or "").split(args.separator)]
        file = (fill(template, row) if args.filename_template else row[args.filename_column] or "").strip()
        for name in (*named, file):
            if "\n" in name:
                raise UserError(f"--csv {args.csv}: the cell {name[:60]!r} holds several lines; is a quote missing?")
        named = list(dict.fromkeys(spelled.setdefault(normalise(name), name) for name in named if name))
        classes.update(named)
        if file and all((row[column] or "").strip() in values for column, values in columns.items()):
            said = [text for text in dict.fromkeys((row[name] or "").strip() for name in captioned) if text]
            others = {name: row[name] for name in row if name not in (args.label_column, *captioned)}
            chosen.append(Row(file, named, said, others))
    if len(classes) < 2 and not captioned:
        raise UserError(f"{args.csv} names {len(classes)} class in column {args.label_column!r}; two are needed")
    if captioned and not any(row.captions for row in chosen):
        raise UserError(f"{args.csv} holds no caption in {args.caption_columns} of the chosen rows")
    if not chosen:
        raise UserError(f"--where {args.where} selects no row of {args.csv}")
    files = find_files(args.audio_dir, dict.fromkeys(row.file for row in chosen))
    clips = by_file([row for row in chosen if row.file in files], files, args.merge_rows, bool(captioned))
    write_atomic(args.output_dir / "sounds.parquet", lambda temporary: write_parquet(temporary, clips, bool(captioned)))
    if len(classes) > 1:
        write_json(args.output_dir / "class_labels.json", {name: i for i, name in enumerate(sorted(classes))})
    told = f", {sum(len(row.captions) for _, row in clips)} captions" if captioned else ""
    log.info("%d clips of %d classes%s: %s", len(clips), len(classes), told, args.output_dir)


@dataclass
class Row:
    """A row of the CSV: the name of its file, its labels, its captions, its cells in other columns."""

    file: str
    labels: list[str]
    captions: list[str]
    others: dict[str, str | None]


def fill(template: str, row: dict) -> str:
    """The template with a row's cells; {name:06d} of a whole number. UserError for a cell that is none."""

    def cell(match: re.Match) -> str:
        value = (row[match[1]] or "").strip()
        if match[2] is None:
            return value
        try:
            return format(int(float(value)) if float(value).is_integer() else value, f"{match[2]}d")
        except ValueError:
            raise UserError(f"--filename-template {template}: {match[1]} is {value!r}, no whole number") from None

    return FIELD.sub(cell, template)


def by_file(rows: list[Row], files: dict[str, Path], merge: bool, captioned: bool) -> list[tuple[Path, Row]]:
    """(file, row) of each clip. Rows of one file are one clip if `merge`, or with captions; else that is a warning."""
    of: dict[Path, list[Row]] = {}
    for row in rows:
        of.setdefault(files[row.file], []).append(row)
    clips, parted = [], []
    for path, some in of.items():
        joined = some[0]
        for row in some[1:]:
            labels, captions = joined.labels + row.labels, joined.captions + row.captions
            labels, captions = (list(dict.fromkeys(texts)) for texts in (labels, captions))
            joined = Row(joined.file, labels, captions, _join(joined.others, row.others))
        if merge or captioned or len({tuple(row.labels) for row in some}) == 1:
            clips.append((path, joined))
        else:
            parted.append((path, len(some)))
            clips += [(path, row) for row in some]
    if parted:
        warn(f"{len(parted)} files have several rows with different labels, {sum(count for _, count in parted)} in all "
             f"(the first is {parted[0][0].name}); each row is a clip of its own. If they are labels of one sound, "
             "give --merge-rows; if the names of files stand in several columns, --filename-template")  # fmt: skip
    return clips


def _join(one: dict, other: dict) -> dict:
    """The cells of two rows of one clip, both where they differ."""
    return {name: text if text in (other[name], None) else f"{text};{other[name]}" for name, text in one.items()}


def read_csv(path: Path, *columns: str) -> list[dict]:
    """The rows of a CSV with a header as dicts; UserError if it is not one or lacks a column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = []
            for row in reader:
                if None in row:
                    raise UserError(f"--csv {path}: line {reader.line_num} has more cells than the header; labels with "
                                    "commas need quotes")  # fmt: skip
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--csv {path} cannot be read as a UTF-8 CSV: {error}") from None
    except OSError as error:
        raise UserError(f"--csv {path} cannot be read ({error.strerror})") from None
    if not rows:
        raise UserError(f"--csv {path} has no rows below its header")
    for column in columns:
        if column not in rows[0]:
            raise UserError(f"--csv {path} has no column {column!r}; its columns are {', '.join(map(str, rows[0]))}")
    return rows


def selection(where: str | None) -> dict[str, list[str]]:
    """'fold=1,2' -> {'fold': ['1', '2']}."""
    if where is None:
        return {}
    column, equals, values = where.partition("=")
    if not (column and equals and values):
        raise UserError(f"--where {where} is not of the form COLUMN=VALUE or COLUMN=VALUE,VALUE")
    return {column.strip(): values.split(",")}


def tidy(name: str) -> str:
    """A name as it is looked up: composed characters, / between folders, no ./ before or within it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts))


def find_files(folder: Path, names) -> dict[str, Path]:
    """The file of each name of the CSV, by path below the folder, by name, or by name without ending.

    Names without a file are left out with a warning; UserError if no name has one, or if two files fit a name.
    """
    if not folder.is_dir():
        raise UserError(f"--audio-dir {folder} is not a folder")
    known: dict[str, list[Path]] = {}
    for path in once_each(sounds_below(folder)):
        for name in {path.relative_to(folder).as_posix(), path.name, path.stem}:
            known.setdefault(tidy(name), []).append(path)
    found, missing = {}, []
    for name in names:
        fitting = known.get(tidy(name)) or []
        if len(fitting) > 1:
            raise UserError(f"{name} of the CSV fits {fitting[0]} and {fitting[1]}; write its path below --audio-dir")
        if fitting:
            found[name] = fitting[0]
        else:
            missing.append(name)
    if not found:
        raise UserError(f"--audio-dir {folder} holds none of the {len(missing)} files of the CSV, such as {missing[0]};"
                        " names that are made of several columns need --filename-template")  # fmt: skip
    if missing:
        warn(f"{len(missing)} files of the CSV are not in {folder} and are left out: {', '.join(missing[:5])}")
    return found


def write_parquet(target: Path, clips: list[tuple[Path, Row]], captioned: bool) -> None:
    """One row for each clip, a few at a time in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema([("video_id", pa.string()), ("audio", audio), ("human_labels", texts)])
    schema = schema.append(pa.field("captions", texts)) if captioned else schema
    others = {name: f"csv_{name}" if name in OWN else name for name in clips[0][1].others}
    for name in others.values():
        schema = schema.append(pa.field(name, pa.string()))
    # A file of Python's, since Arrow takes every path for UTF-8. Audio bytes hardly compress.
    with target.open("wb") as file, pq.ParquetWriter(file, schema, compression="none") as writer:
        for start in range(0, len(clips), ROWS_AT_ONCE):
            rows = [
                {
                    "video_id": path.stem,
                    "audio": {"bytes": path.read_bytes(), "path": path.name},
                    "human_labels": row.labels,
                    **({"captions": row.captions} if captioned else {}),
                    **{name: row.others[given] for given, name in others.items()},
                }
                for path, row in clips[start : start + ROWS_AT_ONCE]
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
