"""Between NumPy and Arrow, and Arrow's functions, without what takes long to import.

pyarrow imports pandas, in half a second, for pa.array and to_numpy. Importing pyarrow.compute, as methods such as
Array.take do too, documents 286 functions, in a sixth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import _compute


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


def compute(function: str, *arrays: pa.Array) -> pa.Array:
    """What pyarrow.compute's function of this name makes of arrays with its default options."""
    return _compute.call_function(function, arrays)


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array as another type; ArrowInvalid for values that the type cannot hold."""
    return _compute.call_function("cast", [array], _compute.CastOptions.safe(kind))


def coded(array: pa.Array) -> pa.DictionaryArray:
    """An array as its distinct values, a null among them if there is one, and which of them each one is."""
    return _compute.call_function(
        "dictionary_encode", [array], _compute.DictionaryEncodeOptions(null_encoding="encode")
    )
