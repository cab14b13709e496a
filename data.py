"""Parquet folders in AudioSet form: rows with labels, and their audio as 48 kHz mono waveforms.

Columns: `audio` (struct with `bytes`; plain bytes; struct with `array` and `sampling_rate`; or a list of
samples, taken as 48 kHz), `human_labels`, and optionally `labels` (machine ids) and `video_id`.
A file of another form is refused (UserError); a row that cannot be used is skipped and counted (RowError).
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common import UserError, warn
from labels import ClassList

SAMPLE_RATE = 48_000
MAX_SECONDS = 600  # of a clip that are read; more would let one file fill the memory
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE  # the same bound for higher rates, so these are read for less long
BLOCK_SAMPLES = 1 << 20  # samples decoded at a time, all channels together
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # 44 is most likely meant as kHz
ROWS_AT_ONCE = 16
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)  # the last from damaged column names
COLUMNS = ("video_id", "audio", "labels", "human_labels")
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
        # A link to nowhere stays in, to be refused; hidden files are what systems add (macOS: ._00.parquet).
        self.files = sorted(p for p in folder.glob("*.parquet") if not p.is_dir() and not p.name.startswith("."))
        nested = sum(1 for p in folder.glob("*/**/*.parquet") if p.is_file())
        if not self.files:
            hint = f" ({nested} lie in its sub-folders, which are not read)" if nested else ""
            raise UserError(f"--parquet-dir {folder} holds no *.parquet file{hint}")
        if nested:
            warn(f"{nested} parquet files in sub-folders of {folder} are not read, only those at its top level")
        self.rows_of = [self._check(file) for file in self.files]
        self.num_rows = sum(self.rows_of)
        if not self.num_rows:
            raise UserError(f"the parquet files in {folder} hold no rows at all")

    @staticmethod
    def _check(file: Path) -> int:
        try:
            with _open(file) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        except UNREADABLE as error:
            raise UserError(f"{file} cannot be read as parquet: {_first_line(error)}") from None
        for column in COLUMNS:
            count = schema.names.count(column)
            if count > 1:
                raise UserError(f"{file} has {count} columns {column!r}; it must have one")
            if count == 0 and column in ("audio", "human_labels"):
                raise UserError(f"{file} has no column {column!r}; its columns are {', '.join(schema.names) or 'none'}")
        for column, fits, need in (
            ("audio", _may_hold_audio, "encoded bytes or samples"),
            ("human_labels", _may_hold_text, "label names"),
        ):
            kind = schema.field(column).type
            if not fits(kind):
                raise UserError(f"{file}: its column {column!r} is {_first_line(kind)}, which cannot hold {need}")
        return rows

    def __iter__(self) -> Iterator[Clip]:
        """Every row in order as a Clip; a few rows are in memory at a time."""
        return self.rows(0, self.num_rows)

    def rows(self, start: int, stop: int) -> Iterator[Clip]:
        """The rows from start to stop in the order of the whole folder; row groups outside are not read."""
        before = 0
        for file, count in zip(self.files, self.rows_of, strict=True):
            if before < stop and start < before + count:
                yield from self._rows_of_file(file, before, max(start - before, 0), min(stop - before, count))
            before += count

    def _rows_of_file(self, file: Path, before: int, start: int, stop: int) -> Iterator[Clip]:
        row = 0
        try:
            with _open(file) as parquet:
                wanted = [name for name in COLUMNS if name in parquet.schema_arrow.names]
                for group in range(parquet.num_row_groups):
                    end = row + parquet.metadata.row_group(group).num_rows
                    if end <= start or row >= stop:
                        row = end
                        continue
                    batches = parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=wanted, use_threads=False)
                    for batch in batches:
                        columns = {name: batch.column(name) for name in batch.schema.names}
                        for i in range(batch.num_rows):
                            if start <= row < stop:
                                yield self._clip(columns, i, before + row, file)
                            row += 1
        except UNREADABLE as error:
            raise UserError(f"{file} is damaged after its row {row}: {_first_line(error)}") from None

    def _clip(self, columns: dict[str, pa.Array], i: int, sample_id: int, file: Path) -> Clip:
        names = self.classes.parse(_plain(columns["human_labels"][i]))
        ids = self.classes.parse(_plain(columns["labels"][i])) if "labels" in columns else []
        given = _plain(columns["video_id"][i]) if "video_id" in columns else None
        if isinstance(given, bytes):
            given = given.decode("utf-8", "replace")
        audio, rate = _audio_cell(columns["audio"][i])
        return Clip(
            sample_id=sample_id,
            # Without an id of its own (None, "", NaN) a row stands for itself: a split never ties strangers together.
            video_id=f"{file.stem}#{sample_id}" if given in (None, "") or given != given else str(given),
            human_labels=names,
            machine_labels=ids,
            positions=self.classes.match(names),
            audio=audio,
            rate=rate,
        )


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _is_list(kind: pa.DataType) -> bool:
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _is_binary(kind: pa.DataType) -> bool:
    tests = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _innermost(kind: pa.DataType) -> pa.DataType:
    """The type of what a (nested) list or dictionary type holds."""
    while _is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _may_hold_audio(kind: pa.DataType) -> bool:
    inner = _innermost(kind)
    if _is_list(kind):
        return _is_number(inner) or pa.types.is_null(inner)
    return _is_binary(inner) or pa.types.is_struct(kind) or pa.types.is_null(kind)


def _may_hold_text(kind: pa.DataType) -> bool:
    inner = _innermost(kind)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null, _is_binary)
    return any(test(inner) for test in texts)


def _plain(cell: pa.Scalar):
    """A cell as a Python value; None if it has none (text that is not UTF-8, a year 9 million, ...)."""
    try:
        return cell.as_py()
    except Exception:  # each Arrow type fails in its own way
        return None


def _audio_cell(cell: pa.Scalar) -> tuple[bytes | np.ndarray | None, int]:
    """The audio of one row as (encoded bytes or samples or None, sampling rate)."""
    if not pa.types.is_struct(cell.type) or not cell.is_valid:
        return _content(cell), SAMPLE_RATE
    fields = {cell.type.field(i).name: i for i in range(cell.type.num_fields)}
    data = _content(cell[fields["bytes"]]) if "bytes" in fields else None
    if isinstance(data, bytes) or "array" not in fields:
        return data if isinstance(data, bytes) else None, SAMPLE_RATE
    rate = _plain(cell[fields["sampling_rate"]]) if "sampling_rate" in fields else None
    try:
        rate = SAMPLE_RATE if rate is None else int(rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0  # which decode refuses
    return _content(cell[fields["array"]]), rate


def _content(cell: pa.Scalar) -> bytes | np.ndarray | None:
    """Encoded bytes, or samples of shape (samples,) or (channels, samples) in their number type; else None."""
    if not cell.is_valid:
        return None
    if not _is_list(cell.type):
        value = _plain(cell)
        return value if isinstance(value, bytes) else None
    values = cell.values
    if _is_number(values.type):
        return values.to_numpy(zero_copy_only=False)
    if not _is_list(values.type) or not _is_number(values.type.value_type) or not len(values) or values.null_count:
        return None
    lengths = pc.list_value_length(values)
    if len(lengths.unique()) > 1:
        return None
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


@np.errstate(over="ignore", invalid="ignore")  # what overflows becomes infinite and is refused
def decode(clip: Clip) -> np.ndarray:
    """A clip's audio as a (samples,) float32 waveform: 48 kHz, mono, finite, not empty.

    Channels are averaged (so anti-phase stereo becomes silence), integers are scaled by their range,
    floats beyond 1 are scaled down by their peak. Only the first MAX_SECONDS (MAX_SAMPLES) are read.
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
