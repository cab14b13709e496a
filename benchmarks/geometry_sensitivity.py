"""How much does a training move if its logit scale changes in the seventh digit? The trials that were not found again.

    python benchmarks/geometry_sensitivity.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval \\
        --other-dir esc10 --work-dir geometry

--work-dir holds the runs that geometry_again.py compares. Each trial whose score on the validation clips lies more than
0.05 points from the published one is trained again, with its logit scale times 1 + each of CHANGES. Writes
geometry_sensitivity.csv to --output-dir; the scores are points of per cent.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from geometry_again import record, table
from geometry_runs import command_line, open_place, write_csv
from geometry_search import trials
from material import ROOT

CHANGES = (1e-7, -1e-7, 2e-6)


def main(args) -> None:
    from hyperbolic_clap.results.sweep import name_of, outcomes

    rows, space = [], trials()
    with tempfile.TemporaryDirectory() as folder:
        args.work_dir, kept = Path(folder), args.work_dir
        place = open_place(args)
        for row in table(ROOT / "docs" / "results" / "geometry_trials.csv"):
            config = space[int(row["trial"])].settings(row["side"], row["loss"], int(row["dim"]))
            found = record(kept, config)
            if not found or abs(100 * found["training"]["validation"]["val_mean"] - float(row["validation"])) < 0.05:
                continue
            changed = [replace(config, logit_scale=config.logit_scale * (1 + change)) for change in CHANGES]
            scores = [found["training"]]
            for one in changed:  # one at a time: their names, of six digits, are the same
                (outcome,) = outcomes(place, [one], False, 1)
                scores.append(outcome.record["training"])
            figures = [f"{100 * score['validation']['val_mean']:.2f}" for score in scores]
            setup = json.loads((kept / "runs" / name_of(config) / "setup.json").read_text(encoding="utf-8"))
            near = next(one for one in setup["epochs"] if one["epoch"] == setup["best_epoch"])["audio_near_boundary"]
            rows.append([row["loss"], row["dim"], row["side"], row["trial"], config.audio_radius, f"{near:.2f}",
                         row["validation"], *figures])  # fmt: skip
    header = ["loss", "dim", "side", "trial", "audio radius", "share of clips near the boundary", "published", "again"]
    write_csv(args.output_dir / "geometry_sensitivity.csv", [*header, *(f"scale {x:+g}" for x in CHANGES)], rows)


if __name__ == "__main__":
    main(command_line(__doc__))
