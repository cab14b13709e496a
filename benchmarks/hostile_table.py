"""What the loader does with every parquet file of a folder, as a Markdown table.

    python benchmarks/hostile_table.py --folder PATH

Each file is loaded alone, as if it were the only one in its folder; each folder below the top is loaded as a whole.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import ParquetFolder, decode
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading.labels import ClassList


def what_happens(folder: Path, classes: ClassList) -> tuple[int, Counter, str]:
    """(clips loaded, skipped rows by reason, the error sentence or '')."""
    loaded, skipped = 0, Counter()
    try:
        for clip in ParquetFolder(folder, classes):
            try:
                if not clip.human_labels:
                    raise RowError("no label")
                decode(clip)
                loaded += 1
            except RowError as error:
                skipped[error.reason] += 1
    except UserError as error:
        return loaded, skipped, str(error).replace(str(folder), "FOLDER")
    return loaded, skipped, ""


def table(folder: Path) -> str:
    """One line for each file at the top of `folder` and each folder in it that holds parquet files."""
    classes = ClassList.read(CLASS_LABELS)
    lines = ["| file | clips | skipped rows | error |", "|---|---|---|---|"]
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(path.rglob("*.parquet")):
            result = what_happens(path, classes)
        elif path.suffix == ".parquet":
            with tempfile.TemporaryDirectory() as alone:
                Path(alone, path.name).symlink_to(path.resolve())
                result = what_happens(Path(alone), classes)
        else:
            continue
        loaded, skipped, error = result
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        lines.append(f"| {path.name} | {loaded} | {reasons} | {error} |")
    return "\n".join(lines)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    print(table(parser.parse_args().folder))
