"""A folder of WAV (or FLAC, OGG, MP3 ...) files and a CSV of labels -> parquet in this project's form.

    python demo/wav_folder_to_parquet.py --audio-dir sounds --csv labels.csv --output-dir data/mine

The CSV has a header and the columns `filename` and `label`: one row for each label of a file, or several labels in
one cell, separated by ';'. The output folder gets sounds.parquet with the columns video_id (the file name without its
ending), audio (the file's bytes as they are) and human_labels, and class_labels.json (class name -> index).
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

Captions (for --text captions and test_retrieval.py) go into a column `captions`; a file may have several rows. Clotho:
--filename-column file_name --caption-columns caption_1,caption_2,caption_3,caption_4,caption_5. AudioCaps, its clips
saved under their YouTube ids: --filename-column youtube_id --caption-columns caption. Labels are then optional.
The class list always holds every label of the CSV, whatever --where selects, so train and test agree on it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.plumbing.errors import UserError, log, warn  # noqa: E402
from hyperbolic_clap.plumbing.files import write_atomic, write_json  # noqa: E402
from hyperbolic_clap.plumbing.flags import Parser  # noqa: E402
from hyperbolic_clap.plumbing.run import run  # noqa: E402
from hyperbolic_clap.reading.labels import normalise  # noqa: E402

ENDINGS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".aac", ".wma", ".aif", ".aiff",
           ".au", ".w64", ".caf"}
ROWS_AT_ONCE = 64  # clips in memory, and in a row group


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--audio-dir", type=Path, required=True, help="folder with the audio files, sub-folders included")
    add("--csv", type=Path, required=True, help="the labels, with a header line")
    add("--output-dir", type=Path, required=True, help="gets sounds.parquet and class_labels.json")
    add("--filename-column", default="filename", help="default: filename")
    add("--label-column", default="label", help="default: label")
    add("--caption-columns", default=None, metavar="COLUMN,...", help="columns with captions, one caption in each cell")
    add("--separator", default=";", help="between several labels in one cell (default: ;)")
    add("--where", default=None, metavar="COLUMN=VALUE,...", help="only the rows with one of these values")
    return parser


def main(args: argparse.Namespace) -> None:
    captioned = [name.strip() for name in (args.caption_columns or "").split(",") if name.strip()]
    rows = read_csv(args.csv, args.filename_column, *(captioned or [args.label_column]))
    if not args.separator:
        raise UserError("--separator is empty; give the text between several labels in one cell")
    columns = {name: [part.strip() for part in value] for name, value in selection(args.where).items()}
    for column in columns:
        if column not in rows[0]:
            raise UserError(f"--where {args.where} names a column that {args.csv} lacks; it has {', '.join(rows[0])}")
    labels: dict[str, list[str]] = {}
    captions: dict[str, list[str]] = {}
    classes: set[str] = set()
    spelled: dict[str, str] = {}  # names that differ in case or space alone are one class, in its first spelling
    for row in rows:
        named = [name.replace("_", " ").strip() for name in (row.get(args.label_column) or "").split(args.separator)]
        for name in (*named, (row[args.filename_column] or "").strip()):
            if "\n" in name:
                raise UserError(f"--csv {args.csv}: the cell {name[:60]!r} holds several lines; is a quote missing?")
        named = [spelled.setdefault(normalise(name), name) for name in named if name]
        classes.update(named)
        if all((row[column] or "").strip() in values for column, values in columns.items()):
            file = (row[args.filename_column] or "").strip()
            for kept, more in ((labels, named), (captions, [(row[name] or "").strip() for name in captioned])):
                of_file = kept.setdefault(file, [])
                of_file += [text for text in dict.fromkeys(more) if text and text not in of_file]
    labels.pop("", None)
    if len(classes) < 2 and not captioned:
        raise UserError(f"{args.csv} names {len(classes)} class in column {args.label_column!r}; two are needed")
    if captioned and not any(captions.values()):
        raise UserError(f"{args.csv} holds no caption in {args.caption_columns} of the chosen rows")
    if not labels:
        raise UserError(f"--where {args.where} selects no row of {args.csv}")
    files = find_files(args.audio_dir, labels)
    said = captions if captioned else None
    write_atomic(args.output_dir / "sounds.parquet", lambda temporary: write_parquet(temporary, files, labels, said))
    if len(classes) > 1:
        write_json(args.output_dir / "class_labels.json", {name: i for i, name in enumerate(sorted(classes))})
    told = f", {sum(map(len, captions.values()))} captions" if captioned else ""
    log.info("%d clips of %d classes%s: %s", len(files), len(classes), told, args.output_dir)


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


def find_files(folder: Path, names) -> dict[str, Path]:
    """The file of each name of the CSV, by path below the folder, by name, or by name without ending.

    Names without a file are left out with a warning; UserError if no name has one, or if two files fit a name.
    """
    if not folder.is_dir():
        raise UserError(f"--audio-dir {folder} is not a folder")
    known: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()):
        for name in {path.relative_to(folder).as_posix(), path.name, path.stem}:
            known.setdefault(name, []).append(path)
    found, missing = {}, []
    for name in names:
        fitting = known.get(name) or []
        if len(fitting) > 1:
            raise UserError(f"{name} of the CSV fits {fitting[0]} and {fitting[1]}; write its path below --audio-dir")
        if fitting:
            found[name] = fitting[0]
        else:
            missing.append(name)
    if not found:
        raise UserError(f"--audio-dir {folder} holds none of the {len(missing)} files of the CSV, such as {missing[0]}")
    if missing:
        warn(f"{len(missing)} files of the CSV are not in {folder} and are left out: {', '.join(missing[:5])}")
    return found


def write_parquet(
    target: Path, files: dict[str, Path], labels: dict[str, list[str]], captions: dict[str, list[str]] | None
) -> None:
    """One row for each file, a few at a time in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema([("video_id", pa.string()), ("audio", audio), ("human_labels", texts)])
    schema = schema.append(pa.field("captions", texts)) if captions else schema
    names = list(files)
    # A file of Python's, since Arrow takes every path for UTF-8. Audio bytes hardly compress.
    with target.open("wb") as file, pq.ParquetWriter(file, schema, compression="none") as writer:
        for start in range(0, len(names), ROWS_AT_ONCE):
            rows = [
                {
                    "video_id": files[name].stem,
                    "audio": {"bytes": files[name].read_bytes(), "path": files[name].name},
                    "human_labels": labels[name],
                    **({"captions": captions[name]} if captions else {}),
                }
                for name in names[start : start + ROWS_AT_ONCE]
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
