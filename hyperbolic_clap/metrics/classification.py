"""Similarities against multi-hot targets -> the metrics of classification, of clips as they are or of weighted ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hyperbolic_clap.metrics import weighted
from hyperbolic_clap.metrics.weighted import Ranking, Ratios
from hyperbolic_clap.plumbing.errors import UserError

ACCURACY_RANKS = (1, 3, 5, 10)
HEADLINE = ("acc@1", "acc@5", "map", "map_samples")  # what a model is chosen by


# Metrics that are one ratio of sums over clips and need no more than the ranking: name -> (top, targets, k) -> (parts,
# wholes), both (N,). The results JSON, comparisons and their intervals take what stands here.
OF_CLIPS: dict[str, Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]] = {}


def rank_classes(scores: np.ndarray) -> np.ndarray:
    """(N, M) scores -> (N, M) class positions, best first; ties in the order of the class list."""
    return np.argsort(-scores, axis=1, kind="stable")


def metrics(scores: np.ndarray, targets: np.ndarray, top_k: int) -> dict:
    """The metrics of (N, M) scores against (N, M) bool targets; clips without a true class only count in total_samples.

    acc@k: any true class among the k best. f1, precision, recall: the top_k classes predicted as positives,
    scikit-learn's micro and macro averages over all classes. map: AudioSet's, average precision for each class,
    averaged over the classes that occur. map_samples: average precision for each clip, averaged. auc: ROC area for
    each class that is true of some clips and false of others, averaged. d_prime: sqrt(2) times the normal quantile of
    auc (Gemmeke et al. 2017, "Audio Set", section 4). An undefined metric is None. UserError for scores that are not
    finite.
    """
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise UserError(f"the similarity of clip {row} and class {column} is not finite; no metric is computed")
    total, valid = len(scores), targets.any(axis=1)
    names = [f"acc@{k}" for k in ACCURACY_RANKS]
    names += [f"{name}_{average}" for average in ("micro", "macro") for name in ("precision", "recall", "f1")]
    result: dict = dict.fromkeys([*names, "map", "map_samples", "auc", "d_prime", *OF_CLIPS])
    if valid.any():
        scores, targets = scores[valid], targets[valid]
        order, once = rank_classes(scores), weighted.plain(len(scores))
        ratios = hit_ratios(order, targets, top_k) | score_ratios(scores, order, targets)
        values = {name: weighted.ratio(once, *ratios[name]) for name in result if name in ratios}
        values |= macro_averages(once, order, targets, top_k) | ranked(once, Ranking(scores, targets))
        result |= {name: float(value[0]) for name, value in values.items() if math.isfinite(value[0])}
    result["valid_samples"], result["total_samples"] = int(valid.sum()), total
    return result


def headline(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """HEADLINE as of `metrics`, to the bit, and their mean; (N, M) finite scores of clips that all have a class."""
    order, once = rank_classes(scores), weighted.plain(len(scores))
    ratios = hit_ratios(order, targets, 1) | score_ratios(scores, order, targets)
    found = {name: weighted.ratio(once, *ratios[name]) for name in HEADLINE if name != "map"}
    found["map"] = weighted.mean_of_classes(Ranking(scores, targets).precision(once))
    values = {name: float(found[name][0]) for name in HEADLINE}
    return values | {"mean": sum(values.values()) / len(values)}


def hit_ratios(top: np.ndarray, targets: np.ndarray, k: int) -> Ratios:
    """acc@k, mrr and the micro averages of N clips as ratios of sums.

    top (N, K): class positions, best first. targets (N, M) bool, each row with a true class. k: how many predictions
    count as positives; mrr cuts off there too. acc@ beyond K is left out, unless K is the whole class list.
    """
    one, hits = np.ones(len(top)), np.take_along_axis(targets, top, axis=1)
    whole = top.shape[1] == targets.shape[1]
    ratios = {f"acc@{r}": (hits[:, :r].any(axis=1), one) for r in ACCURACY_RANKS if whole or r <= top.shape[1]}
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    ratios["mrr"] = np.where(first <= k, 1 / first, 0), one
    found, guessed, true = hits[:, :k].sum(axis=1), min(k, top.shape[1]) * one, targets.sum(axis=1)
    ratios |= {"precision_micro": (found, guessed), "recall_micro": (found, true)}
    ratios |= {name: parts(top, targets, k) for name, parts in OF_CLIPS.items()}
    return ratios | {"f1_micro": (2 * found, guessed + true)}


def score_ratios(scores: np.ndarray, order: np.ndarray, targets: np.ndarray) -> Ratios:
    """mean_rank (of the best true class) and map_samples of N clips as ratios of sums; order: of rank_classes."""
    one, hits = np.ones(len(scores)), np.take_along_axis(targets, order, axis=1)
    return {"mean_rank": (hits.argmax(axis=1) + 1, one), "map_samples": (clip_precision(scores, order, targets), one)}


def clip_precision(scores: np.ndarray, order: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) average precision of the classes for each clip, as scikit-learn's; tied classes share one threshold."""
    sorted_scores, hits = (np.take_along_axis(x, order, axis=1) for x in (scores, targets))
    classes = np.arange(1, scores.shape[1] + 1)
    ends = np.ones(scores.shape, bool)
    ends[:, :-1] = sorted_scores[:, :-1] != sorted_scores[:, 1:]
    # How many classes are scored at least as high as each: the next end of a run of ties, itself included.
    at_least = np.minimum.accumulate(np.where(ends, classes, scores.shape[1])[:, ::-1], axis=1)[:, ::-1]
    found = np.take_along_axis(hits.cumsum(axis=1), at_least - 1, axis=1)
    return (hits * found / at_least).sum(axis=1) / hits.sum(axis=1)


def multi_hot(top: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) class positions -> (N, classes) bool."""
    chosen = np.zeros((len(top), classes), bool)
    np.put_along_axis(chosen, top, True, axis=1)
    return chosen


def macro_averages(weights: np.ndarray, top: np.ndarray, targets: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """(B, N) weights -> {precision_macro, recall_macro, f1_macro: (B,)}, the first k of top (N, K) as positives."""
    classes = targets.shape[1]
    found = weighted.macro(weights, multi_hot(top[:, :k], classes), targets, classes)
    return dict(zip(("precision_macro", "recall_macro", "f1_macro"), found.T, strict=True))


def ranked(weights: np.ndarray, ranking: Ranking) -> dict[str, np.ndarray]:
    """(B, N) weights -> {map, auc, d_prime: (B,)}: what ranks the clips for each class. NaN where undefined."""
    from scipy.special import ndtri  # the normal quantile

    precision, area = map(weighted.mean_of_classes, ranking(weights))
    return {"map": precision, "auc": area, "d_prime": math.sqrt(2) * ndtri(area).astype(np.float64)}
