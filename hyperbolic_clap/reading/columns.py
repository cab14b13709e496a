"""Whole columns of a parquet file as Rows: what reading cell by cell would give, each distinct text parsed once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hyperbolic_clap.reading.arrays import arrow, arrow_texts, cast, coded, compute, numbers
from hyperbolic_clap.reading.cells import plain
from hyperbolic_clap.reading.labels import ClassList, normalise
from hyperbolic_clap.reading.rows import SCHEMA, Rows, encode_id, video_id

LABELS = SCHEMA.field("human_labels").type


def read_columns(table: dict[str, pa.ChunkedArray], classes: ClassList, stem: str, first: int, count: int) -> Rows:
    """`count` Rows of columns: `human_labels`, `labels`, `video_id` if they are there; `first`: the first's sample_id.

    stem: the file's name, for rows without a video_id.
    """
    if "labels" in table:
        ids = parse_column(table["labels"], classes)
    else:
        ids = pa.LargeListArray.from_arrays(arrow(np.zeros(count + 1, np.int64)), arrow_texts([]))
    human = parse_column(table["human_labels"], classes) if "human_labels" in table else name_machine_ids(ids, classes)
    video = video_id_column(table.get("video_id"), stem, first, count)
    return Rows(pa.table([arrow(np.arange(first, first + count)), video, human, ids], SCHEMA), classes)


def parse_column(column: pa.ChunkedArray, classes: ClassList) -> pa.Array:
    """A label column as large_list<string>: what ClassList.parse says of every cell, each distinct text parsed once."""
    flat = _texts(column)
    if flat is not None:
        texts, counts = flat
        try:
            distinct = coded(texts)
            parsed = [[] if text is None else classes.parse(text) for text in distinct.dictionary.to_pylist()]
        except UnicodeDecodeError:
            pass  # such a cell counts as empty as a whole
        else:
            row = np.repeat(np.arange(len(column)), counts)
            return _lists(row, numbers(distinct.indices), parsed, len(column))
    return pa.array([classes.parse(plain(cell)) for cell in column], LABELS)


def _texts(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray] | None:
    """(all texts, how many of each row) of a column of texts or of lists of texts; None for other columns."""
    inner = column.type.value_type if _is_plain_list(column.type) else column.type
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        return None
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if inner is column.type or not _is_plain_list(column.type):
        return whole, np.ones(len(whole), int)
    lengths = compute("list_value_length", whole)
    return compute("list_flatten", whole), numbers(lengths.fill_null(0) if lengths.null_count else lengths)


def _is_plain_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _lists(row: np.ndarray, codes: np.ndarray, parsed: list[list[str]], count: int) -> pa.Array:
    """Texts by their row (ascending) and their code in `parsed` -> each row's labels, each label of it once."""
    lengths = np.array([len(names) for names in parsed], np.int64)
    names = [name for some in parsed for name in some]
    numbers: dict[str, int] = {}
    alike = np.array([numbers.setdefault(normalise(name), len(numbers)) for name in names], np.int64)
    repeats = lengths[codes]
    row = np.repeat(row, repeats)
    within = np.arange(len(row)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    which = np.repeat((np.cumsum(lengths) - lengths)[codes], repeats) + within
    _, first = np.unique(row * (len(numbers) + 1) + alike[which], return_index=True)
    first.sort()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[first], minlength=count))])
    values = compute("take", arrow_texts(names), arrow(which[first]))
    return pa.LargeListArray.from_arrays(arrow(offsets), values)


def name_machine_ids(labels: pa.Array, classes: ClassList) -> pa.Array:
    """The label lists of a column of machine ids, as names where the class list knows them."""
    texts = coded(labels.flatten())
    found = [(text, classes.find(text)) for text in texts.dictionary.to_pylist()]
    names = pa.array([text if place is None else classes.names[place] for text, place in found], pa.string())
    return pa.LargeListArray.from_arrays(labels.offsets, compute("take", names, texts.indices))


def video_id_column(column: pa.ChunkedArray | None, stem: str, first: int, count: int) -> pa.Array:
    """The video_id of `count` rows from sample_id `first` on; a row without one stands for itself."""
    if column is not None and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        try:
            column.validate(full=True)  # else it may hold what is no UTF-8
            given = cast(pa.concat_arrays(column.chunks), pa.large_binary()) if column.num_chunks else None
            if given is not None and not given.null_count and numbers(compute("binary_length", given)).all():
                return given
        except pa.ArrowInvalid:
            pass
    cells = [None] * count if column is None else map(plain, column)
    return pa.array([encode_id(video_id(cell, stem, first + i)) for i, cell in enumerate(cells)], pa.large_binary())
