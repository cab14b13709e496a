"""Which clips must not be parted by the split: those with one value in a column of the parquet files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data import UNREADABLE, ParquetFolder
from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.reading.rows import Rows

VIDEO = "video_id"


def require_column(folder: ParquetFolder, column: str) -> None:
    """UserError unless every file has the column once, with plain values; video_id may be missing, as everywhere."""
    for file in folder.files if column != VIDEO else ():
        with pa.memory_map(str(file)) as source:
            schema = pq.read_schema(source)
        count = schema.names.count(column)
        if count != 1:
            found = f"{count} columns {column!r}" if count else f"no column {column!r}"
            raise UserError(f"--split-by {column}: {file} has {found}; its columns are {', '.join(schema.names)}")
        kind = schema.field(column).type
        if pa.types.is_nested(kind):
            raise UserError(f"--split-by {column}: in {file} that column is {first_line(kind)}, expected plain values")


def groups(folder: ParquetFolder, rows: Rows, column: str) -> np.ndarray:
    """(N,) int: equal for the used clips that have one value in the column; without a value a clip stands for itself.

    UserError if fewer than two values are left to split by.
    """
    if column == VIDEO:
        return rows.videos
    values, first, numbers = [], 0, rows.sample_ids
    for file, count in folder.rows_of.items():
        wanted = numbers[(first <= numbers) & (numbers < first + count)] - first
        if len(wanted):
            values += _values(file, column, wanted)
        first += count
    own = [("row", number) if value is None or value != value else ("value", value)
           for number, value in zip(numbers.tolist(), values, strict=True)]  # fmt: skip
    if len(set(own)) < 2:
        raise UserError(
            f"--split-by {column}: all {len(own)} usable clips have {values[0]!r} there; two values are needed"
        )
    place: dict = {}
    return np.array([place.setdefault(value, len(place)) for value in own])


def _values(file, column: str, wanted: np.ndarray) -> list:
    try:
        with pa.memory_map(str(file)) as source:
            return pq.read_table(source, columns=[column])[column].take(pa.array(wanted)).to_pylist()
    except UNREADABLE as error:
        raise UserError(f"--split-by {column}: {file} cannot be read there: {first_line(error)}") from None
