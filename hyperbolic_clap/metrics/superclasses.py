"""Superclasses of a tree, such as "Animal": answered by their own text, or by all the texts of their subtree.

Labels are closed upward: a clip of "Bark" is one of "Dog" and of "Animal" too. A subtree is a superclass with
everything below it; its similarity is the log-sum-exp of the similarities of its texts, at the logit scale of the
projector, so one text that fits suffices and several that fit half add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hyperbolic_clap.metrics import weighted
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.weighted import Ranking

if TYPE_CHECKING:
    import torch

INNER = {"map_inner": "inner_own", "map_inner_descendants": "inner_branch"}  # metrics, and the tensors behind them


def superclasses(tree: Ontology) -> np.ndarray:
    """(I,) the nodes that have children, without the added root, ascending."""
    return np.unique([p for parents in tree.parents[1:] for p in parents if p]).astype(int)


def subtree_of(name: str, tree: Ontology) -> list[str]:
    """A superclass and the names of all classes below it; [] for any other text."""
    found, _ = tree.find([name])
    if found is None or found[0] not in superclasses(tree):
        return []
    return [tree.names[i] for i in np.flatnonzero(tree.ancestors[:, found[0]])]


def log_sum_exp(similarity: torch.Tensor, scale: float) -> torch.Tensor:
    """(N, B) similarities to the texts of a subtree -> (N,) one similarity, no less than the greatest of them."""
    return (similarity.double() * scale).logsumexp(dim=1) / scale


def superclass_similarities(
    every: torch.Tensor, targets: np.ndarray, nodes: np.ndarray, tree: Ontology, scale: float
) -> dict[str, np.ndarray]:
    """`inner_own` and `inner_branch` (N, I) float32 and `inner_targets` (N, I) bool of the superclasses.

    every (N, n) float64: similarities to the texts of all nodes of the tree; the column of the added root is not read.
    targets (N, M) bool, nodes (M,): of Ontology.find.
    """
    inner = superclasses(tree)
    below = tree.ancestors[:, inner]
    subtrees = [log_sum_exp(every[:, np.flatnonzero(members)], scale).float().numpy() for members in below.T]
    closed = targets.astype(np.float32) @ below[nodes].astype(np.float32) > 0
    below_each = np.stack(subtrees, axis=1) if subtrees else np.empty((len(targets), 0), np.float32)
    return {"inner_own": every[:, inner].float().numpy(), "inner_branch": below_each, "inner_targets": closed}


def superclass_rankings(found: dict[str, np.ndarray]) -> dict[str, Ranking]:
    """{metric: its Ranking} of the tensors of `superclass_similarities`; {} if no superclass occurs."""
    if not found or not found["inner_targets"].any():
        return {}
    return {metric: Ranking(found[tensor], found["inner_targets"]) for metric, tensor in INNER.items()}


def mean_precision(weights: np.ndarray, rankings: dict[str, Ranking]) -> dict[str, np.ndarray]:
    """(B, N) weights -> {metric: (B,)} average precision of each superclass that occurs, averaged over them."""
    return {name: weighted.mean_of_classes(ranking.precision(weights)) for name, ranking in rankings.items()}


def superclass_metrics(found: dict[str, np.ndarray]) -> dict:
    """map_inner: average precision of each superclass that occurs by its own text, averaged over these classes.

    map_inner_descendants: the same by its subtree. `inner_classes`: how many occur. None where undefined. Clips without
    a true class do not count.
    """
    result = dict.fromkeys(("inner_classes", *INNER))
    if not found:
        return result
    valid = found["inner_targets"].any(axis=1)
    found = {name: values[valid] for name, values in found.items()}
    result["inner_classes"] = int(found["inner_targets"].any(axis=0).sum())
    values = mean_precision(weighted.plain(int(valid.sum())), superclass_rankings(found))
    return result | {name: float(value[0]) for name, value in values.items()}
