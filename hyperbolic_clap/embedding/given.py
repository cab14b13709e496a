"""Vectors that were made elsewhere, in the place of an Embedder: the rows' own, with the texts of a file or of CLAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from data import UNREADABLE, ParquetFolder
from hyperbolic_clap.embedding.clips import SkipReason
from hyperbolic_clap.embedding.row_index import KEYED, REASON, Exclusion, Part, used_rows
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.plumbing.errors import UserError, first_line, log, warn
from hyperbolic_clap.reading.captions import has_caption_vectors, read_caption_vectors
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.reading.vectors import AS_IT_IS, TextVectors

if TYPE_CHECKING:
    from hyperbolic_clap.embedding.pipeline import Embedder

SAME_TEXT = 0.999  # the least cosine of two vectors of one caption: encoders round, and batches are padded


@dataclass(frozen=True)
class Origin:
    """The model that vectors are of: its name, the SHA-256 of its files, each "" where nobody says; D dimensions."""

    name: str
    sha256: str
    embed_dim: int


def same_model(name: str, sha256: str, other_name: str, other_sha256: str) -> bool | None:
    """Whether two vectors are of one model, by its files, else by its name; None where one of them does not say."""
    if sha256 and other_sha256:
        return sha256 == other_sha256
    return name == other_name if name and other_name else None


@dataclass(frozen=True)
class GivenVectors:
    """Has what an Embedder has. texts: those of a file; None: CLAP's, if the rows are of the same CLAP model.

    checkpoint: its name; open_clap: opens it, when it is needed. prompts: of the class texts, () where nobody says.
    """

    folder: ParquetFolder
    origin: Origin
    texts: TextVectors | None
    prompts: tuple[str, ...]
    checkpoint: str
    open_clap: Callable[[], Embedder]

    @property
    def prompt(self) -> str:
        """The templates, one a line, for checkpoints and results files; "" where nobody says."""
        return "\n".join(self.prompts)

    @property
    def of_texts(self) -> dict:
        """What checkpoints and results files say of a text file whose model is not known by its files."""
        return {"text_file_sha256": self.texts.digest} if self.texts and not self.origin.sha256 else {}

    @cached_property
    def clap(self) -> Embedder:
        """The CLAP model that the rows' vectors are of; UserError if they are of another one."""
        origin, folder = self.origin, self.folder.folder
        mend = "give --text-embeddings with texts of the same model, or its --checkpoint"
        another = UserError(f"{folder} holds vectors of {origin.name or 'another model'}, and --checkpoint "
                            f"{self.checkpoint} is another model; {mend}")  # fmt: skip
        if not origin.sha256 and origin.name not in ("", self.checkpoint):
            raise another
        embedder = self.open_clap()
        encoder = embedder.encoder
        same = same_model(origin.name, origin.sha256, encoder.name, encoder.sha256)
        if same is False:
            raise another
        if origin.embed_dim != encoder.embed_dim:
            raise UserError(f"{folder} holds vectors of {origin.embed_dim} dimensions, and --checkpoint {encoder.name} "
                            f"makes {encoder.embed_dim}; {mend}")  # fmt: skip
        if same is None:
            warn(f"{folder} does not say which model its vectors are of; they are taken for those of {encoder.name}")
        return embedder

    def texts_of(self, names: Sequence[str]) -> torch.Tensor:
        """(M, D) embeddings of class names."""
        return torch.from_numpy(self.texts.of(list(names))) if self.texts else self.clap.texts_of(names)

    def embed_captions(self, folder: ParquetFolder, texts: list[str]) -> torch.Tensor:
        """(M, D) embeddings of a folder's captions: of the text file if there is one, else the rows' own, else CLAP's.

        A caption that occurs with several vectors gets the first.
        """
        if self.texts:
            return self.texts_of(texts)
        if not any(map(has_caption_vectors, folder.files)):
            return self.clap.embed_captions(folder, texts)
        found: dict[str, np.ndarray] = {}
        others = set()
        for file in folder.files:
            for text, vector in read_caption_vectors(file, self.origin.embed_dim):
                if found.setdefault(text, vector) @ vector < SAME_TEXT:
                    others.add(text)
        if others:
            warn(f"{len(others)} captions occur with different vectors, the first of which is taken, for example "
                 f"{min(others)!r}")  # fmt: skip
        return torch.from_numpy(np.stack([found[text] for text in texts]))

    def embed_rows(
        self, folder: ParquetFolder, span: tuple[int, int], skip_reason: SkipReason, exclusion: Exclusion = None, **_
    ) -> tuple[Rows, torch.Tensor, Skipped, list[Part]]:
        """As row_index.embed_rows, with the rows' own vectors."""
        parts, vectors, lengths = [], [], []
        for each in folder.spans(*span):
            n = each.stop - each.start
            part = Part(each, None, np.zeros((n, 32), np.uint8), np.zeros(n, int), read=True)
            unit, had = np.empty((n, self.origin.embed_dim), np.float32), np.ones(n)
            try:
                unit, had, part.keys, reasons = folder.vectors(each, self.origin.embed_dim)
                part.rows = folder.columns(each)
            except UNREADABLE as error:
                folder.lost(each.file, f" is damaged: {first_line(error)}")
                part.present[:], part.rows = False, Rows.of(folder.classes, [], [], [], [])
            else:
                part.reasons = sorted({*reasons.tolist()} - {None})
                codes = {None: KEYED} | {reason: i for i, reason in enumerate(part.reasons, REASON)}
                part.state = np.array([codes[reason] for reason in reasons.tolist()])
            parts.append(part)
            vectors.append(unit)
            lengths.append(had)
        used, masks, skipped = used_rows(parts, skip_reason, exclusion, lambda keys: {})
        for part, mine, had in zip(parts, masks, lengths, strict=True):
            part.lengths = (float(had[mine].min()), float(had[mine].max())) if mine.any() else None
        taken = [unit if mine.all() else unit[mine] for unit, mine in zip(vectors, masks, strict=True)]
        joined = taken[0] if len(taken) == 1 else np.concatenate(taken)
        return Rows.join(folder.classes, used), torch.from_numpy(joined), skipped, parts

    def record(self, folder: ParquetFolder, parts: list[Part]) -> dict:
        """How many files were read, and the range of their vectors' lengths, which is reported; for the JSON."""
        ends = [end for part in parts for end in part.lengths or ()]
        lengths = (min(ends), max(ends)) if ends else None
        tell_lengths(f"the vectors of {folder.folder}", lengths)
        files = len({part.span.file for part in parts})
        return {"files": {"files": files, "known": 0, "read": files}, "embedding_lengths": lengths}


def tell_lengths(which: str, lengths: tuple[float, float] | None) -> None:
    """A line if vectors had other lengths than 1."""
    if lengths and max(abs(1 - end) for end in lengths) > AS_IT_IS:
        log.info("%s had lengths from %.4g to %.4g; each is brought to length 1", which, *lengths)


def given_vectors(
    folder: ParquetFolder, texts: TextVectors | None, prompts: Sequence[str], checkpoint: str,
    open_clap: Callable[[], Embedder],
) -> GivenVectors:  # fmt: skip
    """The vectors of a folder; UserError if those of the text file are of another model or number of dimensions."""
    dim, name, sha256 = folder.dimensions(), folder.model, folder.sha256
    if texts:
        which = f"--text-embeddings {texts.path}"
        if texts.vectors.shape[1] != dim:
            raise UserError(f"{which} has vectors of {texts.vectors.shape[1]} dimensions, and {folder.folder} those of "
                            f"{dim}; both must be of one model")  # fmt: skip
        same = same_model(name, sha256, texts.model, texts.sha256)
        if same is False:
            raise UserError(f"{which} has vectors of {texts.model or 'another model'}, and {folder.folder} those of "
                            f"{name or 'another model'}; both must be of one model")  # fmt: skip
        if same is None:
            warn(f"{which} and {folder.folder} do not both say of which model their vectors are, so it is not checked "
                 "that they belong together")  # fmt: skip
        tell_lengths(f"the vectors of {which}", texts.lengths)
    origin = Origin(name or (texts.model if texts else ""), sha256 or (texts.sha256 if texts else ""), dim)
    return GivenVectors(folder, origin, texts, tuple(prompts), checkpoint, open_clap)
