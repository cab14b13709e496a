"""The output folder of a training run: setup.json, one checkpoint for each epoch, the best one, and resuming."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import checkpoints
from common import UserError, log, write_json


class RunFolder:
    """Files of one training run, each written whole or not at all, so that a kill at any moment leaves no half file.

    setup: the content of setup.json, kept current by `keep`. best: the record of the epoch with the lowest validation
    loss so far.
    """

    def __init__(self, folder: Path, setup: dict, resume: bool):
        self.folder, self.setup, self.best = folder, setup, None
        earlier = [*folder.glob("*projection_epoch_*.pth"), *folder.glob("setup.json")]
        earlier += [path for path in (folder / "tensorboard", folder / "swanlab") if path.is_dir()]
        if earlier and not resume:
            self._set_aside(earlier)
        self.write_setup()

    def _set_aside(self, earlier: list[Path]) -> None:
        """Move the files of an earlier run into a folder of their own: nothing is lost and one best file remains."""
        aside = self.folder / time.strftime("earlier_%Y%m%d_%H%M%S")
        aside.mkdir()
        for path in earlier:
            shutil.move(path, aside / path.name)
        log.info("the earlier run in %s was moved to %s", self.folder, aside)

    def write_setup(self) -> None:
        """Bring setup.json up to date."""
        write_json(self.folder / "setup.json", self.setup)

    def _epoch_file(self, epoch: int) -> Path:
        return self.folder / f"projection_epoch_{epoch}.pth"

    def _best_file(self, epoch: int) -> Path:
        return self.folder / f"best_projection_epoch_{epoch}.pth"

    def resume(self, identity: dict) -> dict | None:
        """The last epoch's checkpoint of an interrupted run (None if it had not finished one), its history taken over.

        identity: what the weights depend on (settings, data, model). UserError if the earlier run differs in it.
        """
        numbers = sorted(int(re.findall(r"\d+", path.name)[-1]) for path in self.folder.glob("projection_epoch_*.pth"))
        content = None
        for epoch in numbers:
            content = checkpoints.load(self._epoch_file(epoch))
            for name, value in identity.items():
                before = content["identity"].get(name)
                if before != value:
                    raise UserError(
                        f"--resume: {self._epoch_file(epoch)} was trained with {name} = {before}, this run has {value};"
                        " leave --resume out to start anew"
                    )
            self._record(content)
        if content:
            log.info("resuming after epoch %d", numbers[-1])
        return content

    def keep(self, content: dict) -> None:
        """Write an epoch's checkpoint, the best one if it is, and its figures into setup.json."""
        checkpoints.save(self._epoch_file(content["epoch"]), content)
        self._record(content)
        self.write_setup()

    def _record(self, content: dict) -> None:
        figures = {name: content[name] for name in FIGURES}
        self.setup["epochs"].append(figures)
        if self.best is None or figures["val_loss"] < self.best["val_loss"]:
            self.best = figures
            self.setup["best_epoch"] = figures["epoch"]
            best = self._best_file(figures["epoch"])
            checkpoints.save(best, content)
            for other in self.folder.glob("best_projection_epoch_*.pth"):
                if other != best:
                    other.unlink()

    @property
    def best_path(self) -> Path:
        """The best checkpoint so far."""
        return self._best_file(self.best["epoch"])


FIGURES = (
    "epoch train_loss val_loss similarity_positives similarity_negatives logit_scale logit_bias c "
    "audio_radius_mean audio_radius_std text_radius_mean text_radius_std audio_near_boundary text_near_boundary"
).split()
