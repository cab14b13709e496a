"""What is fitted to the validation clips of a trained projector: the scaling of its probabilities, and thresholds."""

from __future__ import annotations

import numpy as np
import torch

from hyperbolic_clap.metrics.calibration import fit

CLIPS = 4096  # of the validation clips, at most
PRECISION = 0.8  # of the labels that a class's threshold lets through
LEAST = 5  # validation clips of a class that has a threshold of its own


@torch.no_grad()
def calibration(trainer, names: list[str]) -> dict:
    """{"calibration": {slope, shift, clips}, "thresholds": {precision, clips, by_class}}, for a checkpoint.

    Of a Trainer's weights on its validation clips. names: of the classes.
    """
    rows = trainer.validation[:CLIPS]
    logits = trainer.logit_scale(trainer.projector(trainer.audio[rows], trainer.text)).cpu().numpy()
    targets = trainer.targets[rows].cpu().numpy()
    slope, shift = fit(logits.ravel(), targets.ravel())
    scaled = 1 / (1 + np.exp(-np.clip(slope * logits.astype(np.float64) + shift, -500, 500)))  # exp overflows at 710
    own = dict(zip(names, thresholds(scaled, targets), strict=True))
    known = {"precision": PRECISION, "clips": LEAST, "by_class": {n: x for n, x in own.items() if x is not None}}
    return {"calibration": {"slope": slope, "shift": shift, "clips": len(rows)}, "thresholds": known}


def thresholds(probabilities: np.ndarray, targets: np.ndarray) -> list[float | None]:
    """(N, M), (N, M) bool -> for each class the least probability above which PRECISION of the clips are of it.

    None for a class of fewer than LEAST clips, or that reaches it nowhere.
    """
    found = []
    for values, right in zip(probabilities.T, targets.astype(bool).T, strict=True):
        order = np.argsort(-values, kind="stable")
        precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        last = np.append(np.diff(values[order]) < 0, True)  # of clips of one probability all count or none
        enough = np.flatnonzero((precision >= PRECISION) & last & np.isin(values[order], values[right]))
        found.append(float(values[order[enough[-1]]]) if len(enough) and right.sum() >= LEAST else None)
    return found
