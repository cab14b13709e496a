"""How true the probabilities of a trained projector are, before and after its calibration."""

from __future__ import annotations

import numpy as np

from hyperbolic_clap.projector.projector import Projector

BINS = 15


def reliability(probabilities: np.ndarray, targets: np.ndarray) -> list[dict]:
    """Pairs by their probability in BINS equal parts: {from, to, pairs, probability, true} with both means.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
    count = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, x.ravel().astype(float), BINS) for x in (probabilities, targets)]
    return [
        {"from": i / BINS, "to": (i + 1) / BINS, "pairs": int(count[i])}
        | {name: float(some[i] / count[i]) for name, some in zip(("probability", "true"), sums, strict=True)}
        for i in np.flatnonzero(count).tolist()
    ]


def expected_calibration_error(bins: list[dict]) -> float:
    """The mean gap between probability and truth over the pairs of `reliability`."""
    return sum(b["pairs"] * abs(b["probability"] - b["true"]) for b in bins) / sum(b["pairs"] for b in bins)


def top1_reliability(probabilities: np.ndarray, targets: np.ndarray) -> list[dict]:
    """`reliability` of the most probable class of each clip, with the 95 % interval of its true share as low and high.

    probabilities (N, M), targets (N, M) bool. Wilson 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference", for clips that do not depend on each other.
    """
    from scipy.stats import binomtest

    best = probabilities.argmax(axis=1)[:, None]
    bins = reliability(*(np.take_along_axis(x, best, axis=1) for x in (probabilities, targets)))
    for part in bins:
        interval = binomtest(round(part["true"] * part["pairs"]), part["pairs"]).proportion_ci(method="wilson")
        part |= {"low": float(interval.low), "high": float(interval.high)}
    return bins


def calibration_metrics(projector: Projector, scores: np.ndarray, targets: np.ndarray) -> dict:
    """expected_calibration_error of the bare and the scaled sigmoid, over all pairs of a clip and a class and over each
    clip's most probable class (_top1), and the bins behind the scaled one. None without them.

    Pairs of clips without a true class do not count.
    """
    valid = targets.any(axis=1)
    kinds = {"uncalibrated": projector.trained, "calibrated": bool(projector.calibration)}
    result: dict = {"reliability": None, "reason": None}
    for kind, known in kinds.items():
        names = [f"{kind}_error", f"{kind}_error_top1"]
        result |= dict.fromkeys(names)
        if not known or not valid.any():
            result["reason"] = "no clip has a true class" if known else f"the projector has no {kind} probabilities"
            continue
        found = projector.probability(scores[valid], kind == "calibrated")
        bins = {"pairs": reliability(found, targets[valid]), "top1": top1_reliability(found, targets[valid])}
        result |= dict(zip(names, map(expected_calibration_error, bins.values()), strict=True))
        if kind == "calibrated":
            result["reliability"] = bins
    return result
