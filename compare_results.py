"""Compare result files side by side: the first is the baseline, the others are shown with their difference to it.

    python compare_results.py results_original.json results_hyperbolic.json

    python compare_results.py results_original.json results_cosine.json results_hyperbolic.json \\
        --markdown comparison.md --output-json comparison.json

A difference comes with its 95 % interval, from a paired bootstrap over the clips, where both files evaluated the same
clips (video_id, sample_id and true classes) against the same class list; otherwise it is marked unpaired. Metrics that
a file lacks are recomputed from its predictions where these suffice. Intervals for map, map_samples, auc and d_prime
need the similarities: run the test scripts with --save-scores FILE.safetensors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import CLASS_LABELS, Parser, UserError, at_least, log, run, write_atomic, write_json

COUNTS = ("valid_samples", "total_samples", "wrong_top1")
LESS_IS_BETTER = ("mean_rank", "wrong_top1_distance")
LEGEND = {
    "]": "[...] is the 95 % interval",
    "]*": "* where it excludes 0",
    " r ": "r: recomputed from the predictions",
    "(unpaired)": "unpaired: not the same clips or classes, so no interval",
    "(needs scores)": "needs scores: an interval needs both files tested with --save-scores",
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
    import comparison

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


def compare(files: list, args: argparse.Namespace) -> dict:
    """Results files, the baseline first -> the whole comparison as a JSON-able dict."""
    import numpy as np

    from comparison import Measures, match, paired_intervals
    from ontology import Ontology

    tree = Ontology()
    notes = [note for file in files for note in file.notes]
    depths = [file.depth for file in files if file.depth]
    k = min(depths, default=0)
    if len(set(depths)) > 1:
        held = " and ".join(map(str, depths))
        notes.append(f"the files hold {held} predictions for each clip; precision, recall, f1, mrr: at {k}")
    base, measures, every, tables, classes = files[0], [], [], [], []
    for file in files:
        measures.append(Measures(file, np.flatnonzero(file.valid), k, tree))
        every.append(cells(file, measures[-1].values(), k, notes))
    intervals: list[dict | None] = [None]
    for file in files[1:]:
        if file.names != base.names:
            notes.append(f"{file.label} was evaluated against another class list ({len(file.names)} classes) than "
                         f"{base.label} ({len(base.names)}), so differences mix models and tasks")
            intervals.append(None)
            continue
        rows_base, rows_file, other_truth = match(base, file)
        if other_truth:
            notes.append(f"{other_truth} clips have other true classes in {file.label} than in {base.label} and do not "
                         "count as common")
        whole = len(rows_base) == len(base.keys) == len(file.keys)
        notes.append(f"{file.label} and {base.label} have {len(rows_base)} clips in common, "
                     + ("all of both" if whole else f"of {len(file.keys)} and {len(base.keys)}"))
        valid = base.valid[rows_base]
        pair = [Measures(f, r[valid], k, tree) for f, r in ((base, rows_base), (file, rows_file))]
        found = paired_intervals(*pair, args.resamples, args.seed)
        intervals.append(found if whole else None)
        if not whole and valid.any():
            values = [cells(None, m.values() | {"valid_samples": m.size}, k, notes) for m in pair]
            tables.append(table(f"the {len(rows_base)} common clips", [base, file], values, [None, found]))
        if all(m.hits is not None for m in pair):
            classes.append(class_changes(base, file, pair, args))
    fewer = {entry["resamples"] for found in intervals if found for entry in found.values()} - {args.resamples}
    if fewer:
        notes.append(f"map, auc and d_prime have {min(fewer)} resamples instead of {args.resamples}, for time")
    tables.insert(0, table("all clips", files, every, intervals))
    return {
        "files": [describe(file) for file in files],
        "seed": args.seed,
        "resamples": args.resamples,
        "interval": "95 % percentile, paired over clips",
        "k": k,
        "tables": tables,
        "classes": classes,
        "notes": notes,
    }


def describe(file) -> dict:
    """A results file in the JSON of the comparison."""
    model = file.info["model"]
    facts = {name: model.get(name) for name in ("similarity", "clap_model", "projection_checkpoint", "c", "output_dim")}
    counts = {"clips": len(file.keys), "valid": int(file.valid.sum()), "classes": len(file.names)}
    return {"label": file.label, "path": str(file.path), **counts, "scores": file.scores is not None, **facts}


def cells(file, computed: dict, k: int, notes: list[str]) -> dict[str, dict]:
    """{metric: {value, source, comparable}} of one file. file=None: of recomputed values alone."""
    from comparison import AT_K, SAME

    stored = file.metrics if file else {}
    if file:
        computed = computed | {"valid_samples": int(file.valid.sum()), "total_samples": len(file.keys)}
    result = {}
    for name in {**stored, **computed}:
        value, source, comparable = stored.get(name), "stored", True
        if name not in computed:
            # What an unknown program calls map may be averaged over clips, and its acc@10 cut off at 5 predictions.
            comparable = file.ours
        elif value is None or abs(value - computed[name]) > SAME:
            if value is not None and not (name in AT_K and k != file.depth):
                notes.append(f"{file.label} stores {name} = {number(value)}, but its predictions give "
                             f"{number(computed[name])}, which is shown")
            value, source = computed[name], "recomputed"
        result[name] = {"value": value, "source": source, "comparable": comparable}
    return result


def table(title: str, files: list, values: list[dict], intervals: list[dict | None]) -> dict:
    """The metrics of several files, with differences to the first; intervals[i] is None where i is unpaired."""
    from comparison import ORDER, RADII

    names = [name for name in ORDER if any(name in column for column in values)]
    names += sorted({name for column in values for name in column} - set(names))
    rows = []
    for name in names:
        row = {"metric": name, "values": [column.get(name) for column in values], "differences": []}
        for column, found in zip(values[1:], intervals[1:], strict=True):
            pair = values[0].get(name), column.get(name)
            if None in pair or name in COUNTS:
                row["differences"].append(None)
                continue
            if not all(cell["comparable"] for cell in pair):
                row["differences"].append({"difference": None, "paired": False, "note": "definition unknown"})
                continue
            entry = {"difference": pair[1]["value"] - pair[0]["value"], "paired": False, "note": "unpaired"}
            if name in RADII:
                entry["note"] = "over classes"
            elif found is not None:
                entry |= {"paired": True, "note": "no ground for an interval" if name in found else "needs scores"}
                entry |= {**found[name], "note": None} if name in found else {}
            row["differences"].append(entry)
        rows.append(row)
    return {"title": title, "files": [file.label for file in files], "rows": rows}


def class_changes(base, file, pair: list, args: argparse.Namespace) -> dict:
    """The classes that gained and lost most from base to file, on their common clips."""
    import numpy as np

    by_ranking = all(m.ranking is not None for m in pair)
    before, after = (m.per_class(by_ranking) for m in pair)
    counts = pair[0].targets.sum(axis=0)
    change = np.where(counts >= args.min_clips, after - before, np.nan)
    order = [i for i in np.argsort(change, kind="stable") if np.isfinite(change[i]) and change[i]]

    def entry(i: int) -> dict:
        values = {"before": float(before[i]), "after": float(after[i]), "change": float(change[i])}
        return {"class": base.names[i], "clips": int(counts[i]), **values}

    return {
        "baseline": base.label,
        "other": file.label,
        "measure": "average precision" if by_ranking else f"recall at {pair[0].k}",
        "min_clips": args.min_clips,
        "compared": int(np.isfinite(change).sum()),
        "gained": [entry(i) for i in order[::-1][: args.classes] if change[i] > 0],
        "lost": [entry(i) for i in order[: args.classes] if change[i] < 0],
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
    parts += ["; ".join([*legend, drawn, f"precision, recall, f1 and mrr at k = {report['k']}"]) + ".", ""]
    for content in report["classes"]:
        title = f"{content['measure']} of {content['compared']} classes with {content['min_clips']} clips or more, "
        head = ["class", "clips", content["baseline"], content["other"], "change"]
        for way in ("gained", "lost"):
            rows = [
                [e["class"], str(e["clips"]), number(e["before"]), number(e["after"]), f"{e['change']:+.4f}"]
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
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def number(value) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def metric_text(name: str) -> str:
    return f"{name} (less is better)" if name in LESS_IS_BETTER else name


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
        return f"{entry['difference']:+.4f} ({entry['note']})"
    excludes = "*" if entry["low"] > 0 or entry["high"] < 0 else " "
    return f"{entry['difference']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]{excludes}"


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
