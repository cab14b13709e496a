"""Paired bootstrap over clips: every metric of many resamples at once, as a few matrix products.

A resample is a row of weights: how often each clip was drawn. A metric that is a ratio of sums over clips is then a
ratio of two matrix products. Average precision and ROC area rank clips, which sounds like a sort for each resample
and class; but what they need at a positive clip is the weight of all clips scored at least as high, and that is one
matrix product too, with a 0/1 matrix that does not depend on the resample.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK_FLOATS = 1 << 24  # of one temporary: 64 MiB in float32
GROUP_FLOATS = 1 << 24  # of one 0/1 matrix of the ranking metrics
RANKING_FLOPS = 3e12  # about a minute on one core; beyond it the ranking metrics get fewer resamples
FEWER = 2000


def draw(clips: int, resamples: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """Yield (B, clips) float32 weights, `resamples` rows in all, B chosen so that B * width floats fit a chunk.

    The rows do not depend on the chunking, so two calls with one seed draw the same clips.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_FLOATS // max(clips, width))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(clips, size=(count, clips), dtype=np.int32)
        drawn += np.arange(count, dtype=np.int32)[:, None] * clips
        yield np.bincount(drawn.ravel(), minlength=count * clips).reshape(count, clips).astype(np.float32)


def ratio(weights: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """(B, N) weights, (N,) parts of a ratio of sums over clips -> (B,) ratios; NaN where nothing divides."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ numerator.astype(np.float32)) / (weights @ denominator.astype(np.float32))


def macro(weights: np.ndarray, predicted: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """scikit-learn's macro precision, recall and F1 (zero_division=0) of each resample.

    (B, N) weights, (N, C) bool predictions and targets of the classes that occur in either -> (B, 3). classes: the
    length of the whole class list; a class that occurs nowhere counts 0 in the mean.
    """
    seen = predicted.any(axis=0) | targets.any(axis=0)
    predicted, targets = predicted[:, seen], targets[:, seen]
    both, guessed, true = (weights @ x.astype(np.float32) for x in (predicted & targets, predicted, targets))
    parts = [(both, guessed), (both, true), (2 * both, guessed + true)]
    return np.stack([(a / np.maximum(b, 1)).sum(axis=1) / classes for a, b in parts], axis=1)


class Ranking:
    """Class-wise average precision and ROC area of (N, M) scores against (N, M) bool targets, for weighted clips.

    With weights of 1 they equal scikit-learn's average_precision_score and roc_auc_score, ties included: tied clips
    share one threshold. classes (C,): the positions of the classes that occur.
    """

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        self.scores, self.targets = scores, targets
        self.classes = np.flatnonzero(targets.any(axis=0))
        positives = targets[:, self.classes].sum(axis=0)
        # Groups of classes whose 0/1 matrices fit the memory: a group starts where the running total passes a limit.
        group = np.cumsum(positives) * len(scores) // GROUP_FLOATS
        self.groups = np.split(self.classes, np.flatnonzero(np.diff(group)) + 1)
        self.flops = 2.0 * len(scores) * positives.sum()  # for one resample
        self.width = max((targets[:, group].sum() for group in self.groups), default=1)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, N) weights -> average precision (B, C) and ROC area (B, C); NaN where a resample has no ground."""
        parts = [self._group(weights, self.scores[:, group], self.targets[:, group]) for group in self.groups]
        ap, auc = zip(*parts, strict=True)
        return np.concatenate(ap, axis=1), np.concatenate(auc, axis=1)

    @staticmethod
    def _group(weights: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The positives of all classes in a row, class by class: P pairs of a clip and a class.
        column, clip = np.nonzero(targets.T)
        first = np.searchsorted(column, np.arange(targets.shape[1]))
        against = scores[:, column]
        at_least, tied_with = against >= scores[clip, column], against == scores[clip, column]  # (N, P)
        own = weights[:, clip]
        above = weights @ at_least.astype(np.float32)  # the weight of all clips scored at least as high as a positive
        ties = tied_with.sum() > len(clip)  # else a positive ties with itself only, which needs no product
        tied = weights @ tied_with.astype(np.float32) if ties else own
        above_true, tied_true = np.empty_like(above), np.empty_like(above) if ties else own
        for start, end in zip(first, [*first[1:], len(clip)], strict=True):
            chosen, rows = slice(start, end), clip[start:end]
            above_true[:, chosen] = own[:, chosen] @ at_least[rows, chosen].astype(np.float32)
            if ties:
                tied_true[:, chosen] = own[:, chosen] @ tied_with[rows, chosen].astype(np.float32)
        total = weights.sum(axis=1, keepdims=True)
        true = np.add.reduceat(own, first, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(own > 0, own * above_true / above, 0)
            ap = np.add.reduceat(precision, first, axis=1) / true
            false_above = (above - above_true) - (tied - tied_true) / 2
            auc = 1 - np.add.reduceat(own * false_above, first, axis=1) / (true * (total - true))
        return ap, np.where((true > 0) & (true < total), auc, np.nan)


def mean_of_classes(values: np.ndarray) -> np.ndarray:
    """(B, C) -> (B,) means over the classes that a resample has ground for."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def affordable(resamples: int, flops: float) -> int:
    """How many resamples the ranking metrics get: all that were asked for unless that takes over a minute."""
    return resamples if resamples * flops <= RANKING_FLOPS else min(resamples, FEWER)


def interval(differences: np.ndarray) -> tuple[float, float] | None:
    """The 95 % percentile interval of (B,) bootstrap differences; None if too few resamples have ground."""
    known = differences[np.isfinite(differences)]
    if len(known) < max(2, len(differences) // 2):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
