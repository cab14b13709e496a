"""Audio of any form -> the waveform that CLAP takes."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from CLAP import SAMPLE_RATE
from hyperbolic_clap.plumbing.errors import RowError, first_line

MAX_SECONDS = 600  # of a clip that are read; more would let one file fill the memory
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE  # the same bound for higher rates, so these are read for less long
BLOCK_SAMPLES = 1 << 20  # samples decoded at a time, all channels together
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # 44 is most likely meant as kHz
# What libsndfile cannot open but librosa's decoders can: MP4/M4A, Matroska/WebM, ADTS AAC, Windows Media.
FOREIGN_CONTAINERS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"0&\xb2u"))


@np.errstate(over="ignore", invalid="ignore")  # what overflows becomes infinite and is refused
def decode(audio: bytes | np.ndarray | None, rate: int) -> np.ndarray:
    """Encoded bytes, or samples with their rate -> a (samples,) float32 waveform: 48 kHz, mono, finite, not empty.

    Channels are averaged (so anti-phase stereo becomes silence), integers are scaled by their range,
    floats beyond 1 are scaled down by their peak. Only the first MAX_SECONDS (MAX_SAMPLES) are read,
    of what lies in the first cells.MAX_BYTES. `rate` counts for samples alone.
    Raises RowError with the reason why it cannot be used.
    """
    if audio is None or len(audio) == 0:
        raise RowError("no audio")
    if isinstance(audio, np.ndarray):
        mono, rate = _mono_of_samples(audio, rate), rate
    elif _is_foreign(audio):
        mono, rate = _decode_with_librosa(audio)
    else:
        mono, rate = _decode_with_soundfile(audio)
    if not len(mono):
        raise RowError("empty audio")
    if not np.isfinite(mono).all():
        raise RowError("audio with NaN or infinity")
    peak = max(mono.max(), -mono.min())
    mono = (mono / peak if peak > 1 else mono).astype(np.float32, copy=False)
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
        if not len(mono):
            raise RowError("empty audio", "too short to resample")
    return np.ascontiguousarray(mono)


def _frames_to_read(rate: int) -> int:
    """The bound on a clip's frames; RowError for a rate that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise RowError("impossible sampling rate", f"{rate} Hz")
    return min(rate * MAX_SECONDS, MAX_SAMPLES)


class _Bytes(io.BytesIO):
    """libsndfile seeks to -1 in damaged AIFF files, and an error in there is printed with its traceback."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return super().seek(max(offset, 0) if whence == 0 else offset, whence)


def _decode_with_soundfile(data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            rate, parts = file.samplerate, []
            frames, limit = max(1, BLOCK_SAMPLES // file.channels), _frames_to_read(rate)
            while limit > 0:
                block = file.read(min(frames, limit), dtype="float32", always_2d=True)
                if not len(block):
                    break
                parts.append(block.mean(axis=1))
                limit -= len(block)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise RowError("undecodable audio", first_line(error)) from None
    return np.concatenate(parts) if parts else np.empty(0, np.float32), rate


def _is_foreign(data: bytes) -> bool:
    return any(data[at : at + len(magic)] == magic for at, magic in FOREIGN_CONTAINERS)


def _decode_with_librosa(data: bytes) -> tuple[np.ndarray, int]:
    import librosa  # costs 20 s, so only for containers that soundfile cannot open

    with tempfile.TemporaryDirectory(prefix="hyperbolic_clap_") as folder:
        path = Path(folder, "clip")
        path.write_bytes(data)
        try:
            samples, rate = librosa.load(path, sr=None, mono=False, duration=MAX_SECONDS)
        except Exception as error:  # its decoders raise whatever their back ends do, and one may be installed later
            raise RowError("undecodable audio", first_line(error), lasting=False) from None
    return _mono_of_samples(samples, int(rate)), int(rate)


def _mono_of_samples(samples: np.ndarray, rate: int) -> np.ndarray:
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        samples = samples.T
    samples = samples[..., : _frames_to_read(rate)]
    if not samples.size:
        raise RowError("empty audio")
    mono = samples.mean(axis=0, dtype=np.float64) if samples.ndim == 2 else samples.astype(np.float64)
    kind = samples.dtype
    if kind.kind == "u" and kind.itemsize < 8:
        mono -= 2 ** (8 * kind.itemsize - 1)
    return mono if kind.kind == "f" else mono / _integer_range(samples)


def _integer_range(samples: np.ndarray) -> float:
    """Full scale: the type's own range; 64-bit lists hold narrower samples, so the narrowest of 16, 24, 32 bits."""
    if samples.itemsize < 8:
        return float(2 ** (8 * samples.itemsize - 1))
    peak = max(int(samples.max()), -int(samples.min()))
    return next((float(2**bits) for bits in (15, 23, 31) if peak <= 2**bits), float(2**63))
