"""What is known of a folder's rows, and finding out the rest: only what is new is read, hashed, decoded and encoded.

For each file the table keeps every row's content key, or the reason why its audio cannot be used; labels and ids are
always read from the file's own columns, which are small, so another class list finds the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from CLAP.encoder import Encoder
from data import NAMED_PER_REASON, UNREADABLE, Clip, ParquetFolder, Span
from hyperbolic_clap.embedding.clips import SkipReason, embed_clips
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.embedding.store import NOT_READ_BACK, EmbeddingCache
from hyperbolic_clap.plumbing.config import Columns
from hyperbolic_clap.plumbing.errors import RowError, log
from hyperbolic_clap.plumbing.file_index import FileIndex, stat_token
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows

Exclusion = tuple[str, np.ndarray] | None  # a reason, and which rows of the folder are skipped by it
DEFAULT = Columns()
NOTHING = np.array(None)  # what numpy compares with each element of an array of objects
UNKNOWN, KEYED, REASON = 0, 1, 2  # a row's state: a number from REASON on stands for one of the reasons


@dataclass
class Part:
    """The n rows of a span. keys (n, 32) uint8 where the state (n,) is KEYED; seen: the file's stat_token before.

    rows: the columns of those that are there, None while they must be read with their audio. present (n,) bool: not
    lost in a damaged file. transient (n,) bool: what came out may be another thing on another day. read:
    whether audio was read. lengths: of given vectors the least and the greatest that they had.
    """

    span: Span
    seen: dict | None
    keys: np.ndarray
    state: np.ndarray
    reasons: list[str] = field(default_factory=list)
    rows: Rows | None = None
    read: bool = False
    lengths: tuple[float, float] | None = None

    def __post_init__(self):
        self.present = np.ones(len(self.state), bool)
        self.transient = np.zeros(len(self.state), bool)

    @property
    def columns(self) -> Rows:
        """`rows`, once they are there."""
        if self.rows is None:
            raise ValueError(f"{self.span.file} has rows that are not read yet")
        return self.rows

    def note(self, i: int, outcome: bytes | RowError, beside: bool = False) -> None:
        """Take up what came out of row i. beside: of a file beside this one, which may change by itself."""
        if isinstance(outcome, bytes):
            self.transient[i] = beside
            self.keys[i], self.state[i] = np.frombuffer(outcome, np.uint8), KEYED
            return
        if outcome.reason not in self.reasons:
            self.reasons.append(outcome.reason)
        self.state[i], self.transient[i] = REASON + self.reasons.index(outcome.reason), not outcome.lasting

    def unusable(self) -> Iterator[tuple[int, str]]:
        """(number in the folder, why it has no vector) of rows of which that is known."""
        for i in np.flatnonzero(self.state >= REASON).tolist():
            yield self.span.first + self.span.start + i, self.reasons[self.state[i] - REASON]

    def skip_reasons(self, skip_reason: SkipReason, exclusion: Exclusion) -> np.ndarray:
        """(n,) object: why its labels, or else `exclusion`, forbid a row, or None."""
        has = 2 * (self.columns.label_counts > 0) + (self.columns.match_counts > 0)
        result = np.full(len(self.state), None, object)
        result[self.present] = np.array([skip_reason(*divmod(kind, 2)) for kind in range(4)], object)[has]
        if exclusion:
            reason, which = exclusion
            start = self.span.first + self.span.start
            result[which[start : start + len(result)] & np.equal(result, NOTHING)] = reason
        return result


def kind_of(encoder: Encoder, names: Columns = DEFAULT) -> str:
    """Where the entries lie of files read for this encoder, by these columns: both decide what a row's audio is."""
    return f"{encoder.audio_fingerprint[:32]}/known{names.kind}"


def known_part(folder: ParquetFolder, known: FileIndex, encoder: Encoder, span: Span) -> Part:
    """A span with all that the table says of it."""
    n = span.stop - span.start
    part = Part(span, None, np.zeros((n, 32), np.uint8), np.zeros(n, np.uint8))
    try:
        part.seen = stat_token(span.file)
        if kept := known.get(span.file, kind_of(encoder, folder.names)):
            keys, state, reasons = _fitting(kept, folder.rows_of[span.file])
            rows = folder.columns(span)
            if stat_token(span.file)["token"] == part.seen["token"]:
                part.keys, part.state = keys[span.start : span.stop].copy(), state[span.start : span.stop].copy()
                part.reasons, part.rows = reasons, rows
    except (ValueError, *UNREADABLE):
        pass  # it is read as if nothing was known, and what is wrong with it is reported then
    return part


def _fitting(kept: tuple[dict, dict], count: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    arrays, reasons = kept[0], list(kept[1].get("reasons", ()))
    keys, state = arrays.get("keys"), arrays.get("state")
    if keys is None or state is None or (keys.shape, state.shape) != ((count, 32), (count,)):
        raise ValueError("the entry is of another file")
    if not keys.dtype == state.dtype == np.uint8 or (count and state.max() >= REASON + len(reasons)):
        raise ValueError("the entry makes no sense")
    return keys, state, reasons


def embed_rows(
    folder: ParquetFolder,
    known: FileIndex,
    span: tuple[int, int],
    encoder: Encoder,
    cache: EmbeddingCache,
    skip_reason: SkipReason,
    exclusion: Exclusion = None,
    **options,
) -> tuple[Rows, torch.Tensor, Skipped, list[Part]]:
    """The usable rows from span[0] to span[1] of a folder -> (rows, (N, D) float32 embeddings, skipped, parts).

    skip_reason and options: as of embed_clips, which gets the rows of which something is not known. exclusion: a reason
    and (rows of the folder,) bool, the rows that are skipped by it.
    """
    parts = [known_part(folder, known, encoder, each) for each in folder.spans(*span)]
    vectors, needed = _take(parts, encoder, cache, skip_reason, exclusion)
    if any(some.any() for some in needed):
        embed = partial(embed_clips, encoder=encoder, cache=cache, skip_reason=skip_reason, **options)
        _read(folder, parts, needed, skip_reason, embed)
        vectors, needed = _take(parts, encoder, cache, skip_reason, exclusion)
        if any((some & (part.state == KEYED)).any() for some, part in zip(needed, parts, strict=True)):
            raise OSError(NOT_READ_BACK)
    used, _, skipped = used_rows(parts, skip_reason, exclusion, cache.notes_of)
    return Rows.join(folder.classes, used), torch.from_numpy(vectors), skipped, parts


def used_rows(
    parts: list[Part], skip_reason: SkipReason, exclusion: Exclusion, notes_of: Callable[[np.ndarray], dict]
) -> tuple[list[Rows], list[np.ndarray], Skipped]:
    """Of parts of which all is known: (the used rows of each, (n,) bool which they are, the others by reason).

    notes_of: as of EmbeddingCache. The parts lose their `rows`.
    """
    skipped, used, masks = Skipped(), [], []
    for part in parts:
        why = part.skip_reasons(skip_reason, exclusion)
        for number, reason in enumerate(part.reasons, REASON):
            why[(part.state == number) & np.equal(why, NOTHING)] = reason
        mine, reasons = np.equal(why, NOTHING) & (part.state == KEYED), why[part.present]
        for reason in sorted({*reasons.tolist()} - {None}):
            which = np.flatnonzero(reasons == reason)
            first = part.columns.take(which[:NAMED_PER_REASON])
            skipped.add(reason, len(which), first.video_ids, first.human_labels.flatten().to_pylist())
        used.append(part.columns if mine.all() else part.columns.take(mine[part.present]))
        masks.append(mine)
        for note, positions in notes_of(part.keys[mine]).items():
            first = used[-1].take(positions[:NAMED_PER_REASON])
            skipped.noted.add(note, len(positions), first.video_ids)
        part.rows = None
    return used, masks, skipped


def _take(
    parts: list[Part], encoder: Encoder, cache: EmbeddingCache, skip_reason: SkipReason, exclusion: Exclusion
) -> tuple[np.ndarray, list]:
    """(vectors of all usable rows with a key, for each part (n,) bool: which rows must be read)."""
    keyed, needed = [], []
    for part in parts:
        if part.rows is None:
            keyed.append(np.zeros(len(part.state), bool))
            needed.append(np.ones(len(part.state), bool))
            continue
        allowed = np.equal(part.skip_reasons(skip_reason, exclusion), NOTHING) & part.present
        keyed.append(allowed & (part.state == KEYED))
        needed.append(allowed & (part.state == UNKNOWN))
    keys = [part.keys[mine] for part, mine in zip(parts, keyed, strict=True)]
    vectors, found = cache.take(np.concatenate(keys or [np.empty((0, 32), np.uint8)]), encoder.embed_dim)
    start = 0
    for mine, some in zip(keyed, needed, strict=True):
        stop = start + int(mine.sum())
        some[np.flatnonzero(mine)[~found[start:stop]]] = True
        start = stop
    return vectors, needed


def _read(folder: ParquetFolder, parts: list[Part], needed: list[np.ndarray], skip_reason: SkipReason, embed) -> None:
    """Read the needed rows with their audio, and note what comes out."""

    def clips() -> Iterator[Clip]:
        for part, some in zip(parts, needed, strict=True):
            part.read = bool(some.any())
            if part.read:
                yield from folder.clips(part.span, some)

    with closing(embed(clips())) as outcomes:
        waiting = next(outcomes, None)
        for part in parts:
            read, (_, first, start, stop) = [], part.span
            while waiting and waiting[0].sample_id < first + stop:
                clip, outcome = waiting
                read.append(clip)
                if isinstance(outcome, bytes) or skip_reason(len(clip.human_labels), len(clip.positions)) is None:
                    part.note(clip.sample_id - first - start, outcome, clip.beside)
                waiting = next(outcomes, None)
            if part.rows is None:
                part.present[:] = False
                part.present[[clip.sample_id - first - start for clip in read]] = True
                part.rows = columns(read, folder.classes)


def columns(clips: Iterable[Clip], classes: ClassList) -> Rows:
    """Clips as Rows."""
    names = ("sample_id", "video_id", "human_labels", "machine_labels")
    return Rows.of(classes, *([getattr(clip, name) for clip in clips] for name in names))


def keys_of(sample_ids: np.ndarray, parts: list[Part]) -> np.ndarray:
    """(N,) numbers of used rows -> their (N, 32) uint8 content keys."""
    ranges = [np.arange(part.span.first + part.span.start, part.span.first + part.span.stop) for part in parts]
    numbers = np.concatenate([np.empty(0, int), *ranges])
    order = np.argsort(numbers)
    keys = np.concatenate([np.empty((0, 32), np.uint8), *(part.keys for part in parts)])
    return keys[order[np.searchsorted(numbers[order], sample_ids)]]


def record(folder: ParquetFolder, known: FileIndex, encoder: Encoder, parts: list[Part]) -> dict:
    """Write into the table what all parts of a run found out; -> how many files were known and read, for the JSON.

    known.verify: what the table had said is compared with what was read.
    """
    by_file: dict[Path, list[Part]] = {}
    for part in parts:
        by_file.setdefault(part.span.file, []).append(part)
    counts = {"files": len(by_file), "known": 0, "read": 0}
    before = wrong = 0
    for file, some in by_file.items():
        read = any(part.read for part in some)
        counts["read" if read else "known"] += 1
        seen = [part.seen for part in some if part.seen is not None]
        if not read or file in folder.bad or len(seen) < len(some):
            continue
        whole = Part(some[0].span, seen[0], *_blank(folder.rows_of[file]))
        kept = known.get(file, kind_of(encoder, folder.names), trust=False)
        try:
            whole.keys[:], whole.state[:], whole.reasons = _fitting(kept, len(whole.state)) if kept else (0, 0, [])
        except ValueError:
            kept = None
        said = whole.keys.copy(), whole.state.copy(), list(whole.reasons)
        for part in some:
            _merge(whole, part)
        before += kept is not None
        wrong += kept is not None and not _agrees(said, whole)
        if all(each["token"] == seen[0]["token"] for each in seen):
            arrays = {"keys": whole.keys, "state": whole.state}
            known.put(file, kind_of(encoder, folder.names), seen[0], arrays, reasons=whole.reasons)
    if known.verify:
        counts |= {"verified": before, "wrong": wrong}
        log.info("--verify-cache: %d of %d files were known without being read, what was known of %d of them was wrong",
                 before, len(by_file), wrong)  # fmt: skip
    return counts


def _blank(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 32), np.uint8), np.zeros(count, np.uint8)


def _merge(whole: Part, part: Part) -> None:
    """Take what a part of a file knows into what is known of the whole file."""
    rows = slice(part.span.start, part.span.stop)
    for number, reason in enumerate(part.reasons, REASON):
        for i in np.flatnonzero((part.state == number) & ~part.transient):
            whole.note(part.span.start + int(i), RowError(reason))
    keyed = (part.state == KEYED) & ~part.transient
    whole.keys[rows][keyed] = part.keys[keyed]
    whole.state[rows][keyed] = KEYED


def _agrees(said: tuple[np.ndarray, np.ndarray, list[str]], whole: Part) -> bool:
    """Whether what the table said of a file is still so after reading."""
    keys, state, reasons = said
    spoken = state != UNKNOWN
    same = state == whole.state  # reasons are only ever added at the end
    return bool((same & (keys == whole.keys).all(axis=1))[spoken].all()) and reasons == whole.reasons[: len(reasons)]
