"""The captions of parquet rows: a column `caption` or `captions`, each cell a text or a list, or other columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hyperbolic_clap.plumbing.errors import UserError, first_line, log
from hyperbolic_clap.reading.cells import is_list, may_hold_text, plain
from hyperbolic_clap.reading.vectors import CAPTION_EMBEDDING, may_hold_vectors, read_vectors

COLUMNS = ("captions", "caption")
USUAL = ("text", "texts", "sentence", "sentences", "description", "raw_text")  # on the hubs, where those are missing
NUMBERED = re.compile(r"(raw_)?captions?_?\d+")  # Clotho's caption_1 to caption_5


def parse_captions(value) -> list[str]:
    """A cell -> its captions in order, each once, without surrounding or repeated space; empty ones are left out."""
    return [text for text in dict.fromkeys(_texts(value)) if text]


def _texts(value) -> Iterator[str]:
    """The texts of a cell in order, each without surrounding or repeated space."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            yield " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)


def read_captions(file: Path, count: int) -> list[list[str]]:
    """The captions of the `count` rows of a parquet file, in order.

    UserError for a file without such a column, or whose captions cannot be read.
    """
    try:
        texts = [parse_captions([plain(cell) for cell in cells]) for cells in zip(*_columns(file), strict=True)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: its captions cannot be read: {first_line(error)}") from None
    return texts[:count] + [[]] * (count - len(texts))


def has_caption_vectors(file: Path) -> bool:
    """Whether a parquet file has a column of vectors beside its captions."""
    with file.open("rb") as source, pq.ParquetFile(source) as parquet:
        return CAPTION_EMBEDDING in parquet.schema_arrow.names


def read_caption_vectors(file: Path, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    """Each caption of a parquet file, and its (dim,) float32 unit vector: of a column of one vector, or of a list.

    UserError for a file without such a column, a row with another number of vectors, or one that cannot be used.
    """
    try:
        *texts, vectors = _columns(file, CAPTION_EMBEDDING)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: its captions cannot be read: {first_line(error)}") from None
    kind = vectors.type
    if not (may_hold_vectors(kind) or (is_list(kind) and may_hold_vectors(kind.value_type))):
        raise UserError(f"{file}: its column {CAPTION_EMBEDDING!r} is {kind}, which cannot hold lists of vectors")
    for row, (*cells, given) in enumerate(zip(*texts, vectors, strict=True)):
        said, values = list(_texts([plain(cell) for cell in cells])), given.values if given.is_valid else None
        if values is not None and may_hold_vectors(kind):
            values = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
        found = 0 if values is None else len(values)
        if found != len(said):
            raise UserError(f"{file}: row {row} has {len(said)} captions and {found} vectors in {CAPTION_EMBEDDING!r}")
        if values is None:
            continue
        unit, _, reasons = read_vectors(values, dim)
        for text, vector, reason in zip(said, unit, reasons, strict=True):
            if text and reason:
                raise UserError(f"{file}: row {row} has the caption {text!r} with no vector that can be used: {reason}")
            yield text, vector


def _columns(file: Path, *more: str) -> list[pa.ChunkedArray]:
    """The columns of a file's captions, and more of it."""
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
        for name in more:
            if name not in schema.names:
                raise UserError(f"{file} has no column {name!r}; its columns are {', '.join(schema.names)}")
        table = parquet.read(columns=[*names, *more], use_threads=False)
        return [table[name] for name in (*names, *more)]
