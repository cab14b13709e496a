"""Are the published tables found again? What the sweep's runs give against geometry.csv and geometry_trials.csv.

    python benchmarks/geometry_again.py --work-dir geometry

--work-dir holds the runs of geometry_table.py, hierarchy_search.py or sweep.py, all of them or some. Writes
geometry_again.csv to --output-dir: for each side and cell how many of its trials were run again and the largest
difference of their score on the validation clips; where the published choice was run again with its 5 seeds, its
figures before and after. geometry_again_differences.csv: the differences between the choices of two sides with their
intervals, before and after. All are points of per cent. A minute or two, for the resamples.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from geometry_runs import DIFFERENCE_COLUMNS, METRICS, SEEDS, difference_cells, of_runs, write_csv
from geometry_search import flags, trials
from material import ROOT, parse


def table(path: Path) -> list[dict]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()[1:]))


def record(folder: Path, config) -> dict:
    """run.json of a config, {} if it was not run."""
    from hyperbolic_clap.results.sweep import name_of, read_record

    return read_record(folder / "runs" / name_of(config) / "run.json")


def trials_again(args, published: list[dict], configs: list) -> list:
    """How many trials of a side were run again, and the largest difference of their validation scores."""
    pairs = [(float(row["validation"]), record(args.work_dir, configs[int(row["trial"])])) for row in published]
    away = [abs(score - 100 * run["training"]["validation"]["val_mean"]) for score, run in pairs if run]
    return [len(away), f"{max(away):.2f}" if away else ""]


def choice_again(args, row: dict, configs: list) -> list[str]:
    """The names of the runs of a published choice, if all seeds were run and tested again; else none."""
    from hyperbolic_clap.results.sweep import name_of

    (config,) = (one for one in configs if flags(one) == row["flags"])
    seeds = [replace(config, seed=seed) for seed in range(SEEDS)]
    done = all(getattr(args, row["measured on"]) in record(args.work_dir, one).get("tests", {}) for one in seeds)
    return [name_of(one) for one in seeds] if done else []


def main(args) -> None:
    choices, every, gaps = (table(args.published / f"geometry{kind}.csv") for kind in ("", "_trials", "_differences"))
    rows, found = [], {}
    for row in choices:
        if row["chosen on"] != "validation":
            continue
        mine, on = (row["loss"], row["dim"], row["side"]), row["measured on"]
        configs = [trial.settings(row["side"], row["loss"], int(row["dim"])) for trial in trials()]
        published = [trial for trial in every if (trial["loss"], trial["dim"], trial["side"]) == mine]
        both = [""] * (2 * len(METRICS))
        if names := choice_again(args, row, configs):
            found[(*mine, on)] = of_runs(args.work_dir, names, getattr(args, on))
            pairs = zip((float(row[name]) for name in METRICS), 100 * found[(*mine, on)][1].mean(0), strict=True)
            both = [f"{x:.2f}" for pair in pairs for x in pair]
        rows.append([*mine, *trials_again(args, published, configs), on, *both])
    changed = []
    for row in gaps:
        cell, on = (row["loss"], row["dim"]), row["measured on"]
        sides = [found.get((*cell, side, on)) for side in reversed(row["difference"].split(" - "))]
        if row["chosen on"] == "validation" and None not in sides and len(sides) == 2:
            anew = difference_cells(*(draws for draws, _ in sides), [points for _, points in sides])
            pairs = zip((row[name] for name in DIFFERENCE_COLUMNS), anew, strict=True)
            changed.append([*cell, row["difference"], on, *(x for pair in pairs for x in pair)])
    figures = [f"{metric} {when}" for metric in METRICS for when in ("before", "after")]
    head = ["loss", "dim", "side", "trials again", "largest difference", "measured on", *figures]
    write_csv(args.output_dir / "geometry_again.csv", head, rows)
    figures = [f"{name} {when}" for name in DIFFERENCE_COLUMNS for when in ("before", "after")]
    head = ["loss", "dim", "difference", "measured on", *figures]
    write_csv(args.output_dir / "geometry_again_differences.csv", head, changed)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--work-dir", {"type": Path, "default": Path("geometry")}),
            ("--eval", {"default": "eval", "help": "name of the first folder in the results files"}),
            ("--other", {"default": "other", "help": "of the second"}),
            ("--published", {"type": Path, "default": ROOT / "docs" / "results", "help": "folder of the tables"}),
            ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results"}),
        )
    )
