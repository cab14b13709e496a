"""From a results file back to what it was made of: projector, vectors, parquet folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyperbolic_clap.embedding.pipeline import EmbeddedClips, skip_unlabelled
from hyperbolic_clap.plumbing.config import DEFAULT_CHECKPOINT, Columns, DataConfig, EncoderConfig, ProjectorConfig
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector.opening import open_pipeline
from hyperbolic_clap.projector.projector import Projector, open_projector
from hyperbolic_clap.results.files import Results

SAME_PREDICTIONS = 0.99  # the least share of clips whose best class comes out again: other devices round otherwise


@dataclass
class Rebuilt:
    """The projector of a results file, and the vectors it compared: audio (N, D) of the file's clips, text (M, D)."""

    projector: Projector
    audio: torch.Tensor
    text: torch.Tensor


def stored_configs(file: Results) -> tuple[DataConfig, EncoderConfig, Path | None]:
    """What a results file was made of, and its projector's path; UserError if it does not say.

    A relative path is looked for from here, then from the results file's folder and the folders above it. What the file
    does not name is at its default; the class list and the prompts are the file's own.
    """
    stored = file.info.get("arguments")
    if not isinstance(stored, dict) or not isinstance(stored.get("parquet_dir"), str):
        raise UserError(f"{file.label} does not say which clips and model it was made of")

    def path(name: str) -> Path | None:
        return find(str(stored[name]), file.path) if stored.get(name) else None

    checkpoint = str(stored.get("checkpoint", DEFAULT_CHECKPOINT))
    local, prompt = find(checkpoint, file.path), file.info["model"].get("prompt")
    plain = EncoderConfig()
    encoder = EncoderConfig(
        checkpoint=str(local) if local.is_dir() else checkpoint,
        device=stored.get("device", plain.device),
        classes=tuple(file.names),
        prompts=tuple(prompt.split("\n")) if isinstance(prompt, str) and prompt else None,
        text_embeddings=path("text_embeddings"),
        batch_size=stored.get("encode_batch_size", plain.batch_size),
        workers=stored.get("workers"),
        autocast=not stored.get("no_autocast", False),
        cache_dir=path("cache_dir"),
        use_cache=not stored.get("no_cache", False),
        verify_cache=stored.get("verify_cache", False),
    )
    folder, skip_bad = find(stored["parquet_dir"], file.path), stored.get("skip_bad_files", False)
    audio, label, id = (stored.get(f"{name}_column") for name in ("audio", "label", "id"))
    columns = Columns(audio, label, id, encoder.text_embeddings is not None)
    return DataConfig(folder, stored.get("num_samples"), skip_bad, columns), encoder, path("projection_checkpoint")


def find(given: str, results: Path) -> Path:
    """A stored path where it exists now; as it was if nowhere."""
    places = [Path(given), *(folder / given for folder in results.resolve().parents)]
    return next((place for place in places if place.exists()), Path(given))


def rebuild(file: Results, known: dict[tuple[DataConfig, EncoderConfig], EmbeddedClips]) -> Rebuilt:
    """The projector and vectors of a results file; UserError if they are gone or give other predictions.

    known: clips already embedded, by what they are made of; filled here, so that files of one test share them.
    """
    data, encoder, path = stored_configs(file)
    projector = open_projector(ProjectorConfig(path), choose_device(encoder.device))
    if (data, encoder) not in known:
        _, pipeline = open_pipeline(data, encoder, ProjectorConfig(path))
        embedded = pipeline.embed(skip_unlabelled)
        assert embedded is not None  # one process is rank 0
        known[data, encoder] = embedded
    clips = known[data, encoder]
    audio, ids, names = clips.audio, clips.rows.video_ids, clips.classes.names
    if ids != [video for video, _ in file.keys]:
        raise UserError(f"{data.parquet_dir} no longer holds the clips of {file.label}")
    rebuilt = Rebuilt(projector, projector.audio(audio), projector.text(clips.text))
    if file.depth:
        scores = projector.with_prototypes(projector.compare(rebuilt.audio, rebuilt.text), audio, names)
        best = scores.argmax(1).cpu().numpy()
        if np.mean(best == file.top[:, 0]) < SAME_PREDICTIONS:
            raise UserError(f"the model named by {file.label} gives other predictions than the file holds")
    return rebuilt
