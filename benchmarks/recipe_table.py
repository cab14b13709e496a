"""Which recipe helps which similarity: schedule, averaging with the start, prototypes, patience, and all together.

    python benchmarks/recipe_table.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval --other-dir esc10

Every similarity at 512 dimensions with 5 seeds, against its own training at the manual's defaults; strengths are chosen
on the validation clips of each similarity, and nothing on the others (docs/protocol.md). Writes recipes.csv to
--output-dir. One training serves all strengths: averaging and prototypes do not change how it goes. About 3 minutes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import geometry_runs
from geometry_runs import (
    DIFFERENCE_COLUMNS,
    METRICS,
    SEEDS,
    difference_cells,
    four,
    load,
    pool,
    resampled,
    write_csv,
)
from geometry_search import SIDES
from material import ROOT, parse, quiet

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
    "all three": ("defaults", "cosine", AVERAGES[1:], PROTOTYPES[1:]),
    "rate 1e-3, batch 64, 12 epochs": ("1e-3, 64, 12", "constant", (0.0,), (0.0,)),
    "the same, averaged": ("1e-3, 64, 12", "constant", AVERAGES[1:], (0.0,)),
    "the same, prototypes": ("1e-3, 64, 12", "constant", (0.0,), PROTOTYPES[1:]),
    "the same, averaged, prototypes": ("1e-3, 64, 12", "constant", AVERAGES[1:], PROTOTYPES[1:]),
    "the same, all three": ("1e-3, 64, 12", "cosine", AVERAGES[1:], PROTOTYPES[1:]),
}


def run(settings) -> tuple[dict, bool]:
    """One training -> {(A, B): (validation metrics, {folder: scores})} and whether patience would change the epoch."""
    import torch

    from training.loop import Trainer
    from training.prototypes import added, prototypes
    from training.split import split_by_video

    data = geometry_runs.DATA
    train, validation = split_by_video(data.train.sources, 0.8, settings.seed)
    audio, targets = data.train.audio, data.train.targets
    trainer = Trainer(settings, audio, targets, data.text, train, validation)
    clips = {"validation": audio[validation]} | {name: folder.audio for name, folder in data.measured.items()}
    best, kept, losses = {}, {}, []
    with quiet(), torch.no_grad():
        epochs = trainer.epochs()
        while True:
            with torch.enable_grad():
                record = next(epochs, None)
            if record is None:
                break
            losses.append(record["val_loss"])
            for share in AVERAGES:
                with trainer.averaged(share):
                    loss = trainer.validate(record["epoch"])["val_loss"]
                    if share not in best or loss < best[share]:
                        best[share] = loss
                        kept[share] = {name: trainer.projector(some, data.text) for name, some in clips.items()}
    names = [str(i) for i in range(len(data.text))]
    found = {}
    for share, weight in product(AVERAGES, PROTOTYPES):
        scores = dict(kept[share])
        if weight:
            content = prototypes(weight, audio[train], targets[train], names)
            scores = {name: value + added(content, clips[name], names) for name, value in scores.items()}
        chosen = four(scores.pop("validation").numpy(), targets[validation].numpy())
        found[share, weight] = chosen, {name: value.numpy() for name, value in scores.items()}
    return found, stops_early(losses)


def stops_early(losses: list[float]) -> bool:
    """Whether PATIENCE ends the training before its best epoch."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= PATIENCE:
            return best != losses.index(min(losses))
    return False


def main(args) -> None:
    import numpy as np

    from training.loop import Settings

    folders = {"eval": args.eval_dir} | ({"other": args.other_dir} if args.other_dir else {})
    with quiet():
        data = load(args.train_dir, folders, args.checkpoint)
    rows = []
    with pool(data, args.workers) as executor:
        for side, known in SIDES.items():
            runs = {
                (plan, schedule): [
                    executor.submit(run, replace(Settings(**known, **changes), lr_schedule=schedule, seed=seed))
                    for seed in range(SEEDS)
                ]
                for plan, changes in PLANS.items()
                for schedule in ("constant", "cosine")
            }
            early = 0
            drawn = {}
            for name, (plan, schedule, averages, weights) in RECIPES.items():
                results = [future.result() for future in runs[plan, schedule]]
                if name == "defaults":
                    early = sum(stopped for _, stopped in results)
                chosen = max(product(averages, weights), key=lambda key: np.mean([f[key][0] for f, _ in results]))  # noqa: B023
                for on in folders:
                    scores = [found[chosen][1][on] for found, _ in results]
                    truth = data.measured[on].targets.numpy()
                    points = np.stack([four(s, truth) for s in scores])
                    draws = np.stack([d.result() for d in [executor.submit(resampled, s, on) for s in scores]])
                    drawn.setdefault(on, (draws, points))
                    first = drawn[on]
                    pairs = zip(points.mean(0), points.std(0), strict=True)
                    spread = [f"{100 * x:.2f}" for pair in pairs for x in pair]
                    rows.append([side, name, *(f"{x:g}" for x in chosen), on, *spread,
                                 *difference_cells(first[0], draws, (first[1], points))])  # fmt: skip
            print(f"{side}: --patience {PATIENCE} changes the epoch kept in {early} of {SEEDS} runs at the defaults")
    header = ["side", "recipe", "A", "B", "measured on", *(f"{m}{end}" for m in METRICS for end in ("", " std"))]
    write_csv(args.output_dir / "recipes.csv", [*header, *(f"gain {c}" for c in DIFFERENCE_COLUMNS)], rows)


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # for numpy's products in the workers
    main(
        parse(
            __doc__,
            ("--train-dir", {"type": Path, "required": True}),
            ("--eval-dir", {"type": Path, "required": True}),
            ("--other-dir", {"type": Path, "default": None}),
            ("--checkpoint", {"default": str(ROOT / "CLAP" / "tiny")}),
            ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results"}),
            ("--workers", {"type": int, "default": os.cpu_count()}),
        )
    )
