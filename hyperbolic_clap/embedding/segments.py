"""Vectors in files that are never read whole: each row is found by its key, read alone and checked when it is read.

A segment is a safetensors file, written once under a name of its own and never changed: `keys` (n, 32) uint8, the
SHA-256 of each content, ascending by their first 8 bytes; `embeddings` (n, D) float32; `checks` (n,) uint64, one for
each row's key and vector. A database was not chosen: SQLite is sooner at a few vectors
but takes many times as long for all (docs/results/second_run.csv), needs file locks, which network disks lack, and one
damaged page can lose all of it, weeks of encoding; here damage loses its row.
"""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from hyperbolic_clap.plumbing.files import write_atomic

FORMAT = "2"
ROWS_AT_ONCE = 512  # rows that are read at once: 1 MiB of 512 dimensions stays in a core's cache until it is copied
GAP = 2  # rows nobody asked for that are read along rather than begin anew after them


class Damage(ValueError):
    """Why a file is no segment."""


def key_prefixes(keys: np.ndarray) -> np.ndarray:
    """(n, 32) keys -> (n,) uint64: their first 8 bytes, which order them; SHA-256 leaves no two alike in practice."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)


def row_checks(keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n, 32) uint8, (n, D) float32 -> (n,) uint64: sums of their words times odd numbers, modulo 2^64.

    No change of one word leaves the sum alike, and of several hardly any; 6 times as fast as CRC-32 row by row.
    """
    words: np.ndarray = np.ascontiguousarray(vectors).view(np.uint64 if vectors.shape[1] % 2 == 0 else np.uint32)
    factors = (np.arange(1, 5 + words.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
    of_keys = np.einsum("ij,j->i", np.ascontiguousarray(keys).view(np.uint64), factors[:4])
    return of_keys + np.einsum("ij,j->i", words, factors[4:], dtype=np.uint64)


def write(path: Path, fingerprint: str, keys: np.ndarray, vectors: np.ndarray) -> None:
    """Write (n, 32) uint8 keys and (n, D) float32 vectors as a segment, whole or not at all; each key once."""
    prefix = key_prefixes(keys)
    order = np.argsort(prefix, kind="stable")
    order = order[np.append(True, (keys[order[1:]] != keys[order[:-1]]).any(axis=1))]
    keys, vectors = keys[order], np.ascontiguousarray(vectors[order], np.float32)
    checks = row_checks(keys, vectors)
    metadata = {"format": FORMAT, "fingerprint": fingerprint, "index": _index_check(keys, checks)}
    # As bytes, since safetensors' own writing hides a full disk behind an error of its own.
    content = save({"keys": keys, "checks": checks, "embeddings": vectors}, metadata)
    write_atomic(path, lambda temporary: temporary.write_bytes(content), tidy=False)


def _index_check(keys: np.ndarray, checks: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(checks), zlib.crc32(np.ascontiguousarray(keys))):08x}"


class Segment:
    """One file, open for reading. Damage if it is none of this encoder's; OSError if it cannot be read.

    damaged: what was found wrong in it so far, "" for nothing; all rows that pass their check are good nevertheless.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path, self.damaged = path, ""
        self.file = path.open("rb", buffering=0)
        try:
            length = int.from_bytes(self.file.read(8), "little")
            header = json.loads(self.file.read(min(length, 4096)))
            entries = {name: (header[name]["dtype"], tuple(header[name]["shape"])) for name in header.keys() - {_ABOUT}}
            self.rows, self.dim = entries["embeddings"][1]
            if entries != {"keys": ("U8", (self.rows, 32)), "checks": ("U64", (self.rows,)),
                           "embeddings": ("F32", (self.rows, self.dim))}:  # fmt: skip
                raise Damage("its shapes are no cache's")
            if (header[_ABOUT]["format"], header[_ABOUT]["fingerprint"]) != (FORMAT, fingerprint):
                raise Damage("its format or encoder differs")
            self._at = {name: 8 + length + header[name]["data_offsets"][0] for name in entries}
            if path.stat().st_size != 8 + length + self.rows * (32 + 8 + 4 * self.dim):
                raise Damage("it is cut off")
            keys = self._read("keys", (self.rows, 32), np.uint8)
            self.checks = self._read("checks", self.rows, np.uint64)
            intact = _index_check(keys, self.checks) == header[_ABOUT]["index"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.file.close()
            raise error if isinstance(error, Damage) else Damage("its header is none") from None
        self.prefixes, self.order = key_prefixes(keys), None
        if not intact:
            self.damaged = "its keys or checks changed"
            self.order = np.argsort(self.prefixes, kind="stable")
            self.prefixes = self.prefixes[self.order]

    def _read(self, name: str, shape, dtype) -> np.ndarray:
        return self._fill(np.empty(shape, dtype), name)

    def _fill(self, out: np.ndarray, name: str, row: int = 0) -> np.ndarray:
        """Rows of an entry, from `row` on, into `out`."""
        self.file.seek(self._at[name] + row * (out.nbytes // max(len(out), 1)))
        if self.file.readinto(memoryview(out).cast("B")) != out.nbytes:
            raise Damage("it is cut off")
        return out

    def find(self, prefix: np.ndarray, places: np.ndarray, keys: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Look for the keys (n, 32) at `places` (m,), `prefix` being their key_prefixes; vectors go to out (n, D).

        -> (m,) bool, which were found and passed their check.
        """
        rows, hits = self._rows_of(prefix)
        found = np.zeros(len(prefix), bool)
        room = np.empty((ROWS_AT_ONCE * (GAP + 1), self.dim), np.float32)  # new memory costs more than reading into it
        ends = [*(np.flatnonzero(np.abs(np.diff(rows) - 1) > GAP) + 1).tolist(), len(rows)]
        for start, end in pairwise([0, *ends]):
            for begin in range(start, end, ROWS_AT_ONCE):
                part = slice(begin, min(begin + ROWS_AT_ONCE, end))
                wanted, where = rows[part], places[hits[part]]
                first = wanted.min()
                block = self._fill(room[: wanted.max() + 1 - first], "embeddings", first)
                if (np.diff(wanted) != 1).any():
                    block = block[wanted - first]
                found[hits[part]] = row_checks(keys[where], block) == self.checks[wanted]
                out[where] = block
        if not found[hits].all():
            self.damaged = "some of its vectors changed"
        return found

    def _rows_of(self, prefix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row here, position in `prefix`) wherever the two are equal; the shorter side is looked up in the longer."""
        if len(prefix) <= self.rows:
            at = np.searchsorted(self.prefixes, prefix).clip(max=self.rows - 1)
            hits = np.flatnonzero(self.prefixes[at] == prefix)
            at = at[hits]
        else:  # a clip may be wanted more than once
            low, high = (np.searchsorted(prefix, self.prefixes, side) for side in ("left", "right"))
            counts = high - low
            at = np.repeat(np.arange(self.rows), counts)
            hits = np.arange(len(at)) + np.repeat(low - (np.cumsum(counts) - counts), counts)
        return (at if self.order is None else self.order[at]), hits

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys and vectors that pass their check."""
        keys = self._read("keys", (self.rows, 32), np.uint8)
        vectors = self._read("embeddings", (self.rows, self.dim), np.float32)
        good = row_checks(keys, vectors) == self.checks
        return keys[good], vectors[good]


_ABOUT = "__metadata__"
