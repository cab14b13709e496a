"""AudioSet's tree in two dimensions: how far path lengths are off in the Poincare disk and in the flat plane.

    python benchmarks/tree_table.py

Free vectors fitted to the path lengths between all nodes above the 527 classes, as the page and plot_results.py disk
--layout tree show them. The error is |shown - true| / true, averaged over all pairs. Writes tree_disk.csv; seconds.
"""

from __future__ import annotations

from pathlib import Path

from geometry_runs import write_csv
from material import ROOT, class_names, parse


def main(args) -> None:
    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.reporting.tree_disk import fit_tree

    tree = audioset()
    found = fit_tree(tree, tuple(tree.find(class_names())[0].tolist()))
    row = [len(class_names()), len(found.nodes), f"{found.error:.4f}", f"{found.flat_error:.4f}"]
    write_csv(args.output_dir / "tree_disk.csv", ["classes", "nodes", "error_in_the_disk", "error_in_the_plane"], [row])


if __name__ == "__main__":
    main(parse(__doc__, ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results", "help": "the table"})))
