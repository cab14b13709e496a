"""The captions of parquet rows: a column `caption` or `captions`, each cell one text or a list of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.reading.cells import may_hold_text, plain

COLUMNS = ("captions", "caption")


def parse_captions(value) -> list[str]:
    """A cell -> its captions in order, each once, without surrounding or repeated space; empty ones are left out."""
    found: dict[str, None] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            text = " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
            found |= {text: None} if text else {}
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)
    return list(found)


def read_captions(file: Path, count: int) -> list[list[str]]:
    """The captions of the `count` rows of a parquet file, in order.

    UserError for a file without such a column, or whose captions cannot be read.
    """
    try:
        texts = [parse_captions(plain(cell)) for cell in _column(file)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: its captions cannot be read: {first_line(error)}") from None
    return texts[:count] + [[]] * (count - len(texts))


def _column(file: Path) -> Iterable:
    with file.open("rb") as source, pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        name = next((name for name in COLUMNS if name in schema.names), None)
        if name is None:
            raise UserError(f"{file} has no column 'caption' or 'captions'; its columns are {', '.join(schema.names)}")
        if not may_hold_text(schema.field(name).type):
            raise UserError(f"{file}: its column {name!r} is {schema.field(name).type}, which cannot hold captions")
        return parquet.read(columns=[name], use_threads=False)[name]
