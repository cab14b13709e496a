"""The embedding pipeline: a parquet folder's usable clips and the class texts -> vectors and multi-hot targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from CLAP.checkpoint import hash_file
from CLAP.encoder import Encoder
from data import NAMED_PER_REASON, ParquetFolder
from hyperbolic_clap.embedding.clips import SkipReason
from hyperbolic_clap.embedding.given import GivenVectors, Origin
from hyperbolic_clap.embedding.packed_targets import PackedTargets
from hyperbolic_clap.embedding.row_index import Exclusion, Part, embed_rows, keys_of, record
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.embedding.store import EmbeddingCache, default_folder
from hyperbolic_clap.embedding.texts import PROMPT, embed_classes, embed_texts
from hyperbolic_clap.embedding.towers import check_towers
from hyperbolic_clap.plumbing.config import DataConfig, EncoderConfig
from hyperbolic_clap.plumbing.device import cores
from hyperbolic_clap.plumbing.errors import UserError, warn
from hyperbolic_clap.plumbing.file_index import FileIndex
from hyperbolic_clap.plumbing.ranks import Alone, Progress
from hyperbolic_clap.reading.arrays import coded, numbers
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows

NO_CLASS = "no label of the class list"


@dataclass(frozen=True)
class EmbeddedRows:
    """The N used rows without their audio, their (N, D) float32 embeddings on the CPU, and what was skipped.

    keys (N, 32) uint8: rows with equal ones hold the same audio. unusable: why other rows of the folder have none.
    """

    rows: Rows
    audio: torch.Tensor
    keys: np.ndarray
    skipped: Skipped
    counts: dict
    unusable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddedClips:
    """What is trained and tested on.

    rows: the N used rows, without their audio. audio (N, D) and text (M, D): float32 embeddings on the CPU. counts: for
    the JSON. texts_of: names -> their embeddings in the prompts of `text`. mean_cosine: of texts and of clips, for the
    JSON (embedding/towers.py).
    """

    classes: ClassList
    rows: Rows
    audio: torch.Tensor
    text: torch.Tensor
    counts: dict
    texts_of: Callable[[Sequence[str]], torch.Tensor]
    mean_cosine: dict[str, float | None] = field(default_factory=dict)

    @cached_property
    def targets(self) -> torch.Tensor:
        """(N, M) bool, multi-hot."""
        return torch.from_numpy(self.rows.targets)

    @cached_property
    def packed(self) -> PackedTargets:
        """The same in bits."""
        return PackedTargets(torch.from_numpy(self.rows.bits), len(self.classes))

    def tensors(self) -> tuple[torch.Tensor, PackedTargets, torch.Tensor]:
        """What a training depends on: audio, targets, text."""
        return self.audio, self.packed, self.text


@dataclass(frozen=True)
class Embedder:
    """The frozen encoder, the vectors it has computed before, the index of known files, and the prompts of a class."""

    encoder: Encoder
    cache: EmbeddingCache
    index: FileIndex
    prompts: tuple[str, ...]

    @property
    def origin(self) -> Origin:
        """The model that the vectors are of."""
        return Origin(self.encoder.name, self.encoder.sha256, self.encoder.embed_dim)

    @property
    def clap(self) -> Embedder:
        """What computes vectors of sounds."""
        return self

    @property
    def prompt(self) -> str:
        """The templates, one a line, for checkpoints and results files."""
        return "\n".join(self.prompts)

    @property
    def of_texts(self) -> dict:
        """What checkpoints and results files say of the texts besides; only vectors from a file need it."""
        return {}

    def texts_of(self, names: Sequence[str]) -> torch.Tensor:
        """(M, D) embeddings of class names in the prompts."""
        return embed_classes(list(names), self.encoder, self.cache, self.prompts)

    def embed_captions(self, folder: ParquetFolder, texts: list[str]) -> torch.Tensor:
        """(M, D) embeddings of a folder's captions, as they are."""
        return embed_texts(texts, self.encoder, self.cache)

    def embed_rows(
        self, folder: ParquetFolder, span: tuple[int, int], skip_reason: SkipReason, exclusion: Exclusion = None,
        **options,
    ) -> tuple[Rows, torch.Tensor, Skipped, list[Part]]:  # fmt: skip
        """As row_index.embed_rows."""
        return embed_rows(folder, self.index, span, self.encoder, self.cache, skip_reason, exclusion, **options)

    def record(self, folder: ParquetFolder, parts: list[Part]) -> dict:
        """Write down what was found out of the files; -> counts of them, for the JSON."""
        return {"files": record(folder, self.index, self.encoder, parts)}


def open_embedder(config: EncoderConfig, device: torch.device, prompts: Sequence[str] | None = None) -> Embedder:
    """The encoder of a config with its cache; UserError if there is none. prompts: others than the config's."""
    folder = (config.cache_dir or default_folder()) if config.use_cache else None
    index = FileIndex(folder, config.verify_cache)
    encoder = Encoder(config.checkpoint, device, config.autocast, lambda path: index.hash(path, hash_file))
    chosen = tuple(prompts or config.prompts or [PROMPT])
    return Embedder(encoder, EmbeddingCache(folder, encoder.audio_fingerprint), index, chosen)


class EmbeddingPipeline:
    """A checked parquet folder and an opened embedder: rows -> vectors, each computed once, shared over the ranks."""

    def __init__(self, folder: ParquetFolder, embedder: Embedder | GivenVectors, data: DataConfig,
                 encoder: EncoderConfig, ranks: Alone | None = None):  # fmt: skip
        self.folder, self.embedder, self.data, self.config = folder, embedder, data, encoder
        self.ranks, self.classes = ranks or Alone(), folder.classes

    def embed_rows(self, skip_reason: SkipReason, exclusion: Exclusion = None) -> EmbeddedRows | None:
        """The first num_samples usable rows and their embeddings; None on ranks above 0. See embed_folder."""
        return embed_folder(self, skip_reason, exclusion)

    def embed(self, skip_reason: SkipReason) -> EmbeddedClips | None:
        """The first num_samples usable clips and all class texts; None on ranks above 0. UserError if there are none.

        skip_reason: (how many labels, how many of them of the class list) -> why a clip cannot be used, or None.
        """
        embedded = self.embed_rows(skip_reason)
        if embedded is None:
            return None
        require_matches(embedded.rows, embedded.skipped)
        counts = embedded.counts | {"unmatched_labels": unmatched_labels(embedded.rows, embedded.skipped)}
        texts_of, audio = self.embedder.texts_of, embedded.audio
        text = texts_of(self.classes.names)
        alike = check_towers(self.embedder.origin.name or str(self.folder.folder), text, audio)
        return EmbeddedClips(self.classes, embedded.rows, audio, text, counts, texts_of, alike)


def embed_folder(
    pipeline: EmbeddingPipeline, skip_reason: SkipReason, exclusion: Exclusion = None
) -> EmbeddedRows | None:
    """The folder's rows as the pipeline's configs ask; None on ranks above 0.

    The rows still wanted are shared out over the ranks; for those that turn out unusable comes a further round, until
    there are enough clips or no more rows. So the rows that are encoded, and their order, do not depend on the ranks.
    """
    ranks, folder, embedder, config = pipeline.ranks, pipeline.folder, pipeline.embedder, pipeline.config
    wanted = min(pipeline.data.num_samples or folder.num_rows, folder.num_rows)
    workers = config.workers or max(1, cores() // ranks.local_size)
    start, results = 0, []
    with Progress(ranks, wanted) as progress:
        while wanted and start < folder.num_rows:
            stop = min(start + wanted, folder.num_rows)
            first, last = share = ranks.share(start, stop)
            progress.begin(stop, last - first)
            part = embedder.embed_rows(folder, share, skip_reason, exclusion, workers=workers,
                                       batch_size=config.batch_size, done=progress.update)  # fmt: skip
            progress.finish()
            results += ranks.gather(part) or []
            progress.join()
            wanted -= ranks.total(len(part[0]))
            start = stop
    bad_files = ranks.gather(folder.bad)
    if bad_files is None:
        return None
    for some in bad_files:
        folder.bad |= some
    folder.tell()
    used, audio, all_skipped, of_ranks = zip(*results, strict=True)
    skipped = Skipped()
    for some in all_skipped:
        skipped.merge(some)
    skipped.tell()
    parts = [part for some in of_ranks for part in some]
    found = embedder.record(folder, parts)
    rows = Rows.join(folder.classes, used)
    if folder.bad and not len(rows) and not skipped.counts:
        raise folder.nothing()
    counts = {"used": len(rows), "skipped": skipped.report(), "notes": skipped.noted.report()}
    counts |= {"skipped_files": folder.skipped} | found
    keys = keys_of(rows.sample_ids, parts)
    unusable = {number: reason for part in parts for number, reason in part.unusable()}
    return EmbeddedRows(rows, audio[0] if len(audio) == 1 else torch.cat(audio), keys, skipped, counts, unusable)


def use_all(labels: int, matches: int) -> None:
    """No clip is skipped for its labels."""
    return None


def skip_unlabelled(labels: int, matches: int) -> str | None:
    """Why a clip with so many labels, and so many of the class list, cannot be tested: it has no label at all."""
    return None if labels else "no label"


def skip_untrainable(labels: int, matches: int) -> str | None:
    """Why such a clip cannot train: it has no label, or none of the class list."""
    return skip_unlabelled(labels, matches) or (None if matches else NO_CLASS)


def require_matches(rows: Rows, skipped: Skipped) -> None:
    """UserError with examples if no clip has a label of the class list, or if there is no clip at all."""
    if len(rows.matches[0]):
        return
    classes = rows.classes
    labels = {*rows.human_labels.flatten().unique().to_pylist()} | skipped.labels
    unmatched = sorted(label for label in labels if classes.find(label) is None)[:5]
    if not unmatched:
        reasons = ", ".join(f"{entry['count']} {reason}" for reason, entry in skipped.report().items())
        raise UserError(f"no row of the parquet files can be used ({reasons})")
    pairs = "; ".join(f"{label!r} (near: {classes.near(label)!r})" for label in unmatched)
    raise UserError(f"no label matches the class list of {len(classes)} names, for example {pairs}")


def unmatched_labels(rows: Rows, skipped: Skipped) -> dict | None:
    """The labels of the used rows that no class has: how many, how often, of which clips; None if there are none.

    Reported as a warning too; and a class list that fits fewer than half of the clips is one of its own.
    """
    classes, texts = rows.classes, coded(rows.human_labels.flatten())
    labels = texts.dictionary.to_pylist()
    counts = np.bincount(numbers(texts.indices), minlength=len(labels)).tolist()
    found = {label: count for label, count in zip(labels, counts, strict=True) if classes.find(label) is None}
    passed_over = skipped.counts[NO_CLASS]
    without = int((rows.match_counts == 0).sum()) + passed_over
    if not found and not passed_over:
        return None
    found |= {label: 0 for label in sorted(skipped.labels) if classes.find(label) is None and label not in found}
    often = sorted(found, key=lambda label: (-found[label], label))
    first = [{"label": label, "nearest": classes.near(label)} for label in often[:NAMED_PER_REASON]]
    examples = "; ".join(f"{each['label']!r} (near: {each['nearest']!r})" for each in first)
    total = len(rows) + passed_over
    warn(f"{len(found)} labels are not in the class list of {len(classes)} names, for example {examples}; "
         f"{without} of {total} clips have none that is")  # fmt: skip
    if 2 * without > total:
        warn(f"only {total - without} of {total} clips have a label of the class list, and the results are of these "
             "alone; is it the right --class-labels?")  # fmt: skip
    return {"labels": len(found), "occurrences": sum(found.values()), "clips_without_a_class": without, "first": first}
