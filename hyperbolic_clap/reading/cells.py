"""Cells of a parquet column, whatever Arrow type a writer chose for it: which types fit, and their Python values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pyarrow as pa

from hyperbolic_clap.reading.arrays import compute

# What a column or field of sampling rates is called, here and elsewhere.
RATE_NAMES = ("sampling_rate", "sample_rate", "samplerate", "sampling_frequency", "sr", "fs", "rate")
MAX_BYTES = 1 << 28  # of encoded audio that are kept of a cell; an hour of it is no reason to hold more in memory


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any of Arrow's forms."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _is_binary(kind: pa.DataType) -> bool:
    tests = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds whole numbers or floats."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_number_or_null(kind: pa.DataType) -> bool:
    return is_number(kind) or pa.types.is_null(kind)


def _innermost(kind: pa.DataType) -> pa.DataType:
    """The type of what a (nested) list or dictionary type holds."""
    while is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def may_hold_audio(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold audio: one of FORMS, or a struct or nothing that says no more."""
    return pa.types.is_struct(kind) or pa.types.is_null(kind) or any(form.fits(kind) for form in FORMS.values())


def holds_samples(kind: pa.DataType) -> bool:
    """Whether a column's cells are samples without their rate: lists, or structs with `array` and no rate."""
    if not pa.types.is_struct(kind):
        return is_list(kind)
    names = {kind.field(i).name for i in range(kind.num_fields)}
    return "array" in names and not names & set(RATE_NAMES)


def may_hold_text(kind: pa.DataType) -> bool:
    inner = _innermost(kind)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null, _is_binary)
    return any(test(inner) for test in texts)


def plain(cell: pa.Scalar):
    """A cell as a Python value; None if it has none (text that is not UTF-8, a year 9 million, ...)."""
    try:
        return cell.as_py()
    except Exception:  # each Arrow type fails in its own way
        return None


def audio_cell(cell: pa.Scalar) -> tuple[bytes | np.ndarray | PurePath | None, int | None]:
    """The audio of one row: (encoded bytes, samples, the path that is all there is, or None; sampling rate or None)."""
    if not pa.types.is_struct(cell.type) or not cell.is_valid:
        return _as_file(_content(cell)), None
    fields = {cell.type.field(i).name: i for i in range(cell.type.num_fields)}
    data = _as_file(_content(cell[fields["bytes"]])) if "bytes" in fields else None
    if isinstance(data, bytes):
        return data, None
    samples = _as_file(_content(cell[fields["array"]])) if "array" in fields else None
    if samples is None:
        path = plain(cell[fields["path"]]) if "path" in fields else None
        return PurePath(path) if isinstance(path, str) and path else None, None
    rate = next((name for name in RATE_NAMES if name in fields), None)
    return samples, None if rate is None else whole_rate(plain(cell[fields[rate]]))


def whole_rate(value) -> int | None:
    """A sampling rate's cell as a number; 0, which decode refuses, for what is none."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _as_file(content: bytes | np.ndarray | None) -> bytes | np.ndarray | None:
    """The same, but a list of numbers that are the bytes of a sound file as these bytes."""
    if not isinstance(content, np.ndarray) or content.ndim != 1 or content.dtype.kind not in "iu" or len(content) < 12:
        return content
    start = content[:12]
    if start.min() < 0 or start.max() > 255 or not _begins_a_file(start.astype(np.uint8).tobytes()):
        return content
    return content.astype(np.uint8).tobytes() if 0 <= content.min() and content.max() <= 255 else content


def _begins_a_file(start: bytes) -> bool:
    magic = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b"\x1aE\xdf\xa3")
    return start.startswith(magic) or start[4:8] == b"ftyp"


def _content(cell: pa.Scalar) -> bytes | np.ndarray | None:
    """Encoded bytes, or samples of shape (samples,) or (channels, samples) in their number type; else None."""
    form = next((form for form in FORMS.values() if form.fits(cell.type)), None)
    return form.read(cell) if form and cell.is_valid else None


def _read_bytes(cell: pa.Scalar) -> bytes | None:
    if _is_binary(cell.type):
        return cell.as_buffer()[:MAX_BYTES].to_pybytes()  # without a copy of the whole
    value = plain(cell)
    return value[:MAX_BYTES] if isinstance(value, bytes) else None


def _read_samples(cell: pa.Scalar) -> np.ndarray | None:
    values = cell.values
    if is_number(values.type):
        return values.to_numpy(zero_copy_only=False)
    if not is_list(values.type) or not is_number(values.type.value_type) or not len(values) or values.null_count:
        return None
    lengths = compute("list_value_length", values)
    if len(lengths.unique()) > 1:
        return None
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


@dataclass(frozen=True)
class Form:
    """One form of an audio cell. fits: whether a type may hold it. read: a valid cell -> bytes, samples or None."""

    fits: Callable[[pa.DataType], bool]
    read: Callable[[pa.Scalar], bytes | np.ndarray | None]


FORMS = {
    "encoded bytes": Form(lambda kind: not is_list(kind) and _is_binary(_innermost(kind)), _read_bytes),
    "samples": Form(lambda kind: is_list(kind) and _is_number_or_null(_innermost(kind)), _read_samples),
}
