"""Several results files as one comparison: metrics side by side, differences with intervals, changes by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from hyperbolic_clap.metrics.ontology import Ontology, audioset
from hyperbolic_clap.metrics.superclasses import INNER
from hyperbolic_clap.results.files import AT_K, OF_THE_TREE, ORDER, OVER_CLASSES, SAME, Results, training_words
from hyperbolic_clap.results.groups import group_by_seed, group_notes, group_table, training_of, with_baseline
from hyperbolic_clap.results.measures import Measures, PerClass, gain_of_subtrees, match, paired_intervals

COUNTS = ("valid_samples", "total_samples", "wrong_top1", "inner_classes")
BAR_AFTER = 3  # seconds


@dataclass(frozen=True)
class CompareConfig:
    """How results files are compared: the bootstrap, and which classes are listed.

    resamples and seed: of the bootstrap. classes: listed that gained and lost most. min_clips: leave out classes with
    fewer clips there. by_seed: also means over the trainings that differ in their seed alone. baseline: of these, the
    label of a group or of a file in it; None for that of the first file.
    """

    resamples: int = 10_000
    seed: int = 0
    classes: int = 10
    min_clips: int = 3
    by_seed: bool = False
    baseline: str | None = None


@dataclass(frozen=True)
class Figures:
    """What is computed once of some clips of a file. drawn: of Measures.resample. per_class: None without them."""

    size: int
    values: dict[str, float]
    drawn: dict[str, np.ndarray]
    per_class: PerClass | None

    @classmethod
    def of(cls, measures: Measures, drawn: dict[str, np.ndarray]) -> Figures:
        per_class = measures.per_class() if measures.hits is not None else None
        return cls(measures.size, measures.values(), drawn, per_class)


@contextmanager
def resample_bar(total: int) -> Iterator[Callable[[int], object]]:
    """What takes the number of further resamples that are done; a bar appears if all of them take long."""
    with tqdm(total=total, desc="bootstrap", unit="resample", unit_scale=True, delay=BAR_AFTER) as bar:
        yield bar.update


def compare(files: list[Results], config: CompareConfig) -> dict:
    """Results files, the baseline first -> the whole comparison as a JSON-able dict."""
    base = files[0]
    tree = base.taxonomy or audioset()
    notes = [note for file in files for note in file.notes]
    depths = [file.depth for file in files if file.depth]
    k = min(depths, default=0)
    if len(set(depths)) > 1:
        held = " and ".join(map(str, depths))
        notes.append(f"the files hold {held} predictions for each clip; precision, recall, f1, mrr: at {k}")
    own = [np.flatnonzero(file.valid) for file in files]
    pairs = [common(base, file) for file in files[1:]]
    figures = all_figures(files, own, pairs, k, tree, config)
    own_tree = [same_tree(file.taxonomy, base.taxonomy) for file in files]
    notes += [f"{file.label} was tested with another taxonomy than {base.label}, whose is taken for both"
              for file, same in zip(files, own_tree, strict=True) if not same]  # fmt: skip
    notes += [f"{file.label} was trained with {told}" for file in files if (told := training_words(file.info["model"]))]
    every, tables, classes = [], [], []
    for f, file in enumerate(files):
        found = figures[f, own[f].tobytes()]
        every.append(cells(file, found.values, k, notes, own_tree[f]))
        if gain := gain_of_subtrees(found.values, found.drawn):
            notes.append("{}: map_inner_descendants - map_inner = {:+.4f} [{:+.4f}, {:+.4f}]".format(
                file.label, *gain.values()))
    intervals: list[dict | None] = [None]
    for f, (file, pair) in enumerate(zip(files[1:], pairs, strict=True), 1):
        if pair is None:
            if file.keys and base.keys:  # else a note has said that one of them holds metrics alone
                notes.append(f"{file.label} was evaluated against another class list ({len(file.names)} classes) than "
                             f"{base.label} ({len(base.names)}), so differences mix models and tasks")
            intervals.append(None)
            continue
        if pair.other_truth:
            notes.append(f"{pair.other_truth} clips have other true classes in {file.label} than in {base.label} and "
                         "do not count as common")
        notes.append(f"{file.label} and {base.label} have {pair.clips} clips in common, "
                     + ("all of both" if pair.whole else f"of {len(file.keys)} and {len(base.keys)}"))
        both = [figures[g, rows.tobytes()] for g, rows in zip((0, f), pair.valid, strict=True)]
        change = paired_intervals(*(side.drawn for side in both))
        intervals.append(change if pair.whole else None)
        if not pair.whole and both[0].size:
            values = [recomputed(side.values | {"valid_samples": side.size}) for side in both]
            tables.append(table(f"the {pair.clips} common clips", [base, file], values, [None, change]))
        per_class = [side.per_class for side in both if side.per_class is not None]
        if len(per_class) == len(both):
            classes.append(class_changes(base, file, per_class, config))
    fewer = {entry["resamples"] for change in intervals if change for entry in change.values()} - {config.resamples}
    if fewer:
        notes.append(f"map, auc and d_prime have {min(fewer)} resamples instead of {config.resamples}, for time")
    tables.insert(0, table("all clips", files, every, intervals))
    if config.by_seed:
        drawn: list[dict | None] = [figures[0, own[0].tobytes()].drawn]
        drawn += [figures[f, pair.valid[1].tobytes()].drawn if pair and pair.whole else None
                  for f, pair in enumerate(pairs, 1)]
        tables.insert(0, table_by_seed(files, every, drawn, config, notes))
    return {
        "files": [describe(file) for file in files],
        "seed": config.seed,
        "resamples": config.resamples,
        "interval": "95 % percentile, paired over clips",
        "k": k,
        "tables": tables,
        "classes": classes,
        "notes": notes,
    }


def table_by_seed(
    files: list, columns: list[dict], drawn: list[dict | None], config: CompareConfig, notes: list[str]
) -> dict:
    """The table of means over seeds; its notes are added. UserError as of group_by_seed and with_baseline."""
    groups = with_baseline(group_by_seed(files), files, config.baseline)
    notes += group_notes(groups)
    names = [name for name in metric_names(columns) if name not in COUNTS]
    return group_table(groups, columns, drawn, names, config.seed)


@dataclass(frozen=True)
class Common:
    """The clips that two files share. valid: their rows in both that have a true class. whole: all clips of both."""

    clips: int
    other_truth: int
    whole: bool
    valid: tuple[np.ndarray, np.ndarray]


def common(base: Results, file: Results) -> Common | None:
    """What is paired of two files; None where nothing can be: other class lists, or metrics alone."""
    if not (file.keys and base.keys) or file.names != base.names:
        return None
    rows_base, rows_file, other_truth = match(base, file)
    valid = base.valid[rows_base]
    whole = len(rows_base) == len(base.keys) == len(file.keys)
    return Common(len(rows_base), other_truth, whole, (rows_base[valid], rows_file[valid]))


def all_figures(
    files: list[Results], own: list[np.ndarray], pairs: list[Common | None], k: int, tree: Ontology,
    config: CompareConfig,
) -> dict[tuple[int, bytes], Figures]:  # fmt: skip
    """{(file, its rows as bytes): figures} of all labelled clips of each file, and of those that it shares.

    A file that shares its clips with several others is resampled once.
    """
    wanted = {(f, rows.tobytes()): rows for f, rows in enumerate(own)}
    for f, pair in enumerate(pairs, 1):
        for g, rows in zip((0, f), pair.valid if pair else (), strict=bool(pair)):
            wanted[g, rows.tobytes()] = rows
    figures = {}
    with resample_bar(config.resamples * len(wanted)) as done:
        for (f, key), rows in wanted.items():
            measures = Measures(files[f], rows, k, tree)
            figures[f, key] = Figures.of(measures, measures.resample(config.resamples, config.seed, done))
    return figures


def describe(file: Results) -> dict:
    """A results file in the JSON of the comparison."""
    model = file.info["model"]
    facts = {name: model.get(name) for name in ("similarity", "clap_model", "projection_checkpoint", "c", "output_dim")}
    counts = {"clips": len(file.keys), "valid": int(file.valid.sum()), "classes": len(file.names)}
    training = training_of(model)
    told = {"label": file.label, "path": str(file.path), **counts, "scores": file.scores is not None, **facts}
    return told | ({"training": training} if training else {})


def recomputed(values: dict) -> dict[str, dict]:
    """{metric: {value, source, comparable}} of values that no file stores."""
    return {name: {"value": value, "source": "recomputed", "comparable": True} for name, value in values.items()}


def same_tree(a: Ontology | None, b: Ontology | None) -> bool:
    """Whether two taxonomies, None for AudioSet's, join the same classes in the same way."""
    if a is None or b is None:
        return a is b
    return {name: set(above) for name, above in (a.to_json() or {}).items()} == {
        name: set(above) for name, above in (b.to_json() or {}).items()}


def cells(file: Results, computed: dict, k: int, notes: list[str], own_tree: bool = True) -> dict[str, dict]:
    """{metric: {value, source, comparable}} of one file. own_tree: whether it was tested with the comparison's tree."""
    stored = file.metrics
    if file.keys:
        computed = computed | {"valid_samples": int(file.valid.sum()), "total_samples": len(file.keys)}
    result = {}
    for name in {**stored, **computed}:
        value, source, comparable = stored.get(name), "stored", True
        if name not in computed:
            # What an unknown program calls map may be averaged over clips, and its acc@10 cut off at 5 predictions.
            comparable = file.ours and (own_tree or name not in OF_THE_TREE)
        elif value is None or abs(value - computed[name]) > SAME:
            explained = name in AT_K and k != file.depth or name in OF_THE_TREE and not own_tree
            if value is not None and not explained:
                notes.append(f"{file.label} stores {name} = {number(value)}, but its predictions give "
                             f"{number(computed[name])}, which is shown")
            value, source = computed[name], "recomputed"
        result[name] = {"value": value, "source": source, "comparable": comparable}
    return result


def metric_names(columns: list[dict]) -> list[str]:
    """The metrics that any column has, those of the project in their order first."""
    names = [name for name in ORDER if any(name in column for column in columns)]
    return names + sorted({name for column in columns for name in column} - set(names))


def table(title: str, files: list, values: list[dict], intervals: list[dict | None]) -> dict:
    """The metrics of several files, with differences to the first; intervals[i] is None where i is unpaired."""
    rows = []
    for name in metric_names(values):
        row: dict = {"metric": name, "values": [column.get(name) for column in values], "differences": []}
        for column, found in zip(values[1:], intervals[1:], strict=True):
            before, after = values[0].get(name), column.get(name)
            if before is None or after is None or name in COUNTS:
                row["differences"].append(None)
                continue
            if not (before["comparable"] and after["comparable"]):
                row["differences"].append({"difference": None, "paired": False, "note": "definition unknown"})
                continue
            entry: dict = {"difference": after["value"] - before["value"], "paired": False, "note": "unpaired"}
            if name in OVER_CLASSES:
                entry["note"] = "over classes"
            elif found is not None:
                ranked = "map_inner" if name in INNER else "map"
                # With stored scores every metric has an interval, unless most resamples make it infinite, as d_prime.
                entry |= {"paired": True, "note": "not finite" if ranked in found else "needs scores"}
                entry |= {**found[name], "note": None} if name in found else {}
            row["differences"].append(entry)
        rows.append(row)
    return {"title": title, "files": [file.label for file in files], "rows": rows}


def class_changes(base: Results, file: Results, pair: list[PerClass], config: CompareConfig) -> dict:
    """The classes that gained and lost most from base to file. pair: their classes on the common clips."""
    rankings = [side.precision for side in pair if side.precision is not None]
    by_ranking = len(rankings) == len(pair)
    before, after = rankings if by_ranking else [side.recall for side in pair]
    counts = pair[0].clips
    change = np.where(counts >= config.min_clips, after - before, np.nan)
    order = [i for i in np.argsort(change, kind="stable") if np.isfinite(change[i]) and change[i]]

    def entry(i: int) -> dict:
        values = {"before": float(before[i]), "after": float(after[i]), "change": float(change[i])}
        return {"class": base.names[i], "clips": int(counts[i]), **values}

    return {
        "baseline": base.label,
        "other": file.label,
        "measure": "average precision" if by_ranking else f"recall at {pair[0].k}",
        "min_clips": config.min_clips,
        "compared": int(np.isfinite(change).sum()),
        "gained": [entry(i) for i in order[::-1][: config.classes] if change[i] > 0],
        "lost": [entry(i) for i in order[: config.classes] if change[i] < 0],
    }


def number(value) -> str:
    """A value as it is printed: whole numbers whole, others with 4 decimals."""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
