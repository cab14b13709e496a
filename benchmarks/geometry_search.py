"""The equal search of docs/protocol.md: one cell (loss, dimensions) at a time, each kept in a file of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from geometry_runs import FLAT, SEEDS, fit, resampled

TRIALS, FINALISTS = 32, 4
SIDES = {
    "hyperbolic": {"c": 1.0},
    "flat": {"c": FLAT},
    "cosine": {"similarity": "cosine"},
}
# Which clips choose, and which are then measured; the second folder chooses or is measured, never both.
ROUTES = (("validation", "eval"), ("validation", "other"), ("other", "eval"))


@dataclass
class Trial:
    """A point of the search space; scale is that of the logits, in the units that all sides share."""

    learning_rate: float
    batch_size: int
    epochs: int
    audio_radius: float
    scale: float | None
    text_length: float | None

    def settings(self, side: str, loss: str, dim: int):
        """In the training script's own flags."""
        from hyperbolic_clap.plumbing.config import TrainConfig

        known, radius = SIDES[side], self.audio_radius
        return TrainConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, audio_radius=radius,
            loss=loss, output_dim=dim, seed=0, **known,
            logit_scale=self.scale and (self.scale if side == "cosine" else self.scale / (2 * radius)),
            text_radius=self.text_length and self.text_length * radius,
        )  # fmt: skip


def trials() -> list[Trial]:
    """The manual's defaults, and draws from the space of docs/protocol.md; the same for every side and cell."""
    import numpy as np

    generator = np.random.default_rng(0)

    def spread(low: float, high: float) -> float:
        return float(f"{np.exp(generator.uniform(np.log(low), np.log(high))):.3g}")

    def draw() -> Trial:
        return Trial(
            learning_rate=spread(1e-4, 1e-2),
            batch_size=int(generator.choice([16, 32, 64])),
            epochs=int(generator.choice([5, 10, 20])),
            audio_radius=spread(0.25, 4),
            scale=spread(4, 40),
            text_length=spread(0.5, 2),
        )

    return [Trial(1e-4, 16, 10, 0.5, None, None), *(draw() for _ in range(TRIALS - 1))]


def flags(settings) -> str:
    """What differs from the defaults, as the training script's flags."""
    from hyperbolic_clap.plumbing.config import TrainConfig

    default = asdict(TrainConfig())
    changed = {name: value for name, value in asdict(settings).items() if value != default[name] and name != "seed"}
    return " ".join(f"--{name.replace('_', '-')} {value if isinstance(value, str) else f'{value:g}'}"
                    for name, value in changed.items())  # fmt: skip


class Cell:
    """What the search of one loss and one number of dimensions found.

    found: {"trials": {side: [{score of validation, eval, other}]}, "chosen": {"side/clips": trial}}. draws and points:
    {"side/clips that chose/folder measured": (S, RESAMPLES, 4) and (S, 4)}.
    """

    def __init__(self, path: Path):
        import numpy as np

        with np.load(path) as content:
            self.found = json.loads(str(content["found"]))
            parts = {name: content[name] for name in content.files if name != "found"}
        self.draws, self.points = ({name.split(" ")[1]: value for name, value in parts.items() if name.startswith(kind)}
                                   for kind in ("draws", "points"))  # fmt: skip


def cell_path(folder: Path, loss: str, dim: int) -> Path:
    return folder / f"{loss}_{dim}.npz"


def search(executor, loss: str, dim: int, measured: list[str], data: str, path: Path) -> None:
    """Search every side of a cell and write it to `path`; measured: the folders there are, eval and perhaps other."""
    import numpy as np

    from hyperbolic_clap.plumbing.files import write_atomic

    space = trials()
    started = {side: [executor.submit(fit, trial.settings(side, loss, dim)) for trial in space] for side in SIDES}
    first = {side: [future.result() for future in futures] for side, futures in started.items()}
    scores = {
        side: [{"validation": score(run.validation)} | {name: score(run.metrics[name]) for name in measured}
               for run in runs]
        for side, runs in first.items()
    }  # fmt: skip
    choosers = ["validation", *(name for name in measured if name != "eval")]
    finalists = {
        (side, by): sorted(range(len(space)), key=lambda i: -scores[side][i][by])[:FINALISTS]  # noqa: B023
        for side in SIDES
        for by in choosers
    }
    runs = {(side, trial): [first[side][trial]] for (side, _), some in finalists.items() for trial in some}
    futures = {
        (side, trial): [
            executor.submit(fit, replace(space[trial].settings(side, loss, dim), seed=seed)) for seed in range(1, SEEDS)
        ]
        for side, trial in runs
    }
    for key, some in futures.items():
        runs[key] += [future.result() for future in some]
    chosen = {
        (side, by): max(some, key=lambda i: np.mean([score(part(run, by)) for run in runs[side, i]]))  # noqa: B023
        for (side, by), some in finalists.items()
    }
    kept, drawing = {}, {}
    for (side, by), trial in chosen.items():
        for route in ROUTES:
            if route[0] == by and route[1] in measured:
                name = "/".join((side, *route))
                kept[f"points {name}"] = np.stack([run.metrics[route[1]] for run in runs[side, trial]])
                some = [executor.submit(resampled, run.scores[route[1]], route[1]) for run in runs[side, trial]]
                drawing[f"draws {name}"] = some
    kept |= {name: np.stack([future.result() for future in some]) for name, some in drawing.items()}
    found = {"data": data, "trials": scores, "chosen": {"/".join(key): trial for key, trial in chosen.items()}}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, found=json.dumps(found), **kept)

    write_atomic(path, write)


def score(metrics) -> float:
    """The mean of the four metrics, in points."""
    return 100 * float(metrics.mean())


def part(run, by: str):
    return run.validation if by == "validation" else run.metrics[by]
