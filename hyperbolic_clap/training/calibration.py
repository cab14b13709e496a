"""What is fitted to the validation clips of a trained projector: the scaling of its probabilities, and thresholds."""

from __future__ import annotations

import numpy as np
import torch

from hyperbolic_clap.metrics.calibration import fit

CLIPS = 4096  # of the validation clips, at most
PRECISION = 0.8  # of the labels that a class's threshold lets through
LEAST = 5  # validation clips that a threshold lets through: of fewer a precision says nothing


@torch.no_grad()
def calibration(trainer, names: list[str]) -> dict:
    """{"calibration": {slope, shift, clips}, "thresholds": {precision, clips, by_class, others}}, for a checkpoint.

    Of a Trainer's weights on its validation clips. names: of the classes. others: the threshold of all together, for
    those that have none of their own; None where not even that is reached.
    """
    rows = trainer.validation[:CLIPS]
    logits = trainer.logit_scale(trainer.projector(trainer.audio[rows], trainer.text)).cpu().numpy()
    targets = trainer.targets[rows].cpu().numpy()
    slope, shift = fit(logits.ravel(), targets.ravel())
    scaled = 1 / (1 + np.exp(-np.clip(slope * logits.astype(np.float64) + shift, -500, 500)))  # exp overflows at 710
    own = dict(zip(names, thresholds(scaled, targets), strict=True))
    (others,) = thresholds(scaled.reshape(-1, 1), targets.reshape(-1, 1))
    by_class = {name: value for name, value in own.items() if value is not None}
    known = {"precision": PRECISION, "clips": LEAST, "by_class": by_class, "others": others}
    return {"calibration": {"slope": slope, "shift": shift, "clips": len(rows)}, "thresholds": known}


def thresholds(probabilities: np.ndarray, targets: np.ndarray) -> list[float | None]:
    """(N, M), (N, M) bool -> for each class the least probability above which PRECISION of the clips are of it.

    None for a class that reaches it nowhere with LEAST clips.
    """
    found = []
    for values, right in zip(probabilities.T, targets.astype(bool).T, strict=True):
        order = np.argsort(-values, kind="stable")
        precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        last = np.append(np.diff(values[order]) < 0, True)  # of clips of one probability all count or none
        enough = np.flatnonzero((precision >= PRECISION) & last & np.isin(values[order], values[right]))
        enough = enough[enough + 1 >= LEAST]
        found.append(float(values[order[enough[-1]]]) if len(enough) else None)
    return found
