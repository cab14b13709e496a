"""Windows of many clips -> large batches on a CUDA device, and the vectors back into the cache."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from CLAP.cache import EmbeddingCache
from CLAP.encoder import Encoder, merge_windows


class CudaBatcher:
    """Encoder batches of one size, started without waiting for any of them.

    Vectors stay on the device until PENDING windows are under way; only then the host waits and the cache is filled.
    """

    PENDING = 512  # windows

    def __init__(self, encoder: Encoder, cache: EmbeddingCache, batch_size: int):
        self.encoder, self.cache, self.batch_size = encoder, cache, batch_size
        self.waiting: list[np.ndarray] = []
        self.owners: deque[bytes] = deque()
        self.missing: dict[bytes, int] = {}
        self.parts: dict[bytes, list[torch.Tensor]] = {}
        self.under_way: list[torch.Tensor] = []

    def add(self, key: bytes, windows: list[np.ndarray]) -> None:
        """Queue the windows of a clip; full batches start at once."""
        if key in self.missing or self.cache.get(key) is not None:
            return
        self.missing[key], self.parts[key] = len(windows), []
        self.waiting += windows
        self.owners += [key] * len(windows)
        while len(self.waiting) >= self.batch_size:
            self._start()
        if len(self.under_way) * self.batch_size >= self.PENDING:
            self._collect()

    def finish(self) -> None:
        """Encode and collect what is left."""
        if self.waiting:
            self._start()
        self._collect()

    def _start(self) -> None:
        batch = torch.from_numpy(np.stack(self.waiting[: self.batch_size])).pin_memory()
        del self.waiting[: self.batch_size]
        self.under_way.append(self.encoder.encode_windows(batch.to(self.encoder.device, non_blocking=True)))

    def _collect(self) -> None:
        if not self.under_way:
            return
        for vector in torch.cat(self.under_way).cpu():
            key = self.owners.popleft()
            self.parts[key].append(vector)
            self.missing[key] -= 1
            if not self.missing[key]:
                self.cache.add(key, merge_windows(torch.stack(self.parts.pop(key))))
                del self.missing[key]
        self.under_way = []
