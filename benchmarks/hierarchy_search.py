"""Are curved projectors better at naming relatives? Recall of siblings and cousins after an equal search, two choosers.

    python benchmarks/hierarchy_search.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval \\
        --other-dir esc10 --work-dir geometry

The search of docs/protocol.md with the sigmoid loss, for hyperbolic, flat and cosine, and for flat at the manual's
scale, text radius and audio radius ("flat, not searched"): of its trials only rate, batch and epochs count. Settings
are chosen twice: by the mean of the usual validation metrics (V), by the sibling recall of the validation clips (S).
Runs are those of geometry_table.py, in the same --work-dir, where each number of dimensions is kept once it is done.

Writes to --output-dir hierarchy_search.csv, each side's figures with their deviation over 5 seeds, and
hierarchy_search_differences.csv, paired differences with 95 % intervals over clips and seeds. tree_induced_error and
lca_height are edges, the lower the better; hubness is no share either; all else is points of per cent.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

from geometry_runs import FLAT, METRICS, command_line, difference, load, open_place, rows_kept, write_csv
from geometry_search import SIDES, flags, scores_of, search, trials

DIMS = (64, 16, 8)
RECALLS = ("sibling_recall@5", "cousin_recall@5")
EDGES = ("tree_induced_error", "lca_height")
DRAWN = (*METRICS, *RECALLS, "jaccard", *EDGES)
BOUNDS = [(name, end) for name in RECALLS for end in ("chance", "ceiling")]
STORED = ("hubness_skewness", "hubness_largest", *(" ".join(bound) for bound in BOUNDS))
PLAIN = "flat, not searched"
PAIRS = (("flat", "hyperbolic"), ("cosine", "hyperbolic"), ("cosine", "flat"), (PLAIN, "hyperbolic"), (PLAIN, "flat"))
RESAMPLES = 2000


def sides_of(dim: int, split_by: str) -> dict[str, list]:
    """{side: the configs of its trials}."""
    from hyperbolic_clap.plumbing.config import TrainConfig

    space = trials()
    sides = {side: [trial.settings(side, "sigmoid", dim) for trial in space] for side in SIDES}
    sides[PLAIN] = [TrainConfig(learning_rate=trial.learning_rate, batch_size=trial.batch_size, epochs=trial.epochs,
                                c=FLAT, output_dim=dim, seed=0) for trial in space]  # fmt: skip
    return {side: [replace(config, split_by=split_by) for config in configs] for side, configs in sides.items()}


def class_tree(place):
    """AudioSet's tree over the classes."""
    from hyperbolic_clap.metrics.hierarchy import ClassTree
    from hyperbolic_clap.metrics.ontology import audioset

    return ClassTree(audioset().find(place.clips.classes.names)[0], audioset())


def siblings(place, classes):
    """The score of a run: the sibling recall of its validation clips."""
    from hyperbolic_clap.metrics.classification import rank_classes
    from hyperbolic_clap.metrics.hierarchy import neighbour_recall

    def score(outcome) -> float:
        scores, targets = scores_of(place, outcome, "validation")
        hits, slots = neighbour_recall(rank_classes(scores), targets, classes)[RECALLS[0]]
        return float(hits.sum() / slots.sum())

    return score


def drawn(path, classes):
    """(1 + RESAMPLES, DRAWN) of a results file: the figures, shares in points, and those of resampled clips."""
    import numpy as np
    from safetensors.numpy import load_file

    from hyperbolic_clap.metrics.bootstrap import draw
    from hyperbolic_clap.metrics.classification import rank_classes
    from hyperbolic_clap.metrics.hierarchy import tree_ratios
    from hyperbolic_clap.metrics.weighted import plain, ratio
    from hyperbolic_clap.results.sweep_tables import resampled_metrics

    content = load_file(path.with_suffix(".safetensors"))
    scores, targets = content["scores"], content["targets"].astype(bool)
    found = resampled_metrics(scores, targets, RESAMPLES, 0)
    parts = tree_ratios(rank_classes(scores), targets, classes)
    weights = np.concatenate([plain(len(scores)), *draw(len(scores), RESAMPLES, 0, targets.shape[1])])
    found |= {name: ratio(weights, *parts[name]) for name in DRAWN if name in parts}
    return np.stack([found[name] * (1 if name in EDGES else 100) for name in DRAWN], axis=1)


def stored(path) -> list[float]:
    """STORED of a results file; chance and ceiling in points."""
    tree = json.loads(path.read_text(encoding="utf-8"))["ontology"]
    return [*(tree[name] for name in STORED[:2]), *(100 * tree[f"{name}_bounds"][end] for name, end in BOUNDS)]


def rows_of(place, classes, dim: int, args) -> list[list]:
    """Rows ["side" or "difference", ...] of both tables, of one number of dimensions."""
    import numpy as np

    from hyperbolic_clap.results.sweep import by_validation

    choosers = {"V": by_validation("val_mean"), "S": siblings(place, classes)}
    outcomes, picked = search(place, sides_of(dim, args.split_by), choosers, args.workers)
    rows = []
    for by in choosers:
        for on in args.folders:
            draws = {}
            for (side, chooser), configs in picked.items():
                if chooser != by:
                    continue
                paths = [place.plan.results(outcomes[config].name, on) for config in configs]
                draws[side] = np.stack([drawn(path, classes) for path in paths])
                values = zip(draws[side][:, 0].mean(0), draws[side][:, 0].std(0), strict=True)
                cells = [f"{x:.2f}" for pair in values for x in pair]
                cells += [f"{x:.2f}" for x in np.mean([stored(path) for path in paths], axis=0)]
                rows.append(["side", dim, by, on, side, *cells, flags(configs[0])])
            for one, two in PAIRS:
                point = (draws[two] - draws[one])[:, 0].mean(0)
                low, high = difference(draws[one][:, 1:], draws[two][:, 1:])
                cells = [f"{x:.2f}" for triple in zip(point, low, high, strict=True) for x in triple]
                rows.append(["difference", dim, by, on, f"{two} - {one}", *cells])
    return rows


def main(args) -> None:
    place, rows = open_place(args), []
    (_, name), classes = load(place, args.split_by), class_tree(place)
    for dim in DIMS:
        path = args.work_dir / f"hierarchy_search_{dim}.json"
        rows += rows_kept(path, name, dim in args.dims, partial(rows_of, place, classes, dim, args))
    head = ["dim", "chosen by", "measured on"]
    figures = [f"{metric}{end}" for metric in DRAWN for end in ("", " std")]
    intervals = [f"{metric}{end}" for metric in DRAWN for end in ("", " low", " high")]
    for kind, file, columns in (("side", "", ["side", *figures, *STORED, "flags"]),
                                ("difference", "_differences", ["difference", *intervals])):  # fmt: skip
        some = [row[1:] for row in rows if row[0] == kind]
        write_csv(args.output_dir / f"hierarchy_search{file}.csv", [*head, *columns], some)


if __name__ == "__main__":
    main(command_line(__doc__, ("--dims", {"type": int, "nargs": "+", "default": DIMS, "choices": DIMS})))
