"""A comparison as text: tables for the terminal or in Markdown, and a row for each file as CSV."""

from __future__ import annotations

import textwrap
from pathlib import Path

from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.results.compare import number
from hyperbolic_clap.results.groups import BY_SEED

WIDTH = 120  # characters of the terminal
LABEL = 28  # of a file's label there
MANY = 8  # files from which on they stand below one another
LESS_IS_BETTER = ("mean_rank", "wrong_top1_distance", "tree_induced_error", "lca_height", "median_rank")
LEGEND = {
    " v ": "v: less is better",
    "]": "[...] is the 95 % interval",
    "]*": "* where it excludes 0",
    " r ": "r: recomputed from the predictions",
    "+-": "+- is the standard deviation over seeds",
    "(unpaired)": "unpaired: not the same clips or classes, so no interval",
    "(needs scores)": "needs scores: an interval needs both files tested with --save-scores",
    "(not finite)": "not finite: most resamples give no finite value, so no interval",
    "(over classes)": "over classes: a correlation over classes, not over clips",
    "(definition unknown)": "definition unknown: the file was not written by this project",
}


def render(report: dict, markdown: bool) -> str:
    """The comparison as text. Means over seeds, where there are some, take the place of their files in the terminal."""
    parts = []
    tables = report["tables"]
    if not markdown and tables[0]["title"] == BY_SEED:
        tables = tables[:1]
    for content in tables:
        parts += [heading(content["title"], markdown), *(wide(content) if markdown else narrow(content))]
    shown = "\n".join(parts)
    legend = [meaning for mark, meaning in LEGEND.items() if mark in shown]
    drawn = f"{report['resamples']} resamples, seed {report['seed']}"
    depth = [] if report["k"] is None else [f"precision, recall, f1 and mrr at k = {report['k']}"]
    sentence = "; ".join([*legend, drawn, *depth]) + "."
    parts += [sentence if markdown else textwrap.fill(sentence, WIDTH), ""]
    # In the terminal many files have too many classes to be read.
    for content in report["classes"] if markdown or len(tables[0]["files"]) <= MANY else ():
        title = f"{content['baseline']} -> {content['other']}, {content['measure']} of {content['compared']} classes "
        title += f"with {content['min_clips']} clips or more: "
        names = [content[side] if markdown else short(content[side]) for side in ("baseline", "other")]
        columns = ["class", "clips", *names, "change"]
        for way in ("gained", "lost"):
            rows = [
                [e["class"], str(e["clips"]), number(e["before"]), number(e["after"]), signed(e["change"])]
                for e in content[way]
            ]
            if rows:
                parts += [heading(f"{title}{way} most", markdown), grid(columns, rows, markdown)]
    if report["notes"]:
        parts += [heading("notes", markdown), *(f"- {note}" for note in report["notes"])]
    return "\n".join(parts) + "\n"


def wide(content: dict) -> list[str]:
    """A table of the comparison in Markdown: metrics down, all files across."""
    base, *others = content["files"]
    columns = ["metric", base, *others, *(f"{other} - {base}" for other in others)]
    rows = [
        [metric_text(row["metric"]), *map(value_text, row["values"]), *map(difference_text, row["differences"])]
        for row in content["rows"]
    ]
    return [grid(columns, rows, True)]


def narrow(content: dict) -> list[str]:
    """A table of the comparison in lines of WIDTH characters, in blocks.

    Metrics down and files across; or where there are many files, these down, with a mark in place of the intervals.
    """
    base, *others = map(short, content["files"])
    names = [row["metric"] + (" v " if row["metric"].split()[-1] in LESS_IS_BETTER else "") for row in content["rows"]]
    if len(others) >= MANY:
        columns = []
        for name, row in zip(names, content["rows"], strict=True):
            marks = ["", *("*" if excludes_zero(entry) else "" for entry in row["differences"])]
            cells = [value_text(cell) + mark for cell, mark in zip(row["values"], marks, strict=True)]
            columns.append([[name, *cells]])
        sentence = f"* where the 95 % interval of the difference to {base} excludes 0 (intervals: --csv, --markdown)\n"
        return [*blocks([["file", base, *others]], columns), sentence]
    first = [["metric", *names], [base, *(value_text(row["values"][0]) for row in content["rows"])]]
    columns = [
        [[other, *(value_text(row["values"][i]) for row in content["rows"])],
         [f"- {base}", *(difference_text(row["differences"][i - 1]) for row in content["rows"])]]
        for i, other in enumerate(others, 1)
    ]  # fmt: skip
    return blocks(first, columns)


def short(label: str) -> str:
    """A label of at most LABEL characters."""
    return label if len(label) <= LABEL else label[: LABEL - 3] + "..."


def blocks(first: list[list[str]], groups: list[list[list[str]]]) -> list[str]:
    """Columns as tables no wider than WIDTH: `first` in each, and as many groups of columns as fit, one at least."""

    def width(columns: list[list[str]]) -> int:
        return sum(2 + max(map(len, column)) for column in columns) - 2

    parts: list[list[list[str]]] = []
    for group in groups:
        if not parts or width(parts[-1] + group) > WIDTH:
            parts.append([*first])
        parts[-1] += group
    tables = [[*zip(*columns, strict=True)] for columns in parts]
    return [grid([*rows[0]], [[*row] for row in rows[1:]], False) for rows in tables]


def write_csv(path: Path, report: dict) -> None:
    """A row for each file: its label, what describes it, its group, every metric, differences and intervals."""
    import pandas

    files = [file | file.get("training", {}) for file in report["files"]]
    for content in report["tables"]:
        if content["title"] not in ("all clips", "retrieval"):
            continue
        for row in content["rows"]:
            name = row["metric"]
            for i, (file, cell) in enumerate(zip(files, row["values"], strict=True)):
                file[name] = cell and cell["value"]
                entry = row["differences"][i - 1] if i else None
                if entry:
                    file |= {f"{name}_{end}": entry.get(end) for end in ("difference", "low", "high")}
    table = pandas.DataFrame(files).drop(columns="training", errors="ignore").convert_dtypes()  # seeds stay whole
    text = table.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(text))


def heading(text: str, markdown: bool) -> str:
    return f"**{text[0].upper()}{text[1:]}**\n" if markdown else text


def grid(columns: list[str], rows: list[list[str]], markdown: bool) -> str:
    """A table: the first column to the left, the others to the right."""
    if markdown:
        table = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
        escaped = [[cell.strip().replace("|", "\\|") for cell in line] for line in table]
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [columns, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def metric_text(name: str) -> str:
    return f"{name} (less is better)" if name.split()[-1] in LESS_IS_BETTER else name


def value_text(cell: dict | None) -> str:
    if cell is None:
        return "-"
    spread = f" +- {cell['deviation']:.4f}" if cell.get("deviation") is not None else ""
    return number(cell["value"]) + spread + (" r " if cell["source"] == "recomputed" else "")


def difference_text(entry: dict | None) -> str:
    if entry is None:
        return ""
    if entry["difference"] is None:
        return f"({entry['note']})"
    if "low" not in entry:
        return f"{signed(entry['difference'])} ({entry['note']})"
    excludes = "*" if excludes_zero(entry) else " "
    return f"{signed(entry['difference'])} [{signed(entry['low'])}, {signed(entry['high'])}]{excludes}"


def excludes_zero(entry: dict | None) -> bool:
    """Whether the interval of a difference excludes 0."""
    return bool(entry and "low" in entry and (entry["low"] > 0 or entry["high"] < 0))


def signed(value: float) -> str:
    """With its sign, and without a negative zero."""
    return f"{value:+.4f}".replace("-0.0000", "+0.0000")
