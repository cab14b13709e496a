"""Probabilities of classes: the sigmoid of the trained logits, scaled on the validation clips."""

from __future__ import annotations

import numpy as np
import torch

CLIPS = 4096  # of the validation clips, at most
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


@torch.no_grad()
def calibration(trainer) -> dict:
    """{"calibration": {slope, shift, clips}} of a Trainer's weights on its validation clips, for a checkpoint."""
    rows = trainer.validation[:CLIPS]
    logits = trainer.logit_scale(trainer.projector(trainer.audio[rows], trainer.text)).cpu().numpy()
    slope, shift = fit(logits.ravel(), trainer.targets[rows].cpu().numpy().ravel())
    return {"calibration": {"slope": slope, "shift": shift, "clips": len(rows)}}
