"""Multi-hot targets in bits: an eighth of the matrix, of which a training step takes a few rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


class PackedTargets:
    """(N, M) bool as (N, ceil(M / 8)) uint8, the first class in the lowest bit; rows come out dense, on its device."""

    dtype = torch.bool

    def __init__(self, bits: torch.Tensor, width: int):
        self.bits, self.shape = bits, (len(bits), width)
        self._each = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=bits.device)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        bits = self.bits[rows]
        return (bits[:, :, None] & self._each).bool().flatten(1)[:, : self.shape[1]].contiguous()

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All rows, so many at once, on the CPU."""
        for bits in self.bits.cpu().split(size):
            dense = np.unpackbits(bits.numpy(), axis=1, count=self.shape[1], bitorder="little")
            yield torch.from_numpy(dense).view(torch.bool)

    def to(self, device: torch.device) -> PackedTargets:
        """The same on another device."""
        return PackedTargets(self.bits.to(device), self.shape[1])
