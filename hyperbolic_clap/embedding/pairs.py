"""A parquet folder of captioned clips: which texts are said of which clips, and the vectors of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data import ParquetFolder
from hyperbolic_clap.embedding.pipeline import EmbeddingPipeline, use_all
from hyperbolic_clap.plumbing.errors import UserError, log, warn
from hyperbolic_clap.reading.captions import read_captions
from hyperbolic_clap.reading.rows import Rows

NO_CAPTION = "no caption"


@dataclass(frozen=True)
class EmbeddedPairs:
    """Clips and what is said of them; equal captions, of one clip or of several, are one text.

    rows: the N used rows, without their audio. texts: the M distinct captions. audio (N, D) and text (M, D): float32
    embeddings on the CPU. pairs (P, 2) int64: (clip, text), ascending, every caption of every clip. counts: for
    the JSON.
    """

    rows: Rows
    texts: list[str]
    audio: torch.Tensor
    text: torch.Tensor
    pairs: np.ndarray
    counts: dict

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a training depends on: audio, pairs, text."""
        return self.audio, torch.from_numpy(self.pairs), self.text


def embed_pairs(pipeline: EmbeddingPipeline) -> EmbeddedPairs | None:
    """The first num_samples rows that have captions and usable audio; None on ranks above 0.

    Rows with the same audio are one clip with the captions of all, as AudioCaps writes its five captions in five rows.
    Captions go to the encoder as they are, without a prompt. UserError if there are none.
    """
    captions = _captions(pipeline.folder)
    if not any(captions):
        raise UserError(f"the captions in {pipeline.folder.folder} are all empty")
    silent = np.array([not texts for texts in captions], bool)
    embedded = pipeline.embed_rows(use_all, (NO_CAPTION, silent))
    if embedded is None:
        return None
    first, clip_of = distinct(embedded.keys)
    said: list[dict[str, None]] = [{} for _ in first]
    for clip, number in zip(clip_of.tolist(), embedded.rows.sample_ids.tolist(), strict=True):
        said[clip] |= dict.fromkeys(captions[number])
    rows, audio, counts = embedded.rows, embedded.audio, embedded.counts
    if len(first) < len(rows):
        log.info("%d rows hold the audio of %d clips: rows with the same audio are one clip with the captions of all",
                 len(rows), len(first))  # fmt: skip
        counts = counts | {"used": len(first), "rows_of_the_same_audio": len(rows) - len(first)}
        rows, audio = rows.take(first), audio[torch.from_numpy(first)]
    if len(rows) < 2:
        raise UserError(f"{pipeline.folder.folder} has {len(rows)} usable clip with captions; two are needed")
    position = {text: i for i, text in enumerate(dict.fromkeys(text for texts in said for text in texts))}
    if len(position) < 2:
        raise UserError(f"all clips in {pipeline.folder.folder} have one and the same caption; two are needed")
    pairs = np.array([(clip, place) for clip, texts in enumerate(said) for place in sorted(position[t] for t in texts)])
    counts = counts | {"captions": len(pairs), "distinct_captions": len(position)}
    text = pipeline.embedder.embed_captions(pipeline.folder, list(position))
    return EmbeddedPairs(rows, list(position), audio, text, pairs, counts)


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32) uint8 -> ((M,) positions where each key occurs first, ascending; (N,) which of the M each one is)."""
    place: dict[bytes, int] = {}
    of = np.array([place.setdefault(key.tobytes(), len(place)) for key in keys], int)
    return np.unique(of, return_index=True)[1], of


def _captions(folder: ParquetFolder) -> list[list[str]]:
    """The captions of every row; with skip_bad a file without them holds none, which is reported."""
    captions: list[list[str]] = []
    for file, count in folder.rows_of.items():
        try:
            captions += read_captions(file, count)
        except UserError as error:
            if not folder.skip_bad:
                raise
            warn(f"{error}; its rows are skipped")
            captions += [[]] * count
    return captions
