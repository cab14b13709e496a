"""Which clips train and which validate, and a name for the data of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from hyperbolic_clap.embedding.packed_targets import PackedTargets
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reading.arrays import arrow, coded, numbers

ROWS_AT_ONCE = 4096  # that are hashed at once


def split_by_video(videos: Sequence | np.ndarray, train_ratio: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the training and the validation clips; clips of one video stay on one side.

    videos (N,): which video each clip is of, as numbers (Rows.videos) or as texts.
    """
    column = arrow(videos) if isinstance(videos, np.ndarray) and videos.dtype.kind == "i" else pa.array(videos)
    video = numbers(coded(column).indices)
    sizes = np.bincount(video)
    if len(sizes) < 2:
        raise UserError(f"{len(videos)} usable clips of {len(sizes)} video cannot be split; two videos are needed")
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).numpy()
    # Whole videos in that order, as long as the sum comes nearer to what is wanted; at least one on each side.
    taken = np.cumsum(sizes[order])
    fits = taken - sizes[order] / 2 <= train_ratio * len(videos)
    fits[0] = True
    count = min(len(sizes) - 1, len(sizes) if fits.all() else int(fits.argmin()))
    in_training = np.zeros(len(sizes), bool)
    in_training[order[:count]] = True
    side = in_training[video]
    return torch.from_numpy(np.flatnonzero(side)), torch.from_numpy(np.flatnonzero(~side))


def fingerprint(*tensors: torch.Tensor | PackedTargets) -> str:
    """SHA-256 of tensors, to know again the data of a run."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        for part in tensor.split(ROWS_AT_ONCE):
            digest.update(part.contiguous().cpu().numpy())
    return digest.hexdigest()
