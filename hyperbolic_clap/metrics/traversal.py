"""Traversal towards the root: which class texts a clip meets, and whether they are its ancestors.

A clip's vector moves towards what is most general, by the rule of its similarity: to the origin of a ball along the
geodesic, in cosine to the mean direction of the class texts along the chord (Desai et al. 2023, "Hyperbolic Image-Text
Representations", MERU, section 4.3 and appendix, whose steps these are). At each step the most similar text is met.
If the space holds the tree, a clip meets the ancestors of its classes, the nearest first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hyperbolic import Similarity
from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.hierarchy import BLOCK_CLIPS, class_tree, sums_over_labels
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.weighted import ratio

STEPS = 24  # of a traversal, the clip itself and the root included
PAIRS_AT_ONCE = 1 << 24  # similarities of one block of clips: 64 MiB
RESAMPLES = 2000


def traverse(compare: Callable, towards_root: Callable, audio: torch.Tensor, text: torch.Tensor) -> np.ndarray:
    """(N, D) audio and (M, D) text vectors -> (N, STEPS) positions of the texts met.

    compare: (audio, text) -> similarity. towards_root: (audio, text, steps) -> places, as hyperbolic.Similarity has it;
    from the clip itself (first column) to the root (last).
    """
    size = max(1, PAIRS_AT_ONCE // (STEPS * len(text)))
    parts = (audio[start : start + size] for start in range(0, len(audio), size))
    met = [_traverse(compare, towards_root, part, text) for part in parts]
    return np.concatenate(met) if met else np.empty((0, STEPS), int)


def _traverse(compare: Callable, towards_root: Callable, audio: torch.Tensor, text: torch.Tensor) -> np.ndarray:
    places = towards_root(audio, text, torch.linspace(0, 1, STEPS, dtype=audio.dtype, device=audio.device))
    best = compare(places.flatten(0, 1), text).argmax(1)
    return best.reshape(STEPS, len(audio)).T.cpu().numpy()


def ancestors_in_order(met: np.ndarray, targets: np.ndarray, nodes: np.ndarray, tree: Ontology) -> np.ndarray:
    """How many ancestors each clip meets in order, and how many it could: (N, 2).

    met (N, STEPS), targets (N, M) bool, nodes (M,) of Ontology.find. Counted are proper ancestors of the clip's true
    classes that are classes themselves; in order: each above the one before, as the longest such run.
    """
    classes = class_tree(nodes, tree)
    above = classes.above > 0
    height = longest_chains(above)
    found = np.zeros((len(met), 2), int)
    for start in range(0, len(met), BLOCK_CLIPS):
        rows = slice(start, start + BLOCK_CLIPS)
        wanted = sums_over_labels(targets[rows], classes.above) > 0
        found[rows, 0] = longest_runs(met[rows], np.take_along_axis(wanted, met[rows], axis=1), above)
        found[rows, 1] = np.where(targets[rows], height, 0).max(axis=1, initial=0)
    return found


def longest_runs(met: np.ndarray, counted: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(N, STEPS) classes met, whether each counts -> (N,) the length of the longest run of ever higher ancestors.

    A class counts where it is met first. above (M, M) bool: whether the second is a proper ancestor of the first.
    """
    best = np.zeros(met.shape, int)  # of the runs that end at each step
    for step, last in enumerate(met.T):
        earlier = met[:, :step]
        longest = np.where(above[earlier, last[:, None]], best[:, :step], 0).max(axis=1, initial=0)
        best[:, step] = np.where(counted[:, step] & (earlier != last[:, None]).all(axis=1), 1 + longest, 0)
    return best.max(axis=1, initial=0)


def longest_chains(above: np.ndarray) -> np.ndarray:
    """(M, M) bool ancestors -> (M,) the most ancestors of each class that lie above one another."""
    height = np.zeros(len(above), int)
    while True:
        new = np.where(above.any(axis=1), np.where(above, height[None] + 1, 0).max(axis=1, initial=0), 0)
        if (new == height).all():
            return height
        height = new


def traversal_metrics(
    compare: Callable, kind: Similarity, audio: torch.Tensor, text: torch.Tensor, targets: np.ndarray,
    names: list[str], tree: Ontology,
) -> dict:  # fmt: skip
    """The metric for the results JSON: the share of ancestors met in order, with its 95 % interval over the clips.

    compare, audio, text: as of `traverse`, kind: whose traversal it is. targets (N, M) bool of the classes
    `names`. share: ancestors met in order over those that could be, summed over the clips. shuffled: the same with the
    true classes of another clip, what chance and texts near the root give. None where undefined; reason says why.
    """
    nothing = dict.fromkeys(("share", "low", "high", "clips", "shuffled", "reason"))
    figure = {"walk": kind.root, "steps": STEPS} | nothing
    nodes, figure["reason"] = tree.find(names)
    if nodes is None:
        return figure
    return figure | share(traverse(compare, kind.towards_root, audio, text), targets, nodes, tree)


def share(met: np.ndarray, targets: np.ndarray, nodes: np.ndarray, tree: Ontology) -> dict:
    """share, low, high, clips, shuffled and reason of traversals."""
    counts = ancestors_in_order(met, targets, nodes, tree)
    able = counts[:, 1] > 0
    if not able.any():
        return {"clips": 0, "reason": "no clip has a class with an ancestor in the class list"}
    order = np.random.default_rng(0).permutation(np.flatnonzero(able))
    others = np.arange(len(met))
    others[order] = np.roll(order, 1)  # every clip gets another's classes, unless it is the only one
    chance = ancestors_in_order(met[able], targets[others][able], nodes, tree).sum(axis=0)
    inside, whole = counts[able].T
    drawn = [ratio(weights, inside, whole) for weights in bootstrap.draw(len(whole), RESAMPLES, 0)]
    low, high = bootstrap.interval(np.concatenate(drawn)) or (None, None)
    return {
        "share": float(inside.sum() / whole.sum()),
        "low": low,
        "high": high,
        "clips": int(able.sum()),
        "shuffled": float(chance[0] / chance[1]),
        "reason": None,
    }
