"""Are the published tables found again? What the sweep's runs give against geometry.csv and geometry_trials.csv.

    python benchmarks/geometry_again.py --work-dir geometry

--work-dir holds the runs of geometry_table.py, hierarchy_search.py or sweep.py, all of them or some. Writes
geometry_again.csv to --output-dir: for each side and cell how many of its trials were run again and the largest
difference of their score on the validation clips; where the published choice was run again with its 5 seeds, its
figures before and after. All are points of per cent.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from geometry_runs import METRICS, SEEDS, write_csv
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


def choice_again(args, row: dict, configs: list) -> list:
    """METRICS of a published choice and of its runs, with the largest difference; empty if it was not run again."""
    import numpy as np

    (config,) = (one for one in configs if flags(one) == row["flags"])
    runs = [record(args.work_dir, replace(config, seed=seed)) for seed in range(SEEDS)]
    folder = getattr(args, row["measured on"])
    if not all(run and folder in run["tests"] for run in runs):
        return [""] * (2 * len(METRICS) + 1)
    found = [100 * np.mean([run["tests"][folder]["metrics"][name] for run in runs]) for name in METRICS]
    pairs = list(zip((float(row[name]) for name in METRICS), found, strict=True))
    return [*(f"{x:.2f}" for pair in pairs for x in pair), f"{max(abs(b - a) for a, b in pairs):.2f}"]


def main(args) -> None:
    choices, every = (table(args.published / f"geometry{kind}.csv") for kind in ("", "_trials"))
    rows = []
    for row in choices:
        if row["chosen on"] != "validation":
            continue
        cell = {name: row[name] for name in ("loss", "dim", "side")}
        configs = [trial.settings(row["side"], row["loss"], int(row["dim"])) for trial in trials()]
        published = [trial for trial in every if cell.items() <= trial.items()]
        rows.append([*cell.values(), *trials_again(args, published, configs), row["measured on"],
                     *choice_again(args, row, configs)])  # fmt: skip
    figures = [f"{metric} {when}" for metric in METRICS for when in ("before", "after")]
    write_csv(args.output_dir / "geometry_again.csv", ["loss", "dim", "side", "trials again", "largest difference",
              "measured on", *figures, "largest difference of the choice"], rows)  # fmt: skip


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
