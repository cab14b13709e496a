"""Prototypes: the mean training audio of each class, whose cosine with a clip is added to the similarity.

Snell et al. 2017, "Prototypical Networks for Few-shot Learning", eq. 1, on the frozen embeddings and beside the texts.
"""

from __future__ import annotations

import math

import torch

from hyperbolic import cosine_similarity
from hyperbolic_clap.plumbing.errors import UserError

WEIGHT, MEANS, CLASSES = "prototype_weight", "prototype_means", "prototype_classes"


def prototypes(weight: float, audio: torch.Tensor, targets: torch.Tensor, names: list[str]) -> dict:
    """What a checkpoint keeps, {} for weight 0: the (K, embed_dim) means and the names of the K classes with clips.

    audio (N, embed_dim) and targets (N, M) of the training clips; each counts with length 1, each mean has length 1.
    """
    if not weight:
        return {}
    has = targets.any(0)
    directions = torch.nn.functional.normalize(audio.double(), dim=1)
    means = torch.nn.functional.normalize(targets[:, has].double().T @ directions, dim=1)
    return {
        WEIGHT: weight,
        MEANS: means.float().cpu(),
        CLASSES: [name for name, there in zip(names, has.tolist(), strict=True) if there],
    }


def check(which: str, content: dict) -> None:
    """UserError unless a checkpoint has sound prototypes or none at all."""
    there = [key for key in (WEIGHT, MEANS, CLASSES) if key in content]
    if not there:
        return
    weight, means, names = (content.get(key) for key in (WEIGHT, MEANS, CLASSES))
    if not (isinstance(weight, float) and math.isfinite(weight) and weight > 0):
        raise UserError(f"{which} has {WEIGHT} = {weight}, which must be finite and above 0")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{which} has no list of names in {CLASSES}")
    shape = (len(names), content["embed_dim"])
    if not isinstance(means, torch.Tensor) or means.dtype != torch.float32 or tuple(means.shape) != shape:
        raise UserError(f"{which} has {MEANS} that are no float32 tensor of shape {shape}")
    if not bool(means.isfinite().all()):
        raise UserError(f"{which} has values in {MEANS} that are not finite")


def added(content: dict, audio: torch.Tensor, names: list[str]) -> torch.Tensor:
    """weight x cosine of (N, embed_dim) embeddings and the prototypes -> (N, M), 0 for a class that has none."""
    place = {name: i for i, name in enumerate(content[CLASSES])}
    similarity = audio.new_zeros(len(audio), len(names))
    mine = [i for i, name in enumerate(names) if name in place]
    means = content[MEANS].to(audio.device)[[place[names[i]] for i in mine]]
    similarity[:, mine] = content[WEIGHT] * cosine_similarity(audio, means)
    return similarity
