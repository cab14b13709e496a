"""Which clips train and which validate, and a name for the data of a run."""

from __future__ import annotations

import hashlib

import torch

from plumbing.errors import UserError


def split_by_video(video_ids: list[str], train_ratio: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the training and the validation clips; clips with one video_id stay on one side."""
    groups: dict[str, list[int]] = {}
    for position, video_id in enumerate(video_ids):
        groups.setdefault(video_id, []).append(position)
    if len(groups) < 2:
        raise UserError(f"{len(video_ids)} usable clips of {len(groups)} video cannot be split; two videos are needed")
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    members = list(groups.values())
    train, wanted = [], train_ratio * len(video_ids)
    order.reverse()  # from the end, popping does not move the rest
    while len(order) > 1 and (not train or len(train) + len(members[order[-1]]) / 2 <= wanted):
        train += members[order.pop()]
    validation = [position for group in order for position in members[group]]
    return torch.tensor(sorted(train)), torch.tensor(sorted(validation))


def fingerprint(*tensors: torch.Tensor) -> str:
    """SHA-256 of tensors, to know again the data of a run."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().cpu().numpy())
    return digest.hexdigest()
