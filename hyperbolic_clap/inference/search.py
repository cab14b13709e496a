"""The clips nearest to a query: exact, by blocked products, so that no matrix of all similarities ever exists."""

from __future__ import annotations

import numpy as np
import torch

from hyperbolic_clap.metrics.superclasses import log_sum_exp
from hyperbolic_clap.projector.projector import Projector

BLOCK = 1 << 15  # clips compared at a time


def nearest(
    projector: Projector, audio: torch.Tensor, queries: list[torch.Tensor], k: int, block: int = BLOCK
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query (positions of the k most similar clips, their similarities), best first, ties in their order.

    audio (N, D) and queries (B, D) each: vectors as Projector.audio and Projector.text give them. A query of several
    vectors is a subtree, compared by the log-sum-exp of their similarities.
    """
    together, sizes = torch.cat(queries), [len(vectors) for vectors in queries]
    kept = [(np.empty(0, int), np.empty(0, np.float32))] * len(queries)
    for start in range(0, len(audio), block):
        similarity = projector.compare(audio[start : start + block], together)
        for i, columns in enumerate(similarity.split(sizes, dim=1)):
            one = columns[:, 0] if sizes[i] == 1 else log_sum_exp(columns, projector.logit_scale_value).float()
            kept[i] = _best(*kept[i], np.arange(start, start + len(one)), one.cpu().numpy(), k)
    return kept


def _best(positions: np.ndarray, values: np.ndarray, more: np.ndarray, column: np.ndarray, k: int) -> tuple:
    """The k best of what was kept, best first, and of a block; a position before a later one of equal value."""
    if len(values) == k:  # few of a later block can still enter
        entering = column > values[-1]
        more, column = more[entering], column[entering]
    positions, values = np.concatenate([positions, more]), np.concatenate([values, column])
    if len(values) > k:
        enough = values >= np.partition(values, len(values) - k)[len(values) - k]
        positions, values = positions[enough], values[enough]
    order = np.argsort(-values, kind="stable")[:k]
    return positions[order], values[order]
