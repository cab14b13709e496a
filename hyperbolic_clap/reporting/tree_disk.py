"""The tree in the Poincare disk: nodes whose hyperbolic distances come near its path lengths, clips among them.

The vectors are free: no model decides them. A tree's ball grows with the radius as the hyperbolic plane's does, so two
dimensions hold it better there than in the flat plane (Sarkar 2011, "Low Distortion Delaunay Embedding of Trees in
Hyperbolic Plane"); the same fit in the flat plane is the control.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from hyperbolic import tangent_pairwise_distance
from hyperbolic_clap.metrics.ontology import ROOT, Ontology
from hyperbolic_clap.reporting.disk import disk_points
from hyperbolic_clap.reporting.mds import flat_distance, minimise

STEPS = 200  # of L-BFGS at most
FARTHEST = 2.5  # tangent norm of a node, about: 0.987 of the disk's radius, where names can still be read
BEST = 5  # classes whose mean is a clip's place


@dataclass(frozen=True)
class TreeDisk:
    """nodes (P,): positions in the tree, the root first. place (P,): complex points of the unit disk, the root at 0.

    parent (P,): the position in `nodes` of the first parent, -1 of the root. error, flat_error: mean relative error of
    the path lengths, |shown - true| / true over all pairs, in the ball and of the same fit in the flat plane.
    """

    nodes: np.ndarray
    place: np.ndarray
    parent: np.ndarray
    error: float
    flat_error: float


@lru_cache(maxsize=4)
def fit_tree(tree: Ontology, classes: tuple[int, ...]) -> TreeDisk:
    """The tree above some classes (node positions), fitted in two dimensions; no random part.

    Kept in the process, since a fit of AudioSet's tree takes seconds.
    """
    kept = {ROOT}
    for node in classes:
        while node not in kept:
            kept.add(node)
            node = tree.parents[node][0]
    nodes = np.array(sorted(kept))
    place = {int(node): i for i, node in enumerate(nodes)}
    parent = np.array([-1 if node == ROOT else place[tree.parents[node][0]] for node in nodes])
    wanted = torch.from_numpy(tree.distances[np.ix_(nodes, nodes)].astype(np.float64))
    start = torch.from_numpy(fan(parent))
    curved = lambda u, v: tangent_pairwise_distance(u, v, 1.0)  # noqa: E731
    points, error = _fit(start, wanted, curved)
    _, flat_error = _fit(start, wanted, flat_distance)
    return TreeDisk(nodes, disk_points(points.numpy(), 1.0), parent, error, flat_error)


def fan(parent: np.ndarray) -> np.ndarray:
    """(P,) parents, the root's -1 -> (P, 2) places to start from: half an edge out a level, leaves evenly around."""
    children: list[list[int]] = [[] for _ in parent]
    for i, above in enumerate(parent):
        if above >= 0:
            children[above].append(i)
    found, leaves = np.zeros((len(parent), 2)), [0]
    order, waiting = [], [(int(np.flatnonzero(parent < 0)[0]), 0)]
    angle, depth = np.zeros(len(parent)), np.zeros(len(parent))
    while waiting:  # parents before their children
        node, level = waiting.pop()
        order.append(node)
        depth[node] = level
        if not children[node]:
            angle[node] = leaves[0]
            leaves[0] += 1
        waiting += [(child, level + 1) for child in reversed(children[node])]
    for node in reversed(order):
        if children[node]:
            angle[node] = np.mean(angle[children[node]])
    turn = 2 * np.pi * angle / max(1, leaves[0])
    found[:, 0], found[:, 1] = depth / 2 * np.cos(turn), depth / 2 * np.sin(turn)
    return found


def _fit(start: torch.Tensor, wanted: torch.Tensor, distance) -> tuple[torch.Tensor, float]:
    """Places whose scaled distances come near the wanted ones, by the mean squared relative error; and the mean error.

    The first stays at 0. The scale, which is the curvature, is free.
    """
    pairs = torch.triu_indices(len(wanted), len(wanted), 1)
    true = wanted[tuple(pairs)]

    def relative(free: torch.Tensor) -> torch.Tensor:
        places = torch.cat([torch.zeros(1, 2, dtype=torch.float64), free[:-1]])
        return distance(places, places)[tuple(pairs)] * free[-1, 0].exp() / true - 1

    begin = torch.cat([start[1:], torch.zeros(1, 2, dtype=torch.float64)])
    def loss(free: torch.Tensor) -> torch.Tensor:
        # Nearer to the boundary the fit is better, but nothing can be told apart.
        return relative(free).square().mean() + (free[:-1].norm(dim=1) - FARTHEST).clamp(min=0).square().mean()

    free = minimise(loss, begin, STEPS)
    return torch.cat([torch.zeros(1, 2, dtype=torch.float64), free[:-1]]), float(relative(free).abs().mean())


def means(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, K) complex points of the disk, (N, K) weights -> (N,) their hyperbolic means.

    The centroid of the hyperboloid, closest to the points by the Lorentzian distance (Law et al. 2019, "Lorentzian
    Distance Learning for Hyperbolic Representations", eq. 12).
    """
    square = np.abs(places) ** 2
    time, space = (1 + square) / (1 - square), 2 * places / (1 - square)
    time, space = ((weights * x).sum(axis=1) for x in (time, space))
    norm = np.sqrt(time**2 - np.abs(space) ** 2)
    return space / (norm + time)
