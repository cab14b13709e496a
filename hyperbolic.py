"""Hyperbolic geometry of the Poincare ball, as pure functions on torch tensors.

One convention throughout: c is the SQUARED RADIUS of the ball and R = sqrt(c) its radius. The curvature is
K = -1/c, so a smaller c is more curved and c -> inf tends to flat space (the literature often writes K = -c).
The metric factor is lambda_x = 2 / (1 - |x|^2 / c), which is 2 at the origin: hence d(0, expmap0(v)) = 2|v|,
and as c -> inf the distance tends to 2|u - v|.

c is a positive float or a 0-d tensor; a tensor with requires_grad receives a gradient. Arithmetic is float64
inside and the result has the dtype of the input. Rounded ball points lose the radius (in float32 all of
|v| > 9 R lands on the boundary), so embeddings are kept and compared as tangent vectors at the origin.
"""

import math

import torch

TINY = 1e-30  # stands in for a zero norm where it divides
NEAR = 1e-6  # sin^2(theta/2) below which 1 - cos(theta) has lost too many digits
BLOCK = 2**19  # pairs of one row block; 4 MiB per float64 temporary
LOG2 = math.log(2)


def _curvature(c):
    """c as a 0-d float64 tensor, still attached to the graph; ValueError unless it is finite and positive."""
    if isinstance(c, torch.Tensor) and c.ndim:
        raise ValueError(f"c must be a number or a 0-d tensor, got a tensor of shape {tuple(c.shape)}")
    value = c.item() if isinstance(c, torch.Tensor) else float(c)
    if not 0 < value < math.inf:
        raise ValueError(f"c, the squared radius of the ball, must be positive and finite, got {value}")
    return c.double() if isinstance(c, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def _check(*tensors, ndim=None):
    for x in tensors:
        if not x.is_floating_point() or x.ndim < 1 or (ndim and x.ndim != ndim):
            wanted = f"{ndim}-d" if ndim else "at least 1-d"
            raise ValueError(f"expected a {wanted} float tensor, got {x.dtype} of shape {tuple(x.shape)}")
        if x.shape[-1] != tensors[0].shape[-1]:
            raise ValueError(f"dimensions differ: {tuple(tensors[0].shape)} and {tuple(x.shape)}")


def _norm(x):
    # contiguous: the order of summation, and so the last bit, must not depend on the strides
    return torch.linalg.vector_norm(x.contiguous(), dim=-1)


def expmap0(v, c):
    """Walk from the origin along the geodesic with initial velocity v and return the end point.

    R tanh(|v|/R) v/|v|. Shape (..., D) -> (..., D); tangent coordinates -> ball coordinates, |result| <= R,
    with equality by rounding from |v| ~ 9 R (float32) or 19 R (float64) on. ValueError for a bad c or shape.
    Ganea, Becigneul and Hofmann 2018, "Hyperbolic Neural Networks", Lemma 2 at x = 0; their c is 1/c here.
    """
    _check(v)
    radius, wide = _curvature(c).sqrt(), v.double()
    ratio = _norm(wide)[..., None].clamp(min=TINY) / radius  # 0/0 at the origin
    return (wide * (ratio.tanh() / ratio)).to(v.dtype)


def logmap0(y, c):
    """Initial velocity of the unit-time geodesic from the origin to the ball point y, the inverse of expmap0.

    R artanh(|y|/R) y/|y|. Shape (..., D) -> (..., D); ball coordinates -> tangent coordinates. A point on or
    outside the boundary reads as the last float64 radius inside, 18.7 R. ValueError for a bad c or shape.
    Ganea, Becigneul and Hofmann 2018, "Hyperbolic Neural Networks", Lemma 2 at x = 0; their c is 1/c here.
    """
    _check(y)
    return _log0(y, _curvature(c)).to(y.dtype)


def _log0(y, c):
    ratio = _norm(y.double())[..., None].clamp(min=TINY) / c.sqrt()  # 0/0 at the origin
    inside = ratio.clamp(max=1 - 2**-53)  # artanh(1) = inf for a point rounded onto the boundary
    return y.double() * (inside.atanh() / ratio)


def distance(x, y, c):
    """Length of the geodesic between matching rows of ball points.

    2R asinh(R |x-y| / sqrt((c - |x|^2)(c - |y|^2))). Shapes (..., D), (..., D) -> (...), in units where
    d(0, expmap0(v)) = 2|v|. A point on or outside the boundary reads as the last float64 radius inside.
    ValueError for a bad c or unequal shapes. Nickel and Kiela 2017, "Poincare Embeddings", eq. 1, where R = 1
    and 2 asinh(t) is written arcosh(1 + 2 t^2).
    """
    _check(x, y)
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(y.shape)}")
    c, a, b = _curvature(c), x.double(), y.double()
    edge, radius = c * 2**-52, c.sqrt()
    room = (c - a.square().sum(-1)).maximum(edge) * (c - b.square().sum(-1)).maximum(edge)  # sqrt(-1), 1/0
    # vector_norm has gradient 0 at 0, the subgradient wanted for identical points
    result = 2 * radius * (radius * _norm(a - b) / room.sqrt()).asinh()
    return result.to(torch.promote_types(x.dtype, y.dtype))


def pairwise_distance(x, y, c):
    """Length of the geodesic between every two ball points, as far as their rounded coordinates tell it.

    distance(x[i], y[j], c), computed as tangent_pairwise_distance of the logmap0 of both in float64.
    Shapes (N, D), (M, D) -> (N, M), in units where d(0, expmap0(v)) = 2|v|. ValueError for a bad c or shape.
    Nickel and Kiela 2017, "Poincare Embeddings", eq. 1.
    """
    _check(x, y, ndim=2)
    curvature = _curvature(c)
    result = tangent_pairwise_distance(_log0(x, curvature), _log0(y, curvature), curvature)
    return result.to(torch.promote_types(x.dtype, y.dtype))


def tangent_pairwise_distance(u, v, c):
    """Length of the geodesic between the end points of every two tangent vectors at the origin.

    With a = 2|u|/R, b = 2|v|/R and theta the angle between u and v, the hyperbolic law of cosines
    cosh(d/R) = cosh(a) cosh(b) - sinh(a) sinh(b) cos(theta) in the form that does not cancel:
    sinh^2(d/2R) = sinh^2((a-b)/2) + sinh(a) sinh(b) sin^2(theta/2). It equals
    pairwise_distance(expmap0(u, c), expmap0(v, c), c) but never forms ball points, so any norm is exact.
    Shapes (N, D), (M, D) -> (N, M), in units where d(0, expmap0(v)) = 2|v|. ValueError for a bad c or shape.

    Works in row blocks and never holds an (N, M, D) tensor. Equal rows give exactly 0 with gradient 0.
    On CUDA one call waits for the device three times (the check of c and two data-dependent branches).
    First derivatives only.
    """
    _check(u, v, ndim=2)
    curvature = _curvature(c)
    if torch.is_grad_enabled() and (u.requires_grad or v.requires_grad or curvature.requires_grad):
        return _TangentDistance.apply(u, v, curvature)
    out = u.new_empty(len(u), len(v), dtype=torch.promote_types(u.dtype, v.dtype))
    for rows, angle, _ in _row_blocks(u, v, curvature.sqrt()):
        out[rows] = angle.mul_(curvature.sqrt())
    return out


def hyperbolic_similarity(u, v, c, temperature):
    """Similarity of tangent vectors that falls with the length of the geodesic between their end points.

    -tangent_pairwise_distance(u, v, c) / temperature. Shapes (N, D), (M, D) -> (N, M). ValueError for a bad c
    or shape or a temperature that is not positive.
    """
    if not float(temperature) > 0:
        raise ValueError(f"temperature must be positive, got {float(temperature)}")
    return -tangent_pairwise_distance(u, v, c) / temperature


def _row_blocks(u, v, radius):
    """Yield (rows, d/R, sin^2(theta/2)) in float64 for tangent vectors u, v."""
    v = v.double()
    length_v = _norm(v)
    b = length_v * 2 / radius
    # a multiple of 4: BLAS rounds the last N % 4 rows differently, and blocks must not show in the result
    size = 4 * max(4, BLOCK // 4 // max(len(v), 1))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        block = u[rows].double()
        length_u = _norm(block)
        a = length_u * 2 / radius
        # 0/0 for a zero vector, whose angle does not matter
        cos = ((block / length_u.clamp(min=TINY)[:, None]) @ v.T).div_(length_v.clamp(min=TINY))
        sin2 = cos.neg_().add_(1).mul_(0.5).clamp_(min=0)  # sqrt of a negative where rounding gives cos > 1
        for near in (sin2 < NEAR).nonzero().split(2048):
            i, j = near.unbind(1)
            chord = block[i] / length_u[i, None] - v[j] / length_v[j, None]
            sin2[i, j] = chord.square_().sum(-1) / 4
        gap = a[:, None] - b
        total = (gap / 2).sinh_().square_().addcmul_(a.sinh()[:, None] * sin2, b.sinh())
        # asinh(sqrt(total)), whose own float64 kernel is several times slower
        angle = (total + 1).sqrt_().add_(1)
        angle = torch.div(total, angle, out=angle).add_(total.sqrt_()).log1p_().mul_(2)
        if (a > 300).any() or (b > 300).any():
            gap = gap.abs_()
            log = _log_sinh(a)[:, None] + _log_sinh(b) + sin2.log()
            log = torch.logaddexp(2 * _log_sinh(gap / 2), log) + 2 * LOG2
            # sinh overflows at 710: far out 2 asinh(sqrt(x)) is log(4x), or |gap| if theta = 0
            angle = torch.where(a[:, None] + b > 600, log.maximum(gap), angle)
        yield rows, angle, sin2


def _log_sinh(x):
    return x + (-torch.expm1(-2 * x)).log() - LOG2


class _TangentDistance(torch.autograd.Function):
    """The law of cosines differentiated by hand: fewer passes than autograd and no 0/0 where it has a kink."""

    @staticmethod
    def forward(ctx, u, v, c):
        ctx.dtypes = u.dtype, v.dtype
        u, v = u.double(), v.double()
        blocks = [(angle, sin2) for _, angle, sin2 in _row_blocks(u, v, c.sqrt())]
        angle, sin2 = (torch.cat(x) for x in zip(*blocks, strict=True)) if blocks else u.new_empty(2, 0, len(v))
        ctx.save_for_backward(u, v, c, angle, sin2)
        return (angle * c.sqrt()).to(torch.promote_types(*ctx.dtypes))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        u, v, c, angle, sin2 = ctx.saved_tensors
        radius = c.sqrt()
        length_u, length_v = _norm(u).clamp(min=TINY)[:, None], _norm(v).clamp(min=TINY)  # 0/0 for a zero vector
        a, b = length_u * 2 / radius, length_v * 2 / radius
        gap, rest = a - b, torch.expm1(-2 * angle)
        # 0/0 for identical points, where 0 is a subgradient
        weight = (grad / rest).where(angle > 0, 0)
        # sinh(gap) / sinh(d/R), and sinh(a) sinh(b) / sinh(d/R), which only acts across an angle
        radial = weight * gap.sign() * torch.expm1(-2 * gap.abs()) * (gap.abs() - angle).exp()
        turn = (a + b - angle).where(sin2 > 0, -math.inf).exp()  # inf * 0 far out on one ray
        turn = turn.mul_(weight).mul_(torch.expm1(-2 * a)).mul_(torch.expm1(-2 * b) / -2)
        twist = turn - turn * sin2 * 2
        bend = turn - twist
        # d(d/R)/da = radial + coth(a) bend, and likewise for b; twist turns the pair towards each other
        along_a, along_b = radial + bend / a.tanh(), bend / b.tanh() - radial
        cross = turn * (-radius / length_u) / length_v
        twist = twist * radius
        grad_u = cross @ v
        grad_u.addcmul_(u, (2 * along_a / length_u + twist / length_u**2).sum(1, keepdim=True))
        grad_v = cross.T @ u
        grad_v.addcmul_(v, (2 * along_b / length_v + twist / length_v**2).sum(0)[:, None])
        grad_c = (grad * angle - a * along_a - b * along_b).sum() / (2 * radius)
        return grad_u.to(ctx.dtypes[0]), grad_v.to(ctx.dtypes[1]), grad_c.to(c.device)
