"""python -m pytest tests/test_geometry.py

The laws of hyperbolic geometry, parity with geoopt and the Lorentz model, accuracy against mpmath, gradients
against float64 autograd and mpmath, blocks and memory, errors.
"""

import math
import random
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
from geoopt.manifolds.stereographic import math as geoopt_math
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperbolic
from hyperbolic import (
    distance,
    expmap0,
    hyperbolic_similarity,
    logmap0,
    pairwise_distance,
    tangent_pairwise_distance,
)

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
curvatures = pytest.mark.parametrize("c", [0.01, 1.0, 100.0])


def vectors(rows, dim, norms, dtype=torch.float64, seed=0):
    """Random directions; norms is one number, or a (low, high) range on a log scale."""
    draw = torch.Generator().manual_seed(seed)
    low, high = norms if isinstance(norms, tuple) else (norms, norms)
    v = torch.randn(rows, dim, generator=draw, dtype=torch.float64)
    scale = torch.rand(rows, 1, generator=draw, dtype=torch.float64) * math.log(high / low)
    return (v / v.norm(dim=1, keepdim=True) * low * scale.exp()).to(dtype)


def exact(u, v, c):
    """d = R arcosh(cosh a cosh b - sinh a sinh b cos(theta)), with the digits this form needs."""
    with mpmath.workdps(60):
        u, v = ([mpmath.mpf(float(x)) for x in w] for w in (u, v))
        squares = [mpmath.fdot(x, y) for x, y in ((u, u), (v, v), (u, v))]
        radius = mpmath.sqrt(mpmath.mpf(c))
        digits = 60 + int(4 * (mpmath.sqrt(squares[0]) + mpmath.sqrt(squares[1])) / radius / 2.3)
    with mpmath.workdps(digits):
        radius, a, b = mpmath.sqrt(mpmath.mpf(c)), mpmath.sqrt(squares[0]), mpmath.sqrt(squares[1])
        cos = squares[2] / (a * b) if a and b else mpmath.mpf(0)
        a, b = 2 * a / radius, 2 * b / radius
        cosh = mpmath.cosh(a) * mpmath.cosh(b) - mpmath.sinh(a) * mpmath.sinh(b) * cos
        return radius * mpmath.acosh(max(cosh, 1))  # 1 - 1e-60 for identical vectors


def chord(u, v, c):
    """2R asinh(|x-y|/R cosh(|u|/R) cosh(|v|/R)) of matching rows in float64, plain enough for autograd."""
    radius = c**0.5
    a, b = (w.norm(dim=-1, keepdim=True) / radius for w in (u, v))
    x, y = u / a * a.tanh(), v / b * b.tanh()
    return 2 * radius * ((x - y).norm(dim=-1) / radius * a[..., 0].cosh() * b[..., 0].cosh()).asinh()


def close(actual, wanted, rtol):
    return torch.testing.assert_close(actual, wanted.to(actual.dtype), rtol=rtol, atol=0)


# Laws


@dtypes
@curvatures
@pytest.mark.parametrize("norm", [1e-3, 0.5, 5.0, 50.0, 1e3])
def test_metric_laws(dtype, c, norm):
    u = vectors(12, 8, (norm / 10 * c**0.5, norm * c**0.5), dtype)
    d = tangent_pairwise_distance(u, u, c)
    assert d.dtype == dtype and d.shape == (12, 12)
    assert (d.diagonal() == 0).all()
    assert (d[~torch.eye(12, dtype=torch.bool)] > 0).all()
    close(d, d.T, TOLERANCE[dtype])
    assert (d[:, None, :] <= (d[:, :, None] + d[None, :, :]) * (1 + TOLERANCE[dtype])).all()
    close(
        tangent_pairwise_distance(u, torch.zeros(1, 8, dtype=dtype), c)[:, 0],
        2 * u.norm(dim=1),
        TOLERANCE[dtype],
    )


@dtypes
@curvatures
def test_maps_are_inverse_and_at_twice_the_norm(dtype, c):
    v = vectors(50, 16, (1e-3 * c**0.5, 2 * c**0.5), dtype)
    x = expmap0(v, c)
    assert x.dtype == dtype
    assert (x.norm(dim=1) < c**0.5).all()
    torch.testing.assert_close(logmap0(x, c), v, rtol=30 * TOLERANCE[dtype], atol=TOLERANCE[dtype] * c**0.5)
    close(distance(torch.zeros_like(x), x, c), 2 * v.norm(dim=1), 30 * TOLERANCE[dtype])
    # the formulas of the docstrings
    norm, radius = v.double().norm(dim=1, keepdim=True), c**0.5
    close(x, radius * (norm / radius).tanh() * v / norm, TOLERANCE[dtype])
    norm = x.double().norm(dim=1, keepdim=True)
    close(logmap0(x, c), radius * (norm / radius).atanh() * x / norm, TOLERANCE[dtype])


@dtypes
@curvatures
def test_the_three_distances_agree_with_each_other_and_their_formulas(dtype, c):
    radius = c**0.5
    u, v = (vectors(9, 6, (0.1 * radius, 2 * radius), dtype, seed) for seed in (1, 2))
    x, y = expmap0(u, c), expmap0(v, c)
    close(tangent_pairwise_distance(u, v, c).diagonal(), distance(x, y, c), 30 * TOLERANCE[dtype])
    close(pairwise_distance(x, y, c).diagonal(), distance(x, y, c), TOLERANCE[dtype])
    x, y = x.double(), y.double()
    inner = radius * (x - y).norm(dim=1) / ((c - x.square().sum(1)) * (c - y.square().sum(1))).sqrt()
    close(distance(x.to(dtype), y.to(dtype), c), 2 * radius * inner.asinh(), TOLERANCE[dtype])
    nickel = (1 + 2 * (x - y).square().sum(1) / c / (1 - x.square().sum(1) / c) / (1 - y.square().sum(1) / c)).acosh()
    close(distance(x.to(dtype), y.to(dtype), c), radius * nickel, TOLERANCE[dtype])
    close(tangent_pairwise_distance(u, v, c).diagonal(), chord(u.double(), v.double(), c), TOLERANCE[dtype])
    similarity = hyperbolic_similarity(u, v, c, 0.5)
    assert torch.equal(similarity, -tangent_pairwise_distance(u, v, c) / 0.5)


@dtypes
def test_rotation_invariance(dtype):
    u, v = (vectors(10, 8, (0.1, 20.0), seed=seed) for seed in (3, 4))
    q = torch.linalg.qr(vectors(8, 8, 1.0, seed=5))[0]
    rotated = tangent_pairwise_distance((u @ q).to(dtype), (v @ q).to(dtype), 1.0)
    close(rotated, tangent_pairwise_distance(u, v, 1.0), TOLERANCE[dtype])
    x, y = (expmap0(w / 20, 1.0) for w in (u, v))
    close(distance((x @ q).to(dtype), (y @ q).to(dtype), 1.0), distance(x, y, 1.0), 30 * TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("c", [1e-4, 0.01, 100.0, 1e6])
def test_scale_law(dtype, c):
    u, v = (vectors(10, 8, (0.1, 20.0), dtype, seed) for seed in (6, 7))
    radius = c**0.5
    scaled = tangent_pairwise_distance(u * radius, v * radius, c)
    close(scaled, radius * tangent_pairwise_distance(u, v, 1.0), 2 * TOLERANCE[dtype])
    x, y = expmap0(u / 20, 1.0), expmap0(v / 20, 1.0)
    close(distance(x * radius, y * radius, c), radius * distance(x, y, 1.0), 30 * TOLERANCE[dtype])


@dtypes
def test_flat_limit_and_more_curved_is_farther(dtype):
    u, v = (vectors(10, 8, (0.1, 3.0), dtype, seed) for seed in (8, 9))
    flat = 2 * (u.double()[:, None] - v.double()).norm(dim=-1)
    close(tangent_pairwise_distance(u, v, 1e12), flat, 2 * TOLERANCE[dtype])
    by_c = torch.stack([tangent_pairwise_distance(u, v, c) for c in (100.0, 10.0, 1.0, 0.1, 0.01)])
    assert (by_c[0] > flat).all() and (by_c.diff(dim=0) > 0).all()
    # two sides and the right angle between them: Pythagoras in the flat limit, nearly a + b when very curved
    e = torch.eye(2, dtype=dtype)
    assert tangent_pairwise_distance(e, e, 1e12)[0, 1] == pytest.approx(8**0.5, rel=1e-6)
    assert tangent_pairwise_distance(e, e, 1e-4)[0, 1] == pytest.approx(4 - 0.01 * math.log(2), rel=1e-6)


# Other implementations


@dtypes
@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_parity_with_geoopt(dtype, c):
    k, rtol = torch.tensor(-1 / c, dtype=dtype), 1e-4 if dtype == torch.float32 else 1e-10
    u, v = (vectors(20, 8, (0.1 * c**0.5, 1.5 * c**0.5), dtype, seed) for seed in (10, 11))
    x, y = geoopt_math.expmap0(u, k=k), geoopt_math.expmap0(v, k=k)
    close(expmap0(u, c), x, rtol)
    close(logmap0(x, c), geoopt_math.logmap0(x, k=k), rtol)
    close(distance(x, y, c), geoopt_math.dist(x, y, k=k), rtol)
    wanted = geoopt_math.dist(x[:, None], y, k=k)
    close(pairwise_distance(x, y, c), wanted, rtol)
    close(tangent_pairwise_distance(u, v, c), wanted, rtol)


@curvatures
def test_parity_with_lorentz(c):
    """Hyperboloid of curvature -1/c; its exp map takes the Riemannian vector, lambda_0 v = 2 v."""
    radius, factor = c**0.5, 2
    u, v = (vectors(20, 8, (0.1 * radius, 3 * radius), seed=seed) for seed in (12, 13))

    def hyperboloid(w):
        norm = factor * w.norm(dim=1, keepdim=True) / radius
        return radius * norm.cosh(), radius * norm.sinh() * w / w.norm(dim=1, keepdim=True)

    (time_u, space_u), (time_v, space_v) = hyperboloid(u), hyperboloid(v)
    wanted = radius * ((time_u * time_v.T - space_u @ space_v.T) / c).acosh()
    close(tangent_pairwise_distance(u, v, c), wanted, 1e-9)


# Accuracy


@curvatures
@pytest.mark.parametrize(("dim", "norm"), [(d, n) for d in (2, 512) for n in (0.01, 0.5, 2.0, 9.0, 50.0, 170.0)])
def test_accuracy(c, dim, norm):
    radius = c**0.5
    u = vectors(2, dim, norm * radius, torch.float32, seed=14)
    v = vectors(2, dim, (0.01 * radius, norm * radius * 1.001), torch.float32, seed=15)
    actual = tangent_pairwise_distance(u, v, c)
    for i in range(2):
        for j in range(2):
            assert actual[i, j].item() == pytest.approx(float(exact(u[i], v[j], c)), rel=1e-7, abs=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 9.0, 50.0, 150.0, 160.0])
@pytest.mark.parametrize("separation", [0.0, 3e-8, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("dim", [2, 512])
def test_accuracy_of_near_identical_pairs(dim, separation, scale):
    """The error stays below what half a float32 ulp of the input changes in the true distance."""
    u = vectors(1, dim, scale, torch.float32, seed=16)
    v = (u + vectors(1, dim, separation * scale or 1, torch.float32, seed=17) * (separation > 0)).float()
    ulp = torch.nextafter(v, torch.full_like(v, math.inf)).double() - v.double()
    wanted = exact(u[0], v[0], 1.0)
    change = max(abs(exact(u[0], (v.double() + sign * ulp / 2)[0], 1.0) - wanted) for sign in (-1, 1))
    actual = tangent_pairwise_distance(u, v, 1.0).item()
    assert abs(actual - wanted) <= change + 1e-7 * wanted + 1e-20  # rounding of mpmath
    if torch.equal(u, v):
        assert actual == 0
    # float64 shows the algorithm without the rounding of its result
    assert abs(tangent_pairwise_distance(u.double(), v.double(), 1.0).item() - wanted) <= 1e-7 * wanted + 1e-20


@pytest.mark.parametrize("norm", [200.0, 400.0, 1e3, 1e4, 1e30])
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_beyond_the_overflow_of_cosh(norm, c):
    radius = c**0.5
    u = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.5, 0], [0, 1e-3], [0, 0]]) * norm * radius
    d = tangent_pairwise_distance(u, u, c)
    a = 2 * norm * radius
    assert (d.diagonal() == 0).all()
    assert d[0].tolist()[2:4] == pytest.approx([2 * a, a / 2], rel=1e-6)
    assert d[0, 5].item() == pytest.approx(a, rel=1e-6)
    # at a right angle sinh^2(d/2R) tends to exp(a+b)/8, hence d = a + b - R log 2
    assert d[0, 1].item() == pytest.approx(2 * a - radius * math.log(2), rel=1e-6)
    if norm <= 1e3:
        assert d[1, 4].item() == pytest.approx(a * (1 - 1e-3), rel=1e-6)
        assert d[0, 4].item() == pytest.approx(float(exact(u[0], u[4], c)), rel=1e-6)


def test_continuity_where_the_formula_changes():
    u = torch.tensor([[150.0 - 1e-9, 0], [150.0 + 1e-9, 0]], dtype=torch.float64)
    for angle in (1e-6, 1e-3, 1.0, 3.0):
        v = 150 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        below, above = tangent_pairwise_distance(u, v, 1.0)[:, 0].tolist()
        assert below == pytest.approx(above, abs=1e-7)
    for dim in (2, 512):  # and from the matrix product to the differences
        u = vectors(1, dim, 3.0, seed=18)
        step = vectors(1, dim, 1.0, seed=19)
        for angle in (1e-4, 1.9e-3, 2.1e-3, 1e-2):
            v = u + step * 3 * angle
            wanted = float(exact(u[0], v[0], 1.0))
            assert tangent_pairwise_distance(u, v, 1.0).item() == pytest.approx(wanted, rel=1e-9)


@dtypes
def test_points_on_and_over_the_boundary(dtype):
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.6, 0.8], [2, 0], [0, 0]], dtype=dtype, requires_grad=True)
    y = x.detach().flip(0).clone().requires_grad_()
    for result in (distance(x, y, 1.0), pairwise_distance(x, y, 1.0), logmap0(x, 1.0)):
        assert result.isfinite().all()
        gradients = torch.autograd.grad(result.sum(), [x, y], allow_unused=True)
        assert all(g.isfinite().all() for g in gradients if g is not None)
    assert (pairwise_distance(x, x, 1.0).diagonal() == 0).all()
    inside = torch.tensor([[1 - 1e-12, 0]], dtype=torch.float64)  # points inside are exact up to the last digits
    wanted = [float(2 * mpmath.atanh(inside[0, 0].item()))]
    assert distance(inside, torch.zeros_like(inside), 1.0).tolist() == pytest.approx(wanted, rel=1e-5)
    assert pairwise_distance(inside, torch.zeros_like(inside), 1.0)[0].tolist() == pytest.approx(wanted, rel=1e-5)
    saturated = expmap0(vectors(5, 3, 50.0, dtype), 1.0)
    assert pairwise_distance(saturated, saturated, 1.0).isfinite().all()
    assert distance(saturated, saturated.flip(0), 1.0).isfinite().all()


@pytest.mark.parametrize("c", [1e-4, 0.01, 100.0, 1e6])
def test_the_boundary_is_where_c_says(c):
    """The last float64 radius inside, whatever c: artanh(1 - 2^-53) R, and as for c = 1 but for the scale."""
    radius = c**0.5
    edge = torch.tensor([[radius, 0], [0, 2 * radius], [radius / 2, 0]], dtype=torch.float64)
    last = radius * math.atanh(1 - 2**-53)
    assert logmap0(edge, c).norm(dim=1).tolist() == pytest.approx([last, last, radius * math.atanh(0.5)], rel=1e-9)
    for y in (edge.flip(0), -edge, edge / 3):
        close(distance(edge, y, c), radius * distance(edge / radius, y / radius, 1.0), 1e-9)


# Gradients


def gradients(function, u, v, c):
    u, v, c = (w.detach().clone().requires_grad_() for w in (u, v, c))
    return torch.autograd.grad(function(u, v, c).sum(), [u, v, c])


CASES = {  # norms of u and v, and their separation relative to the norm where they are near
    "moderate .5/1": (0.5, 1.0, None),
    "moderate 2/2": (2.0, 2.0, None),
    "boundary 5/5": (5.0, 5.0, None),
    "far 20/20": (20.0, 20.0, None),
    "far 50/50": (50.0, 50.0, None),
    "far 50/1": (50.0, 1.0, None),
    "near 1e-3": (1.0, None, 1e-3),
    "near at 5, 1e-2": (5.0, None, 1e-2),
    "near at 5, 1e-4": (5.0, None, 1e-4),
    "tiny": (1e-6, 2e-6, None),
}


def case(name, dim, dtype, radius=1.0):
    norm_u, norm_v, separation = CASES[name]
    u = vectors(1, dim, norm_u * radius, dtype, seed=20)
    if separation is None:
        return u, vectors(1, dim, norm_v * radius, dtype, seed=21)
    return u, u + vectors(1, dim, norm_u * radius * separation, dtype, seed=21)


@curvatures
@pytest.mark.parametrize("dim", [2, 512])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, dim, c):
    for dtype in (torch.float32, torch.float64):
        u, v = case(name, dim, dtype, c**0.5)
        actual = gradients(tangent_pairwise_distance, u, v, torch.tensor(c, dtype=dtype))
        wanted = gradients(chord, u.double(), v.double(), torch.tensor(c, dtype=torch.float64))
        flat = 1e-15 * wanted[0].norm() * u.norm() / c  # by c the gradient vanishes in the flat limit
        for got, want, least in zip(actual, wanted, (0, 0, flat), strict=True):
            assert got.dtype == dtype and got.shape == want.shape
            assert (got - want).norm() <= 1e-5 * want.norm() + least


@pytest.mark.parametrize(("norm", "separation"), [(20, 1e-3), (20, 1e-6), (50, 1e-6), (160, 1e-3), (0.01, 1e-6)])
def test_gradients_of_near_pairs_far_out(norm, separation):
    """Against mpmath, as no plain float64 formula is right there."""
    u = torch.tensor([[norm * math.cos(1.0), norm * math.sin(1.0)]]).float()
    v = (u + norm * separation * torch.tensor([[0.6, 0.8]])).float()
    actual = gradients(tangent_pairwise_distance, u, v, torch.tensor(1.0))
    step = mpmath.mpf(10) ** -25

    def slope(which, axis):
        ends = []
        for sign in (1, -1):
            with mpmath.workdps(60):
                moved = [[mpmath.mpf(float(x)) for x in w[0]] for w in (u, v)]
                moved[which][axis] += sign * step
            ends.append(exact_mpf(*moved))
        with mpmath.workdps(60):
            return float((ends[0] - ends[1]) / (2 * step))

    for which in (0, 1):
        wanted = torch.tensor([slope(which, axis) for axis in (0, 1)])
        assert (actual[which][0] - wanted).norm() <= 1e-5 * wanted.norm()


def exact_mpf(u, v):
    with mpmath.workdps(500):
        a, b = (2 * mpmath.sqrt(mpmath.fdot(w, w)) for w in (u, v))
        cos = 4 * mpmath.fdot(u, v) / (a * b)
        return mpmath.acosh(mpmath.cosh(a) * mpmath.cosh(b) - mpmath.sinh(a) * mpmath.sinh(b) * cos)


def law(u, v, c):
    """(d, its gradients by u, v and c) of two vectors by the law of cosines, with the digits that it needs."""
    with mpmath.workdps(150 + int(4 * math.hypot(*u, *v) / math.sqrt(c))):
        u, v = ([mpmath.mpf(x) for x in w] for w in (u, v))
        radius, length_u, length_v = (mpmath.sqrt(x) for x in (mpmath.mpf(c), mpmath.fdot(u, u), mpmath.fdot(v, v)))
        a, b, cos = 2 * length_u / radius, 2 * length_v / radius, mpmath.fdot(u, v) / (length_u * length_v)
        sinh_a, cosh_a, sinh_b, cosh_b = mpmath.sinh(a), mpmath.cosh(a), mpmath.sinh(b), mpmath.cosh(b)
        cosh = cosh_a * cosh_b - sinh_a * sinh_b * cos
        by_a, by_b = sinh_a * cosh_b - cosh_a * sinh_b * cos, cosh_a * sinh_b - sinh_a * cosh_b * cos
        turn = sinh_a * sinh_b
        slope, angle = radius / mpmath.sqrt(cosh**2 - 1), mpmath.acosh(cosh)
        units = [[x / length for x in w] for w, length in ((u, length_u), (v, length_v))]
        along = [(2 / radius * by_a, turn / length_u), (2 / radius * by_b, turn / length_v)]
        grads = [
            [slope * (out * x - across * (y - cos * x)) for x, y in zip(mine, other, strict=True)]
            for (out, across), mine, other in zip(along, units, units[::-1], strict=True)
        ]
        by_c = (angle - slope / radius * (by_a * a + by_b * b)) / (2 * radius)
        return radius * angle, *grads, [by_c]


def pairs(dtype, count):
    """Random pairs with differences from 1e-45 to 1, radii to 175 R, c from 1e-4 to 1e6: (u, v, c)."""
    draw, made = random.Random(0), 0
    while made < count:
        dim, c = draw.choice([2, 3, 4, 16]), 10 ** draw.uniform(-4, 6)
        norm = draw.choice([10 ** draw.uniform(-3, 0), draw.uniform(1, 175)]) * c**0.5
        u = vectors(1, dim, norm, seed=draw.randrange(2**31))
        zeros = draw.choice([0, dim // 2, dim - 1])  # only beside a zero can a difference be as small as that
        u[:, :zeros] = 0
        step = vectors(1, dim, 10 ** draw.uniform(-45, 0) * draw.choice([1, norm]), seed=draw.randrange(2**31))
        u, v = u.to(dtype), (u.to(dtype).double() + step).to(dtype)
        if not torch.equal(u, v):
            made += 1
            yield u, v, c


@dtypes
def test_nearly_equal_rows_far_out(dtype):
    """Values and gradients of any pair against mpmath, whatever the difference, the radius and c."""
    case = torch.tensor([[0, 3, 0, 0], [0, 3, 1.2e-38, 0]], dtype=dtype)
    most = torch.finfo(dtype).max
    for u, v, c in [(case[:1], case[1:], 1 / 64), *pairs(dtype, 60)]:
        wanted, *slopes = law(u[0].tolist(), v[0].tolist(), c)
        d = tangent_pairwise_distance(u, v, c)
        close(d, torch.tensor([[float(wanted)]], dtype=torch.float64), TOLERANCE[dtype])
        found = gradients(tangent_pairwise_distance, u, v, torch.tensor(c, dtype=torch.float64))
        for got, want in zip(found[:2], slopes, strict=False):
            top = max(abs(x) for x in want)  # a gradient beyond the type's range keeps its direction
            want = torch.tensor([[float(x * min(1, most / top)) for x in want]], dtype=torch.float64)
            assert got.dtype == dtype and (got - want).norm() <= 10 * TOLERANCE[dtype] * want.norm()
        # in the flat limit the gradient by c is what is left of terms that cancel
        terms = (float(wanted) + 2 * u.double().norm() / c**0.5 + 2 * v.double().norm() / c**0.5) / c**0.5
        assert abs(found[2] - float(slopes[2][0])) <= 1e-8 * abs(float(slopes[2][0])) + 1e-14 * terms


@pytest.mark.parametrize("narrow", [0, 1])
def test_a_gradient_is_fitted_to_its_own_type_beside_a_wider_one(narrow):
    """1e42 across, as float64 holds it: beyond float32, where the direction is what is left of it."""
    types = [torch.float32 if i == narrow else torch.float64 for i in range(2)]
    sides = [torch.tensor([[0, 3.0, 0 if kind == torch.float32 else 1e-60]], dtype=kind) for kind in types]
    found = gradients(tangent_pairwise_distance, *sides, torch.tensor(0.0036, dtype=torch.float64))[:2]
    assert found[1 - narrow].abs().max() > 1e40 and found[narrow].abs().max() == torch.finfo(torch.float32).max
    unit = torch.nn.functional.normalize
    assert torch.allclose(unit(found[0].double()), -unit(found[1].double()), atol=1e-6)


@pytest.mark.parametrize("blind", [False, True])
def test_gradients_of_near_pairs_among_others(blind, monkeypatch):
    """A near pair takes another way to its gradient; the sum over all pairs must not show it, in any block."""
    monkeypatch.setattr(hyperbolic, "_avoids_host_sync", lambda x: blind)
    u, v = vectors(20, 6, (0.1, 9.0), seed=31), vectors(9, 6, (0.1, 9.0), seed=32)
    u[:, 5] = v[:, 5] = 0
    v[:8] = u[:8]
    v[:4, 5] = 1e-9
    v[2:6] *= 2
    c, weights = torch.tensor(1.3, dtype=torch.float64), vectors(20, 9, 1.0, seed=33)
    whole = gradients(lambda *x: tangent_pairwise_distance(*x) * weights, u, v, c)
    wanted = [torch.zeros_like(x) for x in (u, v, c)]
    for i in range(20):
        for j in range(9):
            alone = gradients(tangent_pairwise_distance, u[i : i + 1], v[j : j + 1], c)
            wanted[0][i] += alone[0][0] * weights[i, j]
            wanted[1][j] += alone[1][0] * weights[i, j]
            wanted[2] += alone[2] * weights[i, j]
    for got, want in zip(whole, wanted, strict=True):
        assert (got - want).norm() <= 1e-9 * want.norm()
    for name, size in (("BLOCK", 9 * 16), ("PAIRS", 3)):
        monkeypatch.setattr(hyperbolic, name, size)
        for got, want in zip(
            gradients(lambda *x: tangent_pairwise_distance(*x) * weights, u, v, c), whole, strict=True
        ):
            assert torch.equal(got, want) if not blind else (got - want).norm() <= 1e-12 * want.norm()


@dtypes
@pytest.mark.parametrize("norm", [1e-6, 1.0, 20.0, 50.0, 400.0, 1e4])
def test_identical_and_zero_vectors(norm, dtype):
    c = torch.tensor(1.0, dtype=dtype)
    u, zero = vectors(1, 8, norm, dtype, seed=22), torch.zeros(1, 8, dtype=dtype)
    assert all((g == 0).all() for g in gradients(tangent_pairwise_distance, u, u, c))
    assert all((g == 0).all() for g in gradients(tangent_pairwise_distance, zero, zero, c))
    to_zero, at_u, by_c = gradients(tangent_pairwise_distance, zero, u, c)
    close(to_zero, -2 * u / u.norm(), 1e-5)  # d(0, v) = 2|v|, seen from the other end
    close(at_u, 2 * u / u.norm(), 1e-5)
    assert abs(by_c) <= 1e-5 * norm
    # one ray: 2 (|v| - |u|), whatever the curvature
    near, far, by_c = gradients(tangent_pairwise_distance, u, 2 * u, c)
    close(near, -2 * u / u.norm(), 1e-5)
    close(far, 2 * u / u.norm(), 1e-5)
    for function in (distance, pairwise_distance):
        x = expmap0(u, 1.0)
        assert all((g == 0).all() for g in gradients(function, x, x, c))
        assert all(g.isfinite().all() for g in gradients(function, zero, x, c))


@dtypes
@curvatures
def test_gradients_are_finite_everywhere(dtype, c):
    radius = c**0.5
    norms = (1e-30, 1e-10, 1e-3, 1.0, 9.0, 20.0, 50.0, 200.0, 1e3, 1e4)
    u = torch.cat([vectors(2, 8, n * radius, dtype, seed=23) for n in norms] + [torch.zeros(1, 8, dtype=dtype)])
    v = torch.cat([u, -u, 2 * u, u * (1 + 1e-5), u.roll(1, 0)])
    scale = torch.tensor(c, dtype=dtype)
    for got in gradients(tangent_pairwise_distance, u, v, scale):
        assert got.isfinite().all()
    for function in (pairwise_distance, lambda x, y, c: distance(x, y[: len(x)], c)):
        assert all(g.isfinite().all() for g in gradients(function, expmap0(u, c), expmap0(v, c), scale))
    for function in (
        lambda u, v, c: expmap0(u, c) + 0 * v[: len(u)],
        lambda u, v, c: logmap0(expmap0(u, c), c) + 0 * v[0],
    ):
        assert all(g.isfinite().all() for g in gradients(function, u, v, scale))


def test_gradcheck_of_every_function_and_argument():
    u, v = (vectors(5, 4, (0.1, 2.0), seed=seed).requires_grad_() for seed in (24, 25))
    x, y = (vectors(5, 4, (0.1, 0.9), seed=seed).requires_grad_() for seed in (24, 25))
    c = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tangent_pairwise_distance, (u, v, c))
    assert torch.autograd.gradcheck(pairwise_distance, (x, y, c))
    assert torch.autograd.gradcheck(distance, (x, y, c))
    assert torch.autograd.gradcheck(expmap0, (u, c))
    assert torch.autograd.gradcheck(logmap0, (x, c))
    assert torch.autograd.gradcheck(hyperbolic_similarity, (u, v, c, t))
    zero = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(expmap0, (zero, c)) and torch.autograd.gradcheck(logmap0, (zero, c))
    assert torch.autograd.gradcheck(lambda u, v: tangent_pairwise_distance(u, v, 1.3), (zero, v))


# Blocks, memory, arguments


@dtypes
def test_blocks_do_not_show(dtype, monkeypatch):
    u, v = vectors(195, 32, (0.1, 400.0), dtype, seed=26), vectors(37, 32, (0.1, 400.0), dtype, seed=27)
    u[150:160] = v[:10]
    whole = tangent_pairwise_distance(u, v, 1.0)
    tracked = gradients(tangent_pairwise_distance, u, v, torch.tensor(1.0))
    for block in (1, 37 * 20, 37 * 64, 37 * 200):
        monkeypatch.setattr(hyperbolic, "BLOCK", block)
        assert torch.equal(tangent_pairwise_distance(u, v, 1.0), whole)
        assert torch.equal(tangent_pairwise_distance(u.clone().requires_grad_(), v, 1.0), whole)
        for got, want in zip(gradients(tangent_pairwise_distance, u, v, torch.tensor(1.0)), tracked, strict=True):
            assert torch.equal(got, want)


@dtypes
def test_alone_and_in_a_batch(dtype):
    u = vectors(41, 512, (0.1, 9.0), dtype, seed=28)
    whole = tangent_pairwise_distance(u, u.T.contiguous().T, 1.0)  # other strides, same numbers
    assert (whole.diagonal() == 0).all()
    for i in range(0, 41, 7):
        alone = tangent_pairwise_distance(u[i : i + 1], u, 1.0)
        assert alone[0, i] == 0
        close(alone[0], whole[i], TOLERANCE[dtype])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory():
    """No (N, M, D) tensor: 4 matrices (N, M) are 67 MB here, (N, M, D) would be 2 GB. First pairs that are all near."""
    program = """
import torch, hyperbolic
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.set_num_threads(1)
u, v = torch.randn(8000, 128), torch.randn(527, 128)
near = u[:1].expand(500, -1).clone(), 1.5 * u[:1].expand(527, -1)
for one, other in (near, (u, v)):
    hyperbolic.tangent_pairwise_distance(one[:4], other, 1.0)
    before = peak()
    hyperbolic.tangent_pairwise_distance(one, other, 1.0)
    print((peak() - before) / 1024)
"""
    root = Path(hyperbolic.__file__).parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    peaks = [float(line) for line in done.stdout.split()]
    assert len(peaks) == 2 and max(peaks) < 4 * 8000 * 527 * 4 / 2**20


def test_dtypes_shapes_and_learnable_c():
    u, v = vectors(3, 4, 1.0, torch.float32, seed=29), vectors(5, 4, 1.0, torch.float64, seed=30)
    assert tangent_pairwise_distance(u, v, 1.0).dtype == torch.float64
    assert tangent_pairwise_distance(u.half(), v.half(), 1).dtype == torch.float16
    assert tangent_pairwise_distance(u[:0], v, 1.0).shape == (0, 5)
    assert tangent_pairwise_distance(u, v[:0], 1.0).shape == (3, 0)
    for a, b in ((u[:0], v), (u, v[:0])):
        assert all(g.isfinite().all() for g in gradients(tangent_pairwise_distance, a, b, torch.tensor(1.0)))
    assert distance(u.view(3, 1, 4) / 3, u.view(3, 1, 4) / 3, 1.0).shape == (3, 1)
    assert expmap0(u[0], 1.0).shape == (4,) and logmap0(u.view(1, 3, 4) / 3, 1.0).shape == (1, 3, 4)
    c = torch.tensor(0.5, requires_grad=True)
    results = [function(u / 3, c) for function in (expmap0, logmap0)]
    results += [function(u / 3, u.flip(0) / 3, c) for function in (distance, pairwise_distance)]
    results += [tangent_pairwise_distance(u, u, c), hyperbolic_similarity(u, u, c, 0.1)]
    for result in results:
        assert result.dtype == torch.float32
        (slope,) = torch.autograd.grad(result.sum(), c)
        assert slope.dtype == torch.float32 and slope.shape == () and slope.isfinite() and slope != 0


@pytest.mark.parametrize("c", [0, -1.0, math.nan, math.inf, -math.inf])
def test_bad_c_is_named(c):
    x = torch.zeros(2, 3)
    for bad in (c, torch.tensor(float(c))):
        for call in (expmap0, logmap0):
            with pytest.raises(ValueError, match=str(float(c))):
                call(x, bad)
        for call in (distance, pairwise_distance, tangent_pairwise_distance):
            with pytest.raises(ValueError, match=str(float(c))):
                call(x, x, bad)
        with pytest.raises(ValueError, match=str(float(c))):
            hyperbolic_similarity(x, x, bad, 1.0)


def test_bad_shapes_and_temperature():
    x, y = torch.zeros(2, 3), torch.zeros(2, 4)
    for call in (distance, pairwise_distance, tangent_pairwise_distance):
        with pytest.raises(ValueError, match="dimensions differ"):
            call(x, y, 1.0)
    for call in (pairwise_distance, tangent_pairwise_distance):
        for bad in (x[0], x[None], x.long()):
            with pytest.raises(ValueError, match="2-d"):
                call(x, bad, 1.0)
            with pytest.raises(ValueError, match="2-d"):
                call(bad, x, 1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        distance(x, x[:1], 1.0)
    with pytest.raises(ValueError, match="at least 1-d"):
        expmap0(torch.tensor(1.0), 1.0)
    with pytest.raises(ValueError, match="tensor of shape"):
        expmap0(x, torch.ones(1))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"temperature .* {temperature}"):
            hyperbolic_similarity(x, x, 1.0, temperature)


# Properties


numbers = st.floats(-1e4, 1e4, width=32)
triples = st.integers(1, 5).flatmap(
    lambda d: st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=3, max_size=3)
)


@settings(max_examples=150)
@given(triples, st.floats(1e-3, 1e3))
def test_properties(rows, c):
    u = torch.tensor(rows)
    d = tangent_pairwise_distance(u, u, c)
    assert d.isfinite().all() and (d >= 0).all() and (d.diagonal() == 0).all()
    close(d, d.T, 1e-6)
    assert (d[:, None, :] <= (d[:, :, None] + d[None, :, :]) * (1 + 1e-6)).all()
    # between the geodesic through the origin and the difference of the radii; never below flat space
    norm, slack = 2 * u.double().norm(dim=1), 1 + 1e-6
    assert (d <= (norm[:, None] + norm) * slack).all()
    assert (d * slack >= (norm[:, None] - norm).abs()).all()
    assert (d * slack >= 2 * (u.double()[:, None] - u.double()).norm(dim=-1)).all()
    u, v = u.clone().requires_grad_(), u.clone().requires_grad_()
    size = torch.tensor(c, requires_grad=True)
    tangent_pairwise_distance(u, v, size).sum().backward()
    assert u.grad.isfinite().all() and v.grad.isfinite().all() and size.grad.isfinite()
    assert (u.grad - v.grad).norm() <= 1e-6 * u.grad.norm()
    x = expmap0(u.detach(), c)
    assert x.isfinite().all() and pairwise_distance(x, x, c).isfinite().all() and logmap0(x, c).isfinite().all()


def test_a_gradient_beyond_its_type_shortens_only_its_own_row():
    grad = torch.tensor([[3e300, 4e300], [0.3, -0.4]], dtype=torch.float64)
    fitted = hyperbolic._fitting(grad, torch.float32)
    assert fitted[0].tolist() == pytest.approx([0.75 * torch.finfo(torch.float32).max, torch.finfo(torch.float32).max])
    assert fitted[1].tolist() == pytest.approx([0.3, -0.4])
