"""Metrics of some clips of a results file, for any weights of the clips, and paired intervals between two files."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.ontology import Ontology, clip_counts
from hyperbolic_clap.results.files import INNER, RANKS, Results


class Measures:
    """The metrics that can be computed of some rows of a results file, for any weights of their clips.

    rows (n,): row positions, all of valid clips. k: how many predictions count as positives in precision, recall, f1.
    """

    def __init__(self, results: Results, rows: np.ndarray, k: int, tree: Ontology):
        self.names, self.k = results.names, k
        self.top, self.targets = results.top[rows], results.targets[rows]
        self.ratios: dict[str, tuple] = {}
        self.ranking, self.hits, self.wrong = None, None, None
        self.inner: dict[str, bootstrap.Ranking] = {}
        self.size = len(rows)
        if self.size and self.top.shape[1]:
            self._from_predictions(tree)
            if results.scores is not None:
                self._from_scores(results.scores[rows])
                self._from_inner({name: values[rows] for name, values in results.inner.items()})

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

    def _from_inner(self, inner: dict[str, np.ndarray]) -> None:
        if inner and inner["inner_targets"].any():
            targets = inner["inner_targets"]
            self.inner = {metric: bootstrap.Ranking(inner[tensor], targets) for metric, tensor in INNER.items()}

    @property
    def rankings(self) -> list[bootstrap.Ranking]:
        """All that rank clips for classes."""
        return [self.ranking, *self.inner.values()] if self.ranking else []

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
        return {"map": ap, "auc": auc, "d_prime": math.sqrt(2) * norm.ppf(auc)} | self.of_inner(weights)

    def of_inner(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, n) weights -> {metric: (B,)}, of the two that rank the clips for each inner class of the tree."""
        return {metric: bootstrap.mean_of_classes(ranking(weights)[0]) for metric, ranking in self.inner.items()}

    def gain_of_branches(self, resamples: int, seed: int) -> dict | None:
        """{difference, low, high}: what answering by the branch adds to map_inner, on the same clips; None without."""
        if not self.inner or self.size < 2:
            return None
        own, branch = INNER
        resamples = bootstrap.affordable(resamples, sum(ranking.flops for ranking in self.inner.values()))
        width = max(ranking.width for ranking in self.inner.values())
        parts = [self.of_inner(weights) for weights in bootstrap.draw(self.size, resamples, seed, width)]
        ends = bootstrap.interval(np.concatenate([part[branch] - part[own] for part in parts]))
        once = self.of_inner(np.ones((1, self.size), np.float32))
        return ends and {"difference": float(once[branch][0] - once[own][0]), "low": ends[0], "high": ends[1]}

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
    rankings = [*a.rankings, *b.rankings] if a.ranking and b.ranking else []
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
