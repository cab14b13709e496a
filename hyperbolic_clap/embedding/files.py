"""Sound files outside of any parquet: found in folders, embedded as a row's audio is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from data import Clip, stored
from hyperbolic_clap.embedding.clips import embed_clips
from hyperbolic_clap.embedding.pipeline import Embedder
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading.sound_files import ENDINGS, once_each, sounds_below


def find_sounds(paths: Iterable[Path]) -> dict[Path, Path]:
    """Files as they are given, and of each folder all sound files below it, sorted, each real file once.

    -> {file: where it lies below the folder that was given, or its name}. UserError for a path of neither.
    """
    found: dict[Path, Path] = {}
    known: set[str] = set()
    for path in paths:
        if path.is_dir():
            inside = {file: file.relative_to(path) for file in once_each(sounds_below(path))}
            if not inside:
                raise UserError(f"{path} holds no sound file ({', '.join(sorted(ENDINGS))})")
        elif path.is_file():
            inside = {path: Path(path.name)}
        else:
            raise UserError(f"{path} is neither a file nor a folder")
        for file, where in inside.items():
            real = os.path.realpath(file)
            if real not in known:
                known.add(real)
                found[file] = where
    return found


def clips_of(paths: Iterable[Path], skipped: Skipped) -> Iterator[Clip]:
    """A Clip for each file, named by its path, with its bytes or, of a large one, its path; sample_id: its position."""
    for position, path in enumerate(paths):
        try:
            audio = stored(path)
        except OSError as error:
            skipped.add(f"unreadable file ({error.strerror})", 1, [str(path)])
        else:
            yield Clip(position, str(path), [], [], audio=audio)


def embed_files(
    paths: list[Path], embedder: Embedder, workers: int | None = None, batch_size: int = 32
) -> tuple[list[Path], torch.Tensor, Skipped]:
    """(the files that can be used, their (N, D) embeddings, the others by reason). workers, batch_size: embed_clips."""
    used, keys, skipped, encoder, cache = [], [], Skipped(), embedder.encoder, embedder.cache
    clips = clips_of(paths, skipped)
    for clip, outcome in embed_clips(clips, encoder, cache, workers=workers, batch_size=batch_size):
        if isinstance(outcome, RowError):
            skipped.add(outcome.reason, 1, [clip.video_id])
        else:
            used.append(paths[clip.sample_id])
            keys.append(outcome)
    for note, positions in cache.notes_of(keys).items():
        skipped.noted.add(note, len(positions), [str(used[i]) for i in positions])
    return used, torch.from_numpy(cache.take_all(keys, encoder.embed_dim)), skipped
