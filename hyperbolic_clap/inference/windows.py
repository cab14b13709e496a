"""A long recording in overlapping windows: read as it goes, so that an hour needs no more memory than a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from CLAP import SAMPLE_RATE
from CLAP.encoder import Encoder
from hyperbolic_clap.plumbing.errors import RowError, first_line, warn
from hyperbolic_clap.reading.audio import decode


def windows(path: Path, seconds: float, hop: float) -> Iterator[tuple[float, float, np.ndarray | RowError]]:
    """(start, end, waveform of 48 kHz, or why there is none) of each window; the last one may be shorter.

    hop: no longer than a window. RowError for what is no sound; a recording that is damaged further on ends there, with
    a warning. Formats that libsndfile streams are read to their end; others as reading.audio.decode reads them.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: raw samples, of which nobody knows the rate
        yield from _windows_of(_whole(path, error), seconds, hop)
        return
    with file:
        rate, total = file.samplerate, len(file)
        size, step = max(1, round(seconds * rate)), max(1, round(hop * rate))
        kept, start = np.zeros((0, file.channels), np.float32), 0
        while True:
            try:
                block = file.read(size - len(kept), dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                if not start:
                    raise RowError("undecodable audio", first_line(error)) from None
                read = f"of {total / rate:.0f} s about {start / rate:.0f} are read"
                warn(f"{path} is damaged ({first_line(error)}): {read}")
                return
            kept = np.concatenate([kept, block])
            if len(kept):
                yield start / rate, (start + len(kept)) / rate, _waveform(kept.mean(axis=1), rate)
            if len(kept) < size or start + size >= total:
                return
            kept, start = kept[step:], start + step


def _windows_of(whole: np.ndarray, seconds: float, hop: float) -> Iterator[tuple[float, float, np.ndarray]]:
    size, step = round(seconds * SAMPLE_RATE), round(hop * SAMPLE_RATE)
    for start in range(0, max(1, len(whole) - size + step), step):
        part = whole[start : start + size]
        yield start / SAMPLE_RATE, (start + len(part)) / SAMPLE_RATE, part


def _waveform(samples: np.ndarray, rate: int) -> np.ndarray | RowError:
    try:
        return decode(samples, rate)
    except RowError as error:
        return error


def _whole(path: Path, error: Exception) -> np.ndarray:
    try:
        return decode(path.read_bytes(), 0)
    except OSError as unreadable:
        raise RowError(f"unreadable file ({unreadable.strerror})", lasting=False) from None
    except RowError:
        raise RowError("undecodable audio", first_line(error)) from None


def embed_window(waveform: np.ndarray, encoder: Encoder) -> torch.Tensor:
    """(samples,) of 48 kHz, no longer than the model's window -> (D,) unit vector on the CPU."""
    padded = torch.from_numpy(encoder.log_mel.pad(waveform)).to(encoder.device)
    return encoder.encode_windows(padded[None])[0].cpu()
