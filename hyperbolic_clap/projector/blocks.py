"""Embeddings of many clips through a projector, in blocks, so that its wider temporaries never exist all at once."""

from __future__ import annotations

import torch

from hyperbolic_clap.projector.projector import Projector

BLOCK = 1 << 15  # clips projected at a time


def project(projector: Projector, embeddings: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """(N, embed_dim) audio embeddings -> the (N, D) vectors that are compared, made in blocks."""
    if not projector.trained or len(embeddings) <= block:
        return projector.audio(embeddings)
    return torch.cat([projector.audio(embeddings[start : start + block]) for start in range(0, len(embeddings), block)])
