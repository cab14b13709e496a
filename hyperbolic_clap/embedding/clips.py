"""From parquet rows to embeddings: decode, encode and cache, in order, with a bounded number of clips in flight.

Threads suffice for the decoding: libsndfile, soxr and SHA-256 run without the interpreter lock. On the CPU the
same threads run the encoder, one clip each; on CUDA the main thread collects windows into large batches.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

import numpy as np
import torch

from CLAP.encoder import Encoder
from data import Clip, decode
from hyperbolic_clap.embedding.cuda import CudaBatcher
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.device import cores
from hyperbolic_clap.plumbing.errors import RowError

TRIM_ROWS = 128  # rows after which freed memory is given back
IN_FLIGHT = 3  # clips per thread that are read ahead of the encoder
SkipReason = Callable[[int, int], str | None]


def embed_clips(
    clips: Iterable[Clip],
    encoder: Encoder,
    cache: EmbeddingCache,
    skip_reason: SkipReason = lambda labels, classes: None,
    workers: int | None = None,
    batch_size: int = 32,
    done: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Clip, bytes | RowError]]:
    """Each clip, in order and without its audio, with its key in the cache, or with the reason why it has none.

    Whatever is not in the cache is encoded and added to it, at the latest when the iteration ends. skip_reason: (how
    many labels, how many of them of the class list) -> why its labels forbid a clip, or None. done:
    called after every clip.
    """
    workers = workers or cores()
    on_cpu = encoder.device.type == "cpu"
    batcher = None if on_cpu else CudaBatcher(encoder, cache, batch_size)

    def prepare(clip: Clip) -> tuple[bytes, np.ndarray | list | None] | RowError:
        """In a worker thread: the clip's key and what is left to do (None if the cache knows it)."""
        try:
            if reason := skip_reason(len(clip.human_labels), len(clip.positions)):
                raise RowError(reason)
            key = clip.content_key()
            if cache.get(key) is not None:
                return key, None
            waveform = decode(clip)
            cache.note(key, clip.notes)
            return key, encoder.encode_waveform(waveform) if on_cpu else encoder.windows(waveform)
        except RowError as error:
            return error
        finally:
            clip.audio = None

    threads_before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        clips = iter(clips)
        pending: deque[tuple[Clip, Future]] = deque()
        for finished in count(1):
            for clip in islice(clips, workers * IN_FLIGHT - len(pending)):
                pending.append((clip, pool.submit(prepare, clip)))
            if not pending:
                break
            clip, future = pending.popleft()
            result = future.result()
            done()
            if finished % TRIM_ROWS == 0:
                trim_memory()
            if isinstance(result, RowError):
                yield clip, result
                continue
            key, work = result
            if work is not None and batcher:
                batcher.add(key, work)
            elif work is not None:
                cache.add(key, work)
            yield clip, key
        if batcher:
            batcher.finish()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)
        if batcher:
            with contextlib.suppress(RuntimeError):  # of a device that has failed; nothing finished is lost else
                batcher.collect()
        cache.flush()


def trim_memory() -> None:
    """Give freed memory back: glibc keeps it for each thread, in ever more pieces, and a long run would grow by it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)
