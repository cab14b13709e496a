"""Captions for a labelled parquet folder, made of its labels by sentence templates: a stand-in, no AudioCaps.

    python demo/captions.py --parquet-dir demo/data/train_balanced --output-dir demo/data/captioned/train --seed 0

Copies every *.parquet with a further column `captions`: one to five sentences a clip, of one to all of its labels,
drawn with a seed. Nobody listened: the sentences say what the labels say, in other words and orders.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.plumbing.config import CLASS_LABELS  # noqa: E402
from hyperbolic_clap.plumbing.errors import UserError, first_line, log  # noqa: E402
from hyperbolic_clap.plumbing.files import write_atomic  # noqa: E402
from hyperbolic_clap.plumbing.flags import Parser, at_least, seed  # noqa: E402
from hyperbolic_clap.plumbing.run import run  # noqa: E402
from hyperbolic_clap.reading.labels import ClassList  # noqa: E402

TEMPLATES = (
    "{}",
    "The sound of {}.",
    "This is a sound of {}.",
    "A recording of {}.",
    "{} can be heard.",
    "Someone recorded {} here.",
    "We hear {}.",
    "{} in the background.",
    "{}, clear and close.",
)
JOINS = (" and ", " with ", ", then ", " together with ")


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--parquet-dir", type=Path, required=True, help="folder with the labelled *.parquet files")
    add("--output-dir", type=Path, required=True, help="gets files of the same names")
    add("--most", type=at_least(1), default=5, help="captions of a clip at most (default: 5)")
    add("--seed", type=seed, default=0, help="default: 0")
    return parser


def main(args: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes, drawn, count = ClassList.read(CLASS_LABELS), random.Random(args.seed), 0
    files = sorted(args.parquet_dir.glob("*.parquet"))
    if not files:
        raise UserError(f"--parquet-dir {args.parquet_dir} holds no *.parquet file")
    if args.output_dir.resolve() == args.parquet_dir.resolve():
        raise UserError(f"--output-dir {args.output_dir} is the folder that is read; give another one")
    for file in files:
        try:
            with file.open("rb") as source:  # Arrow takes every path for UTF-8
                table = pq.read_table(source)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as parquet: {first_line(error)}") from None
        if "human_labels" not in table.column_names or "captions" in table.column_names:
            raise UserError(f"{file} must have a column 'human_labels' and none 'captions'; its columns are "
                            + ", ".join(table.column_names))  # fmt: skip
        labels = [classes.parse(value) for value in table["human_labels"].to_pylist()]
        captions = [captions_of(names, drawn, args.most) for names in labels]
        count += sum(map(len, captions))
        table = table.append_column("captions", pa.array(captions, pa.list_(pa.string())))
        write_atomic(args.output_dir / file.name, lambda temporary, table=table: write(table, temporary))
    log.info("%d captions: %s", count, args.output_dir)


def write(table, path: Path) -> None:
    import pyarrow.parquet as pq

    with path.open("wb") as file:
        pq.write_table(table, file)


def captions_of(labels: list[str], drawn: random.Random, most: int) -> list[str]:
    """One to `most` sentences of a clip's labels, each once."""
    found = {}
    for _ in range(drawn.randint(1, most) if labels else 0):
        some = drawn.sample(labels, drawn.randint(1, min(3, len(labels))))
        named = drawn.choice(JOINS).join(name.split(",")[0].lower() for name in some)
        sentence = drawn.choice(TEMPLATES).format(named)
        found[sentence[0].upper() + sentence[1:]] = None
    return list(found)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
