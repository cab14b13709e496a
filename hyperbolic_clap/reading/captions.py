"""The captions of parquet rows: a column `caption` or `captions`, each cell a text or a list, or other columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hyperbolic_clap.plumbing.errors import UserError, first_line, log
from hyperbolic_clap.reading.cells import may_hold_text, plain

COLUMNS = ("captions", "caption")
USUAL = ("text", "texts", "sentence", "sentences", "description", "raw_text")  # on the hubs, where those are missing
NUMBERED = re.compile(r"(raw_)?captions?_?\d+")  # Clotho's caption_1 to caption_5


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
        texts = [parse_captions([plain(cell) for cell in cells]) for cells in zip(*_columns(file), strict=True)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: its captions cannot be read: {first_line(error)}") from None
    return texts[:count] + [[]] * (count - len(texts))


def _columns(file: Path) -> list[Iterable]:
    with file.open("rb") as source, pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        fitting = [name for name in schema.names if may_hold_text(schema.field(schema.names.index(name)).type)]
        names = [name for name in COLUMNS if name in schema.names][:1]
        if not names:
            names = [name for name in fitting if NUMBERED.fullmatch(name)] or [x for x in USUAL if x in fitting][:1]
            if not names:
                others = ", ".join(schema.names)
                raise UserError(f"{file} has no column 'caption' or 'captions'; its columns are {others}")
            log.info("%s: no column 'caption' or 'captions'; the captions are those of %s", file, ", ".join(names))
        for name in names:
            if name not in fitting:
                raise UserError(f"{file}: its column {name!r} is {schema.field(name).type}, which cannot hold captions")
        table = parquet.read(columns=names, use_threads=False)
        return [table[name] for name in names]
