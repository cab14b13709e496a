"""Similarities against the truth -> the metrics. One function for every script."""

from __future__ import annotations

import math
import warnings

import numpy as np

from hyperbolic_clap.plumbing.errors import UserError

ACCURACY_RANKS = (1, 3, 5, 10)


def rank_classes(scores: np.ndarray) -> np.ndarray:
    """(N, M) scores -> (N, M) class positions, best first; ties in the order of the class list."""
    return np.argsort(-scores, axis=1, kind="stable")


def metrics(scores: np.ndarray, targets: np.ndarray, top_k: int) -> dict:
    """The metrics of (N, M) scores against (N, M) bool targets; clips without a true class only count in total_samples.

    acc@k: any true class among the k best. f1, precision, recall: the top_k classes predicted as positives,
    scikit-learn's micro and macro averages over all classes. map: AudioSet's, average precision for each class,
    averaged over the classes that occur. map_samples: average precision for each clip, averaged. auc: ROC area for
    each class that occurs, averaged. d_prime: sqrt(2) times the normal quantile of auc (Gemmeke et al. 2017, "Audio
    Set", section 4). A metric without ground is None. UserError for scores that are not finite.
    """
    from scipy.stats import norm
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise UserError(f"the similarity of clip {row} and class {column} is not finite; no metric is computed")
    total, valid = len(scores), targets.any(axis=1)
    scores, targets = scores[valid], targets[valid]
    order = rank_classes(scores)
    result: dict = {}
    hits = np.take_along_axis(targets, order, axis=1)
    for k in ACCURACY_RANKS:
        result[f"acc@{k}"] = float(hits[:, :k].any(axis=1).mean()) if len(hits) else None
    predicted = np.zeros_like(targets)
    np.put_along_axis(predicted, order[:, :top_k], True, axis=1)
    for average in ("micro", "macro"):
        values = (None,) * 3
        if len(targets):
            values = precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)[:3]
        for name, value in zip(("precision", "recall", "f1"), values, strict=True):
            result[f"{name}_{average}"] = None if value is None else float(value)
    occurs = targets.any(axis=0)
    varies = occurs & ~targets.all(axis=0)
    result["map"] = _mean(average_precision_score(targets[:, j], scores[:, j]) for j in np.flatnonzero(occurs))
    result["map_samples"] = _mean(average_precision_score(t, s) for t, s in zip(targets, scores, strict=True))
    auc = _mean(roc_auc_score(targets[:, j], scores[:, j]) for j in np.flatnonzero(varies))
    result["auc"] = auc
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        d_prime = math.sqrt(2) * float(norm.ppf(auc)) if auc is not None else math.nan
    result["d_prime"] = d_prime if math.isfinite(d_prime) else None  # a perfect auc has no finite quantile
    result["valid_samples"], result["total_samples"] = int(valid.sum()), total
    return result


def _mean(values) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
