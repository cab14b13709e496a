"""Does a model know when it is wrong: risk against coverage, and reliability of its probabilities."""

from __future__ import annotations

import json

import numpy as np
import torch

from training.heads import Head

POINTS = 60  # of a curve
BINS = 10


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


def probabilities(scores: np.ndarray, head: Head) -> tuple[np.ndarray, str]:
    """(N, M) similarities -> the (N,) probability that a trained head gives to the top-1, and how it is meant.

    After the sigmoid loss that of the pair; after the others the softmax over the classes.
    """
    with torch.no_grad():
        logits = head.logits(torch.from_numpy(scores).double())
    loss = trained_loss(head)
    if loss == "sigmoid":
        return logits.sigmoid().max(1).values.numpy(), "sigmoid of the pair"
    return logits.softmax(1).max(1).values.numpy(), "softmax over the classes"


def trained_loss(head: Head) -> str:
    """The loss of the training: the checkpoint's, of an older one the setup.json's beside it, else the default."""
    if isinstance(head.content.get("loss"), str):
        return head.content["loss"]
    try:
        setup = json.loads((head.path.parent / "setup.json").read_text(encoding="utf-8"))
        return str(setup["arguments"]["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return "sigmoid"


def reliability(probability: np.ndarray, right: np.ndarray) -> dict:
    """(N,) probabilities and whether they came true -> bins of equally many clips, and the mean gap between the two.

    bins: mean probability, share right with its 95 % interval (Wilson 1927), clips. error: Naeini et al. 2015,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning", with bins of equal size.
    """
    bins = []
    for part in np.array_split(np.argsort(probability, kind="stable"), min(BINS, len(probability))):
        share, n, z = right[part].mean(), len(part), 1.96
        centre, spread = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
        entry = {"probability": probability[part].mean(), "right": share, "low": low, "high": high}
        bins.append({name: float(value) for name, value in entry.items()} | {"clips": n})
    error = sum(b["clips"] * abs(b["probability"] - b["right"]) for b in bins) / len(probability)
    return {"bins": bins, "error": float(error)}
