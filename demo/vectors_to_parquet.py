"""Vectors in files of other forms, and a CSV of ids and labels -> parquet with a column `embedding`.

    python demo/vectors_to_parquet.py --vectors vectors.npy --csv labels.csv --output-dir data/mine
    python demo/vectors_to_parquet.py --vectors vectors.npz --csv labels.csv --output-dir data/mine
    python demo/vectors_to_parquet.py --vectors folder --csv labels.csv --output-dir data/mine
    python demo/vectors_to_parquet.py --vectors vectors.jsonl --output-dir data/mine

A .npy is an (N, D) array whose rows are those of the CSV, in its order. A .npz holds `ids` and `embeddings`. A folder
holds a file {id}.npy for each clip. A line of a .jsonl is {"id": ..., "embedding": [...]}, and without a CSV has
"labels": [...] too. Ids of only one side are left out and counted. The CSV has a header and the columns `id` and
`label`, several labels in one cell parted by ';'.

The output folder gets vectors.parquet (video_id, embedding, human_labels, the CSV's other columns; --model goes into
its metadata), class_labels.json (all labels of the CSV, whatever --where selects), and with --parent-column
taxonomy.csv, a tree for --taxonomy. BSD10k (23 classes under 5 parents; its own names of folders and columns):

    python demo/vectors_to_parquet.py --vectors BSD10k/features/clap_audio_embeddings \\
        --csv BSD10k/metadata/BSD10k_metadata.csv --id-column sound_id --label-column class --parent-column class_top \\
        --output-dir data/bsd10k
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np  # noqa: E402
from wav_folder_to_parquet import read_csv, selection  # noqa: E402

from hyperbolic_clap.plumbing.errors import UserError, first_line, log, warn  # noqa: E402
from hyperbolic_clap.plumbing.files import write_atomic, write_json  # noqa: E402
from hyperbolic_clap.plumbing.flags import Parser  # noqa: E402
from hyperbolic_clap.plumbing.run import run  # noqa: E402

OWN = ("video_id", "embedding", "human_labels")


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--vectors", type=Path, required=True, help=".npy, .npz, .jsonl, or a folder with a .npy for each clip")
    add("--csv", type=Path, default=None, help="ids and labels, with a header line (.jsonl: without, its own labels)")
    add("--output-dir", type=Path, required=True, help="gets vectors.parquet and class_labels.json")
    add("--id-column", default="id", help="default: id")
    add("--label-column", default="label", help="default: label")
    add("--parent-column", default=None, help="the parent of a row's label, for taxonomy.csv")
    add("--separator", default=";", help="between several labels in one cell (default: ;)")
    add("--where", default=None, metavar="COLUMN=VALUE,...", help="only the rows with one of these values")
    add("--model", default=None, metavar="NAME", help="the model that made the vectors")
    return parser


def main(args: argparse.Namespace) -> None:
    ids, vectors, labels = read_vectors(args.vectors)
    if args.csv:
        rows = read_csv(args.csv, args.id_column, args.label_column, *filter(None, [args.parent_column]))
    elif ids and labels:
        told = zip(ids, labels, strict=True)
        rows = [{args.id_column: name, args.label_column: args.separator.join(some)} for name, some in told]
    else:
        raise UserError(f"--vectors {args.vectors} holds no labels; give them with --csv")
    if ids is None and len(rows) != len(vectors):
        raise UserError(f"--vectors {args.vectors} has {len(vectors)} rows and --csv {args.csv} {len(rows)}; each row "
                        "of one must be that of the other")  # fmt: skip
    named = [row[args.id_column] for row in rows]
    label = [[x.strip() for x in (row[args.label_column] or "").split(args.separator) if x.strip()] for row in rows]
    place = {name: i for i, name in enumerate(ids or named)}
    there = [i for i in chosen(args.where, rows) if named[i] in place]
    if not there:
        raise UserError(f"no id of the {len(rows)} rows is one of the {len(place)} vectors, such as {[*place][:1]}")
    for what, left in (("ids of the CSV have no vector", {*named} - {*place}), ("vectors no row", {*place} - {*named})):
        if left:
            warn(f"{len(left)} {what} and are left out, for example {min(left)}")
    table = {"video_id": [named[i] for i in there], "human_labels": [label[i] for i in there]}
    others = [name for name in rows[0] if name not in (args.id_column, args.label_column)]
    table |= {f"csv_{name}" if name in OWN else name: [rows[i][name] for i in there] for name in others}
    taken = vectors[[place[named[i]] for i in there]]
    write_atomic(args.output_dir / "vectors.parquet", lambda path: write(path, table, taken, args.model))
    classes = sorted({name for some in label for name in some})
    write_json(args.output_dir / "class_labels.json", {name: i for i, name in enumerate(classes)})
    if args.parent_column:
        parents = (row[args.parent_column] for row in rows)
        above = sorted({(name, parent) for parent, some in zip(parents, label, strict=True) for name in some})
        tree = "class,parent\n" + "".join(f'"{name}","{parent}"\n' for name, parent in above)
        write_atomic(args.output_dir / "taxonomy.csv", lambda path: path.write_text(tree, encoding="utf-8"))
    log.info("%d vectors of %d dimensions, %d classes: %s", len(taken), taken.shape[1], len(classes), args.output_dir)


def chosen(where: str | None, rows: list[dict]) -> list[int]:
    """The positions of the rows that --where selects; UserError for a column that they lack."""
    wanted = selection(where)
    if strange := [column for column in wanted if column not in rows[0]]:
        raise UserError(f"--where {where} names {strange[0]!r}; the columns are {', '.join(rows[0])}")
    return [i for i, row in enumerate(rows) if all(row[column] in values for column, values in wanted.items())]


def read_vectors(path: Path) -> tuple[list[str] | None, np.ndarray, list[list[str]] | None]:
    """(ids or None where the order says them, (N, D) floats, labels or None); UserError for other content."""
    labels = None
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            ids = [file.stem for file in files]
            found = [np.load(file, allow_pickle=False).squeeze() for file in files]
            if len({vector.shape for vector in found}) > 1:
                odd = next(file for file, vector in zip(files, found, strict=True) if vector.shape != found[0].shape)
                raise UserError(f"{odd} has another shape than {files[0]}")
            vectors = np.stack(found)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                ids, vectors = [str(name) for name in file["ids"].tolist()], file["embeddings"]
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            ids, vectors = [str(line["id"]) for line in lines], np.array([line["embedding"] for line in lines], float)
            labels = [line["labels"] for line in lines] if all("labels" in line for line in lines) else None
        else:
            ids, vectors = None, np.load(path, allow_pickle=False)
    except KeyError as error:
        raise UserError(f"--vectors {path} lacks {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--vectors {path} cannot be read: {first_line(error)}") from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or (ids is not None and len(ids) != len(vectors)):
        raise UserError(f"--vectors {path} has the shape {vectors.shape} and type {vectors.dtype}; expected (N, D) "
                        "floats")  # fmt: skip
    return ids, vectors, labels


def write(path: Path, columns: dict, vectors: np.ndarray, model: str | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = vectors.shape[1]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    table = pa.table(columns).append_column("embedding", embedding)
    with path.open("wb") as file:
        pq.write_table(table.replace_schema_metadata({"model": model} if model else None), file, row_group_size=1 << 13)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
