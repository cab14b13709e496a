"""Scores of clips against classes -> metrics, predictions, and the results JSON. One evaluation for every script."""

from __future__ import annotations

import math
import warnings

import numpy as np

from CLAP.embeddings import Skipped
from common import UserError, warn
from data import Clip
from labels import ClassList

ACCURACY_RANKS = (1, 3, 5, 10)
NO_CLASS = "no label of the class list"


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


def similarity_stats(scores: np.ndarray) -> dict:
    """min, max, mean and std of all similarities."""
    return {name: float(getattr(scores, name)()) for name in ("min", "max", "mean", "std")}


def warn_if_alike(scores: np.ndarray) -> None:
    """A visible warning if every clip gets the same similarities, the sign of a broken encoder or checkpoint."""
    if len(scores) > 1 and np.ptp(scores, axis=0).max() < 1e-6:
        warn("all rows of the similarity are alike: every clip looks the same to this model; check the checkpoint")


def predictions(scores: np.ndarray, clips: list[Clip], names: list[str], top_k: int) -> list[dict]:
    """For each clip its best classes and its ground truth, for the results JSON."""
    entries = []
    for clip, row, order in zip(clips, scores, rank_classes(scores)[:, :top_k], strict=True):
        best = [
            {"rank": rank, "classname": names[column], "similarity": float(row[column])}
            for rank, column in enumerate(order, 1)
        ]
        entries.append(
            {
                "sample_id": clip.sample_id,
                "video_id": clip.video_id,
                "predicted_top1": best[0]["classname"],
                "top_k_predictions": best,
                "ground_truth_labels": clip.machine_labels,
                "ground_truth_human_labels": clip.human_labels,
            }
        )
    return entries


def unlabelled(clip: Clip) -> str | None:
    """Why a clip cannot be tested: it has no label at all."""
    return None if clip.human_labels else "no label"


def reason_against(clip: Clip) -> str | None:
    """Why a clip cannot train: it has no label, or none of the class list."""
    return unlabelled(clip) or (None if clip.positions else NO_CLASS)


def require_matches(clips: list[Clip], skipped: Skipped, classes: ClassList) -> None:
    """UserError with examples if no clip has a label of the class list, or if there is no clip at all."""
    if any(clip.positions for clip in clips):
        return
    labels = {label for clip in clips for label in clip.human_labels} | skipped.labels
    unmatched = sorted(label for label in labels if classes.find(label) is None)[:5]
    if not unmatched:
        reasons = ", ".join(f"{entry['count']} {reason}" for reason, entry in skipped.report().items())
        raise UserError(f"no row of the parquet files can be used ({reasons})")
    pairs = "; ".join(f"{label!r} (near: {classes.near(label)!r})" for label in unmatched)
    raise UserError(f"no label matches the class list of {len(classes)} names, for example {pairs}")
