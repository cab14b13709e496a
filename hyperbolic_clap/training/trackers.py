"""Figures of each epoch for a tracker: TensorBoard or SwanLab, both local, without account, optional to install.

    require("tensorboard")
    tracker = open_tracker("tensorboard", Path("checkpoints_hyperbolic"))
    tracker.log(1, {"train_loss": 14.2, "val_loss": 14.9})
    tracker.close()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from hyperbolic_clap.plumbing.errors import UserError, log


def require(kind: str | None) -> None:
    """UserError with the pip command if the package of --log-to is missing, before a training touches any file."""
    if kind is None:
        return
    try:
        if kind == "tensorboard":
            import torch.utils.tensorboard  # noqa: F401
        if kind == "swanlab":
            import swanboard  # noqa: F401  SwanLab's local mode writes through it, and fails later without it
            import swanlab  # noqa: F401
    except ImportError:
        package = {"tensorboard": "tensorboard", "swanlab": '"swanlab[dashboard]"'}[kind]
        raise UserError(f"--log-to {kind} needs a package that is missing: pip install {package}") from None


class NoTracker:
    """Without --log-to: nothing happens."""

    def log(self, epoch: int, figures: dict) -> None:
        """Take the figures of an epoch."""

    def close(self) -> None:
        """Finish what is written."""


class TensorBoard(NoTracker):
    """Event files in FOLDER/tensorboard."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        log.info("see the curves with: tensorboard --logdir %s", folder / "tensorboard")

    def log(self, epoch: int, figures: dict) -> None:
        """One point of each curve."""
        for name, value in numbers(figures).items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()  # an interrupted training keeps its curves

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class SwanLab(NoTracker):
    """A run in FOLDER/swanlab, in SwanLab's local mode: no account, nothing leaves the machine."""

    def __init__(self, folder: Path):
        import swanlab

        self.swanlab = swanlab
        target = folder.resolve() / "swanlab"
        target.mkdir(parents=True, exist_ok=True)
        swanlab.init(project="hyperbolic-clap", experiment_name=folder.name, logdir=str(target), mode="local")
        log.info("see the curves with: swanlab watch %s", target)

    def log(self, epoch: int, figures: dict) -> None:
        """One point of each curve."""
        self.swanlab.log(numbers(figures), step=epoch)

    def close(self) -> None:
        """Finish the run's files."""
        self.swanlab.finish()


def numbers(figures: dict) -> dict[str, float]:
    """The figures that are finite numbers, which is all that a curve can show."""
    return {k: v for k, v in figures.items() if type(v) in (int, float) and k != "epoch" and math.isfinite(v)}


def open_tracker(kind: str | None, folder: Path) -> NoTracker:
    """The tracker of --log-to, writing under `folder`."""
    if kind is None:
        return NoTracker()
    trackers: dict[str, Callable[[Path], NoTracker]] = {"tensorboard": TensorBoard, "swanlab": SwanLab}
    return trackers[kind](folder)
