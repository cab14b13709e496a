"""Many dimensions as two: points of the Poincare disk whose distances come as near as they can to a model's own.

Metric multidimensional scaling in the hyperbolic plane of the model's own curvature (Kruskal 1964, "Multidimensional
Scaling by Optimizing Goodness of Fit to a Nonmetric Hypothesis", stress-1; Walter 2004, "H-MDS: a new approach for
interactive visualization with multidimensional scaling in the hyperbolic space"). The same fit in the flat plane is
the control: what the hyperbolic plane gains is the difference of the two stresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hyperbolic import tangent_pairwise_distance

LANDMARKS = 200  # clips that are fitted together with the texts; the others are placed against these
FIT_STEPS, PLACE_STEPS = 100, 50  # of L-BFGS at most
ENOUGH = 1e-5  # a step that improves the loss by less than this part of it is the last


@dataclass
class Flat:
    """A model's origin, texts and clips in two dimensions.

    text (M, 2), audio (N, 2): tangent vectors at the origin of the plane with the model's c. stress: Kruskal's
    stress-1 over the fitted pairs, 0 for a perfect picture; flat_stress: of the same fit in the flat plane. rank: the
    rank correlation of the shown with the true distance from the origin. exact: the model's own two dimensions.
    """

    text: np.ndarray
    audio: np.ndarray
    stress: float
    flat_stress: float
    rank: float | None
    exact: bool


def hyperbolic_mds(text: torch.Tensor, audio: torch.Tensor, c: float) -> Flat:
    """Tangent vectors (M, D) and (N, D) of a ball of squared radius c -> their places in two dimensions.

    Of two dimensions nothing is fitted: the vectors themselves. A fit has no random part.
    """
    text, audio = text.detach().cpu().double(), audio.detach().cpu().double()
    chosen = evenly(len(audio), LANDMARKS)
    fitted = torch.cat([torch.zeros(1, text.shape[1], dtype=torch.float64), text, audio[chosen]])
    wanted = tangent_pairwise_distance(fitted, fitted, c)
    start = classical(wanted)
    flat = fit(start, wanted, flat_distance, FIT_STEPS)
    exact = text.shape[1] == 2
    if exact:
        places, others = fitted, audio
    else:
        places = fit(start, wanted, lambda u, v: tangent_pairwise_distance(u, v, c), FIT_STEPS)
        others = place(audio, fitted, places, c)
        others[chosen] = places[1 + len(text) :]
    shown = tangent_pairwise_distance(places, places, c)
    return Flat(
        text=places[1 : 1 + len(text)].numpy(),
        audio=others.numpy(),
        stress=stress(shown, wanted),
        flat_stress=stress(flat_distance(flat, flat), wanted),
        rank=rank_correlation(shown[0, 1:].numpy(), wanted[0, 1:].numpy()),
        exact=exact,
    )


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` positions of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.empty(0, int)


def stress(shown: torch.Tensor, wanted: torch.Tensor) -> float:
    """Kruskal's stress-1 of shown against wanted distances; 0 where all are equal to what is wanted."""
    return float(((shown - wanted).square().sum() / wanted.square().sum().clamp(min=1e-300)).sqrt())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None where either does not vary."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0 else None


def flat_distance(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(N, 2), (M, 2) -> (N, M): 2 |u - v|, what the hyperbolic distance becomes as c grows without end."""
    square = (u[:, None] - v[None]).square().sum(-1)
    return 2 * square.clamp(min=1e-24).sqrt()  # the root has no gradient at 0


def classical(wanted: torch.Tensor) -> torch.Tensor:
    """(P, P) distances, the origin first -> (P, 2) places by classical scaling, the origin at 0: where a fit starts.

    Torgerson 1952, "Multidimensional scaling: I. Theory and method".
    """
    square = (wanted / 2).square()
    centred = square - square.mean(0) - square.mean(1, keepdim=True) + square.mean()
    values, vectors = torch.linalg.eigh(-centred / 2)
    places = vectors[:, -2:] * values[-2:].clamp(min=0).sqrt()
    # An eigenvector's sign is open; its largest coordinate made positive, the start does not depend on LAPACK.
    places = places * places.gather(0, places.abs().argmax(0, keepdim=True)).sign()
    return places - places[0]


def fit(start: torch.Tensor, wanted: torch.Tensor, distance, steps: int) -> torch.Tensor:
    """(P, 2) places whose distances come near the (P, P) wanted ones, the first held at 0: L-BFGS on the stress.

    Moving all points by one isometry changes no distance but those to the first, which so decides where the centre is.
    """
    norm = wanted.square().sum().clamp(min=1e-300)

    def loss(free: torch.Tensor) -> torch.Tensor:
        places = torch.cat([torch.zeros(1, 2, dtype=torch.float64), free])
        return (distance(places, places) - wanted).square().sum() / norm

    free = minimise(loss, start[1:], steps)
    return torch.cat([torch.zeros(1, 2, dtype=torch.float64), free])


def place(points: torch.Tensor, landmarks: torch.Tensor, places: torch.Tensor, c: float) -> torch.Tensor:
    """(N, D) points -> (N, 2): each where its distances to the fitted landmarks (P, D), at places (P, 2), fit best."""
    if not len(points):
        return torch.empty(0, 2, dtype=torch.float64)
    wanted = tangent_pairwise_distance(points, landmarks, c)
    nearest = wanted[:, 1:].argmin(1) + 1  # not the origin, around which every direction is alike
    loss = lambda free: (tangent_pairwise_distance(free, places, c) - wanted).square().sum() / len(landmarks)  # noqa: E731
    return minimise(loss, places[nearest], PLACE_STEPS)


def minimise(loss, start: torch.Tensor, steps: int) -> torch.Tensor:
    """L-BFGS from a start to a near minimum."""
    from scipy.optimize import minimize

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(flat).reshape(start.shape).requires_grad_()
        value = loss(free)
        (slope,) = torch.autograd.grad(value, free)
        return value.item(), slope.numpy().ravel()

    found = minimize(value_and_slope, start.numpy().ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": steps, "ftol": ENOUGH})  # fmt: skip
    return torch.from_numpy(found.x).reshape(start.shape)
