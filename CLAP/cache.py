"""Embeddings on disk: each clip and each text goes through the frozen encoder once, ever.

A cache folder holds one sub-folder for each encoder fingerprint (weights, preprocessing, library versions),
and in it pieces: safetensors files with `keys` (n, 32) uint8, the SHA-256 of each content, and `embeddings`
(n, D) float32. Pieces are only ever added, under names of their own, so runs can share a folder.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from plumbing.errors import UserError, warn
from plumbing.files import remove_stale, write_atomic

FORMAT = "1"
PIECE_ROWS = 256
PIECE_SECONDS = 20.0


def default_folder() -> Path:
    """The user's cache folder: %LOCALAPPDATA%, $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "hyperbolic_clap"
    except RuntimeError:
        raise UserError("the user has no home folder for the embedding cache; give --cache-dir or --no-cache") from None


def open_cache(folder: Path | None, nowhere: bool, encoder) -> EmbeddingCache:
    """An encoder's cache in a folder (None: the user's own); nowhere: one that only lasts for this run."""
    return EmbeddingCache(None if nowhere else folder or default_folder(), encoder.fingerprint)


class EmbeddingCache:
    """The embeddings of one encoder. folder=None: nothing is read or written, only remembered for this run."""

    def __init__(self, folder: Path | None, fingerprint: str):
        self.fingerprint = fingerprint
        self.folder = folder / fingerprint[:32] if folder else None
        self.known: dict[bytes, np.ndarray] = {}
        self.pending: dict[bytes, np.ndarray] = {}
        self.last_write = time.monotonic()
        if self.folder and self.folder.is_dir():
            remove_stale(self.folder)
            for piece in sorted(self.folder.glob("*.safetensors")):
                self._read(piece)

    def get(self, key: bytes) -> np.ndarray | None:
        """The (D,) float32 embedding of a content, or None."""
        return self.known.get(key)

    def add(self, key: bytes, embedding: np.ndarray) -> None:
        """Remember an embedding; every PIECE_ROWS or PIECE_SECONDS the new ones are written as a piece."""
        self.known[key] = self.pending[key] = embedding
        if len(self.pending) >= PIECE_ROWS or time.monotonic() - self.last_write > PIECE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk. A folder that cannot be written is a warning, and the run goes on."""
        self.last_write = time.monotonic()
        if not self.pending or not self.folder:
            return
        keys = np.frombuffer(b"".join(self.pending), np.uint8).reshape(-1, 32)
        embeddings = np.stack(list(self.pending.values())).astype(np.float32)
        content = save({"keys": keys, "embeddings": embeddings}, self._metadata(keys, embeddings))
        try:
            path = self.folder / f"{uuid.uuid4().hex}.safetensors"
            write_atomic(path, lambda temporary: temporary.write_bytes(content), tidy=False)
        except OSError as error:
            warn(f"the embedding cache {self.folder} cannot be written ({error.strerror}); the run goes on without it")
            self.folder = None
        self.pending = {}

    def _metadata(self, keys: np.ndarray, embeddings: np.ndarray) -> dict[str, str]:
        checksum = hashlib.sha256(keys.tobytes() + embeddings.tobytes()).hexdigest()
        return {"format": FORMAT, "fingerprint": self.fingerprint, "sha256": checksum}

    def _read(self, piece: Path) -> None:
        try:
            with safe_open(piece, framework="numpy") as file:
                keys, embeddings = file.get_tensor("keys"), file.get_tensor("embeddings")
                metadata = file.metadata()
            if metadata != self._metadata(keys, embeddings):
                raise ValueError("its checksum, format or encoder differs")
            # A stranger's piece may be wrong with a checksum that is right.
            if keys.shape != (len(embeddings), 32) or (embeddings.dtype, embeddings.ndim) != (np.float32, 2):
                raise ValueError("its shapes are no cache's")
            if not np.isfinite(embeddings).all():
                raise ValueError("its numbers are not finite")
        except OSError as error:  # of another user, or of a disk that fails for a while: not to be removed
            warn(f"cache piece {piece} cannot be read ({error.strerror or error}); its clips are encoded again")
            return
        except (ValueError, SafetensorError) as error:
            warn(f"cache piece {piece} is damaged ({error}); it is removed and its clips are encoded again")
            try:
                piece.unlink()
            except OSError:
                pass  # a piece that cannot be removed is still not trusted
            return
        self.known.update(zip((key.tobytes() for key in keys), embeddings, strict=True))
