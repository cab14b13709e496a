"""The frozen encoder as a notebook uses it: sound files and texts in, vectors out, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from hyperbolic_clap.embedding.files import embed_files
from hyperbolic_clap.embedding.pipeline import open_embedder
from hyperbolic_clap.embedding.texts import embed_texts
from hyperbolic_clap.plumbing.config import DEFAULT_CHECKPOINT, EncoderConfig
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError


class Encoder:
    """A frozen CLAP. Vectors are those of the scripts, and so is the cache: what was encoded once is never again.

    checkpoint: a local folder or a ModelScope id. device: without CUDA a warning, and the CPU. cache_dir: None: the
    user's cache folder. use_cache: whether vectors are kept at all. UserError for what cannot be loaded.
    `name` and `sha256` say which model it is, `embed_dim` is D.
    """

    def __init__(
        self,
        checkpoint: str | PathLike = DEFAULT_CHECKPOINT,
        device: str = "cuda:0",
        cache_dir: str | PathLike | None = None,
        use_cache: bool = True,
    ):
        folder = None if cache_dir is None else Path(cache_dir)
        config = EncoderConfig(str(checkpoint), str(device), cache_dir=folder, use_cache=use_cache)
        self._embedder = open_embedder(config, choose_device(config.device))
        encoder = self._embedder.encoder
        self.name, self.sha256, self.embed_dim = encoder.name, encoder.sha256, encoder.embed_dim

    def __repr__(self) -> str:
        return f"<CLAP encoder {self.name} on {self._embedder.encoder.device}, {self.embed_dim} dimensions>"

    def encode_files(self, paths: Sequence[str | PathLike]) -> np.ndarray:
        """Sound files -> (N, D) float32 unit vectors, a row for each in their order.

        Of each file the first 10 minutes count; windows of 10 s are averaged. UserError names a file that cannot be
        used, with its reason; a damaged one that can be used in part is a warning.
        """
        files = [Path(path).expanduser() for path in _listed(paths)]
        used, vectors, skipped = embed_files(files, self._embedder)
        skipped.tell()
        if len(used) < len(files):
            reason, about = next(iter(skipped.report().items()))
            raise UserError(f"{len(files) - len(used)} of {len(files)} files cannot be used, for example "
                            f"{about['first'][0]}: {reason}; leave them out")  # fmt: skip
        return vectors.numpy()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> (M, D) float32 unit vectors, a row for each in their order."""
        return embed_texts([str(text) for text in _listed(texts)], self._embedder.encoder, self._embedder.cache).numpy()


def _listed(given) -> list:
    """A list, or the one text or path that was given in its place."""
    return [given] if isinstance(given, (str, PathLike)) else list(given)
