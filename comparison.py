"""Results JSON files as comparable numbers: reading, matching clips, metrics of resamples, differences.

What a results JSON must hold to be read: `predictions`, or else `metrics` (values may be null or missing). Everything
that the predictions allow is recomputed from them. Whole rankings (map, map_samples, auc, d_prime, mean_rank, and acc@k
beyond the stored predictions) need the similarities, which the test scripts write with --save-scores:

    test_info.scores        path of a safetensors file, relative to the results JSON
    its tensor `scores`     (N, M) float32, a row for each entry of `predictions`, in that order
    its tensor `targets`    (N, M) uint8, 1 where the class is true of the clip
    test_info.class_names   the M class names, in the order of the columns
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

import bootstrap
from common import UserError, write_atomic
from labels import ClassList
from ontology import Ontology, clip_counts

RANKS = (1, 3, 5, 10)
AT_K = [f"{name}_{average}" for average in ("micro", "macro") for name in ("precision", "recall", "f1")]
BY_RANKING = ("map", "auc", "d_prime")
HIERARCHICAL = ("wrong_top1_distance", "hierarchical_precision", "hierarchical_recall", "hierarchical_f1")
RADII = ("text_radius_depth", "audio_radius_depth", "text_angle_depth", "audio_angle_depth")
ORDER = [*(f"acc@{k}" for k in RANKS), "mrr", "mean_rank", *AT_K, "map", "map_samples", "auc", "d_prime"]
ORDER += ["wrong_top1", *HIERARCHICAL, *RADII, "valid_samples", "total_samples"]
SAME = 1e-4  # a stored and a recomputed value that differ by less are the same value


def save_scores(path: Path, scores: np.ndarray, targets: np.ndarray) -> None:
    """Write (N, M) scores and targets as the module's docstring describes."""
    from safetensors.numpy import save

    content = save({"scores": scores.astype(np.float32), "targets": targets.astype(np.uint8)}, {"format": "1"})
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


@dataclass
class Results:
    """One results file. N clips, M classes, K stored predictions for each clip (0: nothing to recompute from).

    ours: written by this project, so a stored metric means what its name says here. metrics: stored numbers.
    top: (N, K) class positions, best first, all M columns where scores are stored; -1 is a class of no name.
    targets: (N, M) bool. scores: (N, M) or None. notes: sentences about what is wrong or missing.
    """

    path: Path
    label: str
    ours: bool
    metrics: dict
    info: dict
    names: list[str]
    keys: list[tuple]
    top: np.ndarray
    depth: int
    targets: np.ndarray
    scores: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def valid(self) -> np.ndarray:
        """(N,) bool: clips with a true class, the ones that metrics are about."""
        return self.targets.any(axis=1)


def read(path: Path, label: str, class_labels: Path | None, default_labels: Path) -> Results:
    """A results file; UserError in one sentence if it is not one. class_labels: what --class-labels gave, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON (cut off, or another kind of file)") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no results JSON: it is not an object with the keys 'metrics' and 'predictions'")
    info, model = _dictionary(content, "test_info"), _dictionary(content, "model_info")
    stored = _dictionary(content, "metrics") | _dictionary(content, "ontology")
    stored |= {name: stored[name].get("rho") for name in RADII if isinstance(stored.get(name), dict)}
    metrics = {k: v for k, v in stored.items() if type(v) in (int, float) and math.isfinite(v)}
    notes = [f"{label} has no metrics of its own"] if not metrics else []
    rows = content["predictions"] if isinstance(content.get("predictions"), list) else []
    entries = [entry for entry in rows if isinstance(entry, dict)]
    if not entries and not metrics:
        raise UserError(f"{path} is no results JSON: it has neither 'metrics' nor 'predictions'")
    if not entries:
        notes.append(f"{label} has no predictions, so its metrics are shown as stored")
    elif len(entries) < len(rows):
        notes.append(f"{len(rows) - len(entries)} of {len(rows)} predictions of {label} are no objects and left out")
    classes = _class_list(info, class_labels, default_labels)
    lists = [_predicted(entry) for entry in entries]
    depth = min(map(len, lists), default=0)
    top = np.array([[-1 if (p := classes.find(name)) is None else p for name in row[:depth]] for row in lists], int)
    unknown = [name for row in lists for name in row[:depth] if classes.find(name) is None]
    if unknown:
        depth = 0
        notes.append(f"{label} predicts {unknown[0]!r}, which is not in the list of {len(classes)} classes, so nothing "
                     "is recomputed from its predictions (give its list with --class-labels)")
    elif entries and not depth:
        notes.append(f"{label} holds no predictions for some clips, so nothing is recomputed from them")
    targets = np.zeros((len(entries), len(classes)), bool)
    for row, entry in zip(targets, entries, strict=True):
        named = classes.parse(entry.get("ground_truth_human_labels")) or classes.parse(entry.get("ground_truth_labels"))
        row[classes.match(named)] = True
    if entries and not targets.any():
        notes.append(f"no true label of {label} is in the list of {len(classes)} classes, so nothing is recomputed")
    anonymous = sum(not entry.get("video_id") for entry in entries)
    if anonymous:
        notes.append(f"{anonymous} clips of {label} have no video_id and so are not matched with other files")
    keys = [(str(entry.get("video_id") or ""), str(entry.get("sample_id", ""))) for entry in entries]
    results = Results(path, label, "c_meaning" in model, metrics, info | {"model": model}, classes.names, keys,
                      top.reshape(len(entries), -1 if entries else depth)[:, :depth], depth, targets, None, notes)
    _add_scores(results)
    return results


def _dictionary(content: dict, key: str) -> dict:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _class_list(info: dict, given: Path | None, default: Path) -> ClassList:
    names = info.get("class_names")
    if isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names):
        return ClassList(names)
    stored = _dictionary(info, "arguments").get("class_labels")
    if given is None and isinstance(stored, str) and Path(stored).is_file():
        given = Path(stored)
    return ClassList.read(given or default)


def _predicted(entry: dict) -> list[str]:
    best = entry.get("top_k_predictions")
    best = [b for b in best if isinstance(b, dict)] if isinstance(best, list) else []
    names = [b.get("classname") for b in sorted(best, key=lambda b: b.get("rank") if type(b.get("rank")) is int else 0)]
    names = names or [entry.get("predicted_top1")]
    return [name for name in names if isinstance(name, str)]


def _add_scores(results: Results) -> None:
    """Read the file of test_info.scores, if there is one and it fits the predictions; otherwise a note says why not."""
    from safetensors import SafetensorError, safe_open

    name = results.info.get("scores")
    if not isinstance(name, str):
        return
    path = results.path.parent / name
    try:
        with safe_open(path, framework="numpy") as file:
            scores, targets = file.get_tensor("scores"), file.get_tensor("targets").astype(bool)
    except (OSError, SafetensorError):
        results.notes.append(f"{results.label} names the similarities {name}, which cannot be read")
        return
    fits = scores.shape == targets.shape == results.targets.shape and np.isfinite(scores).all()
    if fits:
        order = np.argsort(-scores, axis=1, kind="stable")
        fits = results.depth == 0 or (order[:, 0] == results.top[:, 0]).all()
    if not fits:
        results.notes.append(f"{results.label} names the similarities {name}, which belong to another run")
        return
    results.scores, results.targets, results.top = scores, targets, order


class Measures:
    """The metrics that can be computed of some rows of a results file, for any weights of their clips.

    rows (n,): row positions, all of valid clips. k: how many predictions count as positives in precision, recall, f1.
    """

    def __init__(self, results: Results, rows: np.ndarray, k: int, tree: Ontology):
        self.names, self.k = results.names, k
        self.top, self.targets = results.top[rows], results.targets[rows]
        self.ratios: dict[str, tuple] = {}
        self.ranking, self.hits, self.wrong = None, None, None
        self.size = len(rows)
        if self.size and self.top.shape[1]:
            self._from_predictions(tree)
            if results.scores is not None:
                self._from_scores(results.scores[rows])

    def _from_predictions(self, tree: Ontology) -> None:
        one, hits = np.ones(self.size), np.take_along_axis(self.targets, self.top, axis=1)
        self.hits = hits
        whole = hits.shape[1] == len(self.names)
        for rank in (r for r in RANKS if whole or r <= hits.shape[1]):
            self.ratios[f"acc@{rank}"] = hits[:, :rank].any(axis=1), one
        first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
        self.ratios["mrr"] = np.where(first <= self.k, 1 / first, 0), one
        found, guessed, true = hits[:, : self.k].sum(axis=1), self.k * one, self.targets.sum(axis=1)
        self.ratios |= {"precision_micro": (found, guessed), "recall_micro": (found, true)}
        self.ratios["f1_micro"] = 2 * found, guessed + true
        self.predicted = np.zeros_like(self.targets)
        np.put_along_axis(self.predicted, self.top[:, : self.k], True, axis=1)
        nodes, _ = tree.find(self.names)
        if nodes is not None:
            part = clip_counts(self.top[:, 0], self.targets, nodes, tree)
            self.ratios["wrong_top1_distance"] = part["distance"], part["wrong"]
            self.wrong = int(part["wrong"].sum())
            self.ratios["hierarchical_precision"] = part["both"], part["predicted"]
            self.ratios["hierarchical_recall"] = part["both"], part["true"]
            self.ratios["hierarchical_f1"] = 2 * part["both"], part["predicted"] + part["true"]

    def _from_scores(self, scores: np.ndarray) -> None:
        from sklearn.metrics import average_precision_score

        one = np.ones(self.size)
        self.ratios["mean_rank"] = self.hits.argmax(axis=1) + 1, one
        per_clip = [average_precision_score(t, s) for t, s in zip(self.targets, scores, strict=True)]
        self.ratios["map_samples"] = np.array(per_clip), one
        self.ranking = bootstrap.Ranking(scores, self.targets)

    def of_sums(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, n) weights -> {metric: (B,)}, of the metrics that only add over clips."""
        values = {name: bootstrap.ratio(weights, *parts) for name, parts in self.ratios.items()}
        if self.hits is not None:
            both = bootstrap.macro(weights, self.predicted, self.targets, len(self.names))
            values |= dict(zip(("precision_macro", "recall_macro", "f1_macro"), both.T, strict=True))
        return values

    def of_ranking(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, n) weights -> {metric: (B,)}, of the metrics that rank the clips for each class."""
        if self.ranking is None:
            return {}
        from scipy.stats import norm

        ap, auc = map(bootstrap.mean_of_classes, self.ranking(weights))
        return {"map": ap, "auc": auc, "d_prime": math.sqrt(2) * norm.ppf(auc)}

    def values(self) -> dict[str, float]:
        """The metrics themselves, of the clips as they are; without those that have no ground."""
        once = np.ones((1, self.size), np.float32)
        values = self.of_sums(once) | self.of_ranking(once)
        counted = {} if self.wrong is None else {"wrong_top1": self.wrong}
        return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])} | counted

    def per_class(self, by_ranking: bool) -> np.ndarray:
        """(M,) average precision of each class, or without scores its recall at k; NaN where a class does not occur."""
        values = np.full(len(self.names), np.nan)
        counts = self.targets.sum(axis=0)
        if by_ranking:
            values[counts > 0] = self.ranking(np.ones((1, self.size), np.float32))[0][0]
        else:
            values[counts > 0] = (self.predicted & self.targets).sum(axis=0)[counts > 0] / counts[counts > 0]
        return values


def match(a: Results, b: Results) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of a and b that are one clip with one truth, and how many differ in truth.

    A clip is known by its video_id where that occurs once in each file (other programs count sample_id differently),
    else by video_id and sample_id.
    """
    videos = [Counter(video for video, _ in file.keys) for file in (a, b)]
    once = videos[0].keys() & videos[1].keys() - {v for times in videos for v, count in times.items() if count > 1}
    keys = [[video if video in once else (video, sample) for video, sample in file.keys] for file in (a, b)]
    times = [Counter(of_file) for of_file in keys]
    rows_of_b = {key: i for i, key in enumerate(keys[1]) if times[1][key] == 1}
    pairs = [(i, rows_of_b[key]) for i, key in enumerate(keys[0]) if times[0][key] == 1 and key in rows_of_b]
    pairs = [(i, j) for i, j in pairs if a.keys[i][0]]  # a clip without video_id is nobody's
    rows_a, rows_b = np.array(pairs, int).reshape(-1, 2).T
    alike = (a.targets[rows_a] == b.targets[rows_b]).all(axis=1) if a.names == b.names else np.ones(len(rows_a), bool)
    return rows_a[alike], rows_b[alike], int((~alike).sum())


def paired_intervals(a: Measures, b: Measures, resamples: int, seed: int) -> dict[str, dict]:
    """{metric: {low, high, resamples}}: 95 % bootstrap intervals of b - a, clip i of a being clip i of b."""
    if a.size < 2:
        return {}
    rankings = [m.ranking for m in (a, b)] if a.ranking and b.ranking else []
    ranked = bootstrap.affordable(resamples, sum(ranking.flops for ranking in rankings))
    drawn: dict[str, list] = {}
    done = 0
    for weights in bootstrap.draw(a.size, resamples, seed, max([a.targets.shape[1], *(r.width for r in rankings)])):
        of_a, of_b = a.of_sums(weights), b.of_sums(weights)
        if rankings and done < ranked:
            of_a |= a.of_ranking(weights[: ranked - done])
            of_b |= b.of_ranking(weights[: ranked - done])
        done += len(weights)
        for name in of_a.keys() & of_b.keys():
            with np.errstate(invalid="ignore"):
                drawn.setdefault(name, []).append(of_b[name] - of_a[name])
    found = {}
    for name, parts in drawn.items():
        differences = np.concatenate(parts)
        ends = bootstrap.interval(differences)
        if ends:
            found[name] = {"low": ends[0], "high": ends[1], "resamples": len(differences)}
    return found
