"""A parquet folder as material: its usable clips and the class texts, with their vectors and the truth between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from CLAP.checkpoint import hash_file
from CLAP.encoder import Encoder
from data import ParquetFolder
from hyperbolic_clap.embedding.clips import Usable
from hyperbolic_clap.embedding.packed_targets import PackedTargets
from hyperbolic_clap.embedding.row_index import Unwanted, embed_rows, keep
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.embedding.store import EmbeddingCache, default_folder
from hyperbolic_clap.embedding.texts import PROMPT, embed_classes, read_prompts
from hyperbolic_clap.plumbing.device import cores
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.file_index import FileIndex
from hyperbolic_clap.plumbing.flags import files_read
from hyperbolic_clap.plumbing.ranks import Alone, Progress
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows

NO_CLASS = "no label of the class list"


@dataclass
class EmbeddedClips:
    """What is trained and tested on.

    rows: the N used rows, without their audio. audio (N, D) and text (M, D): float32 embeddings on the CPU. counts: for
    the JSON. texts_of: names -> their embeddings in the prompts of `text`.
    """

    classes: ClassList
    rows: Rows
    audio: torch.Tensor
    text: torch.Tensor
    counts: dict
    texts_of: Callable[[list[str]], torch.Tensor]

    @cached_property
    def targets(self) -> torch.Tensor:
        """(N, M) bool: which class is true of which clip."""
        return torch.from_numpy(self.rows.targets)

    @cached_property
    def truth(self) -> PackedTargets:
        """The same in bits."""
        return PackedTargets(torch.from_numpy(self.rows.bits), len(self.classes))

    def tensors(self) -> tuple[torch.Tensor | PackedTargets, ...]:
        """What a training depends on."""
        return self.audio, self.truth, self.text


def open_encoder(args, device: torch.device) -> tuple[Encoder, EmbeddingCache, FileIndex]:
    """The encoder of --checkpoint, its cache, and the table of known files beside it."""
    folder = None if args.no_cache else args.cache_dir or default_folder()
    known = FileIndex(folder, args.verify_cache)
    encoder = Encoder(args.checkpoint, device, not args.no_autocast, lambda path: known.hash(path, hash_file))
    return encoder, EmbeddingCache(folder, encoder.audio_fingerprint), known


class EmbeddingPipeline:
    """Where material comes from: class list, parquet folder, encoder and its cache, checked before any work begins.

    prompts: the templates of the class texts; None: what the flags say. labelled: whether clips must have labels.
    """

    def __init__(self, args, device: torch.device, ranks: Alone | None = None, prompts: list[str] | None = None,
                 labelled: bool = True):  # fmt: skip
        self.args, self.ranks = args, ranks or Alone()
        self.prompts = prompts or read_prompts(args) or [PROMPT]
        self.classes = ClassList.read(args.class_labels)
        self.folder = ParquetFolder(args.parquet_dir, self.classes, args.skip_bad_files, labelled)
        self.encoder, self.cache, self.known = self.ranks.in_turn(lambda: open_encoder(args, device))
        self.files: dict = {}

    @property
    def inputs(self) -> list[Path | None]:
        """The files that are read, which no output may replace; None for those that were not given."""
        return [*files_read(self.args), *self.folder.files]

    @property
    def prompt(self) -> str:
        """The templates, one a line, for checkpoints and results files."""
        return "\n".join(self.prompts)

    def texts_of(self, names: list[str]) -> torch.Tensor:
        """(M, D) embeddings of names in the prompts."""
        return embed_classes(names, self.encoder, self.cache, self.prompts)

    def embed_rows(self, usable: Usable, unwanted: Unwanted = None) -> tuple[Rows, torch.Tensor, Skipped] | None:
        """The first --num-samples usable rows, their (N, D) embeddings and the others; None on ranks above 0."""
        return embed_folder(self, usable, unwanted)

    def counts(self, rows: Rows, skipped: Skipped) -> dict:
        """How many rows are used, the others by reason, and how many files were known unread, for the JSON."""
        return {"used": len(rows), "skipped": skipped.report(), "skipped_files": self.folder.skipped} | self.files

    def embed(self, usable: Usable) -> EmbeddedClips | None:
        """The first --num-samples usable clips and all class texts; None on ranks above 0. UserError if there are none.

        usable: (how many labels, how many of them of the class list) -> why a clip cannot be used, or None.
        """
        embedded = self.embed_rows(usable)
        if embedded is None:
            return None
        rows, audio, skipped = embedded
        require_matches(rows, skipped)
        text = self.texts_of(self.classes.names)
        return EmbeddedClips(self.classes, rows, audio, text, self.counts(rows, skipped), self.texts_of)


def embed_folder(
    sources: EmbeddingPipeline, usable: Usable, unwanted: Unwanted = None
) -> tuple[Rows, torch.Tensor, Skipped] | None:
    """The folder's rows as --num-samples, --workers and --encode-batch-size ask; None on ranks above 0.

    The rows still wanted are shared out over the ranks; for those that turn out unusable comes a further round, until
    there are enough clips or no more rows. So the rows that are encoded, and their order, do not depend on the ranks.
    """
    args, ranks, folder, encoder, cache = (getattr(sources, name) for name in "args ranks folder encoder cache".split())
    wanted = min(args.num_samples or folder.num_rows, folder.num_rows)
    options = {"workers": args.workers or max(1, cores() // ranks.local_size), "batch_size": args.encode_batch_size}
    start, results = 0, []
    with Progress(ranks) as progress:
        while wanted and start < folder.num_rows:
            stop = min(start + wanted, folder.num_rows)
            first, last = share = ranks.share(start, stop)
            progress.begin(stop, last - first)
            part = embed_rows(folder, sources.known, share, encoder, cache, usable, unwanted, done=progress.update,
                              **options)  # fmt: skip
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
    used, audio, all_skipped, parts = zip(*results, strict=True)
    skipped = Skipped()
    for some in all_skipped:
        skipped.merge(some)
    skipped.tell()
    sources.files = {"files": keep(folder, sources.known, encoder, [part for some in parts for part in some])}
    rows = Rows.join(folder.classes, used)
    if folder.bad and not len(rows) and not skipped.counts:
        raise folder.nothing()
    return rows, audio[0] if len(audio) == 1 else torch.cat(audio), skipped


def unlabelled(labels: int, matches: int) -> str | None:
    """Why a clip with so many labels, and so many of the class list, cannot be tested: it has no label at all."""
    return None if labels else "no label"


def reason_against(labels: int, matches: int) -> str | None:
    """Why such a clip cannot train: it has no label, or none of the class list."""
    return unlabelled(labels, matches) or (None if matches else NO_CLASS)


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
