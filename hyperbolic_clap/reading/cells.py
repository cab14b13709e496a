"""Cells of a parquet column, whatever Arrow type a writer chose for it: which types fit, and their Python values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hyperbolic_clap.reading.arrays import compute

MAX_BYTES = 1 << 28  # of encoded audio that are kept of a cell; an hour of it is no reason to hold more in memory


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


def may_hold_audio(kind: pa.DataType) -> bool:
    inner = _innermost(kind)
    if _is_list(kind):
        return _is_number(inner) or pa.types.is_null(inner)
    return _is_binary(inner) or pa.types.is_struct(kind) or pa.types.is_null(kind)


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


def audio_cell(cell: pa.Scalar) -> tuple[bytes | np.ndarray | None, int | None]:
    """The audio of one row as (encoded bytes or samples or None, sampling rate or None)."""
    if not pa.types.is_struct(cell.type) or not cell.is_valid:
        return _content(cell), None
    fields = {cell.type.field(i).name: i for i in range(cell.type.num_fields)}
    data = _content(cell[fields["bytes"]]) if "bytes" in fields else None
    if isinstance(data, bytes) or "array" not in fields:
        return data if isinstance(data, bytes) else None, None
    rate = plain(cell[fields["sampling_rate"]]) if "sampling_rate" in fields else None
    try:
        rate = None if rate is None else int(rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0  # which decode refuses
    return _content(cell[fields["array"]]), rate


def _content(cell: pa.Scalar) -> bytes | np.ndarray | None:
    """Encoded bytes, or samples of shape (samples,) or (channels, samples) in their number type; else None."""
    if not cell.is_valid:
        return None
    if not _is_list(cell.type):
        if _is_binary(cell.type):
            return cell.as_buffer()[:MAX_BYTES].to_pybytes()  # without a copy of the whole
        value = plain(cell)
        return value[:MAX_BYTES] if isinstance(value, bytes) else None
    values = cell.values
    if _is_number(values.type):
        return values.to_numpy(zero_copy_only=False)
    if not _is_list(values.type) or not _is_number(values.type.value_type) or not len(values) or values.null_count:
        return None
    lengths = compute("list_value_length", values)
    if len(lengths.unique()) > 1:
        return None
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
