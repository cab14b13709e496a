"""One training on embedded clips: its folder, its trainer, and what each epoch leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache

import torch

from hyperbolic import SIMILARITIES
from hyperbolic_clap.embedding.given import GivenVectors
from hyperbolic_clap.embedding.pairs import EmbeddedPairs
from hyperbolic_clap.embedding.pipeline import EmbeddedClips, Embedder, EmbeddingPipeline
from hyperbolic_clap.plumbing.config import CONVENTION, RunConfig, TrainConfig
from hyperbolic_clap.plumbing.errors import UserError, log, warn
from hyperbolic_clap.projector.opening import Model
from hyperbolic_clap.projector.prototypes import prototypes
from hyperbolic_clap.training.calibration import calibration
from hyperbolic_clap.training.caption_trainer import CaptionTrainer
from hyperbolic_clap.training.groups import groups, require_column
from hyperbolic_clap.training.run_folder import RunFolder
from hyperbolic_clap.training.split import fingerprint, split_by_video
from hyperbolic_clap.training.trackers import NoTracker
from hyperbolic_clap.training.trainer import Trainer

WORSE = 1.5  # times the validation loss of the start: a training that ends above has learned nothing


def require_trainable(config: TrainConfig, pipeline: EmbeddingPipeline, dim_given: bool = True) -> TrainConfig:
    """The config, with at most as many dimensions as the vectors have unless they were given.

    UserError if the folder has no column to split by, or the vectors fewer dimensions than was asked for.
    """
    require_column(pipeline.folder, config.split_by)
    origin = pipeline.embedder.origin
    if config.output_dim <= origin.embed_dim:
        return config
    if dim_given:
        which = origin.name or pipeline.folder.folder
        raise UserError(f"--output-dim {config.output_dim} is above the {origin.embed_dim} dimensions of {which}")
    return replace(config, output_dim=origin.embed_dim)


def open_output(run: RunConfig, config: TrainConfig, described: dict, model: Model) -> RunFolder:
    """The RunFolder of a run; under torchrun it is resumed when the ranks were restarted. described: of the run."""
    origin, ranks = model.embedder.origin, model.ranks
    setup = described | {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "convention": CONVENTION,
        "clap_model": origin.name,
        "clap_sha256": origin.sha256,
        "clips": None,
        "epochs": [],
        "best_epoch": None,
    }
    resume = run.resume or ranks.remembers("run folder")
    output = RunFolder(run.output_dir, setup, resume, config.select_by, run.keep)
    ranks.remember("run folder")
    return output


def split_clips(
    config: TrainConfig, pipeline: EmbeddingPipeline, clips: EmbeddedClips | EmbeddedPairs
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,), (m,) positions of the training and the validation clips, apart by config.split_by."""
    return split_by_video(groups(pipeline.folder, clips.rows, config.split_by), config.train_ratio, config.seed)


def fit(
    config: TrainConfig,
    clips: EmbeddedClips | EmbeddedPairs,
    split: tuple[torch.Tensor, torch.Tensor],
    model: Model,
    output: RunFolder,
    tracker: NoTracker,
) -> None:
    """Train epoch by epoch, from the last finished one where the folder resumes, and keep what each leaves behind."""
    train, validation = split
    output.count(clips, train, validation)
    audio, targets, text = (tensor.to(model.device) for tensor in clips.tensors())
    about = _about(config, clips, split, model.embedder)
    trainer = (CaptionTrainer if config.captions else Trainer)(config, audio, targets, text, train, validation)
    # What prototypes add is no part of the logits.
    calibrated = clips.classes.names if isinstance(clips, EmbeddedClips) and not config.prototypes else None
    done = output.resume(about, trainer)
    for figures in () if output.should_stop_early(config.patience) else trainer.epochs(first=done + 1):
        fitted = calibration(trainer, calibrated) if calibrated else {}
        output.keep(figures | trainer.state() | about() | fitted)
        tracker.log(figures["epoch"], figures)
        log.info(describe(figures, output.best["epoch"]))
        if output.should_stop_early(config.patience):
            log.info("no better epoch in %d epochs: stopped", config.patience)
            break
    tracker.close()
    for doubt in doubts(config, output.best, trainer.start_loss()):
        warn(doubt)


def doubts(config: TrainConfig, best: dict, start_loss: float) -> list[str]:
    """What makes the best epoch of a training doubtful, each with its figure. start_loss: validation loss before it."""
    found = []
    if best["val_loss"] > WORSE * abs(start_loss):
        found.append(
            f"the best epoch has validation loss {short(best['val_loss'])}, and before the training it was "
            f"{short(start_loss)}: nothing was learned; --learning-rate {config.learning_rate:g} is the likely cause"
        )
    if SIMILARITIES[config.similarity].curved and best["audio_near_boundary"] > 0.5:
        found.append(
            f"{best['audio_near_boundary']:.0%} of the validation clips lie beyond 0.99 of the ball's radius: "
            f"--audio-radius {config.audio_radius:g} is large for --c {config.c:g}"
        )
    return found


def _about(
    config: TrainConfig, clips: EmbeddedClips | EmbeddedPairs, split: tuple[torch.Tensor, torch.Tensor],
    embedder: Embedder | GivenVectors,
) -> Callable[[], dict]:  # fmt: skip
    """What a checkpoint says of models, prompt, settings and data behind it, and its prototypes; made when asked for.

    Hashing a million vectors takes seconds, so they are hashed beside the first steps.
    """
    train, validation = split
    data = ThreadPoolExecutor(1).submit(fingerprint, *clips.tensors(), train)

    @cache
    def about() -> dict:
        origin = embedder.origin
        sizes = {"train": len(train), "validation": len(validation)}
        kept: dict = {"text": config.text, "training": asdict(config) | {"clips": sizes}}
        if isinstance(clips, EmbeddedClips):
            audio, targets = clips.audio[train], clips.targets[train]
            kept["classes"] = clips.classes.names
            kept |= prototypes(config.prototypes, audio, targets, clips.classes.names)
        model = {"clap_model": origin.name, "clap_sha256": origin.sha256, "prompt": embedder.prompt}
        identity = {"prompt": embedder.prompt} | config.identity() | {"data": data.result()}
        return model | embedder.of_texts | {"embed_dim": origin.embed_dim, "identity": identity} | kept

    return about


def describe(figures: dict, best: int) -> str:
    """One log line of an epoch, of at most 100 characters. best: the epoch that is the best so far."""
    names = {"val_acc@1": "acc@1", "val_map": "map", "val_r1_text_to_audio": "R@1 of texts",
             "val_r1_audio_to_text": "clips"}  # fmt: skip
    losses = [f"{kind} loss {short(figures[name])}" for kind, name in (("train", "train_loss"), ("val", "val_loss"))]
    metrics = [f"{word} {figures[name]:.4f}" for name, word in names.items() if name in figures]
    mark = "best so far" if best == figures["epoch"] else f"best: {best}"
    return f"epoch {figures['epoch']}: " + ", ".join([*losses, *metrics, mark])


def short(value: float) -> str:
    """A loss in few characters, of any size."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
