"""A comparison as text: tables for the terminal or in Markdown."""

from __future__ import annotations

from hyperbolic_clap.results.compare import number

LESS_IS_BETTER = ("mean_rank", "wrong_top1_distance", "median_rank")
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


def render(report: dict, markdown: bool) -> str:
    """The comparison as text."""
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
    depth = [] if report["k"] is None else [f"precision, recall, f1 and mrr at k = {report['k']}"]
    parts += ["; ".join([*legend, drawn, *depth]) + ".", ""]
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
    return f"{name} (less is better)" if name.split()[-1] in LESS_IS_BETTER else name


def value_text(cell: dict | None) -> str:
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
