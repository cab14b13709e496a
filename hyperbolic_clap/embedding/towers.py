"""Whether a tower of CLAP tells its inputs apart: a broken one says nearly the same of everything."""

from __future__ import annotations

import torch

from hyperbolic_clap.plumbing.errors import UserError, warn

# Mean cosines of class texts: 0.18 and 0.29 in checkpoints that work, 0.9993 in one that is on a hub and does not.
DEGENERATE = 0.98
TOWERS = {"texts": ("text", "class texts"), "clips": ("audio", "clips")}


def mean_cosine(vectors: torch.Tensor) -> float | None:
    """The mean cosine of every two of N unit vectors (N, D), each row with another; None below two."""
    count = len(vectors)
    if count < 2:
        return None
    total = vectors.double().sum(dim=0).square().sum()  # the sum over all pairs, a row with itself included
    return float((total - vectors.double().square().sum()) / (count * (count - 1)))


def check_towers(name: str, texts: torch.Tensor, clips: torch.Tensor) -> dict[str, float | None]:
    """{texts, clips: mean cosine} of unit embeddings, for the JSON; a visible warning names a tower that is degenerate.

    name: of the CLAP model. UserError if all class texts have one embedding.
    """
    if len(texts) > 1 and bool((texts == texts[0]).all()):
        raise UserError(f"--checkpoint {name} gives every class text one embedding: its tokenizer is broken")
    found = {"texts": mean_cosine(texts), "clips": mean_cosine(clips)}
    for kind, value in found.items():
        if value is not None and value > DEGENERATE:
            tower, inputs = TOWERS[kind]
            warn(
                f"the {tower} tower of {name} hardly tells its inputs apart: the mean cosine of {inputs} is "
                f"{value:.5f}, above {DEGENERATE}; the checkpoint is probably broken"
            )
    return found
