"""From a results file back to what it was made of: projector, vectors, parquet folder."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.flags import CLASS_LABELS, Parser, add_shared_flags
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.results.files import Results

PATHS = ("parquet_dir", "class_labels", "cache_dir", "projection_checkpoint")
SAME_PREDICTIONS = 0.99  # the least share of clips whose best class comes out again: other devices round otherwise


@dataclass
class Rebuilt:
    """The projector of a results file, and the vectors it compared: audio (N, D) of the file's clips, text (M, D)."""

    projector: Projector
    audio: torch.Tensor
    text: torch.Tensor


def arguments(file: Results) -> argparse.Namespace:
    """The flags a results file was made with, those it does not name at their defaults; UserError if it has none.

    A relative path is looked for from here, then from the results file's folder and the folders above it.
    """
    stored = file.info.get("arguments")
    if not isinstance(stored, dict) or not isinstance(stored.get("parquet_dir"), str):
        raise UserError(f"{file.label} does not say which clips and model it was made of")
    parser = Parser("")
    add_shared_flags(parser)
    args = parser.parse_args(["--parquet-dir", "."])
    known = vars(args) | {"num_samples": None, "projection_checkpoint": None}
    vars(args).update({name: stored.get(name, default) for name, default in known.items()})
    args.prompt = args.prompt_file = None  # the file holds the prompts themselves
    for name in PATHS:
        given = getattr(args, name)
        setattr(args, name, find(str(given), file.path) if given else None)
    if not args.class_labels or not args.class_labels.is_file():
        args.class_labels = CLASS_LABELS
    if find(str(args.checkpoint), file.path).is_dir():
        args.checkpoint = str(find(str(args.checkpoint), file.path))
    return args


def find(given: str, results: Path) -> Path:
    """A stored path where it exists now; as it was if nowhere."""
    places = [Path(given), *(folder / given for folder in results.resolve().parents)]
    return next((place for place in places if place.exists()), Path(given))


def rebuild(file: Results, known: dict) -> Rebuilt:
    """The projector and vectors of a results file; UserError if they are gone or give other predictions.

    known: material already embedded, by what it was made of; filled here, so that files of one test share it.
    """
    from hyperbolic_clap.embedding.pipeline import EmbeddingPipeline, unlabelled

    args = arguments(file)
    device = choose_device(args.device)
    projector = Projector(args.projection_checkpoint, device)
    prompt = file.info["model"].get("prompt")
    prompts = projector.prompts(prompt.split("\n") if isinstance(prompt, str) else None)
    key = tuple(map(str, (args.parquet_dir, args.checkpoint, args.class_labels, args.num_samples, prompts)))
    if key not in known:
        sources = EmbeddingPipeline(args, device, prompts=prompts)
        projector.require_model(sources.encoder)
        material = sources.embed(unlabelled)
        known[key] = material.audio, material.text, material.rows.video_ids, material.classes.names
    audio, text, ids, names = known[key]
    if ids != [video for video, _ in file.keys] or names != file.names:
        raise UserError(f"{args.parquet_dir} no longer holds the clips and classes of {file.label}")
    rebuilt = Rebuilt(projector, projector.audio(audio), projector.text(text))
    if file.depth:
        scores = projector.with_prototypes(projector.compare(rebuilt.audio, rebuilt.text), audio, names)
        best = scores.argmax(1).cpu().numpy()
        if np.mean(best == file.top[:, 0]) < SAME_PREDICTIONS:
            raise UserError(f"the model named by {file.label} gives other predictions than the file holds")
    return rebuilt
