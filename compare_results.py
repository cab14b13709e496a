"""Compare result files side by side: the first is the baseline, the others are shown with their difference to it.

    python compare_results.py results_original.json results_hyperbolic.json

    python compare_results.py results_original.json results_cosine.json results_hyperbolic.json \\
        --markdown comparison.md --output-json comparison.json

A difference comes with its 95 % interval, from a paired bootstrap over the clips, where both files evaluated the same
clips (the same video_id and true classes) against the same class list; otherwise it is marked unpaired. Metrics that
a file lacks are recomputed from its predictions where these suffice. Intervals for map, map_samples, auc and d_prime
need the similarities: run the test scripts with --save-scores FILE.safetensors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import CLASS_LABELS, Parser, UserError, at_least, log, run, write_atomic, write_json

LESS_IS_BETTER = ("mean_rank", "wrong_top1_distance")
LEGEND = {
    "]": "[...] is the 95 % interval",
    "]*": "* where it excludes 0",
    " r ": "r: recomputed from the predictions",
    "(unpaired)": "unpaired: not the same clips or classes, so no interval",
    "(needs scores)": "needs scores: an interval needs both files tested with --save-scores",
    "(not finite)": "not finite: most resamples give no finite value, so no interval",
    "(over classes)": "over classes: a correlation over classes, not over clips",
    "(definition unknown)": "definition unknown: the file was not written by this project",
}


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("results", type=Path, nargs="+", help="two or more results JSON files, the baseline first")
    add("--output-json", type=Path, default=None, help="also write the comparison as JSON")
    add("--markdown", default=None, metavar="FILE", help="also write it as Markdown (- for stdout, instead of text)")
    add("--seed", type=at_least(0), default=0, help="of the bootstrap (default: 0)")
    add("--resamples", type=at_least(100), default=10_000, help="of the bootstrap (default: 10000)")
    add("--classes", type=at_least(0), default=10, help="classes shown that gained and lost most (default: 10)")
    add("--min-clips", type=at_least(1), default=3, help="leave out classes with fewer clips there (default: 3)")
    add("--class-labels", type=Path, default=None, help="the class list of files that do not name theirs "
        "(default: the 527 AudioSet classes)")
    return parser


def main(args: argparse.Namespace) -> None:
    if len(args.results) < 2:
        raise UserError("one result file cannot be compared; name two or more, the baseline first")
    for flag, target in (("--output-json", args.output_json), ("--markdown", args.markdown)):
        if target and Path(target) in args.results:
            raise UserError(f"{flag} {target} is one of the results files and would be overwritten; name another file")
    import comparison
    from differences import compare

    labels = [path.stem.removeprefix("results_") for path in args.results]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in args.results]
    if len(set(labels)) < len(labels):
        raise UserError(f"{args.results[0]} is named twice; name each results file once")
    files = [
        comparison.read(path, label, args.class_labels, CLASS_LABELS)
        for path, label in zip(args.results, labels, strict=True)
    ]
    report = compare(files, args)
    if args.output_json:
        write_json(args.output_json, report)
    if args.markdown and args.markdown != "-":
        text = render(report, markdown=True)
        write_atomic(Path(args.markdown), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    log.info(render(report, markdown=args.markdown == "-").rstrip())


def render(report: dict, markdown: bool) -> str:
    """The comparison as text."""
    from differences import number

    parts = []
    for content in report["tables"]:
        base, *others = content["files"]
        head = ["metric", base, *others, *(f"{other} - {base}" for other in others)]
        rows = [
            [metric_text(row["metric"]), *map(value_text, row["values"]), *map(difference_text, row["differences"])]
            for row in content["rows"]
        ]
        parts += [heading(content["title"], markdown), grid(head, rows, markdown)]
    shown = "\n".join(parts)
    legend = [meaning for mark, meaning in LEGEND.items() if mark in shown]
    drawn = f"{report['resamples']} resamples, seed {report['seed']}"
    parts += ["; ".join([*legend, drawn, f"precision, recall, f1 and mrr at k = {report['k']}"]) + ".", ""]
    for content in report["classes"]:
        title = f"{content['baseline']} -> {content['other']}, {content['measure']} of {content['compared']} classes "
        title += f"with {content['min_clips']} clips or more: "
        head = ["class", "clips", content["baseline"], content["other"], "change"]
        for way in ("gained", "lost"):
            rows = [
                [e["class"], str(e["clips"]), number(e["before"]), number(e["after"]), signed(e["change"])]
                for e in content[way]
            ]
            if rows:
                parts += [heading(f"{title}{way} most", markdown), grid(head, rows, markdown)]
    if report["notes"]:
        parts += [heading("notes", markdown), *(f"- {note}" for note in report["notes"])]
    return "\n".join(parts) + "\n"


def heading(text: str, markdown: bool) -> str:
    return f"**{text[0].upper()}{text[1:]}**\n" if markdown else text


def grid(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    """A table: the first column to the left, the others to the right."""
    if markdown:
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        escaped = [[cell.strip().replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def metric_text(name: str) -> str:
    return f"{name} (less is better)" if name in LESS_IS_BETTER else name


def value_text(cell: dict | None) -> str:
    from differences import number

    if cell is None:
        return "-"
    return number(cell["value"]) + (" r" if cell["source"] == "recomputed" else "")


def difference_text(entry: dict | None) -> str:
    if entry is None:
        return ""
    if entry["difference"] is None:
        return f"({entry['note']})"
    if "low" not in entry:
        return f"{signed(entry['difference'])} ({entry['note']})"
    excludes = "*" if entry["low"] > 0 or entry["high"] < 0 else " "
    return f"{signed(entry['difference'])} [{signed(entry['low'])}, {signed(entry['high'])}]{excludes}"


def signed(value: float) -> str:
    """With its sign, and without a negative zero."""
    return f"{value:+.4f}".replace("-0.0000", "+0.0000")


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
