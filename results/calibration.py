"""How true the probabilities of a trained head are, before and after its calibration, for the results JSON."""

from __future__ import annotations

import numpy as np

from training.calibration import expected_calibration_error, reliability
from training.heads import Head


def calibration_metrics(head: Head, scores: np.ndarray, targets: np.ndarray) -> dict:
    """expected_calibration_error of the bare and the scaled sigmoid, over all pairs of a clip and a class and over each
    clip's most probable class (_top1), and the bins behind the scaled one. None without a trained head or calibration.

    Pairs of clips without a true class do not count.
    """
    valid = targets.any(axis=1)
    kinds = {"uncalibrated": head.trained, "calibrated": bool(head.calibration)}
    result: dict = {"reliability": None, "reason": None}
    for kind, known in kinds.items():
        names = [f"{kind}_error", f"{kind}_error_top1"]
        result |= dict.fromkeys(names)
        if not known or not valid.any():
            result["reason"] = "no clip has a true class" if known else f"the head has no {kind} probabilities"
            continue
        found = head.probability(scores[valid], kind == "calibrated")
        best = found.argmax(axis=1)[:, None]
        pairs = reliability(found, targets[valid])
        tops = reliability(*(np.take_along_axis(x, best, axis=1) for x in (found, targets[valid])))
        result |= dict(zip(names, map(expected_calibration_error, (pairs, tops)), strict=True))
        if kind == "calibrated":
            result["reliability"] = {"pairs": pairs, "top1": tops}
    return result
