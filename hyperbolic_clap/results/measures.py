"""Metrics of some clips of a results file, for any weights of the clips, and paired intervals between two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hyperbolic_clap.metrics import bootstrap, weighted
from hyperbolic_clap.metrics.classification import hit_ratios, macro_averages, multi_hot, ranked, score_ratios
from hyperbolic_clap.metrics.hierarchy import ClassTree, class_tree, tree_ratios, two_level_averages
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.superclasses import INNER, mean_precision, superclass_rankings
from hyperbolic_clap.metrics.weighted import Ranking, Ratios
from hyperbolic_clap.results.files import Results


@dataclass(frozen=True)
class PerClass:
    """Figures of each of M classes; NaN where a class does not occur.

    clips (M,): of each class. recall (M,): among the first k predictions. precision (M,): average precision, None
    without stored scores.
    """

    clips: np.ndarray
    recall: np.ndarray
    precision: np.ndarray | None
    k: int


class Measures:
    """The metrics that can be computed of some rows of a results file, for any weights of their clips.

    rows (n,): row positions, all of valid clips. k: how many predictions count as positives in precision, recall, f1.
    hits (n, K): which predictions are true, None without predictions. ranking: None without scores.
    """

    def __init__(self, results: Results, rows: np.ndarray, k: int, tree: Ontology):
        self.names, self.k, self.size = results.names, k, len(rows)
        self.top, self.targets = results.top[rows], results.targets[rows]
        self.ratios: Ratios = {}
        self.hits: np.ndarray | None = None
        self.wrong: int | None = None
        self.classes: ClassTree | None = None
        self.ranking: Ranking | None = None
        self.inner: dict[str, Ranking] = {}
        if self.size and self.top.shape[1]:
            self._from_predictions(tree)
            if results.scores is not None:
                self.ratios |= score_ratios(results.scores[rows], self.top, self.targets)
                self.ranking = Ranking(results.scores[rows], self.targets)
                self.inner = superclass_rankings({name: values[rows] for name, values in results.inner.items()})

    def _from_predictions(self, tree: Ontology) -> None:
        self.hits = np.take_along_axis(self.targets, self.top, axis=1)
        self.ratios = hit_ratios(self.top, self.targets, self.k)
        nodes, _ = tree.find(self.names)
        if nodes is not None:
            self.classes = class_tree(nodes, tree)
            self.ratios |= tree_ratios(self.top, self.targets, self.classes)
            self.wrong = int((~self.hits[:, 0]).sum())

    def of_sums(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, n) weights -> {metric: (B,)}, of the metrics that only add over clips."""
        values = {name: weighted.ratio(weights, *parts) for name, parts in self.ratios.items()}
        if self.hits is not None:
            values |= macro_averages(weights, self.top, self.targets, self.k)
        if self.classes is not None:
            values |= two_level_averages(weights, self.top[:, 0], self.targets, self.classes)
        return values

    def of_rankings(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, n) weights -> {metric: (B,)}, of the metrics that rank the clips for each class or superclass."""
        return (ranked(weights, self.ranking) if self.ranking else {}) | mean_precision(weights, self.inner)

    def values(self) -> dict[str, float]:
        """The metrics themselves, of the clips as they are; without those that are undefined."""
        once = weighted.plain(self.size)
        values = self.of_sums(once) | self.of_rankings(once)
        counted = {} if self.wrong is None else {"wrong_top1": self.wrong}
        return {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])} | counted

    def resample(self, resamples: int, seed: int, done: Callable[[int], object] = lambda count: None) -> dict:
        """{metric: (B,) values of bootstrap resamples}, B fewer for rankings that would take minutes.

        done: called with how many more resamples are finished. {} of fewer than two clips.
        """
        if self.size < 2:
            return {}
        rankings = ([self.ranking] if self.ranking else []) + [*self.inner.values()]
        ranked = bootstrap.affordable(resamples, sum(ranking.cost for ranking in rankings))
        drawn: dict[str, list] = {}
        finished = 0
        for weights in bootstrap.draw(self.size, resamples, seed, self.targets.shape[1]):
            found = self.of_sums(weights)
            found |= self.of_rankings(weights[: ranked - finished]) if finished < ranked else {}
            for name, values in found.items():
                drawn.setdefault(name, []).append(values)
            finished += len(weights)
            done(len(weights))
        return {name: np.concatenate(parts) for name, parts in drawn.items()}

    def per_class(self) -> PerClass:
        """The figures of each class, of the clips as they are."""
        clips = self.targets.sum(axis=0)
        found = (multi_hot(self.top[:, : self.k], len(self.names)) & self.targets).sum(axis=0)
        recall = np.divide(found, clips, out=np.full(len(clips), np.nan), where=clips > 0)
        precision = None
        if self.ranking is not None:
            precision = np.full(len(clips), np.nan)
            precision[self.ranking.classes] = self.ranking.precision(weighted.plain(self.size))[0]
        return PerClass(clips, recall, precision, self.k)


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


def paired_intervals(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, dict]:
    """{metric: {low, high, resamples}}: 95 % bootstrap intervals of b - a.

    a and b: of Measures.resample with one seed, clip i of a being clip i of b.
    """
    found = {}
    for name in a.keys() & b.keys():
        count = min(len(a[name]), len(b[name]))
        with np.errstate(invalid="ignore"):
            ends = bootstrap.interval(b[name][:count] - a[name][:count])
        if ends:
            found[name] = {"low": ends[0], "high": ends[1], "resamples": count}
    return found


def gain_of_subtrees(values: dict[str, float], drawn: dict[str, np.ndarray]) -> dict | None:
    """{difference, low, high}: what answering by the subtree adds to map_inner, on the same clips; None without.

    values and drawn: of Measures.values and Measures.resample.
    """
    own, subtree = INNER
    if not drawn.keys() >= {own, subtree}:
        return None
    ends = bootstrap.interval(drawn[subtree] - drawn[own])
    return ends and {"difference": values[subtree] - values[own], "low": ends[0], "high": ends[1]}
