"""Does a model know when it is wrong: risk against coverage."""

from __future__ import annotations

import numpy as np

POINTS = 60  # of a curve


def risk_coverage(scores: np.ndarray, targets: np.ndarray) -> dict:
    """(N, M) similarities and truth of clips with a true class -> risk among the clips of highest similarity.

    coverage (P,) shares of clips, those with the most similar top-1 first; risk (P,) the share of wrong top-1 among
    them; area: the mean risk over all coverages (Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks").
    """
    best = scores.argmax(axis=1)
    wrong = ~targets[np.arange(len(best)), best]
    order = np.argsort(-scores.max(axis=1), kind="stable")
    risk = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    at = np.unique(np.linspace(1, len(order), min(POINTS, len(order))).round().astype(int))
    return {"coverage": (at / len(order)).tolist(), "risk": risk[at - 1].tolist(), "area": float(risk.mean())}
