"""Does curvature pay where there is a tree? What was tried with AudioSet's, each beside flat and cosine.

    python benchmarks/hierarchy_table.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval \\
        --other-dir esc10 --work-dir geometry

Every similarity trains at the settings that benchmarks/geometry_table.py chose for it in the cells sigmoid 64 and
sigmoid 8 (the cones), which must lie in --work-dir. Parts (--parts), each kept in --work-dir once it is done:

    labels  plain training against labels closed upward over all nodes of the tree; inner classes answered by their own
            text and by all texts of their branch; the way to the root
    cones   entailment cones on parent and child texts and on texts and their clips, and their Euclidean twin
    unseen  40 classes held out of the training; other ones for each seed
    subtree the same with all classes of a subtree
    few     1, 2, 4 and 8 clips of each class to train on; beside them prototypes on untrained cosine

5 seeds; writes hierarchy.csv to --output-dir: values with their deviation over the seeds, and differences with their
95 % intervals over clips and seeds.
About 5 minutes on one core.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from geometry_runs import SEEDS, command_line, difference, open_data, pool, rows_kept, write_csv
from geometry_search import SIDES, Cell, cell_path, trials
from hierarchy_runs import (
    HELD,
    closed_run,
    few_run,
    held_out,
    plain_run,
    prototype_run,
    tree_figures,
    unseen_run,
    with_tree,
)

DIM, CONE_DIM = 64, 8
CONES = (0.1, 1.0, 10.0)
SHOTS = (1, 2, 4, 8)
BESIDE = ("untrained", "cosine", "flat")
AGAINST = [f"- {other}{end}" for other in ("first variant", *BESIDE) for end in ("", " low", " high")]
HEADER = ["part", "variant", "side", "measured on", "metric", "value", "std", *AGAINST]


def chosen(folder, dim: int, data: str) -> dict:
    """{side: the settings that the validation clips chose for it}."""
    path = cell_path(folder, "sigmoid", dim)
    if not path.exists():
        sys.exit(f"{path} is missing; geometry_table.py --loss sigmoid --dims {dim} makes it")
    cell = Cell(path)
    if cell.found["data"] != data:
        sys.exit(f"{path} was searched on other data; give another --work-dir")
    return {side: trials()[cell.found["chosen"][f"{side}/validation"]].settings(side, "sigmoid", dim) for side in SIDES}


def over_seeds(executor, run, settings, **given) -> list:
    return [executor.submit(run, replace(settings, seed=seed), **given) for seed in range(SEEDS)]


def labels(executor, whole: dict, small: dict) -> dict:
    futures = {("plain", "untrained"): [executor.submit(tree_figures)]}
    for side, settings in whole.items():
        futures["plain", side] = over_seeds(executor, plain_run, settings)
        futures["closed upward", side] = over_seeds(executor, closed_run, settings)
    return futures


def cones(executor, whole: dict, small: dict) -> dict:
    futures = {("no cones", "untrained"): [executor.submit(tree_figures)]}
    futures |= {("no cones", side): over_seeds(executor, plain_run, settings) for side, settings in small.items()}
    return futures | {
        (f"weight {weight:g}", side): over_seeds(executor, plain_run, small[side], cones=weight)
        for weight in CONES
        for side in ("flat", "hyperbolic")
    }


def unseen(executor, whole: dict, small: dict, subtree: bool = False) -> dict:
    return {
        ("a subtree" if subtree else f"{HELD} classes", side): [
            executor.submit(unseen_run, settings and replace(settings, seed=seed), held)
            for seed, held in enumerate(held_out(subtree))
        ]
        for side, settings in {"untrained": None, **whole}.items()
    }


def few_shot(executor, whole: dict, small: dict) -> dict:
    futures = {(f"{SHOTS[0]} a class", "untrained"): [executor.submit(few_run, None, 0)]}
    for shots in SHOTS:
        some = [executor.submit(prototype_run, shots, seed) for seed in range(SEEDS)]
        futures[f"{shots} a class", "untrained with prototypes"] = some
        for side, settings in whole.items():
            futures[f"{shots} a class", side] = over_seeds(executor, few_run, settings, shots=shots)
    return futures


PARTS = {
    "labels": labels,
    "cones": cones,
    "unseen": unseen,
    "subtree": partial(unseen, subtree=True),
    "few": few_shot,
}


def cells(first: list, second: list) -> list[str]:
    """Value, low and high, in points, of second - first: a figure for each seed, or one for all of them."""
    import numpy as np

    one, two = (np.stack(some * SEEDS if len(some) == 1 else some) for some in (first, second))
    low, high = difference(one[:, 1:, None], two[:, 1:, None])[:, 0]
    return [f"{100 * x:.2f}" for x in (np.mean(two[:, 0] - one[:, 0]), low, high)]


def table(part: str, futures: dict) -> list[list]:
    """A row for each variant, side and metric: its value, and what it is above the first variant and other sides."""
    import numpy as np

    found = {key: [future.result() for future in some] for key, some in futures.items()}
    first, rows = next(iter(found))[0], []
    for (variant, side), results in found.items():
        others = BESIDE[: BESIDE.index(side)] if side in BESIDE else BESIDE
        against = [(first, side) if variant != first else None]
        against += [((variant if (variant, s) in found else first), s) if s in others else None for s in BESIDE]
        for key in results[0]:
            mine = [figures[key] for figures in results]
            values = [100 * figure[0] for figure in mine]
            rows.append([part, variant, side, *key, f"{np.mean(values):.2f}", f"{np.std(values):.2f}"])
            for name in against:
                there = [figures[key] for figures in found.get(name, ()) if key in figures]
                rows[-1] += cells(there, mine) if there else [""] * 3
    return rows


def main(args) -> None:
    data, name = open_data(args)
    data = with_tree(data, args.checkpoint)
    whole, small = (chosen(args.work_dir, dim, name) for dim in (DIM, CONE_DIM))
    rows = []
    with pool(data, args.workers) as executor:
        for part, start in PARTS.items():
            path = args.work_dir / f"hierarchy_{part}.json"
            rows += rows_kept(path, name, part in args.parts, lambda: table(part, start(executor, whole, small)))  # noqa: B023
    write_csv(args.output_dir / "hierarchy.csv", HEADER, rows)


if __name__ == "__main__":
    main(command_line(__doc__, ("--parts", {"nargs": "+", "default": tuple(PARTS), "choices": tuple(PARTS)})))
