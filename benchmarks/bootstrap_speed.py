"""How long compare_results.py takes: the paired bootstrap of synthetic results files with scores.

    python benchmarks/bootstrap_speed.py --output-csv docs/results/bootstrap.csv

The files hold 545 clips (and, with --large, 17,142, about AudioSet's evaluation) against AudioSet's 527 classes. Labels
are drawn with the skew of AudioSet: some classes have hundreds of clips, half of them one or none. Each time is that of
compare_results.py as a user starts it, process start and reading included: the median of --repeats.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

import numpy as np
from material import class_names, machine, run_script

from hyperbolic_clap.metrics.ontology import audioset
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.plumbing.flags import Parser, at_least
from hyperbolic_clap.results.files import save_scores

CLIPS, LARGE = 545, 17_142
FILES = (2, 3, 10)
LABELS = 2.9  # of a clip, on average
SKEW = 1.2  # the n-th most frequent class has about n ** -SKEW of the labels
TOP_K = 5


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--repeats", type=at_least(1), default=5, help="of each comparison; the median is shown (default: 5)")
    add("--resamples", type=at_least(100), default=10_000, help="of the bootstrap (default: 10000)")
    add("--large", action="store_true", help=f"also two files of {LARGE} clips, once")
    add("--output-csv", type=Path, default=None, help="also write the table")
    return parser


def draw_targets(clips: int, classes: int, seed: int = 0) -> np.ndarray:
    """(N, M) bool: about LABELS classes of each clip, at least one, skewed over the classes."""
    generator = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) ** -SKEW
    share = generator.permutation(share / share.sum())
    targets = np.zeros((clips, classes), bool)
    for row, count in zip(targets, 1 + generator.poisson(LABELS - 1, clips), strict=True):
        row[generator.choice(classes, min(count, classes), replace=False, p=share)] = True
    return targets


def write_results(path: Path, targets: np.ndarray, seed: int) -> Path:
    """A results file of made-up similarities, and its scores beside it, as test_clap_modelscope.py writes them."""
    names, tree, generator = class_names(), audioset(), np.random.default_rng(seed)
    above = tree.ancestors[tree.find(names)[0]]
    inner = np.unique([parent for parents in tree.parents[1:] for parent in parents if parent])
    closed = targets.astype(np.float32) @ above[:, inner].astype(np.float32) > 0
    tensors = {"scores": generator.normal(size=targets.shape) + targets, "targets": targets, "inner_targets": closed}
    tensors |= {name: generator.normal(size=closed.shape) + closed for name in ("inner_own", "inner_branch")}
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    scores = path.with_suffix(".safetensors")
    save_scores(scores, tensors)
    order = np.argsort(-tensors["scores"], axis=1, kind="stable")[:, :TOP_K]
    predictions = [
        {
            "sample_id": i,
            "video_id": f"v{i}",
            "predicted_top1": names[best[0]],
            "top_k_predictions": [
                {"rank": rank, "classname": names[j], "similarity": float(tensors["scores"][i, j])}
                for rank, j in enumerate(best, 1)
            ],
            "ground_truth_labels": [],
            "ground_truth_human_labels": [names[j] for j in np.flatnonzero(targets[i])],
        }
        for i, best in enumerate(order)
    ]
    info = {"class_names": names, "scores": scores.name}
    model = {"c_meaning": "squared radius of the ball, curvature = -1/c"}
    write_json(path, {"test_info": info, "model_info": model, "metrics": {}, "predictions": predictions})
    return path


def main(args: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clips, counts, repeats in ((CLIPS, FILES, args.repeats), *([(LARGE, (2,), 1)] if args.large else [])):
            targets = draw_targets(clips, len(class_names()))
            written = [write_results(Path(folder) / f"r{clips}_{i}.json", targets, i) for i in range(max(counts))]
            for count in counts:
                times = [run_script("compare_results.py", *written[:count], "--resamples", args.resamples)
                         for _ in range(repeats)]
                rows.append({
                    "clips": clips, "classes": targets.shape[1], "labels": int(targets.sum()), "files": count,
                    "resamples": args.resamples, "median_s": round(statistics.median(times), 2), "runs": repeats,
                    "machine": machine(),
                })  # fmt: skip
                print(rows[-1], flush=True)
    if args.output_csv:
        with args.output_csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(parser().parse_args())
