"""Paired bootstrap over clips: a resample is a row of weights, how often each clip was drawn (see weighted.py)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK_FLOATS = 1 << 24  # weights drawn at a time: 64 MiB in float32
RANKING_COST = 2e11  # of all rankings of a file, a minute or two on one core; beyond it they get fewer resamples
FEWER, LEAST = 2000, 200


def draw(clips: int, resamples: int, seed: int, width: int = 1) -> Iterator[np.ndarray]:
    """Yield (B, clips) float32 weights, `resamples` rows in all, B chosen so that B * width floats fit a chunk.

    The rows do not depend on the chunking, so two calls with one seed draw the same clips.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_FLOATS // max(clips, width))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(clips, size=(count, clips), dtype=np.int32)
        drawn += np.arange(count, dtype=np.int32)[:, None] * clips
        yield np.bincount(drawn.ravel(), minlength=count * clips).reshape(count, clips).astype(np.float32)


def affordable(resamples: int, cost: float) -> int:
    """How many resamples rankings of that cost get: all that were asked for unless that takes minutes."""
    if resamples * cost <= RANKING_COST:
        return resamples
    return min(resamples, FEWER, max(LEAST, int(RANKING_COST / cost)))


def interval(differences: np.ndarray) -> tuple[float, float] | None:
    """The 95 % percentile interval of (B,) bootstrap differences; None if too few resamples are defined."""
    known = differences[np.isfinite(differences)]
    if len(known) < max(2, len(differences) // 2):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
