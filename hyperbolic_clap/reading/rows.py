"""Rows of parquet files as columns: what is known of a million clips is a few Arrow arrays, not a million objects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from hyperbolic_clap.reading.arrays import arrow, coded, compute, numbers
from hyperbolic_clap.reading.labels import ClassList

# A video_id may hold what is no UTF-8 (a file's name stands in for one that is missing), so it is kept as bytes.
SCHEMA = pa.schema(
    {
        "sample_id": pa.int64(),
        "video_id": pa.large_binary(),
        "human_labels": pa.large_list(pa.string()),
        "machine_labels": pa.large_list(pa.string()),
    }
)


class Rows:
    """N rows without their audio: number in the folder, video_id, label names as parsed, and the classes they name.

    `len`, `rows.take(numbers or mask)`, and by column: `sample_ids` (N,) int64, `video_ids`, `human_labels`,
    `machine_labels` (Arrow; `.to_pylist()` for Python's), `matches`, `positions(i)`.
    """

    def __init__(self, table: pa.Table, classes: ClassList):
        self.table, self.classes = table, classes

    @classmethod
    def of(cls, classes: ClassList, sample_ids: Sequence, video_ids: Sequence[str], human: Sequence, machine: Sequence):
        """Rows from Python's values."""
        ids = [encode_id(text) for text in video_ids]
        columns = zip((sample_ids, ids, human, machine), SCHEMA, strict=True)
        return cls(pa.table([pa.array(column, field.type) for column, field in columns], SCHEMA), classes)

    @classmethod
    def join(cls, classes: ClassList, parts: Sequence[Rows]) -> Rows:
        """The rows of several, one after the other."""
        joined = cls(pa.concat_tables([pa.Table.from_batches([], SCHEMA), *(part.table for part in parts)]), classes)
        if parts and all("matches" in part.__dict__ for part in parts):  # found already: a second of a million rows
            starts = np.cumsum([0, *map(len, parts[:-1])])
            row = [part.matches[0] + start for part, start in zip(parts, starts, strict=True)]
            joined.matches = np.concatenate(row), np.concatenate([part.matches[1] for part in parts])
        return joined

    def __len__(self) -> int:
        return len(self.table)

    def take(self, which: np.ndarray) -> Rows:
        """Some of the rows, by a mask or by their positions here."""
        which = np.asarray(which)
        chosen = (self.table.filter if which.dtype == bool else self.table.take)(arrow(which))
        return Rows(chosen, self.classes)

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) int64."""
        return numbers(self._column("sample_id"))

    @property
    def video_ids(self) -> list[str]:
        """N texts."""
        return [decode_id(given) for given in self.table["video_id"].to_pylist()]

    @cached_property
    def videos(self) -> np.ndarray:
        """(N,) int: which video, counted from 0 in the order in which they first occur."""
        return numbers(coded(self._column("video_id")).indices)

    @property
    def human_labels(self) -> pa.Array:
        return self._column("human_labels")

    @property
    def machine_labels(self) -> pa.Array:
        return self._column("machine_labels")

    def _column(self, name: str) -> pa.Array:
        column = self.table[name].combine_chunks()
        return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column

    @cached_property
    def matches(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, class position) of every true class, ascending, each once."""
        labels, width = self.human_labels, len(self.classes)
        texts = coded(compute("list_flatten", labels))
        found = [self.classes.find(text) for text in texts.dictionary.to_pylist()]
        position = np.array([-1 if place is None else place for place in found], np.int64)[numbers(texts.indices)]
        row = np.repeat(np.arange(len(labels)), self.label_counts)
        pairs = np.sort((row * width + position)[position >= 0])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        return pairs // width, pairs % width

    @property
    def label_counts(self) -> np.ndarray:
        """(N,) how many labels each row has, of the class list or not."""
        return numbers(compute("list_value_length", self.human_labels))

    @property
    def match_counts(self) -> np.ndarray:
        """(N,) how many true classes each row has."""
        return np.bincount(self.matches[0], minlength=len(self))

    @property
    def targets(self) -> np.ndarray:
        """(N, M) bool, multi-hot."""
        targets = np.zeros((len(self), len(self.classes)), bool)
        targets[self.matches] = True
        return targets

    @property
    def bits(self) -> np.ndarray:
        """(N, ceil(M / 8)) uint8: the targets, eight to a byte, the first in its lowest bit."""
        bits = np.zeros((len(self), -(-len(self.classes) // 8)), np.uint8)
        row, position = self.matches
        np.bitwise_or.at(bits, (row, position // 8), (1 << position % 8).astype(np.uint8))
        return bits

    def positions(self, i: int) -> np.ndarray:
        """The true classes of row i, ascending."""
        row, position = self.matches
        return position[slice(*np.searchsorted(row, (i, i + 1)))]


def video_id(given, stem: str, sample_id: int) -> str:
    """A row's video_id from its cell's value."""
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    # Without an id of its own (None, "", NaN) a row stands for itself: a split never ties strangers together.
    return f"{stem}#{sample_id}" if given in (None, "") or given != given else str(given)


def encode_id(text: str) -> bytes:
    """A video_id as it is kept."""
    return text.encode("utf-8", "surrogateescape")


def decode_id(given: bytes) -> str:
    """A kept video_id as text."""
    return given.decode("utf-8", "surrogateescape")
