"""Audio of any form -> the waveform that CLAP takes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from CLAP import SAMPLE_RATE
from hyperbolic_clap.plumbing.errors import RowError
from hyperbolic_clap.reading.readers import CUT, read, require_rate

MAX_SECONDS = 600  # of a clip that are read; more would let one file fill the memory
FEWEST_STEPS = 256  # floats with such a peak are integers, of at least 8 of their 16 bits
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE  # held at a time; of a higher rate more are resampled while they are read


class Heard(NamedTuple):
    """A (samples,) float32 waveform: 48 kHz, mono, finite, not empty; and what must be said of it: readers.CUT ..."""

    waveform: np.ndarray
    notes: list[str]


def decode(audio: bytes | np.ndarray | Path | None, rate: int) -> np.ndarray:
    """The waveform that `hear` gives."""
    return hear(audio, rate).waveform


@np.errstate(over="ignore", invalid="ignore")  # what overflows becomes infinite and is refused
def hear(audio: bytes | np.ndarray | Path | None, rate: int) -> Heard:
    """Encoded bytes, a file, or samples with their rate -> what the model hears.

    Channels are averaged (so anti-phase stereo becomes silence), integers are scaled by their range,
    floats beyond 1 are scaled down by their peak. Only the first MAX_SECONDS are read, of bytes those in the first
    cells.MAX_BYTES. `rate` counts for samples alone.
    Raises RowError with the reason why it cannot be used.
    """
    if audio is None or (not isinstance(audio, Path) and len(audio) == 0):
        raise RowError("no audio")
    if isinstance(audio, np.ndarray):
        cut = max(audio.shape, default=0) > _most_frames(rate)
        mono, peak, notes = _mono_of_samples(audio, rate), None, [CUT] * cut
    else:
        reading, _ = read(audio, MAX_SECONDS, Whole)
        mono, rate, peak = reading.taker.finish()
        notes = reading.notes
    if not len(mono):
        raise RowError("empty audio")
    if not np.isfinite(mono).all():
        raise RowError("audio with NaN or infinity")
    peak = max(mono.max(), -mono.min()) if peak is None else peak
    mono = (mono / peak if peak > 1 else mono).astype(np.float32, copy=False)
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
        if not len(mono):
            raise RowError("empty audio", "too short to resample")
    return Heard(np.ascontiguousarray(mono), notes)


def _most_frames(rate: int) -> int:
    """The bound on a clip's frames; RowError for a rate that no recording has."""
    return require_rate(rate) * MAX_SECONDS


class Whole:
    """Takes a sound to hold it whole: as it is, or resampled on the way where it would take too much memory."""

    def __init__(self):
        self.parts: list[np.ndarray] = []
        self.rate = self.held = 0
        self.stream, self.peak = None, None

    def add(self, block: np.ndarray, rate: int) -> None:
        """The next (n,) float32 of `rate` Hz."""
        self.rate = rate
        self.held += len(block)
        if self.stream is None and rate > SAMPLE_RATE and self.held > MAX_SAMPLES:
            import soxr

            self.stream, self.peak = soxr.ResampleStream(rate, SAMPLE_RATE, 1, np.float32, quality="HQ"), 0.0
            before, self.parts = self.parts, []
            for part in before:
                self._resample(part)
        if self.stream is None:
            self.parts.append(block)
        else:
            self._resample(block)

    def _resample(self, part: np.ndarray, last: bool = False) -> None:
        self.peak = max([self.peak, *np.abs(part)[[part.argmax(), part.argmin()]]]) if len(part) else self.peak
        self.parts.append(self.stream.resample_chunk(part, last=last))

    def finish(self) -> tuple[np.ndarray, int, float | None]:
        """((n,) float32, its rate, the peak before it was resampled or None if it was not)."""
        if self.stream is not None:
            self._resample(np.empty(0, np.float32), last=True)
        mono = np.concatenate(self.parts) if self.parts else np.empty(0, np.float32)
        return mono, self.rate if self.stream is None else SAMPLE_RATE, self.peak


def _mono_of_samples(samples: np.ndarray, rate: int) -> np.ndarray:
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        samples = samples.T
    samples = samples[..., : _most_frames(rate)]
    if not samples.size:
        raise RowError("empty audio")
    mono = samples.mean(axis=0, dtype=np.float64) if samples.ndim == 2 else samples.astype(np.float64)
    kind = samples.dtype
    if kind.kind == "u" and kind.itemsize < 8:
        mono -= 2 ** (8 * kind.itemsize - 1)
    return mono if kind.kind == "f" else mono / _integer_range(samples)


def _integer_range(samples: np.ndarray) -> float:
    """Full scale: the type's own range; wide types hold narrower samples, so the narrowest of 16, 24, 32 bits."""
    if samples.itemsize < 8 and not is_wide(samples):
        return float(2 ** (8 * samples.itemsize - 1))
    return usual_range(max(int(samples.max()), -int(samples.min()))) or float(2**63)


def is_wide(samples: np.ndarray) -> bool:
    """Whether samples are signed 32-bit integers that 24 bits or fewer would hold: no recording is as faint as that."""
    return samples.dtype == np.int32 and samples.size > 0 and -(2**23) <= samples.min() and samples.max() <= 2**23


def usual_range(peak: float) -> float | None:
    """Full scale of integers with this peak: of 16, 24 or 32 bits, the narrowest that fits; None if none does."""
    return next((float(2**bits) for bits in (15, 23, 31) if peak <= 2**bits), None)


def one_gain(peak: float) -> float:
    """What a recording of floats with this peak is divided by: 1, its peak, or the range of the integers it holds."""
    return max(peak, 1.0) if peak < FEWEST_STEPS else usual_range(peak) or peak
