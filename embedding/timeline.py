"""A long recording in overlapping windows: read as it goes, so that an hour needs no more memory than a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from CLAP import SAMPLE_RATE
from CLAP.encoder import Encoder
from plumbing.errors import RowError, first_line
from reading.audio import decode


def windows(path: Path, seconds: float, hop: float) -> Iterator[tuple[float, float, np.ndarray]]:
    """(start, end, waveform of 48 kHz) of each window; the last one may be shorter. hop: no longer than a window.

    RowError for what is no sound.

    Formats that libsndfile streams are read to their end; others as reading.audio.decode reads them.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate, total = file.samplerate, len(file)
            size, step = max(1, round(seconds * rate)), max(1, round(hop * rate))
            kept, start = np.zeros((0, file.channels), np.float32), 0
            while True:
                block = file.read(size - len(kept), dtype="float32", always_2d=True)
                kept = np.concatenate([kept, block])
                if len(kept):
                    yield start / rate, (start + len(kept)) / rate, decode(kept.mean(axis=1), rate)
                if len(kept) < size or start + size >= total:
                    return
                kept, start = kept[step:], start + step
    except soundfile.SoundFileError as error:
        whole = _whole(path, error)
        size, step = round(seconds * SAMPLE_RATE), round(hop * SAMPLE_RATE)
        for start in range(0, max(1, len(whole) - size + step), step):
            part = whole[start : start + size]
            yield start / SAMPLE_RATE, (start + len(part)) / SAMPLE_RATE, part


def _whole(path: Path, error: Exception) -> np.ndarray:
    try:
        return decode(path.read_bytes(), 0)
    except RowError:
        raise RowError("undecodable audio", first_line(error)) from None


def embed_window(waveform: np.ndarray, encoder: Encoder) -> torch.Tensor:
    """(samples,) of 48 kHz, no longer than the model's window -> (D,) unit vector on the CPU."""
    padded = torch.from_numpy(encoder.log_mel.pad(waveform)).to(encoder.device)
    return encoder.encode_windows(padded[None])[0].cpu()
