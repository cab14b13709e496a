"""Between NumPy and Arrow without pandas, which pyarrow imports, in half a second, for pa.array and to_numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers(array: pa.Array) -> np.ndarray:
    """(N,) numbers of an Arrow array; of one with nulls ArrowTypeError."""
    return np.from_dlpack(array)


def arrow(values: np.ndarray) -> pa.Array:
    """(N,) numbers or truth values as an Arrow array."""
    kind, count = pa.from_numpy_dtype(values.dtype), len(values)
    held = np.packbits(values, bitorder="little") if values.dtype == bool else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(held)])


def arrow_texts(texts: Sequence[str]) -> pa.Array:
    """Texts as an Arrow array."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
