"""The equal search of docs/protocol.md by the sweep of the product: a cell (loss, dimensions) at a time.

    python benchmarks/geometry_search.py

writes docs/results/trials.csv, the trials of all sides for `sweep.py --settings`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from geometry_runs import FLAT, SEEDS, of_runs, write_csv
from material import ROOT

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
        """In the training script's own flags, each with six digits, as a command names them."""
        from hyperbolic_clap.plumbing.config import TrainConfig

        known, radius = SIDES[side], self.audio_radius
        scale = self.scale and (self.scale if side == "cosine" else self.scale / (2 * radius))
        text = self.text_length and self.text_length * radius
        return TrainConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, audio_radius=radius,
            loss=loss, output_dim=dim, seed=0, logit_scale=scale and float(f"{scale:g}"),
            text_radius=text and float(f"{text:g}"), **known,
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


def settings_table() -> tuple[list[str], list[list]]:
    """The trials of all sides for sweep.py --settings: the header and the rows."""
    names = ["similarity", "c", *(name for name in asdict(trials()[0]) if name not in ("scale", "text_length"))]
    names += ["logit_scale", "text_radius"]
    rows = [asdict(trial.settings(side, "sigmoid", 512)) for side in SIDES for trial in trials()]
    return names, [[f"{v:g}" if isinstance(v := row[name], float) else "" if v is None else v for name in names]
                   for row in rows]  # fmt: skip


def flags(settings) -> str:
    """What differs from the defaults, as the training script's flags."""
    from hyperbolic_clap.plumbing.config import TrainConfig

    default = asdict(TrainConfig())
    changed = {name: value for name, value in asdict(settings).items() if value != default[name] and name != "seed"}
    return " ".join(f"--{name.replace('_', '-')} {value if isinstance(value, str) else f'{value:g}'}"
                    for name, value in changed.items())  # fmt: skip


def scores_of(place, outcome, name: str):
    """Similarities and targets, (N, M) each, of a run's best epoch on a folder, or on its own validation clips."""
    import torch

    from hyperbolic_clap.projector.exported import best_of
    from hyperbolic_clap.projector.projector import Projector
    from hyperbolic_clap.training.fit import split_clips

    clips, rows = place.tested.get(name, place.clips), slice(None)
    if name == "validation":
        rows = split_clips(outcome.config, place.pipeline, clips)[1]
    projector = Projector(best_of(place.plan.output_dir / "runs" / outcome.name, ""), torch.device("cpu"))
    scores = projector.compare(projector.audio(clips.audio[rows]), projector.text(clips.text))
    return scores.numpy(), clips.targets[rows].numpy()


def mean_on(place, name: str) -> Callable:
    """The score of a run: the mean of METRICS on a folder."""
    from hyperbolic_clap.metrics.classification import headline

    return lambda outcome: headline(*scores_of(place, outcome, name))["mean"]


def search(place, sides: dict[str, list], choosers: dict[str, Callable], jobs: int) -> tuple[dict, dict]:
    """The protocol's search of settings that differ from side to side, by each of several scores of a run.

    sides: the trials' configs of each, with seed 0. -> {config: Outcome} of all that was trained, and {(side, chooser):
    the chosen setting's configs, by seed}, which were tested.
    """
    from hyperbolic_clap.results.sweep import chosen, outcomes

    found: dict = {}

    def run(configs, test: bool = False) -> None:
        found.update((one.config, one) for one in outcomes(place, list(dict.fromkeys(configs)), test, jobs))

    def best(configs, by: str, count: int) -> list:
        return chosen([found[config] for config in configs], choosers[by], (), count)

    run(config for some in sides.values() for config in some)
    finalists = {(side, by): [replace(config, seed=seed) for config in best(some, by, FINALISTS)
                              for seed in range(SEEDS)] for side, some in sides.items() for by in choosers}  # fmt: skip
    run(config for some in finalists.values() for config in some if config not in found)
    picked = {(side, by): best(some, by, 1) for (side, by), some in finalists.items()}
    run((config for some in picked.values() for config in some), True)
    return found, picked


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


def search_cell(place, loss: str, dim: int, split_by: str, data: str, jobs: int) -> None:
    """Search every side of a cell and write it beside the runs."""
    import numpy as np

    from hyperbolic_clap.plumbing.files import write_atomic
    from hyperbolic_clap.results.sweep import by_validation

    measured = {name: mean_on(place, name) for name in place.plan.folders}
    choosers = {"validation": by_validation("val_mean")} | {n: by for n, by in measured.items() if n != "eval"}
    sides = {side: [replace(trial.settings(side, loss, dim), split_by=split_by) for trial in trials()]
             for side in SIDES}  # fmt: skip
    outcomes, picked = search(place, sides, choosers, jobs)
    scores = {side: [{name: 0.0 if outcomes[config].reason else 100 * score(outcomes[config])
                      for name, score in (choosers | measured).items()} for config in some]
              for side, some in sides.items()}  # fmt: skip
    kept = {}
    for (side, by), configs in picked.items():
        for route in ROUTES:
            if route[0] == by and route[1] in measured:
                draws, points = of_runs(place.plan.output_dir, [outcomes[config].name for config in configs], route[1])
                kept[f"points {'/'.join((side, *route))}"] = points
                kept[f"draws {'/'.join((side, *route))}"] = draws.astype(np.float32)
    chosen = {f"{side}/{by}": sides[side].index(replace(configs[0], seed=0)) for (side, by), configs in picked.items()}
    found = {"data": data, "trials": scores, "chosen": chosen}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, found=json.dumps(found), **kept)

    write_atomic(cell_path(place.plan.output_dir, loss, dim), write)


if __name__ == "__main__":
    write_csv(ROOT / "docs" / "results" / "trials.csv", *settings_table())
