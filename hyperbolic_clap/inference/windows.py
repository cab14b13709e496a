"""A long recording in overlapping windows: read as it goes, so that an hour needs no more memory than a minute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from CLAP.encoder import Encoder
from hyperbolic_clap.plumbing.errors import RowError, warn
from hyperbolic_clap.reading.audio import decode, one_gain
from hyperbolic_clap.reading.readers import Reading, read

LOUD = 2.0  # times full scale that a lossy format may overshoot by without a word


class Loudest:
    """Takes a recording for its greatest absolute sample alone, of those that are finite."""

    def __init__(self):
        self.peak = 0.0

    def add(self, block: np.ndarray, rate: int) -> None:
        if len(block):
            peak = max(block.max(), -block.min())
            if not np.isfinite(peak):
                peak = np.abs(block[np.isfinite(block)]).max(initial=0)
            self.peak = max(self.peak, float(peak))


class Windows:
    """(start, end, waveform of 48 kHz, or why there is none) of each window; the last one may be shorter.

    hop: no longer than a window. Read twice: here, to find out which reader gets to the end, and the peak, so that one
    gain holds for the whole recording; and as the windows are taken. notes: what must be said of the recording, each
    of them a warning. RowError for what is no sound.
    """

    def __init__(self, path: Path, seconds: float, hop: float):
        found, self._blocks = read(path, None, Loudest)
        self._path, self._reading, self.notes = path, found, list(found.notes)
        self._gain = one_gain(found.taker.peak)
        self._size, self._step = (max(1, round(length * found.rate)) for length in (seconds, hop))
        for note in found.notes:
            warn(f"{path} is {note}; {found.seconds:.1f} s of it are read")
        if self._gain > LOUD:
            warn(f"{path} goes up to {found.taker.peak:g} times full scale; all of it is divided by {self._gain:g}")

    def __len__(self) -> int:
        return 1 + max(0, math.ceil((self._reading.frames - self._size) / self._step))

    def __iter__(self) -> Iterator[tuple[float, float, np.ndarray | RowError]]:
        size, gain, rate = self._size, self._gain, self._reading.rate
        kept, start, stream = np.empty(0, np.float32), 0, self._blocks(self._path, Reading(self._reading.taker))
        while True:
            while len(kept) <= size and (block := next(stream, None)) is not None:
                kept = np.concatenate([kept, block])
            part = kept[:size]
            yield start / rate, (start + len(part)) / rate, _waveform(part / gain if gain > 1 else part, rate)
            if len(kept) <= size:
                return
            kept, start = kept[self._step :], start + self._step


def _waveform(samples: np.ndarray, rate: int) -> np.ndarray | RowError:
    try:
        return decode(samples, rate)
    except RowError as error:
        return error


def embed_window(waveform: np.ndarray, encoder: Encoder) -> torch.Tensor:
    """(samples,) of 48 kHz, no longer than the model's window -> (D,) unit vector on the CPU."""
    padded = torch.from_numpy(encoder.log_mel.pad(waveform)).to(encoder.device)
    return encoder.encode_windows(padded[None])[0].cpu()
