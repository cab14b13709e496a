"""Several results files as one comparison: metrics side by side, differences with intervals, changes by class."""

from __future__ import annotations

import argparse

import numpy as np

from hyperbolic_clap.metrics.ontology import audioset
from hyperbolic_clap.results.files import AT_K, INNER, ORDER, RADII, SAME, Results
from hyperbolic_clap.results.measures import Measures, match, paired_intervals

COUNTS = ("valid_samples", "total_samples", "wrong_top1", "inner_classes")


def compare(files: list, args: argparse.Namespace) -> dict:
    """Results files, the baseline first -> the whole comparison as a JSON-able dict."""
    tree = audioset()
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
        if gain := measures[-1].gain_of_branches(args.resamples, args.seed):
            notes.append("{}: map_inner_descendants - map_inner = {:+.4f} [{:+.4f}, {:+.4f}]".format(
                file.label, *gain.values()))
    intervals: list[dict | None] = [None]
    for file in files[1:]:
        if not (file.keys and base.keys):  # a note has said that one of them holds metrics alone
            intervals.append(None)
            continue
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
            classes.append(class_changes(base, file, pair, args.classes, args.min_clips))
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


def describe(file: Results) -> dict:
    """A results file in the JSON of the comparison."""
    model = file.info["model"]
    facts = {name: model.get(name) for name in ("similarity", "clap_model", "projection_checkpoint", "c", "output_dim")}
    counts = {"clips": len(file.keys), "valid": int(file.valid.sum()), "classes": len(file.names)}
    return {"label": file.label, "path": str(file.path), **counts, "scores": file.scores is not None, **facts}


def cells(file: Results | None, computed: dict, k: int, notes: list[str]) -> dict[str, dict]:
    """{metric: {value, source, comparable}} of one file. file=None: of recomputed values alone."""
    stored = file.metrics if file else {}
    if file and file.keys:
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
                ranked = "map_inner" if name in INNER else "map"
                # With stored scores every metric has an interval, unless most resamples make it infinite, as d_prime.
                entry |= {"paired": True, "note": "not finite" if ranked in found else "needs scores"}
                entry |= {**found[name], "note": None} if name in found else {}
            row["differences"].append(entry)
        rows.append(row)
    return {"title": title, "files": [file.label for file in files], "rows": rows}


def class_changes(base: Results, file: Results, pair: list[Measures], most: int, min_clips: int) -> dict:
    """The classes that gained and lost most from base to file. pair: their measures on the common clips."""
    by_ranking = all(m.ranking is not None for m in pair)
    before, after = (m.per_class(by_ranking) for m in pair)
    counts = pair[0].targets.sum(axis=0)
    change = np.where(counts >= min_clips, after - before, np.nan)
    order = [i for i in np.argsort(change, kind="stable") if np.isfinite(change[i]) and change[i]]

    def entry(i: int) -> dict:
        values = {"before": float(before[i]), "after": float(after[i]), "change": float(change[i])}
        return {"class": base.names[i], "clips": int(counts[i]), **values}

    return {
        "baseline": base.label,
        "other": file.label,
        "measure": "average precision" if by_ranking else f"recall at {pair[0].k}",
        "min_clips": min_clips,
        "compared": int(np.isfinite(change).sum()),
        "gained": [entry(i) for i in order[::-1][:most] if change[i] > 0],
        "lost": [entry(i) for i in order[:most] if change[i] < 0],
    }


def number(value) -> str:
    """A value as it is printed: whole numbers whole, others with 4 decimals."""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
