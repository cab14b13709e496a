"""AudioSet's inner classes, such as "Animal": answered by their own text, or by all the texts of their branch.

Labels are closed upward: a clip of "Bark" is one of "Dog" and of "Animal" too. A branch is an inner class with
everything below it; its similarity is the log-sum-exp of the similarities of its texts, at the logit scale of the
projector, so one text that fits suffices and several that fit half add up.
"""

from __future__ import annotations

import numpy as np
import torch

from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics.ontology import Ontology, audioset
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.results.files import INNER


def inner_nodes(tree: Ontology) -> np.ndarray:
    """(I,) the nodes that have children, without the added root, ascending."""
    return np.unique([p for parents in tree.parents[1:] for p in parents if p])


def branch_of(name: str, tree: Ontology) -> list[str]:
    """An inner class and the names of all classes below it; [] for any other text."""
    found, _ = tree.find([name])
    if found is None or found[0] not in inner_nodes(tree):
        return []
    return [tree.names[i] for i in np.flatnonzero(tree.ancestors[:, found[0]])]


def log_sum_exp(similarity: torch.Tensor, scale: float) -> torch.Tensor:
    """(N, B) similarities to the texts of a branch -> (N,) one similarity, no less than the greatest of them."""
    return torch.logsumexp(similarity.double() * scale, dim=1) / scale


def inner_similarities(material: EmbeddedClips, projector: Projector, scores: np.ndarray) -> dict[str, np.ndarray]:
    """`inner_own` and `inner_branch` (N, I) float32 and `inner_targets` (N, I) bool of the inner classes.

    scores: the (N, M) similarities to the class list. {} where a class of it is not AudioSet's.
    """
    tree = audioset()
    nodes, _ = tree.find(material.classes.names)
    if nodes is None:
        return {}
    others = np.setdiff1d(np.arange(1, len(tree.names)), nodes)
    every = torch.empty(len(scores), len(tree.names), dtype=torch.float64)
    every[:, nodes] = torch.from_numpy(scores).double()
    if len(others):
        text = projector.text(material.texts_of([tree.names[i] for i in others]))
        every[:, others] = projector.compare(projector.audio(material.audio), text).cpu().double()
    inner = inner_nodes(tree)
    below = torch.from_numpy(tree.ancestors[:, inner])
    branch = torch.stack([log_sum_exp(every[:, members], projector.logit_scale_value) for members in below.T], dim=1)
    closed = material.targets.float() @ torch.from_numpy(tree.ancestors[nodes][:, inner]).float() > 0
    own = every[:, inner]
    return {"inner_own": own.float().numpy(), "inner_branch": branch.float().numpy(), "inner_targets": closed.numpy()}


def inner_metrics(found: dict[str, np.ndarray]) -> dict:
    """map_inner: average precision of each inner class that occurs by its own text, averaged over these classes.

    map_inner_descendants: the same by its branch. inner_classes: how many occur. None without ground. Clips without a
    true class do not count.
    """
    from sklearn.metrics import average_precision_score

    result = dict.fromkeys(("inner_classes", *INNER))
    if not found:
        return result
    valid = found["inner_targets"].any(axis=1)
    targets = found["inner_targets"][valid]
    occurs = np.flatnonzero(targets.any(axis=0))
    result["inner_classes"] = len(occurs)
    for metric, tensor in INNER.items() if len(occurs) else ():
        scores = found[tensor][valid]
        result[metric] = float(np.mean([average_precision_score(targets[:, i], scores[:, i]) for i in occurs]))
    return result
