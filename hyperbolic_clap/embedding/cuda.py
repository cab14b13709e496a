"""Windows of many clips -> large batches on a CUDA device, and the vectors back into the cache."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from CLAP.encoder import Encoder, merge_windows
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.device import out_of_memory
from hyperbolic_clap.plumbing.errors import warn


class CudaBatcher:
    """Encoder batches of one size, started without waiting for any of them.

    Vectors stay on the device until PENDING windows are under way; only then the host waits and the cache is filled.
    Every batch has the same number of windows, the last one filled up, so that a clip meets the same kernels whatever
    else is encoded. A batch that does not fit into the device's memory makes the batches smaller from there on.
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
        if sum(map(len, self.under_way)) >= self.PENDING:
            self.collect()

    def finish(self) -> None:
        """Encode and collect what is left."""
        while self.waiting:
            self._start()
        self.collect()

    def _start(self) -> None:
        """Start one batch; a smaller one if the device lacks the memory, the error if it lacks it for one window."""
        asked = self.batch_size
        while True:
            windows = self.waiting[: self.batch_size]
            batch = np.stack(windows)[np.resize(np.arange(len(windows)), self.batch_size)]
            try:
                vectors = self.encoder.encode_windows(self._upload(batch))
                break
            except RuntimeError as error:
                if not out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size //= 2
            # Outside of the except clause, whose traceback holds the tensors of the failed batch.
            self._free()
        if self.batch_size < asked:
            warn(f"a batch of {asked} windows does not fit into the device's memory, so the encoder goes on with "
                 f"{self.batch_size} at a time (--encode-batch-size {self.batch_size} starts there)")  # fmt: skip
        del self.waiting[: len(windows)]
        self.under_way.append(vectors[: len(windows)])

    def _upload(self, batch: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(batch).pin_memory().to(self.encoder.device, non_blocking=True)

    def _free(self) -> None:
        torch.cuda.empty_cache()

    def collect(self) -> None:
        """Wait for what is under way and put the vectors of whole clips into the cache."""
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
