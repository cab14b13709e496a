"""Metrics of weighted clips: ratios of sums, macro averages and rankings, for many rows of weights at once.

Weights are (B, N): a row for each set of weights, a column for each clip. A row of ones gives the metric of the clips
as they are; a row of a bootstrap says how often each clip was drawn. The arithmetic has the precision of the weights.
Sums of whole weights are exact up to 2^24 in float32.
"""

from __future__ import annotations

import numpy as np

Ratios = dict[str, tuple[np.ndarray, np.ndarray]]  # {metric: (N,) numerator, (N,) denominator}

# Of classes that are ranked at a time: their pairs of a clip and a class, each 8 bytes of a sparse matrix at most, and
# their positives, as many as suit a core's cache.
GROUP_PAIRS = 1 << 23
GROUP_POSITIVES = 1 << 12
BLOCK_FLOATS = 1 << 19  # of one temporary of a ranking,
BLOCK_ROWS = 64  # but for so many rows of weights at least


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
        precision, area = self._each(weights, True)
        return precision, area

    def _each(self, weights: np.ndarray, area: bool) -> np.ndarray:
        found = np.empty((1 + area, len(weights), len(self.classes)), weights.dtype)
        start = 0
        for group in self.groups:
            end, rows = start + len(group.first), max(BLOCK_ROWS, BLOCK_FLOATS // len(group.clip))
            for row in range(0, len(weights), rows):
                found[:, row : row + rows, start:end] = group(weights[row : row + rows], area)
            start = end
        return found


class _RankedClasses:
    """Some classes of a Ranking, all of which occur.

    Its rows are their P positives: the best one of each class, then the second best of those that have two, and so on,
    the classes with most positives first. A running sum within all classes then is as many additions of blocks of rows
    as the largest class has positives.
    """

    def __init__(self, scores: np.ndarray, targets: np.ndarray):
        column, clip = np.nonzero(targets.T)
        counts = np.bincount(column)
        self.first = np.concatenate([[0], np.cumsum(counts)[:-1]])  # of each class, its positives in a row
        own = scores[clip, column]
        best = np.lexsort((-own, column))  # each class's positives, best first
        rank = np.arange(len(own)) - self.first[column]
        by_size = np.empty(len(counts), int)
        by_size[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        row = np.empty(len(own), int)  # of each class's positives, best first
        row[np.lexsort((by_size[column], rank))] = np.arange(len(own))
        self.sizes = np.bincount(rank)  # how many classes have a first, a second, a third positive ...
        self.clip = np.empty_like(clip)
        self.clip[row] = clip[best]
        self.place = row[np.argsort(best)]  # the rows of each class's positives, by clip
        self.last = row[self.first + counts - 1]  # the row of each class's last positive
        at_least, above, tied = [], [], np.empty((2, len(own)), int)
        for j, (start, count) in enumerate(zip(self.first, counts, strict=True)):
            rows, ascending = row[start : start + count], own[best[start : start + count]][::-1]
            # How many positives are scored higher than each clip, or as high: its weight adds to those that follow.
            at_least.append(count - np.searchsorted(ascending, scores[:, j], side="right"))
            above.append(count - np.searchsorted(ascending, scores[:, j], side="left"))
            # The last of the positives that are tied with each, and the last before them, -1 for none.
            tied[0, rows] = rows[count - 1 - np.searchsorted(ascending, ascending[::-1], side="left")]
            tied[1, rows] = np.append(rows, -1)[count - 1 - np.searchsorted(ascending, ascending[::-1], side="right")]
        self.tied_last, self.tied_before = tied
        ties = sum(int((b - a).sum()) for a, b in zip(at_least, above, strict=True)) > len(own)
        self.at_least = self._steps(at_least, row, counts)
        self.above = self._steps(above, row, counts) if ties else None  # else a positive ties with itself alone
        self.cost = self.at_least.nnz * (1 + ties) + 10 * len(own)

    def _steps(self, higher: list[np.ndarray], row: np.ndarray, counts: np.ndarray):
        """(P, N) sparse: the row of a class's k-th best positive marks the clips that k positives precede."""
        from scipy.sparse import csr_array

        rows, clips = [], []
        for start, count, precede in zip(self.first, counts, higher, strict=True):
            clips.append(np.flatnonzero(precede < count))
            rows.append(row[start + precede[clips[-1]]])
        place = np.concatenate(rows), np.concatenate(clips)
        return csr_array((np.ones(len(place[0]), np.float32), place), (len(row), len(higher[0])))

    def __call__(self, weights: np.ndarray, area: bool) -> list[np.ndarray]:
        columns = np.ascontiguousarray(weights.T)
        own = columns[self.clip]
        above = self._running_sums(self.at_least @ columns)  # the weight of all clips scored at least as high
        true = self._running_sums(own.copy())  # of the positives down to each row
        above_true = true if self.above is None else true[self.tied_last]
        total, positive = weights.sum(axis=1, keepdims=True), true[self.last].T
        with np.errstate(divide="ignore", invalid="ignore"):
            # Where no clip weighs anything a positive does not either, and 0 / 0 would be no number.
            precision = own * above_true / np.maximum(above, np.finfo(above.dtype).tiny)
            found = [self._sums_by_class(precision) / positive]
            if area:
                false_above = above - above_true
                if self.above is not None:
                    tied = above - self._running_sums(self.above @ columns)
                    before = np.where(self.tied_before[:, None] < 0, 0, true[self.tied_before])
                    false_above -= (tied - (above_true - before)) / 2
                auc = 1 - self._sums_by_class(own * false_above) / (positive * (total - positive))
                found.append(np.where((positive > 0) & (positive < total), auc, np.nan))
        return found

    def _running_sums(self, values: np.ndarray) -> np.ndarray:
        """(P, B) by row -> the same array, its sums within each class down to each row."""
        start = 0
        for size, following in zip(self.sizes, self.sizes[1:], strict=False):
            end = start + size
            values[end : end + following] += values[start : start + following]
            start = end
        return values

    def _sums_by_class(self, values: np.ndarray) -> np.ndarray:
        """(P, B) by row -> (B, C). Each class is added up in the order of its clips, whatever their scores."""
        return np.add.reduceat(np.ascontiguousarray(values[self.place].T), self.first, axis=1)
