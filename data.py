"""Parquet folders in AudioSet form: rows with labels, and their audio as 48 kHz mono waveforms.

Columns: `audio` (struct with `bytes`; plain bytes; struct with `array` and `sampling_rate`; or a list of
samples, taken as 48 kHz), `human_labels`, and optionally `labels` (machine ids) and `video_id`.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common import UserError, warn
from labels import ClassList

SAMPLE_RATE = 48_000
MAX_SECONDS = 600  # of a clip that are read; more would let one file fill the memory
BLOCK_SAMPLES = 1 << 20  # samples decoded at a time, all channels together
MAX_RATE = 1_000_000
ROWS_AT_ONCE = 16
# What libsndfile cannot open but librosa's decoders can: MP4/M4A, Matroska/WebM, ADTS AAC, Windows Media.
FOREIGN_CONTAINERS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"0&\xb2u"))


class RowError(Exception):
    """Why one row cannot be used; the run goes on without it. `reason` is what rows are counted by."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


@dataclass
class Clip:
    """One parquet row. audio: encoded bytes, or samples with `rate`; dropped once it is embedded."""

    sample_id: int
    video_id: str
    human_labels: list[str]
    machine_labels: list[str]
    positions: list[int] = field(default_factory=list)
    audio: bytes | np.ndarray | None = None
    rate: int = SAMPLE_RATE

    def content_key(self) -> bytes:
        """SHA-256 of the audio as stored: a renamed file keeps it, a changed clip does not."""
        digest = hashlib.sha256()
        if isinstance(self.audio, np.ndarray):
            digest.update(f"{self.audio.dtype.str} {self.audio.shape} {self.rate}\n".encode())
            digest.update(np.ascontiguousarray(self.audio))
        else:
            digest.update(b"encoded\n")
            digest.update(self.audio)
        return digest.digest()


class ParquetFolder:
    """The parquet files of a folder, checked before any work begins.

    Raises UserError for a folder or file that is missing, empty, unreadable or lacks a column.
    """

    def __init__(self, folder: Path, classes: ClassList):
        self.classes = classes
        if not folder.is_dir():
            raise UserError(f"--parquet-dir {folder} is not a folder; give the folder that holds the *.parquet files")
        self.files = sorted(p for p in folder.glob("*.parquet") if p.is_file())
        nested = sum(1 for p in folder.glob("*/**/*.parquet") if p.is_file())
        if not self.files:
            hint = f" ({nested} lie in its sub-folders, which are not read)" if nested else ""
            raise UserError(f"--parquet-dir {folder} holds no *.parquet file{hint}")
        if nested:
            warn(f"{nested} parquet files in sub-folders of {folder} are not read, only those at its top level")
        self.num_rows = sum(self._check(file) for file in self.files)
        if not self.num_rows:
            raise UserError(f"the parquet files in {folder} hold no rows at all")

    @staticmethod
    def _check(file: Path) -> int:
        try:
            parquet = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as parquet: {_first_line(error)}") from None
        with parquet:
            columns = parquet.schema_arrow.names
            for column in ("audio", "human_labels"):
                if column not in columns:
                    raise UserError(f"{file} has no column {column!r}; its columns are {', '.join(columns) or 'none'}")
            return parquet.metadata.num_rows

    def __iter__(self) -> Iterator[Clip]:
        """Every row in order as a Clip; a few rows are in memory at a time."""
        sample_id = 0
        for file in self.files:
            try:
                with pq.ParquetFile(file) as parquet:
                    wanted = [c for c in ("video_id", "audio", "labels", "human_labels") if c in parquet.schema_arrow.names]
                    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False):
                        columns = {name: batch.column(name) for name in batch.schema.names}
                        for i in range(batch.num_rows):
                            yield self._clip(columns, i, sample_id, file)
                            sample_id += 1
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{file} is damaged after row {sample_id}: {_first_line(error)}") from None

    def _clip(self, columns: dict[str, pa.Array], i: int, sample_id: int, file: Path) -> Clip:
        names = self.classes.parse(columns["human_labels"][i].as_py())
        ids = self.classes.parse(columns["labels"][i].as_py()) if "labels" in columns else []
        given = columns["video_id"][i].as_py() if "video_id" in columns else None
        audio, rate = _audio_cell(columns["audio"], i)
        return Clip(
            sample_id=sample_id,
            # Without an id of its own a row stands for itself, so a split never ties strangers together.
            video_id=str(given) if given not in (None, "") else f"{file.stem}#{sample_id}",
            human_labels=names,
            machine_labels=ids,
            positions=self.classes.match(names),
            audio=audio,
            rate=rate,
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _audio_cell(column: pa.Array, i: int) -> tuple[bytes | np.ndarray | None, int]:
    """The audio of one row as (encoded bytes or samples or None, sampling rate)."""
    if pa.types.is_struct(column.type):
        if not column[i].is_valid:
            return None, SAMPLE_RATE
        fields = {f.name: column.field(f.name)[i] for f in column.type}
        data = fields["bytes"].as_py() if "bytes" in fields else None
        if data is None and "array" in fields:
            rate = fields["sampling_rate"].as_py() if "sampling_rate" in fields else None
            return _samples(fields["array"]), SAMPLE_RATE if rate is None else int(rate)
        return data, SAMPLE_RATE
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return _samples(column[i]), SAMPLE_RATE
    value = column[i].as_py()
    return value if isinstance(value, bytes) else None, SAMPLE_RATE


def _samples(cell: pa.Scalar) -> np.ndarray | None:
    """A (nested) list cell as an array of shape (samples,) or (channels, samples), keeping its number type."""
    if not cell.is_valid:
        return None
    values = cell.values
    if pa.types.is_primitive(values.type):
        return values.to_numpy(zero_copy_only=False)
    channels = [_samples(channel) for channel in values]
    try:
        return np.stack(channels)
    except (TypeError, ValueError):
        return None


def decode(clip: Clip) -> np.ndarray:
    """A clip's audio as a (samples,) float32 waveform: 48 kHz, mono, within [-1, 1], finite, not empty.

    Channels are averaged (so anti-phase stereo becomes silence), integers are scaled by their range,
    floats beyond 1 are scaled down by their peak. Only the first MAX_SECONDS are read.
    Raises RowError with the reason why it cannot be used.
    """
    if clip.audio is None or len(clip.audio) == 0:
        raise RowError("no audio")
    if isinstance(clip.audio, np.ndarray):
        mono, rate = _mono_of_samples(clip.audio, clip.rate), clip.rate
    elif _is_foreign(clip.audio):
        mono, rate = _decode_with_librosa(clip.audio)
    else:
        mono, rate = _decode_with_soundfile(clip.audio)
    if not len(mono):
        raise RowError("empty audio")
    if not np.isfinite(mono).all():
        raise RowError("audio with NaN or infinity")
    peak = np.abs(mono).max()
    if peak > 1:
        mono = mono / peak
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    if not len(mono):
        raise RowError("empty audio", "too short to resample")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _check_rate(rate: int) -> None:
    if not 0 < rate <= MAX_RATE:
        raise RowError("impossible sampling rate", f"{rate} Hz")


def _decode_with_soundfile(data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, parts = file.samplerate, []
            _check_rate(rate)
            frames, limit = max(1, BLOCK_SAMPLES // file.channels), rate * MAX_SECONDS
            while limit > 0:
                block = file.read(min(frames, limit), dtype="float32", always_2d=True)
                if not len(block):
                    break
                parts.append(block.mean(axis=1))
                limit -= len(block)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise RowError("undecodable audio", _first_line(error)) from None
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
        except Exception as error:  # its decoders raise whatever their back ends do
            raise RowError("undecodable audio", _first_line(error)) from None
    return _mono_of_samples(samples, int(rate)), int(rate)


def _mono_of_samples(samples: np.ndarray, rate: int) -> np.ndarray:
    _check_rate(rate)
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        samples = samples.T
    samples = samples[..., : rate * MAX_SECONDS]
    kind = samples.dtype
    if kind.kind not in "iuf":
        raise RowError("audio is not numbers", str(kind))
    samples = samples.astype(np.float32 if kind.kind == "f" else np.float64)
    if kind.kind in "iu" and samples.size:
        samples = (samples - _integer_zero(kind)) / _integer_range(kind, samples)
    return samples.mean(axis=0, dtype=np.float32) if samples.ndim == 2 else samples.astype(np.float32)


def _integer_zero(kind: np.dtype) -> int:
    return (np.iinfo(kind).max + 1) // 2 if kind.kind == "u" else 0


def _integer_range(kind: np.dtype, samples: np.ndarray) -> float:
    """Full scale: the type's own range; 64-bit lists hold narrower samples, so the narrowest of 16, 24, 32 bits."""
    if kind.itemsize < 8:
        return float(2 ** (8 * kind.itemsize - 1))
    peak = np.abs(samples).max()
    return next((float(2**bits) for bits in (15, 23, 31) if peak <= 2**bits), float(2**63))
