"""Which recipe helps which similarity: schedule, averaging with the start, prototypes, patience, and all together.

    python benchmarks/recipe_table.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval --other-dir esc10

Every similarity at 512 dimensions with 5 seeds, against its own training at the manual's defaults; strengths are chosen
on the validation clips of each similarity, and nothing on the others (docs/protocol.md). Writes recipes.csv to
--output-dir; finished similarities are kept in --work-dir. One training serves all strengths: averaging and prototypes
do not change how it goes. About 5 minutes on 2 cores.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from itertools import product

import geometry_runs
from geometry_runs import (
    DIFFERENCE_COLUMNS,
    METRICS,
    SEEDS,
    command_line,
    difference_cells,
    four,
    open_data,
    pool,
    resampled,
    rows_kept,
    write_csv,
)
from geometry_search import SIDES
from material import quiet

AVERAGES = (0.0, 0.25, 0.5, 0.75)
PROTOTYPES = (0.0, 0.05, 0.1, 0.2, 0.4)
PATIENCE = 3
PLANS = {  # what is trained: the defaults, or fewer and larger steps
    "defaults": {},
    "1e-3, 64, 12": {"learning_rate": 1e-3, "batch_size": 64, "epochs": 12},
}
RECIPES = {  # name -> (plan, schedule, averages, prototypes) to choose from
    "defaults": ("defaults", "constant", (0.0,), (0.0,)),
    "--lr-schedule cosine": ("defaults", "cosine", (0.0,), (0.0,)),
    "--average-with-start": ("defaults", "constant", AVERAGES[1:], (0.0,)),
    "--prototypes": ("defaults", "constant", (0.0,), PROTOTYPES[1:]),
    f"--patience {PATIENCE}": ("defaults", "constant", (None,), (0.0,)),
    "all three": ("defaults", "cosine", AVERAGES[1:], PROTOTYPES[1:]),
    "rate 1e-3, batch 64, 12 epochs": ("1e-3, 64, 12", "constant", (0.0,), (0.0,)),
    "the same, averaged": ("1e-3, 64, 12", "constant", AVERAGES[1:], (0.0,)),
    "the same, prototypes": ("1e-3, 64, 12", "constant", (0.0,), PROTOTYPES[1:]),
    "the same, averaged, prototypes": ("1e-3, 64, 12", "constant", AVERAGES[1:], PROTOTYPES[1:]),
    "the same, all three": ("1e-3, 64, 12", "cosine", AVERAGES[1:], PROTOTYPES[1:]),
}


def run(settings) -> dict:
    """One training -> {(A, B): (validation metrics, {folder: scores})}; A is None for an end by patience."""
    import torch

    from hyperbolic_clap.projector.prototypes import added, prototypes
    from hyperbolic_clap.training.split import split_by_video
    from hyperbolic_clap.training.trainer import Trainer

    data = geometry_runs.DATA
    train, validation = split_by_video(data.train.sources, 0.8, settings.seed)
    audio, targets = data.train.audio, data.train.targets
    trainer = Trainer(settings, audio, targets, data.text, train, validation)
    clips = {"validation": audio[validation]} | {name: folder.audio for name, folder in data.measured.items()}
    best, kept = {}, {}
    with quiet():
        for record in trainer.epochs():
            for share in (*AVERAGES, None):
                with trainer.averaged(share or 0), torch.no_grad():
                    loss, epoch = trainer.validate(record["epoch"])["val_loss"], record["epoch"]
                    waited = share is None and epoch - best.get(share, (0, epoch))[1] > PATIENCE
                    if share not in best or (loss < best[share][0] and not waited):
                        best[share] = loss, epoch
                        kept[share] = copy.deepcopy(trainer.projector)
    names = [str(i) for i in range(len(data.text))]
    found = {}
    with torch.no_grad():
        plain = {share: {name: of(some, data.text) for name, some in clips.items()} for share, of in kept.items()}
    for share, weight in [*product(AVERAGES, PROTOTYPES), (None, 0.0)]:
        scores = plain[share]
        if weight:
            content = prototypes(weight, audio[train], targets[train], names)
            scores = {name: value + added(content, clips[name], names) for name, value in scores.items()}
        chosen = four(scores["validation"].numpy(), targets[validation].numpy())
        found[share, weight] = chosen, {name: scores[name].numpy() for name in data.measured}
    return found


def search(executor, side: str, folders: dict) -> list[list]:
    """The rows of one similarity: every recipe with its strengths chosen on validation, on every folder."""
    import numpy as np

    from hyperbolic_clap.plumbing.config import TrainConfig

    runs = {
        (plan, schedule): [
            executor.submit(run, replace(TrainConfig(**SIDES[side], **changes), lr_schedule=schedule, seed=seed))
            for seed in range(SEEDS)
        ]
        for plan, changes in PLANS.items()
        for schedule in ("constant", "cosine")
    }
    rows, first = [], {}
    for name, (plan, schedule, averages, weights) in RECIPES.items():
        results = [future.result() for future in runs[plan, schedule]]
        chosen = max(product(averages, weights), key=lambda key: np.mean([found[key][0] for found in results]))  # noqa: B023
        for on in folders:
            scores = [found[chosen][1][on] for found in results]
            points = np.stack([four(s, geometry_runs.DATA.measured[on].targets.numpy()) for s in scores])
            draws = np.stack([d.result() for d in [executor.submit(resampled, s, on) for s in scores]])
            before = first.setdefault(on, (draws, points))
            pairs = zip(points.mean(0), points.std(0), strict=True)
            strengths = [f"{x or 0:g}" for x in chosen]
            rows.append([side, name, *strengths, on, *(f"{100 * x:.2f}" for pair in pairs for x in pair),
                         *difference_cells(before[0], draws, (before[1], points))])  # fmt: skip
    return rows


def main(args) -> None:
    (data, name), rows = open_data(args), []
    with pool(data, args.workers) as executor:
        for side in SIDES:
            path, work = args.work_dir / f"recipes_{side}.json", partial(search, executor, side, args.folders)
            rows += rows_kept(path, name, side in args.sides, work)
    header = ["side", "recipe", "A", "B", "measured on", *(f"{m}{end}" for m in METRICS for end in ("", " std"))]
    write_csv(args.output_dir / "recipes.csv", [*header, *(f"gain {c}" for c in DIFFERENCE_COLUMNS)], rows)


if __name__ == "__main__":
    main(command_line(__doc__, ("--sides", {"nargs": "+", "default": tuple(SIDES), "choices": tuple(SIDES)})))
