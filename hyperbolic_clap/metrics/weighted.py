"""Metrics of weighted clips: ratios of sums, macro averages and rankings, for many rows of weights at once.

Weights are (B, N): a row for each set of weights, a column for each clip. A row of ones gives the metric of the clips
as they are; a row of a bootstrap says how often each clip was drawn. The arithmetic has the precision of the weights.
Sums of whole weights are exact up to 2^24 in float32.
"""

from __future__ import annotations

import numpy as np

Ratios = dict[str, tuple[np.ndarray, np.ndarray]]  # {metric: (N,) numerator, (N,) denominator}

# Of classes that are ranked at a time: their pairs of a clip and a class, so that float32 sums of whole weights stay
# exact and the sparse matrix takes 64 MiB at most; and their positives, for a core's cache.
GROUP_PAIRS = 1 << 23
GROUP_POSITIVES = 1 << 11
BLOCK_FLOATS = 1 << 18  # of one temporary of a ranking


def plain(clips: int) -> np.ndarray:
    """(1, clips) float64 weights of clips that all count once."""
    return np.ones((1, clips))


def ratio(weights: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """(B, N) weights, (N,) parts of a ratio of sums over clips -> (B,) ratios; NaN where nothing divides."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ numerator.astype(weights.dtype)) / (weights @ denominator.astype(weights.dtype))


def macro(weights: np.ndarray, predicted: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """Macro precision, recall and F1, as scikit-learn's with zero_division=0.

    (B, N) weights, (N, C) bool predictions and targets of the classes that occur in either -> (B, 3). classes: the
    length of the whole class list; a class that occurs nowhere counts 0 in the mean.
    """
    seen = predicted.any(axis=0) | targets.any(axis=0)
    predicted, targets = predicted[:, seen], targets[:, seen]
    both, guessed, true = (weights @ x.astype(weights.dtype) for x in (predicted & targets, predicted, targets))
    parts = [(both, guessed), (both, true), (2 * both, guessed + true)]
    shares = [np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in parts]
    return np.stack([share.sum(axis=1) / classes for share in shares], axis=1)


def mean_of_classes(values: np.ndarray) -> np.ndarray:
    """(B, C) -> (B,) means over the classes in which a row is defined; NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


class Ranking:
    """Class-wise average precision and ROC area of (N, M) scores against (N, M) bool targets, for weighted clips.

    With weights of 1 they equal scikit-learn's average_precision_score and roc_auc_score, ties included: tied clips
    share one threshold. classes (C,): the positions of the classes that occur. cost: about the operations for one row
    of weights.

    What a positive clip needs is the weight of all clips scored at least as high. The positives of a class, best first,
    cut its clips into steps. A sparse 0/1 matrix, which does not depend on the weights, adds up the clips of each step;
    a running sum over the steps does the rest.
    """

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        self.classes = np.flatnonzero(targets.any(axis=0))
        positives = targets[:, self.classes].sum(axis=0)
        group = np.cumsum(np.maximum(positives / GROUP_POSITIVES, len(scores) / GROUP_PAIRS)).astype(int)
        parts = np.split(self.classes, np.flatnonzero(np.diff(group)) + 1) if len(self.classes) else []
        self.groups = [_RankedClasses(scores[:, part], targets[:, part]) for part in parts]
        self.cost = sum(group.cost for group in self.groups)

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """(B, N) weights -> average precision (B, C); NaN where no positive clip of a class has a weight."""
        return self._each(weights, False)[0]

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, N) weights -> average precision (B, C) and ROC area (B, C).

        NaN where no positive clip of a class has a weight, or for the area no negative one.
        """
        return self._each(weights, True)

    def _each(self, weights: np.ndarray, area: bool) -> np.ndarray:
        found = np.empty((1 + area, len(weights), len(self.classes)), weights.dtype)
        start = 0
        for group in self.groups:
            end, rows = start + len(group.first), max(1, BLOCK_FLOATS // max(len(group.clip), weights.shape[1]))
            for row in range(0, len(weights), rows):
                found[:, row : row + rows, start:end] = group(weights[row : row + rows], area)
            start = end
        return found


class _RankedClasses:
    """Some classes of a Ranking, all of which occur. P: their positives in a row, class by class."""

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        column, self.clip = np.nonzero(targets.T)
        self.first = np.searchsorted(column, np.arange(targets.shape[1]))
        own = scores[self.clip, column]
        self.best = np.lexsort((-own, column))  # each class's positives, best first
        best, place = own[self.best], np.argsort(self.best)
        at_least, above, tied = [], [], np.empty((2, len(own)), int)
        for j, (start, end) in enumerate(self._segments()):
            ascending, count = best[start:end][::-1], end - start
            # How many positives are scored higher than each clip, or as high: its weight adds to those that follow.
            at_least.append(count - np.searchsorted(ascending, scores[:, j], side="right"))
            above.append(count - np.searchsorted(ascending, scores[:, j], side="left"))
            for row, side in enumerate(("right", "left")):
                tied[row, start:end] = end - np.searchsorted(ascending, best[start:end], side=side)
        # (P,) places in the running sums, where the first one is 0: of the class, of those scored as high, of itself.
        self.start, self.place = self.first[column], place + 1
        self.tied_from, self.tied_to = tied[:, place]
        self.at_least = self._steps(at_least)
        ties = sum(int((b - a).sum()) for a, b in zip(at_least, above, strict=True)) > len(own)
        self.above = self._steps(above) if ties else None  # else a positive ties with itself alone
        self.cost = self.at_least.nnz * (1 + ties) + 20 * len(own)

    def _segments(self) -> zip:
        return zip(self.first, [*self.first[1:], len(self.clip)], strict=True)

    def _steps(self, higher: list[np.ndarray]):
        """(P, N) sparse: the row of a class's k-th best positive marks the clips that k positives precede."""
        from scipy.sparse import csr_array

        rows, clips = [], []
        for (start, end), count in zip(self._segments(), higher, strict=True):
            entering = np.flatnonzero(count < end - start)
            rows.append(start + count[entering])
            clips.append(entering)
        place = np.concatenate(rows), np.concatenate(clips)
        return csr_array((np.ones(len(place[0]), np.float32), place), (len(self.clip), len(higher[0])))

    def __call__(self, weights: np.ndarray, area: bool) -> list[np.ndarray]:
        def sums(steps) -> np.ndarray:  # (B, P) of the clips of a positive's step and all before, in its class
            running = _running_sums((steps @ columns).T)
            return running[:, self.place] - running[:, self.start]

        own, columns = weights[:, self.clip], np.ascontiguousarray(weights.T)
        running = _running_sums(own[:, self.best])
        above, above_true = sums(self.at_least), running[:, self.tied_to] - running[:, self.start]
        true = np.add.reduceat(own, self.first, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(own > 0, own * above_true / above, 0)
            found = [np.add.reduceat(precision, self.first, axis=1) / true]
            if area:
                total = weights.sum(axis=1, keepdims=True)
                false_above = above - above_true
                if self.above is not None:
                    tied, tied_true = above - sums(self.above), running[:, self.tied_to] - running[:, self.tied_from]
                    false_above -= (tied - tied_true) / 2
                auc = 1 - np.add.reduceat(own * false_above, self.first, axis=1) / (true * (total - true))
                found.append(np.where((true > 0) & (true < total), auc, np.nan))
        return found


def _running_sums(values: np.ndarray) -> np.ndarray:
    """(B, P) -> (B, P + 1), the first column 0."""
    total = np.zeros((len(values), values.shape[1] + 1), values.dtype)
    np.cumsum(values, axis=1, out=total[:, 1:])
    return total
