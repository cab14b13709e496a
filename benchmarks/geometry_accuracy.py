"""python benchmarks/geometry_accuracy.py

Two Markdown tables: the largest relative error of the distance per range of norms, and the relative error of
its gradient. Inputs are float32 tangent vectors, the truth of both tables is mpmath, norms are in units of
R = sqrt(c). Needs mpmath and geoopt; HypLL has its row filled if installed.
"""

import datetime
import math
import sys
from pathlib import Path

import geoopt
import mpmath
import torch
from geoopt.manifolds.stereographic import math as geoopt_math

sys.path.insert(0, str(Path(__file__).parent.parent))
from hyperbolic import expmap0, pairwise_distance, tangent_pairwise_distance  # noqa: E402

try:
    from hypll.manifolds.poincare_ball.math import diffgeom
except ImportError:
    diffgeom = None

# All take float32 tangent vectors (N, D), (M, D), c a 0-d tensor, and return (N, M).


def from_ball_points(u, v, c):
    return pairwise_distance(expmap0(u, c), expmap0(v, c), c)


def from_geoopt(u, v, c):
    x, y = (geoopt_math.project(geoopt_math.expmap0(w, k=-1 / c), k=-1 / c) for w in (u, v))
    return geoopt_math.dist(x[:, None], y, k=-1 / c)


def from_hypll(u, v, c):
    x, y = (diffgeom.expmap0(w, 1 / c) for w in (u, v))
    return diffgeom.dist(x[:, None], y, 1 / c)


def meru(u, v, c):
    """Desai et al. 2023, "Hyperbolic Image-Text Representations", section 3; curvature -k, k = 1/c.

    Its exp map takes the Riemannian vector, so lambda_0 = 2 goes in front. Its guards: a floor under the
    norm, sinh at most asinh(2^15), arcosh from 1 + 1e-8.
    """
    k = 1 / c

    def space(w):
        norm = (2 * w.norm(dim=1, keepdim=True) * k.sqrt()).clamp(min=1e-8)
        return norm.clamp(max=math.asinh(2**15)).sinh() * 2 * w / norm

    x, y = space(u), space(v)
    time_x, time_y = ((1 / k + w.square().sum(1, keepdim=True)).sqrt() for w in (x, y))
    return (k * (time_x @ time_y.T - x @ y.T)).clamp(min=1 + 1e-8).acosh() / k.sqrt()


def nickel_kiela_float32(u, v, c):
    """R arcosh(1 + 2 |x-y|^2 / c / (1-|x|^2/c) / (1-|y|^2/c))."""
    x, y = ((w.norm(dim=1, keepdim=True) / c.sqrt()).tanh() * w / w.norm(dim=1, keepdim=True) for w in (u, v))
    room = (1 - x.square().sum(1))[:, None] * (1 - y.square().sum(1))
    return c.sqrt() * (1 + 2 * (x[:, None] - y).square().sum(-1) / room).acosh()


def tangent_float32(u, v, c):
    """The formula of tangent_pairwise_distance in float32, without its guards."""
    a, b = (2 * w.norm(dim=1) / c.sqrt() for w in (u, v))
    cos = (u / u.norm(dim=1, keepdim=True)) @ (v / v.norm(dim=1, keepdim=True)).T
    total = ((a[:, None] - b) / 2).sinh().square() + a.sinh()[:, None] * b.sinh() * (1 - cos).clamp(min=0) / 2
    return 2 * c.sqrt() * total.sqrt().asinh()


METHODS = {
    "**tangent_pairwise_distance**": tangent_pairwise_distance,
    "**pairwise_distance** of float32 ball points": from_ball_points,
    f"geoopt {geoopt.__version__}": from_geoopt,
    "HypLL": from_hypll if diffgeom else None,
    "Lorentz, as published by MERU": meru,
    "Nickel and Kiela eq. 1, float32": nickel_kiela_float32,
    "law of cosines, float32": tangent_float32,
}
RANGES = {  # norms of the larger vector, and separations relative to it
    "moderate, to 2": ((0.01, 2), None),
    "boundary, 2-9": ((2, 9), None),
    "far, 9-50": ((9, 50), None),
    "very far, 50-150": ((50, 150), None),
    "near-moderate": ((0.01, 2), (1e-5, 1e-2)),
    "near-boundary": ((2, 9), (1e-5, 1e-2)),
    "near-far": ((9, 150), (1e-5, 1e-2)),
}
CASES = {
    "moderate .5/1": (0.5, 1.0, None),
    "moderate 2/2": (2.0, 2.0, None),
    "boundary 5/5": (5.0, 5.0, None),
    "far 20/20": (20.0, 20.0, None),
    "far 50/50": (50.0, 50.0, None),
    "near 1e-3": (1.0, None, 1e-3),
    "near at 5, 1e-2": (5.0, None, 1e-2),
    "near at 20, 1e-3": (20.0, None, 1e-3),
    "identical": (1.0, None, 0.0),
    "zero vs 1": (0.0, 1.0, None),
    "zero/zero": (0.0, 0.0, None),
}


def direction(dim, draw):
    v = torch.randn(1, dim, generator=draw, dtype=torch.float64)
    return v / v.norm()


def log_uniform(low, high, draw):
    return low * (high / low) ** torch.rand((), generator=draw, dtype=torch.float64).item()


def exact(u, v, c):
    """Distance and its gradients by the law of cosines, with enough digits for its cancellation."""
    with mpmath.workdps(60):
        x, y = (mpmath.matrix([mpmath.mpf(float(t)) for t in w]) for w in (u, v))
        longest = max(mpmath.norm(x), mpmath.norm(y)) / mpmath.sqrt(c)
    with mpmath.workdps(80 + int(8 * longest / 2.3)):
        radius, dot = mpmath.sqrt(mpmath.mpf(c)), mpmath.fdot(x, y)
        norms = [mpmath.sqrt(mpmath.fdot(w, w)) for w in (x, y)]
        if not all(norms):
            return 2 * max(norms), None
        (sinh_a, cosh_a), (sinh_b, cosh_b) = (
            (mpmath.sinh(2 * n / radius), mpmath.cosh(2 * n / radius)) for n in norms
        )
        cos = dot / norms[0] / norms[1]
        d = radius * mpmath.acosh(max(cosh_a * cosh_b - sinh_a * sinh_b * cos, 1))
        if torch.equal(u, v):
            return d, None
        scale, slopes = mpmath.sinh(d / radius), []
        for w, other, n, m, radial in (
            (x, y, *norms, sinh_a * cosh_b - cosh_a * sinh_b * cos),
            (y, x, *norms[::-1], sinh_b * cosh_a - cosh_b * sinh_a * cos),
        ):
            along, across = 2 * radial / scale / n, radius * sinh_a * sinh_b / scale / n
            slopes.append(
                [float(along * p - across * (q / m - cos * p / n)) for p, q in zip(w, other, strict=True)]
            )
        return d, torch.tensor(slopes, dtype=torch.float64)


def pairs(norms, separations):
    """36 pairs: D in {2, 512}, c in {0.01, 1, 100}, six draws."""
    draw = torch.Generator().manual_seed(0)
    for dim in (2, 512):
        for c in (0.01, 1.0, 100.0):
            for _ in range(6):
                u = direction(dim, draw) * log_uniform(*norms, draw) * c**0.5
                if separations:
                    v = u + direction(dim, draw) * u.norm() * log_uniform(*separations, draw)
                else:
                    v = direction(dim, draw) * log_uniform(0.01, norms[1], draw) * c**0.5
                yield u.float(), v.float(), c


def number(x):
    return "not finite" if not math.isfinite(x) else f"{x:.1e}"


def distance_row(method, samples):
    worst = 0.0
    for u, v, c, wanted in samples:
        error = abs(method(u, v, torch.tensor(c, dtype=torch.float64)).item() - wanted) / wanted
        worst = max(worst, float(error)) if mpmath.isfinite(error) else math.inf
    return number(worst)


def gradient_cell(method, norm_u, norm_v, separation):
    """Relative error of the gradients by u and v, or their size ("abs") at a kink, where 0 is wanted."""
    draw = torch.Generator().manual_seed(1)
    u = (direction(512, draw) * norm_u).float()
    v = direction(512, draw) * (norm_v if separation is None else norm_u * separation)
    v = (v if separation is None else u + v).float()
    u, v = u.requires_grad_(), v.requires_grad_()
    method(u, v, torch.tensor(1.0)).sum().backward()
    actual = torch.cat([u.grad, v.grad]).double()
    wanted = exact(u[0].detach(), v[0].detach(), 1.0)[1]
    if wanted is None and norm_v:  # d(0, v) = 2|v|
        wanted = torch.cat([-v, v]).detach().double() / v.detach().double().norm() * 2
    if wanted is None:
        size = actual.norm().item()
        return "0" if size == 0 else f"abs {size:.0e}" if math.isfinite(size) else "not finite"
    return number(((actual - wanted).norm() / wanted.norm()).item())


def table(corner, columns, rows):
    print(f"| {corner} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells or ["not installed"] + [""] * (len(columns) - 1)) + " |")
    print()


def main():
    print(f"{datetime.date.today()}, torch {torch.__version__}, float32 input, norms in units of R\n")
    samples = {
        name: [(u, v, c, exact(u[0], v[0], c)[0]) for u, v, c in pairs(*spec)]
        for name, spec in RANGES.items()
    }
    table(
        "max relative error of the distance",
        RANGES,
        (
            (name, method and [distance_row(method, samples[r]) for r in RANGES])
            for name, method in METHODS.items()
        ),
    )
    table(
        "relative error of the gradient (c = 1, D = 512)",
        CASES,
        (
            (name, method and [gradient_cell(method, *case) for case in CASES.values()])
            for name, method in METHODS.items()
        ),
    )


if __name__ == "__main__":
    main()
