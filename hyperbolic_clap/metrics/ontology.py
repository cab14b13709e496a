"""AudioSet's ontology in the metrics: how far in the tree a wrong answer lies, and whether radius follows depth.

The ontology has 7 top-level branches and no common root; one is added here, so that every two sounds are joined by a
path (without it two branches would be infinitely far apart). A class with several parents belongs to all of them.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from hyperbolic_clap.metrics import weighted
from hyperbolic_clap.metrics.weighted import Ratios
from hyperbolic_clap.reading.labels import ONTOLOGY, normalise

ROOT = 0  # the added root; the ontology's nodes follow in the order of the file


class Ontology:
    """The tree (a directed acyclic graph) over n nodes: the added root and the nodes of the JSON file."""

    def __init__(self, path: Path = ONTOLOGY):
        nodes = json.loads(Path(path).read_text(encoding="utf-8"))["nodes"]
        self.names = ["(all sounds)", *(node["name"] for node in nodes)]
        self.depth = np.array([-1, *(node["depth"] for node in nodes)])
        self.position = {normalise(name): i for i, name in enumerate(self.names)}
        self.parents = [[]] + [[self.position[normalise(p)] for p in node["parents"]] or [ROOT] for node in nodes]

    def find(self, names: list[str]) -> tuple[np.ndarray | None, str | None]:
        """Class names -> (their (M,) node positions, None), or (None, why the ontology's metrics are undefined)."""
        missing = [name for name in names if normalise(name) not in self.position]
        if missing:
            return None, f"{len(missing)} of {len(names)} classes are not AudioSet's, for example {missing[0]!r}"
        return np.array([self.position[normalise(name)] for name in names]), None

    @cached_property
    def ancestors(self) -> np.ndarray:
        """(n, n) bool: row i marks node i and everything above it, without the added root, which all share."""
        closure = np.eye(len(self.names), dtype=bool)
        for i in np.argsort(self._height(), kind="stable"):  # parents before their children
            for parent in self.parents[i]:
                closure[i] |= closure[parent]
        closure[:, ROOT] = False
        return closure

    def _height(self) -> np.ndarray:
        """(n,) longest way up to the added root; a node is always higher than its parents."""
        height = np.zeros(len(self.names), int)
        while True:
            new = np.array([1 + max(height[p] for p in parents) if parents else 0 for parents in self.parents])
            if (new == height).all():
                return height
            height = new

    @cached_property
    def distances(self) -> np.ndarray:
        """(n, n) uint8: edges on the shortest path between two nodes, by a breadth-first search from all at once."""
        edges = np.eye(len(self.names), dtype=np.float32)
        for child, parents in enumerate(self.parents):
            edges[child, parents] = edges[parents, child] = 1
        distances = np.full(edges.shape, 255, np.uint8)
        reached, step = np.eye(len(edges), dtype=np.float32), 0
        while (distances == 255).any():
            distances[(reached > 0) & (distances == 255)] = step
            reached, step = np.minimum(reached @ edges, 1), step + 1
        return distances

    def branch(self, node: int) -> int:
        """The top-level branch of a node, by way of its first parents."""
        while self.parents[node] != [ROOT]:
            node = self.parents[node][0]
        return node


@cache
def audioset() -> Ontology:
    """AudioSet's tree, built once for all figures of a run."""
    return Ontology()


def clip_counts(top1: np.ndarray, targets: np.ndarray, nodes: np.ndarray, tree: Ontology) -> dict[str, np.ndarray]:
    """What the hierarchical metrics add up, for each of N clips: (N,) float arrays.

    top1: (N,) class positions. targets: (N, M) bool, each row with a true class. nodes: (M,) of Ontology.find.
    wrong: 1 where top-1 is no true class; distance: edges to the nearest true class, 0 if right; predicted, true,
    both: the sizes of the ancestor sets of top-1, of the true classes, and of their intersection.
    """
    to_truth = np.where(targets, tree.distances[nodes[top1]][:, nodes], 255)
    predicted = tree.ancestors[nodes[top1]]
    true = (targets.astype(np.float32) @ tree.ancestors[nodes].astype(np.float32)) > 0
    return {
        "wrong": (~targets[np.arange(len(top1)), top1]).astype(float),
        "distance": to_truth.min(axis=1).astype(float),
        "predicted": predicted.sum(axis=1).astype(float),
        "true": true.sum(axis=1).astype(float),
        "both": (predicted & true).sum(axis=1).astype(float),
    }


def tree_ratios(counts: dict[str, np.ndarray]) -> Ratios:
    """The hierarchical metrics of `ontology_metrics` as ratios of sums over clips, from `clip_counts`."""
    return {
        "wrong_top1_distance": (counts["distance"], counts["wrong"]),
        "hierarchical_precision": (counts["both"], counts["predicted"]),
        "hierarchical_recall": (counts["both"], counts["true"]),
        "hierarchical_f1": (2 * counts["both"], counts["predicted"] + counts["true"]),
    }


def ontology_metrics(
    top1: np.ndarray,
    targets: np.ndarray,
    names: list[str],
    text: np.ndarray | None = None,
    audio: np.ndarray | None = None,
) -> dict:
    """The ontology's metrics of N clips against M classes; an undefined one is None, and `reason` says why.

    top1 (N,): position of the best class. targets (N, M) bool. text (M, D) and audio (N, D): the vectors that are
    compared, tangent vectors after a hyperbolic projector, vectors before their normalisation for cosine.

    wrong_top1_distance: edges from a wrong top-1 to the nearest true class, averaged over the wrong ones.
    hierarchical_precision, _recall, _f1: top-1 and the true classes each with all their ancestors, summed over clips
    (Kiritchenko et al. 2005, "Functional Annotation of Genes Using Hierarchical Text Categorization", section 5).
    text_radius_depth, audio_radius_depth: Spearman's correlation of radius with depth, over the class texts and over
    the class means of audio. Unit vectors, as of plain CLAP's texts, have no radius: None.
    text_angle_depth, audio_angle_depth: the same with 1 - cosine to the mean direction (of all texts, of all clips;
    averaged over the clips of a class) in place of the radius, which every similarity has.
    """
    from_tree = ("wrong_top1", "wrong_top1_distance", *(f"hierarchical_{x}" for x in ("precision", "recall", "f1")))
    from_vectors = [f"{side}_{measure}_depth" for side in ("text", "audio") for measure in ("radius", "angle")]
    result: dict = dict.fromkeys((*from_tree, *from_vectors, "reason"))
    tree = audioset()
    nodes, result["reason"] = tree.find(names)
    if nodes is None:
        return result
    valid = targets.any(axis=1)
    if not valid.any():
        result["reason"] = "no clip has a true class"
    else:
        counts = clip_counts(top1[valid], targets[valid], nodes, tree)
        result["wrong_top1"] = int(counts["wrong"].sum())
        for name, parts in tree_ratios(counts).items():
            value = weighted.ratio(weighted.plain(len(counts["wrong"])), *parts)[0]
            result[name] = float(value) if np.isfinite(value) else None
    depth = tree.depth[nodes]
    if text is not None:
        result["text_radius_depth"] = radius_follows_depth(np.linalg.norm(text.astype(np.float64), axis=1), depth)
        result["text_angle_depth"] = radius_follows_depth(angle_from_mean(text), depth)
    if audio is not None:
        result["audio_radius_depth"] = radius_follows_depth(class_mean_radius(audio, targets), depth)
        with np.errstate(invalid="ignore"):
            angle = targets.T @ angle_from_mean(audio) / np.where(targets.sum(axis=0) > 1, targets.sum(axis=0), np.nan)
        result["audio_angle_depth"] = radius_follows_depth(angle, depth)
    return result


def class_mean_radius(audio: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, D) audio vectors, (N, M) bool -> (M,) length of each class's mean vector; NaN below two clips.

    The mean of n vectors is longer the smaller n is, and deep classes are rare, so the plain length would correlate
    with depth by itself. |mean|^2 without that bias is the mean inner product of two different clips of the class.
    """
    members, vectors = targets.T.astype(np.float64), audio.astype(np.float64)
    counts = members.sum(axis=1)
    squares = ((members @ vectors) ** 2).sum(axis=1) - members @ (vectors**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.sqrt(np.maximum(squares / (counts * (counts - 1)), 0))
    return np.where(counts > 1, radius, np.nan)


def angle_from_mean(vectors: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,) 1 - cosine between each vector and the mean direction of all."""
    unit = vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-30)
    mean = unit.mean(axis=0)
    return 1 - unit @ mean / np.maximum(np.linalg.norm(mean), 1e-30)


def radius_follows_depth(radius: np.ndarray, depth: np.ndarray) -> dict | None:
    """(M,) radii (NaN: left out), (M,) depths -> {rho, p, classes}; None where either does not vary."""
    from scipy.stats import spearmanr

    known = np.isfinite(radius)
    radius, depth = radius[known], depth[known]
    if len(radius) < 3 or np.ptp(radius) <= 1e-4 * np.abs(radius).max() or np.ptp(depth) == 0:
        return None
    found = spearmanr(radius, depth)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "classes": len(radius)}
