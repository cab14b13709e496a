"""python benchmarks/tree_speed.py [--clips 20000]

Seconds of the tree's metrics for so many clips against AudioSet's 527 classes, as one Markdown table: all that the
results JSON holds, of a whole ranking, and the count of ancestors that clips meet in order. Medians of five.
"""

from __future__ import annotations

import numpy as np
from material import alternate, class_names, parse, print_table


def main(args) -> None:
    from hyperbolic_clap.metrics.classification import rank_classes
    from hyperbolic_clap.metrics.hierarchy import ontology_metrics
    from hyperbolic_clap.metrics.ontology import Ontology
    from hyperbolic_clap.metrics.traversal import STEPS, ancestors_in_order

    names, tree, generator = class_names(), Ontology(), np.random.default_rng(0)
    nodes = tree.find(names)[0]
    targets = generator.random((args.clips, len(names))) < 2 / len(names)
    targets[:, 0] |= ~targets.any(axis=1)
    order = rank_classes(generator.normal(size=targets.shape).astype(np.float32))
    met = order[:, :STEPS]
    works = {
        "all metrics of a ranking": lambda: ontology_metrics(order, targets, names, tree),
        "ancestors met in order": lambda: ancestors_in_order(met, targets, nodes, tree),
    }
    times = alternate(*works.values())
    rows = [[name, f"{value:.2f}"] for name, value in zip(works, times, strict=True)]
    print_table([f"{args.clips} clips x {len(names)} classes", "seconds"], rows)


if __name__ == "__main__":
    main(parse(__doc__, ("--clips", {"type": int, "default": 20_000})))
