"""Compare result files side by side: the first is the baseline, the others are shown with their difference to it.

    python compare_results.py results_original.json results_hyperbolic.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import Parser, UserError, log, run, warn


def parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="two or more results JSON files, baseline first")
    return parser


def main(args: argparse.Namespace) -> None:
    if len(args.results) < 2:
        raise UserError("one result file cannot be compared; name two or more")
    results = [read(path) for path in args.results]
    clips = [[entry["video_id"] for entry in result["predictions"]] for result in results]
    if any(other != clips[0] for other in clips[1:]):
        warn("the files hold different clips, so their differences mix models and data")
    names = [name for name in results[0]["metrics"] if all(name in result["metrics"] for result in results)]
    log.info(row(["", *(path.stem for path in args.results)]))
    for name in names:
        values = [result["metrics"][name] for result in results]
        log.info(row([name, *(cell(value, values[0], i > 0) for i, value in enumerate(values))]))


def read(path: Path) -> dict:
    """A results JSON; UserError if it is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["metrics"], result["predictions"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no results JSON: it needs 'metrics' and 'predictions'") from None
    return result


def cell(value, baseline, show_difference: bool) -> str:
    """A metric as text, with its difference to the baseline."""
    if not isinstance(value, float):
        return str(value) if value is not None else "null"
    if not show_difference or not isinstance(baseline, float):
        return f"{value:.4f}"
    return f"{value:.4f} ({value - baseline:+.4f})"


def row(cells: list[str]) -> str:
    return f"{cells[0]:<18}" + "".join(f"{text:>28}" for text in cells[1:])


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
