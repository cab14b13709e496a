"""Probabilities of classes: the scaling that fits them to validation clips, and how true they are."""

from __future__ import annotations

import numpy as np

BINS = 15
STEPS = 50
LIMIT = 1e-6  # of the curvature of the likelihood, against 1/0 where all pairs are certain


def fit(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """(slope, shift) for which sigmoid(slope x logit + shift) has the greatest likelihood, by Newton's method.

    logits and targets: all pairs of a clip and a class, flat. Platt 1999, "Probabilistic Outputs for Support Vector
    Machines", with his targets that keep the slope finite where the classes are apart.
    """
    x, right = logits.astype(np.float64), targets.astype(bool)
    positive, negative = right.sum(), (~right).sum()
    y = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope, shift = 1.0, 0.0

    def loss(a: float, b: float) -> float:
        z = a * x + b
        return float((np.logaddexp(0, z) - y * z).sum())

    now = loss(slope, shift)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(slope * x + shift, -500, 500)))  # exp overflows at 710
        w, error = p * (1 - p), p - y
        gradient = np.array([(error * x).sum(), error.sum()])
        hessian = np.array([[(w * x * x).sum(), (w * x).sum()], [(w * x).sum(), w.sum()]]) + LIMIT * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while (after := loss(slope - step[0], shift - step[1])) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        if now - after <= 1e-9 * abs(now):
            break
        slope, shift, now = slope - step[0], shift - step[1], after
    return float(slope), float(shift)


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


def calibration_metrics(uncalibrated: np.ndarray | None, calibrated: np.ndarray | None, targets: np.ndarray) -> dict:
    """expected_calibration_error of the bare and the scaled sigmoid, over all pairs of a clip and a class and over each
    clip's most probable class (_top1), and the bins behind the scaled one. None without them.

    Probabilities (N, M), None where there are none; targets (N, M) bool. Pairs of clips without a true class do not
    count.
    """
    valid = targets.any(axis=1)
    result: dict = {"reliability": None, "reason": None}
    for kind, probabilities in {"uncalibrated": uncalibrated, "calibrated": calibrated}.items():
        names = [f"{kind}_error", f"{kind}_error_top1"]
        result |= dict.fromkeys(names)
        if probabilities is None or not valid.any():
            missing = f"the projector has no {kind} probabilities"
            result["reason"] = missing if probabilities is None else "no clip has a true class"
            continue
        found = probabilities[valid], targets[valid]
        bins = {"pairs": reliability(*found), "top1": top1_reliability(*found)}
        result |= dict(zip(names, map(expected_calibration_error, bins.values()), strict=True))
        if kind == "calibrated":
            result["reliability"] = bins
    return result
