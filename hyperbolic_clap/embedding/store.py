"""Embeddings on disk: each clip and each text goes through the frozen encoder once, ever.

A cache folder holds one sub-folder for each audio fingerprint (weights, preprocessing, library versions), and in its
folder `store` the vectors as segments (segments.py); a text's key says what else its vector depends on. Opening reads
40 bytes for each vector in it; a vector is read and checked when it is asked for. Segments are only ever added, under
names of their own, so runs can share a folder; small ones are merged into large ones, by whichever run comes to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from hyperbolic_clap.embedding.segments import Damage, Segment, key_prefixes, write
from hyperbolic_clap.plumbing.errors import UserError, log, warn
from hyperbolic_clap.plumbing.files import lock, remove_stale, write_atomic

NOT_READ_BACK = "vectors that were just written to the embedding cache cannot be read back"
PIECE_ROWS = 256
PIECE_SECONDS = 20.0
SEGMENT_ROWS = 1 << 16  # a segment of half of this or more is left as it is
MOST_PIECES, MOST_LEFT = 64, 8  # small segments, while a run writes and as it ends


def default_folder() -> Path:
    """The user's cache folder: %LOCALAPPDATA%, $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "hyperbolic_clap"
    except RuntimeError:
        raise UserError("the user has no home folder for the embedding cache; give --cache-dir or --no-cache") from None


class EmbeddingCache:
    """The embeddings of one encoder. folder=None: nothing is read or written, only remembered for this run."""

    def __init__(self, folder: Path | None, fingerprint: str):
        self.fingerprint, self.lock = fingerprint, threading.RLock()
        self.folder = folder / fingerprint[:32] / "store" if folder else None
        self.writable = folder is not None
        self.recent: dict[bytes, np.ndarray] = {}  # of this run, and on no disk
        self.segments: dict[Path, Segment] = {}
        self.refused: set[Path] = set()
        self.last_write = time.monotonic()
        self.notes: dict[bytes, list[str]] = {}
        self.new_notes: dict[str, list[str]] = {}
        if self.folder and self.folder.parent.is_dir():
            for stale in (self.folder.parent, self.folder):
                remove_stale(stale)
            self._open_segments()
            self._take_over()
            for path in sorted(self.folder.glob("notes-*.json")):
                self._read_notes(path)
        elif folder and any(folder.glob("[0-9a-f]" * 32)):
            log.info("the cache %s knows other models or versions alone; with these, clips are encoded anew", folder)

    @property
    def _store(self) -> Path:
        """The folder, for what is done only where there is one."""
        if self.folder is None:
            raise ValueError("this cache has no folder")
        return self.folder

    def take(self, keys: np.ndarray | list[bytes], dim: int) -> tuple[np.ndarray, np.ndarray]:
        """(n, 32) uint8 keys, or n of 32 bytes -> ((n, dim) float32 embeddings, (n,) bool: which of them are known)."""
        if isinstance(keys, list):
            keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        vectors, found = np.empty((len(keys), dim), np.float32), np.zeros(len(keys), bool)
        with self.lock:
            if self.recent:
                for i, key in enumerate(keys):
                    if (vector := self.recent.get(key.tobytes())) is not None:
                        vectors[i], found[i] = vector, True
            if self.segments and self._take(keys, vectors, found):
                self._open_segments()  # another run has merged some of them meanwhile
                self._take(keys, vectors, found)
        return vectors, found

    def take_all(self, keys: list[bytes], dim: int) -> np.ndarray:
        """(n, dim) float32 embeddings of keys that were all added; OSError if one cannot be read back."""
        vectors, found = self.take(keys, dim)
        if not found.all():
            raise OSError(NOT_READ_BACK)
        return vectors

    def _take(self, keys: np.ndarray, vectors: np.ndarray, found: np.ndarray) -> bool:
        """Fill in what the segments know of what is not found; -> whether one of them has vanished."""
        vanished, prefix = False, key_prefixes(keys)
        order = np.argsort(prefix)
        order = order[~found[order]]
        prefix = prefix[order]
        for path, segment in list(self.segments.items()):
            if not len(order):
                break
            if segment.dim != vectors.shape[1]:
                continue
            whole = not segment.damaged
            try:
                new = segment.find(prefix, order, keys, vectors)
            except OSError as error:
                if error.errno == errno.ESTALE:  # on a network disk an open file can vanish
                    vanished = True
                else:
                    warn(f"{path} cannot be read ({error.strerror or error}); its clips are encoded again")
                del self.segments[path]
                continue
            except Damage as error:
                self._refuse(path, error)
                continue
            if segment.damaged and whole:
                warn(f"{path} is damaged ({segment.damaged}); what it lost is encoded again")
            found[order[new]] = True
            order, prefix = order[~new], prefix[~new]
        return vanished

    def get(self, key: bytes) -> np.ndarray | None:
        """The (D,) float32 embedding of a content, or None."""
        with self.lock:
            if key in self.recent or not self.segments:
                return self.recent.get(key)
            for dim in {segment.dim for segment in self.segments.values()}:
                vectors, found = self.take([key], dim)
                if found[0]:
                    return vectors[0]
        return None

    def add(self, key: bytes, embedding: np.ndarray) -> None:
        """Remember an embedding; every PIECE_ROWS or PIECE_SECONDS the new ones are written."""
        with self.lock:
            self.recent[key] = embedding
            if len(self.recent) >= PIECE_ROWS or time.monotonic() - self.last_write > PIECE_SECONDS:
                self.flush(MOST_PIECES)

    def note(self, key: bytes, notes: list[str]) -> None:
        """Remember what must be said of a content whenever its embedding is used."""
        if notes and self.notes.get(key) != notes:
            with self.lock:
                self.notes[key] = self.new_notes[key.hex()] = notes

    def notes_of(self, keys: np.ndarray | list[bytes]) -> dict[str, np.ndarray]:
        """(n, 32) uint8 keys, or n of 32 bytes -> {note: (m,) positions of those of which it is said, ascending}."""
        if not self.notes:
            return {}
        found: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            for note in self.notes.get(bytes(key), ()):
                found.setdefault(note, []).append(i)
        return {note: np.array(positions) for note, positions in found.items()}

    def _read_notes(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            for key, notes in content.items():
                self.notes[bytes.fromhex(key)] = [str(note) for note in notes]
        except OSError as error:
            warn(f"{path} cannot be read ({error.strerror or error}); what it says of some sounds is not repeated")
        except (ValueError, AttributeError, TypeError) as error:
            warn(f"{path} is damaged ({error}); what it says of some sounds is not repeated")

    def flush(self, most: int = MOST_LEFT) -> None:
        """Write what is not yet on disk. A folder that cannot be written is a warning, and the run goes on.

        most: if there are more small segments than this they are merged.
        """
        with self.lock:
            self.last_write = time.monotonic()
            if self.recent and self.writable:
                keys = np.frombuffer(b"".join(self.recent), np.uint8).reshape(-1, 32)
                if self._write(keys, np.stack(list(self.recent.values()))):
                    self.recent = {}
            if self.new_notes and self.writable:
                self._write_notes()
            if self.writable and self._store.is_dir():
                self._merge(most)

    def _write(self, keys: np.ndarray, vectors: np.ndarray) -> bool:
        path = self._store / f"{uuid.uuid4().hex}.safetensors"
        try:
            write(path, self.fingerprint, keys, vectors)
        except OSError as error:
            where = f"the embedding cache {self._store.parent}"
            warn(f"{where} cannot be written ({error.strerror}); the run goes on without it")
            self.writable = False
            return False
        self._open(path)
        return path in self.segments

    def _write_notes(self) -> None:
        path, content = self._store / f"notes-{uuid.uuid4().hex}.json", json.dumps(self.new_notes)
        try:
            write_atomic(path, lambda temporary: temporary.write_text(content, encoding="utf-8"), tidy=False)
            self.new_notes = {}
        except OSError as error:
            warn(f"the embedding cache {self._store.parent} cannot be written ({error.strerror})")
            self.writable = False

    def _open_segments(self) -> None:
        for path in sorted(self._store.glob("*.safetensors")):
            if path not in self.segments and path not in self.refused:
                self._open(path)

    def _open(self, path: Path) -> None:
        try:
            self.segments[path] = Segment(path, self.fingerprint)
        except FileNotFoundError:
            pass  # another run has just merged it
        except OSError as error:  # of another user, or of a disk that fails for a while: not to be removed
            warn(f"{path} cannot be read ({error.strerror or error}); its clips are encoded again")
        except Damage as error:
            self._refuse(path, error)
        else:
            if self.segments[path].damaged:
                warn(f"{path} is damaged ({self.segments[path].damaged}); what it lost is encoded again")

    def _refuse(self, path: Path, error: Exception) -> None:
        warn(f"{path} is damaged ({error}); it is removed and its clips are encoded again")
        self.refused.add(path)  # one that cannot be removed is still not trusted
        self._remove([path])

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            if path in self.segments:
                self.segments.pop(path).file.close()
            with contextlib.suppress(OSError):
                path.unlink()

    def _merge(self, most: int) -> None:
        """Turn small segments into large ones, and damaged ones into what is left of them."""
        small = [path for path, one in self.segments.items() if one.rows < SEGMENT_ROWS // 2 or one.damaged]
        if len(small) <= most and not any(self.segments[path].damaged for path in small):
            return
        with _alone(self._store) as alone:
            while alone and small and self.writable:
                group: list[Path] = []
                rows = 0
                while small and (not group or rows + self.segments[small[-1]].rows <= SEGMENT_ROWS):
                    group.append(small.pop())
                    rows += self.segments[group[-1]].rows
                try:
                    parts = [self.segments[path].read() for path in group]
                    keys, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
                except (OSError, ValueError):
                    continue  # reported when they are asked for
                if not len(keys) or self._write(keys, vectors):
                    self._remove(group)

    def _take_over(self) -> None:
        """Move the vectors of pieces as earlier versions wrote them into the store."""
        pieces = sorted(self._store.parent.glob("*.safetensors"))
        for piece in pieces:
            if (content := _read_piece(piece, self.fingerprint)) is None:
                continue
            self.recent |= zip((key.tobytes() for key in content[0]), content[1], strict=True)
            if self.writable and self._write(*content):
                self._remove([piece])
                self.recent = {}
        if pieces or any(segment.damaged for segment in self.segments.values()):
            self.flush()  # which writes anew what is left of damaged ones


def _read_piece(piece: Path, fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and embeddings of a piece of format 1, with one checksum for all; None and a warning if it is no good."""
    try:
        with safe_open(piece, framework="numpy") as file:
            keys, embeddings = file.get_tensor("keys"), file.get_tensor("embeddings")
            metadata = file.metadata()
        checksum = hashlib.sha256(keys.tobytes() + embeddings.tobytes()).hexdigest()
        if metadata != {"format": "1", "fingerprint": fingerprint, "sha256": checksum}:
            raise ValueError("its checksum, format or encoder differs")
        # A stranger's piece may be wrong with a checksum that is right.
        if keys.shape != (len(embeddings), 32) or (embeddings.dtype, embeddings.ndim) != (np.float32, 2):
            raise ValueError("its shapes are no cache's")
        if not np.isfinite(embeddings).all():
            raise ValueError("its numbers are not finite")
        return keys, embeddings
    except OSError as error:
        warn(f"cache piece {piece} cannot be read ({error.strerror or error}); its clips are encoded again")
    except (ValueError, SafetensorError) as error:
        warn(f"cache piece {piece} is damaged ({error}); it is removed and its clips are encoded again")
        with contextlib.suppress(OSError):
            piece.unlink()
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process merges in this folder; where locks are unknown two may, which only costs them time."""
    with contextlib.ExitStack() as stack:
        alone = True
        with contextlib.suppress(OSError):
            alone = lock(stack.enter_context((folder / "lock").open("ab")).fileno())
        yield alone
