"""The scaling that makes probabilities of a trained projector's logits, fitted to its validation clips."""

from __future__ import annotations

import torch

from hyperbolic_clap.metrics.calibration import fit

CLIPS = 4096  # of the validation clips, at most


@torch.no_grad()
def calibration(trainer) -> dict:
    """{"calibration": {slope, shift, clips}} of a Trainer's weights on its validation clips, for a checkpoint."""
    rows = trainer.validation[:CLIPS]
    logits = trainer.logit_scale(trainer.projector(trainer.audio[rows], trainer.text)).cpu().numpy()
    slope, shift = fit(logits.ravel(), trainer.targets[rows].cpu().numpy().ravel())
    return {"calibration": {"slope": slope, "shift": shift, "clips": len(rows)}}
