"""Does curvature help? Hyperbolic, flat and cosine after an equal search, as docs/protocol.md lays down.

    python benchmarks/geometry_table.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval \\
        --other-dir esc10 --work-dir geometry

The folders hold parquet files in AudioSet's form; any CLAP and any data will do. Each cell (loss, dimensions) is
kept in --work-dir as soon as it is done, and a cell that is there is not searched again: stop and start at will, or
search some cells only (--loss, --dims). The search is the product's: sweep.py with --settings, --finalists and
--choose-by val_mean makes the same runs (docs/protocol.md), and either goes on with those of
the other. At the end of each run the tables of all finished cells are written to --output-dir:

    geometry.csv             the chosen setting of each side, its metrics: mean and deviation over 5 seeds
    geometry_differences.csv paired differences between sides, with 95 % intervals over clips and seeds
    geometry_robustness.csv  the share of the search space within a point of each side's best
    geometry_trials.csv      every trial

--other-dir is a second folder, of another origin: it chooses once instead of the validation clips, and is measured on
where it did not choose. An estimated 30 to 35 minutes on 2 cores for all cells.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

from geometry_runs import (
    DIFFERENCE_COLUMNS,
    METRICS,
    RESAMPLES,
    SEEDS,
    command_line,
    difference_cells,
    drawn,
    four,
    load,
    open_place,
    write_csv,
)
from geometry_search import ROUTES, SIDES, Cell, cell_path, flags, search_cell, trials
from material import print_table

DIMS = (512, 64, 16, 8, 4, 2)
LOSSES = ("sigmoid", "softmax")
PAIRS = (("flat", "hyperbolic"), ("cosine", "hyperbolic"), ("cosine", "flat"))
WITHIN = 1.0  # points of a side's best


def cells(args, data: str) -> dict:
    """{(loss, dim): Cell} of those that are finished."""
    found = {}
    for loss in LOSSES:
        for dim in DIMS:
            path = cell_path(args.work_dir, loss, dim)
            if path.exists():
                found[loss, dim] = Cell(path)
                if found[loss, dim].found["data"] != data:
                    sys.exit(f"{path} was searched on other data; give another --work-dir")
    return found


def search_all(args, place, data: str) -> None:
    for loss in args.loss:
        for dim in args.dims:
            started = time.time()
            if not cell_path(args.work_dir, loss, dim).exists():
                search_cell(place, loss, dim, args.split_by, data, args.workers)
                print(f"{loss}, {dim} dimensions: {time.time() - started:.0f} s", flush=True)


def routes_of(cell: Cell) -> list[tuple[str, str]]:
    return [route for route in ROUTES if f"hyperbolic/{'/'.join(route)}" in cell.draws]


def figures(found: dict) -> list[list]:
    """A row for each side, cell and route, and for untrained cosine."""
    rows, space = [], trials()
    for (loss, dim), cell in found.items():
        for by, on in routes_of(cell):
            for side in SIDES:
                points = 100 * cell.points[f"{side}/{by}/{on}"]
                setting = space[cell.found["chosen"][f"{side}/{by}"]].settings(side, loss, dim)
                spread = [f"{x:.2f}" for pair in zip(points.mean(0), points.std(0), strict=True) for x in pair]
                rows.append([loss, dim, side, by, on, *spread, flags(setting)])
    return rows


def untrained_rows(place) -> tuple[list[list], dict]:
    """The figures of untrained cosine at each number of dimensions, and its draws and points at 512."""
    import numpy as np
    import torch

    from hyperbolic import HyperbolicProjector
    from hyperbolic_clap.results.sweep import UNTRAINED
    from hyperbolic_clap.results.sweep_tables import resampled

    rows, whole, text = [], {}, place.clips.text
    place.untrained()
    for on, clips in place.tested.items():
        for dim in DIMS:
            projector = HyperbolicProjector(text.shape[1], dim, similarity="cosine")
            projector.start_at_principal_directions(text)
            with torch.no_grad():
                points = four(projector(clips.audio, text).numpy(), clips.targets.numpy())
            rows.append(["", dim, "untrained", "", on, *(x for p in points for x in (f"{100 * p:.2f}", "")), ""])
        found = resampled(place.plan.results(UNTRAINED, on), RESAMPLES, 0)
        whole[on] = drawn(found), np.array([found[name][0] for name in METRICS])
    return rows, whole


def differences(found: dict, plain: dict) -> list[list]:
    """A row for each pair of sides, cell and route, and for each side and cell what the other chooser brings.

    untrained is CLAP's own cosine at 512 dimensions.
    """
    import numpy as np

    rows = []
    for (loss, dim), cell in found.items():
        for by, on in routes_of(cell):
            draws, points = ({side: of[f"{side}/{by}/{on}"] for side in SIDES} for of in (cell.draws, cell.points))
            draws["untrained"] = np.repeat(plain[on][0][None], SEEDS, axis=0)
            points["untrained"] = np.repeat(plain[on][1][None], SEEDS, axis=0)
            for one, two in (*PAIRS, *(("untrained", side) for side in SIDES)):
                values = difference_cells(draws[one], draws[two], (points[one], points[two]))
                rows.append([loss, dim, f"{two} - {one}", by, on, *values])
        for side in SIDES if ROUTES[2] in routes_of(cell) else ():
            pair = [f"{side}/{by}/eval" for by in ("validation", "other")]
            values = difference_cells(*(cell.draws[name] for name in pair), [cell.points[name] for name in pair])
            rows.append([loss, dim, side, "other - validation", "eval", *values])
    return rows


def digest(rows: list[list]) -> None:
    """Print the differences between trained sides, * where the interval excludes zero."""
    shown = []
    for loss, dim, name, by, on, *values in (row for row in rows if row[2].endswith((" - flat", " - cosine"))):
        triples = zip(*(map(float, values[k::3]) for k in range(3)), strict=True)
        found = [f"{p:+.1f} [{a:+.1f}, {b:+.1f}]{'*' * (a > 0 or b < 0)}" for p, a, b in triples]
        shown.append([loss, str(dim), name, f"{by} -> {on}", *found])
    print_table(["loss", "dim", "difference", "chosen on -> measured on", *METRICS], shown)


def of_trials(scores):
    """(T, sides) scores of trials -> (3, sides): share within WITHIN of each side's best, the best, the median."""
    import numpy as np

    best = scores.max(0)
    return np.stack([100 * (scores >= best - WITHIN).mean(0), best, np.median(scores, axis=0)])


def robustness(found: dict, on: str) -> list[list]:
    """Share, best and median of each side's trials, and paired differences, for each cell and all cells of a loss."""
    import numpy as np

    rows, names = [], list(SIDES)
    for loss in LOSSES:
        of_loss = {dim: cell.found["trials"] for (name, dim), cell in found.items() if name == loss}
        scores = {d: np.array([[t[on] for t in of[side]] for side in SIDES]).T for d, of in of_loss.items()}
        groups = [(str(dim), [dim]) for dim in scores] + [("all", list(scores))] * (len(scores) > 1)
        for label, dims in groups:
            count = len(scores[dims[0]])
            draws = [np.arange(count), *np.random.default_rng(2).integers(count, size=(2000, count))]
            figures = np.stack([np.mean([of_trials(scores[dim][some]) for dim in dims], axis=0) for some in draws])
            columns = {side: figures[:, :, i] for i, side in enumerate(names)}
            columns |= {f"{two} - {one}": columns[two] - columns[one] for one, two in PAIRS}
            for name, values in columns.items():
                (share, best, median), (low, _, median_low), (high, _, median_high) = (
                    values[0], *np.percentile(values[1:], [2.5, 97.5], axis=0)
                )  # fmt: skip
                rows.append([loss, label, name, on, *(f"{x:.1f}" for x in (share, low, high)),
                             *(f"{x:.2f}" for x in (best, median, median_low, median_high))])  # fmt: skip
    return rows


def trial_rows(found: dict, measured: list[str]) -> list[list]:
    return [
        [loss, dim, side, i, *asdict(space).values(), *(f"{value[name]:.2f}" for name in ("validation", *measured))]
        for (loss, dim), cell in found.items()
        for side, values in cell.found["trials"].items()
        for i, (space, value) in enumerate(zip(trials(), values, strict=True))
    ]


def main(args) -> None:
    place = open_place(args)
    _, name = load(place, args.split_by)
    measured = list(args.folders)
    cells(args, name)  # whether what is there belongs to this data
    search_all(args, place, name)
    found = cells(args, name)
    plain_rows, plain = untrained_rows(place)
    head, spread = ["loss", "dim"], [f"{metric}{end}" for metric in METRICS for end in ("", " std")]
    out = args.output_dir
    write_csv(out / "geometry.csv", [*head, "side", "chosen on", "measured on", *spread, "flags"],
              plain_rows + figures(found))  # fmt: skip
    columns, rows = [*head, "difference", "chosen on", "measured on", *DIFFERENCE_COLUMNS], differences(found, plain)
    write_csv(out / "geometry_differences.csv", columns, rows)
    digest(rows)
    write_csv(out / "geometry_robustness.csv",
              [*head, "side", "measured on", "share", "share low", "share high", "best", "median",
               "median low", "median high"],
              [row for on in measured for row in robustness(found, on)])  # fmt: skip
    columns = [*head, "side", "trial", *asdict(trials()[0]), "validation", *measured]
    write_csv(out / "geometry_trials.csv", columns, trial_rows(found, measured))
    missing = [f"{loss} {dim}" for loss in LOSSES for dim in DIMS if (loss, dim) not in found]
    print(f"tables of {len(found)} cells in {out}; not searched yet: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main(
        command_line(
            __doc__,
            ("--dims", {"type": int, "nargs": "+", "default": DIMS, "choices": DIMS}),
            ("--loss", {"nargs": "+", "default": LOSSES, "choices": LOSSES}),
        )
    )
