"""From parquet rows to embeddings: decode, encode and cache, in order, with a bounded number of clips in flight.

Threads suffice for the decoding: libsndfile, soxr and SHA-256 run without the interpreter lock. On the CPU the
same threads run the encoder, one clip each; on CUDA the main thread collects windows into large batches.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np
import torch

from CLAP.cache import EmbeddingCache
from CLAP.encoder import PROMPT, Encoder, merge_windows
from common import UserError, cores, log
from data import NAMED_PER_REASON, Clip, ParquetFolder, RowError, decode, tell_skipped
from ranks import Alone, Progress

TRIM_ROWS = 128  # rows after which freed memory is given back
IN_FLIGHT = 3  # clips per thread that are read ahead of the encoder


@dataclass
class Skipped:
    """Rows that were not used, by reason, the first few of each by name."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)  # a few of the labels of skipped rows, for error messages

    def add(self, clip: Clip, error: RowError) -> None:
        self.counts[error.reason] += 1
        named = self.examples.setdefault(error.reason, [])
        if len(named) < NAMED_PER_REASON:
            named.append(clip.video_id)
            self.labels.update(clip.human_labels)

    def merge(self, other: Skipped) -> None:
        """Add the skipped rows that came after these."""
        self.counts += other.counts
        self.labels |= other.labels
        for reason, names in other.examples.items():
            named = self.examples.setdefault(reason, [])
            named += names[: NAMED_PER_REASON - len(named)]

    def report(self) -> dict:
        """{reason: {count, first}} for the JSON."""
        return {r: {"count": n, "first": self.examples[r]} for r, n in sorted(self.counts.items())}

    def tell(self) -> None:
        """One log line for each reason."""
        tell_skipped("rows", self.report())


def embed_clips(
    rows: Iterable[Clip],
    encoder: Encoder,
    cache: EmbeddingCache,
    limit: int,
    usable: Callable[[Clip], str | None],
    workers: int | None = None,
    batch_size: int = 32,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Clip], torch.Tensor, Skipped]:
    """The first `limit` usable rows in order -> (clips without their audio, (N, D) float32 embeddings, skipped).

    usable: gives the reason why a row cannot be used whatever its audio, or None. Decoding failures are skipped
    too. Whatever is not in the cache is encoded and added to it. done: called after every row, used or not.
    """
    workers = workers or cores()
    on_cpu = encoder.device.type == "cpu"
    batcher = None if on_cpu else CudaBatcher(encoder, cache, batch_size)
    clips, keys, skipped, finished = [], [], Skipped(), count(1)

    def prepare(clip: Clip) -> tuple[bytes, np.ndarray | None] | RowError:
        """In a worker thread: the clip's key and what is left to do (None if the cache knows it)."""
        try:
            if reason := usable(clip):
                raise RowError(reason)
            if clip.audio is None:
                raise RowError("no audio")
            key = clip.content_key()
            if cache.get(key) is not None:
                return key, None
            waveform = decode(clip)
            return key, encoder.encode_waveform(waveform) if on_cpu else encoder.windows(waveform)
        except RowError as error:
            return error
        finally:
            clip.audio = None

    threads_before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        rows, pending = iter(rows), deque()
        while len(clips) < limit:
            # Never more rows in flight than are still wanted: what is not used is not encoded.
            for clip in islice(rows, max(0, min(workers * IN_FLIGHT, limit - len(clips)) - len(pending))):
                pending.append((clip, pool.submit(prepare, clip)))
            if not pending:
                break
            clip, future = pending.popleft()
            result = future.result()
            done()
            if next(finished) % TRIM_ROWS == 0:
                trim_memory()
            if isinstance(result, RowError):
                skipped.add(clip, result)
                continue
            key, work = result
            if work is not None and on_cpu:
                cache.add(key, work)
            elif work is not None:
                batcher.add(key, work)
            clips.append(clip)
            keys.append(key)
        if batcher:
            batcher.finish()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)
        cache.flush()
    audio = np.stack([cache.get(key) for key in keys]) if keys else np.empty((0, encoder.embed_dim), np.float32)
    return clips, torch.from_numpy(audio), skipped


def embed_folder(
    args,
    folder: ParquetFolder,
    encoder: Encoder,
    cache: EmbeddingCache,
    usable: Callable[[Clip], str | None],
    ranks: Alone | None = None,
) -> tuple[list[Clip], torch.Tensor, Skipped] | None:
    """embed_clips over a folder, as --num-samples, --workers and --encode-batch-size ask; None on ranks above 0.

    The rows still wanted are shared out over the ranks; for those that turn out unusable comes a further round, until
    there are enough clips or no more rows. So the rows that are encoded, and their order, do not depend on the ranks.
    """
    ranks = ranks or Alone()
    wanted = min(args.num_samples or folder.num_rows, folder.num_rows)
    workers = args.workers or max(1, cores() // ranks.local_size)
    start, parts = 0, []
    with Progress(ranks) as progress:
        while wanted and start < folder.num_rows:
            stop = min(start + wanted, folder.num_rows)
            first, last = ranks.share(start, stop)
            progress.begin(stop, last - first)
            rows, limit = folder.rows(first, last), last - first
            part = embed_clips(rows, encoder, cache, limit, usable, workers, args.encode_batch_size, progress.update)
            progress.finish()
            parts += ranks.gather(part) or []
            progress.join()
            wanted -= ranks.total(len(part[0]))
            start = stop
    bad_files = ranks.gather(folder.bad)
    if bad_files is None:
        return None
    for some in bad_files:
        folder.bad |= some
    folder.tell()
    clips, audio, skipped = [], [], Skipped()
    for some, vectors, left_out in parts:
        clips += some
        audio.append(vectors)
        skipped.merge(left_out)
    skipped.tell()
    if folder.bad and not clips and not skipped.counts:
        raise folder.nothing()
    return clips, audio[0] if len(audio) == 1 else torch.cat(audio), skipped


def trim_memory() -> None:
    """Give freed memory back: glibc keeps it for each thread, in ever more pieces, and a long run would grow by it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


class CudaBatcher:
    """Windows of many clips -> encoder batches of one size on a CUDA device, without waiting for any of them.

    Vectors stay on the device until PENDING windows are under way; only then the host waits and the cache is filled.
    """

    PENDING = 512  # windows

    def __init__(self, encoder: Encoder, cache: EmbeddingCache, batch_size: int):
        self.encoder, self.cache, self.batch_size = encoder, cache, batch_size
        self.waiting: list[np.ndarray] = []
        self.owners: deque[bytes] = deque()
        self.missing: dict[bytes, int] = {}
        self.parts: dict[bytes, list[torch.Tensor]] = {}
        self.under_way: list[torch.Tensor] = []

    def add(self, key: bytes, windows: list[np.ndarray]) -> None:
        """Queue the windows of a clip; full batches start at once."""
        if key in self.missing or self.cache.get(key) is not None:
            return
        self.missing[key], self.parts[key] = len(windows), []
        self.waiting += windows
        self.owners += [key] * len(windows)
        while len(self.waiting) >= self.batch_size:
            self._start()
        if len(self.under_way) * self.batch_size >= self.PENDING:
            self._collect()

    def finish(self) -> None:
        """Encode and collect what is left."""
        if self.waiting:
            self._start()
        self._collect()

    def _start(self) -> None:
        batch = torch.from_numpy(np.stack(self.waiting[: self.batch_size])).pin_memory()
        del self.waiting[: self.batch_size]
        self.under_way.append(self.encoder.encode_windows(batch.to(self.encoder.device, non_blocking=True)))

    def _collect(self) -> None:
        if not self.under_way:
            return
        for vector in torch.cat(self.under_way).cpu():
            key = self.owners.popleft()
            self.parts[key].append(vector)
            self.missing[key] -= 1
            if not self.missing[key]:
                self.cache.add(key, merge_windows(torch.stack(self.parts.pop(key))))
                del self.missing[key]
        self.under_way = []


def embed_classes(names: list[str], encoder: Encoder, cache: EmbeddingCache) -> torch.Tensor:
    """Class names -> (M, D) float32 embeddings of the prompt with each name."""
    texts = [PROMPT.format(label=name) for name in names]
    keys = [text_key(text) for text in texts]
    missing = [i for i, key in enumerate(keys) if cache.get(key) is None]
    if missing:
        log.info("encoding %d class texts", len(missing))
        for i, vector in zip(missing, encoder.encode_texts([texts[i] for i in missing]), strict=True):
            cache.add(keys[i], vector)
        cache.flush()
    text = torch.from_numpy(np.stack([cache.get(key) for key in keys]))
    if bool((text == text[0]).all()):
        raise UserError(f"--checkpoint {encoder.name} gives every class text one embedding: its tokenizer is broken")
    return text


def text_key(text: str) -> bytes:
    """SHA-256 of a text, apart from every clip's."""
    return hashlib.sha256(f"text\n{text}".encode()).digest()
