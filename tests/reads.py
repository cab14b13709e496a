"""Which bytes of a parquet file are read: a file object that counts those within the audio columns."""

import io
from contextlib import contextmanager
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq


class CountedFile(io.FileIO):
    """A file whose reads are noted: how many of their bytes lie within `ranges`."""

    def __init__(self, path, counts: list[int]):
        super().__init__(path)
        self.counts, self.ranges = counts, []
        with open(path, "rb") as file:
            self.ranges = audio_ranges(pq.ParquetFile(file).metadata)

    def _count(self, start: int, length: int) -> None:
        self.counts.append(sum(max(0, min(stop, start + length) - max(at, start)) for at, stop in self.ranges))

    def read(self, size=-1):
        start = self.tell()
        content = super().read(size)
        self._count(start, len(content))
        return content

    def readinto(self, buffer):
        start = self.tell()
        length = super().readinto(buffer)
        self._count(start, length)
        return length


def audio_ranges(metadata) -> list[tuple[int, int]]:
    """(start, stop) of every chunk of the audio column, its dictionary included."""
    ranges = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema.split(".")[0] == "audio":
                first = min(x for x in (chunk.dictionary_page_offset, chunk.data_page_offset) if x is not None)
                ranges.append((first, first + chunk.total_compressed_size))
    return ranges


@contextmanager
def counted_reads():
    """Within it, a list with the number of audio bytes in each read of a parquet file by data.py."""
    counts: list[int] = []
    with mock.patch("data.pa.OSFile", lambda path: pa.PythonFile(CountedFile(path, counts), mode="r")):
        yield counts
