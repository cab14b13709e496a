"""The output folder of a training run: setup.json, one checkpoint for each epoch, the best one, and resuming."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from hyperbolic_clap.plumbing.config import SELECT_BY
from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.files import lock, open_to_lock, patiently, remove_stale, require_writable, write_json
from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.training.adam import Adam


class RunFolder:
    """Files of one training run, each written whole or not at all, so that a kill at any moment leaves no half file.

    setup: the content of setup.json, kept current by `keep`.
    select_by: of SELECT_BY, what the best epoch is best in. kept: "all" checkpoints, or "best", with the last one.
    """

    def __init__(self, folder: Path, setup: dict, resume: bool, select_by: str = "val_loss", kept: str = "all"):
        self.select_by, self.kept = select_by, kept
        self.folder, self.setup, self.resuming = folder, setup, resume
        self._best: dict | None = None
        self._hold()
        remove_stale(folder, seconds=0)  # a folder belongs to one run, so they are of one that was killed
        earlier = [*folder.glob("*projection_epoch_*.pth"), *folder.glob("setup.json")]
        earlier += [path for path in (folder / "tensorboard", folder / "swanlab") if path.is_dir()]
        if earlier and not resume:
            self._set_aside(earlier)
        if resume:  # setup.json stays as it is until the earlier run is found to be this one
            require_writable(folder / "setup.json")
        else:
            self.write_setup()

    def _hold(self) -> None:
        """Lock the folder while this object or its process lives; UserError if another training holds it."""
        with contextlib.suppress(OSError):  # what cannot be written is reported later
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = open_to_lock(self.folder)
            weakref.finalize(self, os.close, handle)
            if not lock(handle):
                raise UserError(f"another training is writing to {self.folder}; give another --output-dir")

    def _set_aside(self, earlier: list[Path]) -> None:
        """Move the files of an earlier run into a folder of their own: nothing is lost and one best file remains.

        All of them or none: UserError if one cannot be moved.
        """
        name = time.strftime("earlier_%Y%m%d_%H%M%S")
        others = len(list(self.folder.glob(f"{name}*")))  # runs may fail within one second
        aside = self.folder / (f"{name}_{others + 1}" if others else name)
        aside.mkdir()
        moved = []
        try:
            for path in earlier:
                patiently(partial(path.rename, aside / path.name))
                moved.append(path)
        except OSError as error:
            for done in moved:
                patiently(partial((aside / done.name).rename, done))
            aside.rmdir()
            raise UserError(
                f"{path} of an earlier run cannot be moved aside ({error.strerror or error}); close what uses it, or "
                "give another --output-dir"
            ) from None
        log.info("the earlier run in %s was moved to %s", self.folder, aside)

    def write_setup(self) -> None:
        """Bring setup.json up to date."""
        write_json(self.folder / "setup.json", self.setup)

    def _epoch_file(self, epoch: int) -> Path:
        return self.folder / f"projection_epoch_{epoch}.pth"

    def _best_file(self, epoch: int) -> Path:
        return self.folder / f"best_projection_epoch_{epoch}.pth"

    def count(self, clips, train, validation) -> None:
        """Note how many clips are used, train, validate and were skipped."""
        parts = {"used": len(clips.rows), "train": len(train), "validation": len(validation)}
        self.setup["clips"] = parts | clips.counts
        log.info("%d clips: %d train, %d validate, %d texts", *parts.values(), len(clips.text))

    def resume(self, about: Callable[[], dict], trainer) -> int:
        """If that is wanted, bring a Trainer to the last finished epoch of an interrupted run; -> that epoch or 0.

        about()["identity"]: what the weights depend on (settings, data, model). UserError if the earlier run differs in
        it, or if one of its checkpoints is damaged.
        """
        done = self._resume(about()["identity"], trainer) if self.resuming else 0
        self.write_setup()
        return done

    def _resume(self, identity: dict, trainer) -> int:
        content = best = None
        for epoch, path in self._finished():
            if isinstance(path, dict):
                self._record(path)
                continue
            content = checkpoints.load(path, "--resume:")
            trained = {"prompt": content["prompt"]} | content["identity"]  # older ones do not list the prompt
            for name in sorted({**identity, **trained}, key=lambda name: name == "data"):  # a reason before its result
                before, value = (of.get(name, "its default") for of in (trained, identity))
                if type(before) is not type(value) or before != value:
                    raise UserError(
                        f"--resume: {path} was trained with {name} = {before}, this run has {value};"
                        " leave --resume out to start anew"
                    )
            check_continues(f"--resume: {path}", content, trainer.optimizer, trainer.logit_scale)
            if not _sound(content) or content["epoch"] != epoch:
                raise UserError(f"--resume: {path} does not hold the figures of epoch {epoch}")
            if type(content.get(self.select_by)) is not float:
                raise UserError(f"--resume: {path} is older than --select-by and holds no {self.select_by}; leave "
                                "--select-by out to go on by val_loss, or --resume to start anew")
            if self._record(content):
                best = content
        if content is None:
            return 0
        if best is None or best["epoch"] != self.best["epoch"]:
            raise UserError(f"--resume: by --select-by {self.select_by} epoch {self.best['epoch']} is the best, whose "
                            f"checkpoint {self.folder} does not hold; leave --resume out to start anew")
        self._write_best(best)
        trainer.load_state(content)
        log.info("resuming after epoch %d", content["epoch"])
        return content["epoch"]

    def _finished(self) -> list[tuple[int, Path | dict]]:
        """Each epoch up to the last one with a checkpoint: its own, the best file's, or its figures in setup.json."""
        names = [re.fullmatch(r"(best_)?projection_epoch_(\d+)\.pth", path.name) for path in self.folder.iterdir()]
        own, best = ({int(name[2]): self.folder / name[0] for name in names if name and bool(name[1]) == is_best}
                     for is_best in (False, True))  # fmt: skip
        last = max(own, default=0)
        try:
            records = json.loads((self.folder / "setup.json").read_text(encoding="utf-8"))["epochs"]
            told = {record["epoch"]: record for record in records if _sound(record) and self.select_by in record}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            told = {}
        return [(epoch, path) for epoch, path in sorted((told | best | own).items()) if epoch <= last]

    def keep(self, content: dict) -> None:
        """Write an epoch's checkpoint, the best one if it is, and its figures into setup.json."""
        if wrong := checkpoints.not_finite(content):
            raise UserError(
                f"after epoch {content['epoch']} the values in {wrong} are not finite; an extreme --learning-rate, "
                "--c, --temperature or --audio-radius is the likely cause (the checkpoints of earlier epochs are kept)"
            )
        checkpoints.save(self._epoch_file(content["epoch"]), content)
        if self._record(content):
            self._write_best(content)
        self.write_setup()
        if self.kept == "best":
            for other in self.folder.glob("projection_epoch_*.pth"):
                if other != self._epoch_file(content["epoch"]):
                    other.unlink()

    def _record(self, content: dict) -> bool:
        """Note the figures of an epoch; -> whether it is the best so far."""
        figures = {name: _figure(content, name) for name in FIGURES}
        figures |= {name: content[name] for name in VALIDATED if name in content}
        self.setup["epochs"].append(figures)
        if self._best is not None and self._order(figures) >= self._order(self.best):
            return False
        self._best = figures
        self.setup["best_epoch"] = figures["epoch"]
        return True

    def _order(self, figures: dict) -> tuple:
        """Epochs by this are best first: by select_by, with captions by R@1 of both directions; then by the loss."""
        chosen = sum(figures[name] for name in RECALLS if name in figures)
        return -(chosen if self.select_by == "val_loss" else figures[self.select_by]), figures["val_loss"]

    def _write_best(self, content: dict) -> None:
        best = self._best_file(content["epoch"])
        checkpoints.save(best, content)
        for other in self.folder.glob("best_projection_epoch_*.pth"):
            if other != best:
                patiently(other.unlink)

    def should_stop_early(self, patience: int | None) -> bool:
        """Whether none of the last `patience` epochs is better, by _order, than the best before; None: never."""
        return bool(patience and self._best and self.setup["epochs"][-1]["epoch"] - self.best["epoch"] >= patience)

    @property
    def best(self) -> dict:
        """The record of the best epoch so far, by _order; ValueError before the first."""
        if self._best is None:
            raise ValueError(f"no epoch of {self.folder} is finished yet")
        return self._best

    @property
    def best_path(self) -> Path:
        """The best checkpoint so far."""
        return self._best_file(self.best["epoch"])


def check_continues(name: str, content: dict, optimizer: Adam, logit_scale: torch.nn.Module) -> None:
    """UserError unless a checkpoint continues the training of `logit_scale` and of what `optimizer`, an Adam, holds.

    load_state_dict would take moments of any shape, and the first step would fail.
    """
    given, fresh = content["optimizer_state_dict"], optimizer.state_dict()
    moments = [checkpoints.form(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    fitting = [{"step": checkpoints.form(torch.tensor(0.0)), "exp_avg": form, "exp_avg_sq": form} for form in moments]
    state = given.get("state")
    known = range(len(fitting))
    fits = isinstance(state, dict) and all(i in known and checkpoints.form(state[i]) == fitting[i] for i in state)
    if not fits or checkpoints.form(given.get("param_groups")) != checkpoints.form(fresh["param_groups"]):
        raise UserError(f"{name} has an optimizer_state_dict that does not fit this run; leave --resume out")
    if checkpoints.form(content["scale_state_dict"]) != checkpoints.form(logit_scale.state_dict()):
        raise UserError(f"{name} has a scale_state_dict that does not fit this run; leave --resume out")
    trained = content.get("trained_state_dict") or {}
    if checkpoints.form(trained) != ({str(i): form for i, form in enumerate(moments)} if trained else {}):
        raise UserError(f"{name} has a trained_state_dict that does not fit this run; leave --resume out")
    if wrong := checkpoints.not_finite(content):
        raise UserError(f"{name} has values in {wrong} that are not finite")


def _figure(content: dict, name: str):
    """A figure of an epoch, also under the name it had before: distances from the origin were called radii."""
    return content.get(name, content.get(name.replace("distance_from_origin", "radius"), ""))


def _sound(content: dict) -> bool:
    """Whether all figures of an epoch are numbers, those that are newer than others as far as they are there."""
    figures = [_figure(content, name) for name in FIGURES] + [content.get(name) for name in VALIDATED]
    return all(type(figure) in (int, float, type(None)) for figure in figures)


RECALLS = ("val_r1_text_to_audio", "val_r1_audio_to_text")
VALIDATED = (*SELECT_BY[1:], *RECALLS)
FIGURES = (
    "epoch train_loss val_loss similarity_positives similarity_negatives logit_scale logit_bias c "
    "audio_distance_from_origin_mean audio_distance_from_origin_std text_distance_from_origin_mean "
    "text_distance_from_origin_std audio_near_boundary text_near_boundary"
).split()
