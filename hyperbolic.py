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
from collections.abc import Callable
from dataclasses import dataclass

import torch

TINY = 1e-200  # stands in for a zero norm where it divides; its square vanishes
NEAR = 1e-6  # sin^2(theta/2) below which 1 - cos(theta) and a gradient made of products have lost too many digits
PAIRS = 2048  # near pairs that are looked at together
BLOCK = 2**18  # pairs of one row block; 2 MiB per float64 temporary
LOG2 = math.log(2)


def _avoids_host_sync(x):
    """Whether a look at the values of x would wait for its device, so that no branch may depend on them."""
    return x.is_cuda


def _curvature(c):
    """c as a 0-d float64 tensor, still attached to the graph; ValueError unless it is finite and positive.

    A c that lies on CUDA is not looked at: if it is no good, distances are nan.
    """
    if isinstance(c, torch.Tensor) and c.ndim:
        raise ValueError(f"c must be a number or a 0-d tensor, got a tensor of shape {tuple(c.shape)}")
    if isinstance(c, torch.Tensor) and _avoids_host_sync(c):
        return c.double()
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
    """Follow the geodesic from the origin with initial velocity v and return its end point.

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
    On CUDA no branch depends on the data, so nothing waits for the device. First derivatives only.
    """
    _check(u, v, ndim=2)
    curvature = _curvature(c)
    if torch.is_grad_enabled() and (u.requires_grad or v.requires_grad or curvature.requires_grad):
        return _TangentDistance.apply(u, v, curvature)
    out = u.new_empty(len(u), len(v), dtype=torch.promote_types(u.dtype, v.dtype))
    for rows, angle in _row_blocks(u, v, curvature.sqrt()):
        out[rows] = angle.mul_(curvature.sqrt())
    return out


def hyperbolic_similarity(u, v, c, temperature):
    """Similarity of tangent vectors that falls with the length of the geodesic between their end points.

    -tangent_pairwise_distance(u, v, c) / temperature. Shapes (N, D), (M, D) -> (N, M). ValueError for a bad c
    or shape or a temperature that is not positive and finite.
    """
    value = temperature.item() if isinstance(temperature, torch.Tensor) else temperature
    if not 0 < value < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {value}")
    return -tangent_pairwise_distance(u, v, c) / temperature


def _lengths(x, radius):
    length = _norm(x).clamp(min=TINY)  # 0/0 for a zero vector
    return length, length * 2 / radius


def _row_blocks(u, v, radius, slopes=None):
    """Yield (rows, d/R) in float64, followed if wanted by its slopes, and the lengths of u's rows.

    With t = d/R: sinh(a-b)/sinh(t), T = sinh(a) sinh(b)/sinh(t) and T (1 - cos(theta)). Last come the near pairs, as
    (P, 2) rows of u and v. slopes: _lengths of v.
    """
    v, on_device = v.double(), _avoids_host_sync(v)
    length_v, b = slopes or _lengths(v, radius)
    size = 16 * max(1, BLOCK // 16 // max(len(v), 1))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        block = u[rows].double()
        count = len(block)
        # BLAS rounds the last rows of a product differently if they do not fill its tile of 4
        block = torch.nn.functional.pad(block, (0, 0, 0, -count % 4))
        length_u, a = (x[:, None] for x in _lengths(block, radius))
        gap, near_pairs = a - b, None
        if on_device:
            sin2 = _by_differences(block, length_u, v, length_v)
        else:
            sin2, near_pairs = _by_product(block, length_u, v, length_v, gap, radius)
        half = (gap / 2).sinh_()
        total = (a.sinh() * sin2).mul_(b.sinh()).add_(half.square())
        root, cosh = total.sqrt(), (total + 1).sqrt_()
        # 2 asinh(root), whose own float64 kernel is several times slower
        angle = (total / (cosh + 1)).add_(root).log1p_().mul_(2)
        if slopes:
            # 1/0 for identical points, where 0 is the subgradient wanted
            scale = (0.5 / root / cosh).where(total > 0, 0)
            radial = half * half.square().add_(1).sqrt_() * scale * 2
            turn = a.sinh() * b.sinh() * scale
        if on_device or (a > 300).any() or (b > 300).any():  # sinh overflows at 710: far out x is log(2 sinh(x))
            near, log, span = a + b <= 600, _log_sinh(a) + _log_sinh(b), gap.abs()
            log_total = torch.logaddexp(2 * _log_sinh(span / 2), log + sin2.log())
            angle = angle.where(near, (log_total + 2 * LOG2).maximum(span))  # |a-b| is exact on one ray
            if slopes:
                radial = radial.where(near, gap.sign() * (span - angle).exp())
                turn = turn.where(near, (log - angle + LOG2).exp())
        if slopes:
            turn = turn.where(sin2 > 0, 0)  # inf * 0 far out on one ray, where nothing turns
            pairs = sin2.new_empty(0, 2, dtype=torch.int64) if near_pairs is None else near_pairs
            pairs[:, 0] += start
            yield rows, *(x[:count] for x in (angle, radial, turn, turn * sin2 * 2, length_u)), pairs
        else:
            yield rows, angle[:count]


def _by_product(u, length_u, v, length_v, gap, radius):
    """sin^2(theta/2) of every two rows: a matrix product, and again by differences the few pairs that it rounds off.

    These (P, 2) pairs are returned too, and their `gap` is set anew where the lengths are alike and round it off.
    """
    sin2 = ((u / length_u) @ v.T).div_(length_v).neg_().add_(1).mul_(0.5)
    sin2.clamp_(min=0)  # sqrt of a negative where rounding gives cos > 1
    near = (sin2 < NEAR).nonzero()
    for k in range(0, len(near), PAIRS):
        i, j = near[k : k + PAIRS].T
        of_u, of_v = (u[i], length_u[i]), (v[j], length_v[j, None])
        step, p, q, alike = _step(*of_u, *of_v)
        across, along = _across(step, *of_u)
        sine2 = across.square().sum(-1) / q[:, 0].square()
        sin2[i, j] = sine2 / (1 + (1 - sine2).sqrt()) / 2
        longer = -(2 * along * p + step.square().sum(-1, keepdim=True)) / (p + q)
        gap[i, j] = torch.where(alike[:, 0], longer[:, 0] * 2 / radius, gap[i, j])
    return sin2, near


def _step(u, length_u, v, length_v):
    """v - u of vectors (..., D) with their lengths (..., 1), exact to the last digits where they are nearly equal.

    -> (step, length of where it begins and of where it ends, whether the two lengths are alike). If they are not alike,
    it is the step between the unit vectors.
    """
    alike = (length_u - length_v).abs() <= NEAR**0.5 * length_v
    u_by, v_by = (torch.where(alike, 1, length) for length in (length_u, length_v))
    return v / v_by - u / u_by, length_u / u_by, length_v / v_by, alike


def _across(step, x, length):
    """The part of a step that lies across x, and how far the step goes along x."""
    unit = x / length
    along = (step * unit).sum(-1, keepdim=True)
    return step - along * unit, along


def _by_differences(u, length_u, v, length_v):
    """The same of all pairs by differences: more arithmetic, which a GPU does sooner than it tells which are near."""
    units = u / length_u, v / length_v[:, None]
    return torch.cdist(*units, compute_mode="donot_use_mm_for_euclid_dist").square_().div_(4)


def _log_sinh(x):
    return x + (-torch.expm1(-2 * x)).log() - LOG2


class _TangentDistance(torch.autograd.Function):
    """The law of cosines differentiated by hand: fewer passes than autograd, no 0/0 where it has a kink."""

    @staticmethod
    def forward(ctx, u, v, c):
        ctx.dtypes = u.dtype, v.dtype
        u, v = u.double(), v.double()
        lengths = _lengths(v, c.sqrt())
        blocks = [block for _, *block in _row_blocks(u, v, c.sqrt(), slopes=lengths)]
        blocks = [torch.cat(x) for x in zip(*blocks, strict=True)] if len(blocks) != 1 else blocks[0]
        blocks = blocks or [u.new_empty(0, len(v))] * 4 + [u.new_empty(0, 1), u.new_empty(0, 2).long()]
        ctx.save_for_backward(u, v, c, lengths[0], *blocks)
        return (blocks[0] * c.sqrt()).to(torch.promote_types(*ctx.dtypes))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        u, v, c, length_v, angle, radial, turn, bend, length_u, pairs = ctx.saved_tensors
        radius, grad, length_u = c.sqrt(), grad.double(), length_u[:, 0]
        a, b = length_u * 2 / radius, length_v * 2 / radius
        radial, turn, bend = radial * grad, turn * grad, bend * grad
        twist, near = turn - bend, None
        if _avoids_host_sync(turn):
            near = turn.where(bend.abs() < 2 * NEAR * turn.abs(), 0)
            turn, twist = turn - near, twist.where(near == 0, 0)
        elif len(pairs):
            near, twist, turn = turn[tuple(pairs.T)], twist.index_put(tuple(pairs.T), turn.new_zeros(())), turn.clone()
            turn[tuple(pairs.T)] = 0
        # the derivatives by a and b, times R; twist keeps the pull towards the other point tangential
        along_a = bend.sum(1) / a.tanh() + radial.sum(1)
        along_b = bend.sum(0) / b.tanh() - radial.sum(0)
        cross = turn * (-radius / length_u)[:, None] / length_v
        self_u = (2 * along_a + twist.sum(1) * radius / length_u) / length_u
        self_v = (2 * along_b + twist.sum(0) * radius / length_v) / length_v
        grad_u = (cross @ v).addcmul_(u, self_u[:, None])
        grad_v = (cross.T @ u).addcmul_(v, self_v[:, None])
        if near is not None:
            turn_near = _turn_all if _avoids_host_sync(turn) else _turn_pairs
            turn_near(near * radius, pairs, u, length_u, v, length_v, grad_u, grad_v)
        grad_c = None
        if ctx.needs_input_grad[2]:
            grad_c = (((grad * angle).sum() - a @ along_a - b @ along_b) / (2 * radius)).to(c.device)
        return _fitting(grad_u, ctx.dtypes[0]), _fitting(grad_v, ctx.dtypes[1]), grad_c


def _turns(turn, u, length_u, v, length_v):
    """What turns matching vectors away from each other: the products of `twist` and `cross`, without cancelling."""
    step, p, q, _ = _step(u, length_u, v, length_v)
    turn = turn[..., None]
    of_u = _across(step, u, length_u)[0] * (-turn / length_u / q)
    return of_u, _across(step, v, length_v)[0] * (turn / length_v / p)


def _turn_pairs(turn, pairs, u, length_u, v, length_v, grad_u, grad_v):
    """Add to both gradients what turns (P,) pairs."""
    for some, of_pair in zip(pairs.split(PAIRS), turn.split(PAIRS), strict=True):
        i, j = some.T
        turns = _turns(of_pair, u[i], length_u[i, None], v[j], length_v[j, None])
        grad_u.index_add_(0, i, turns[0])
        grad_v.index_add_(0, j, turns[1])


def _turn_all(turn, _, u, length_u, v, length_v, grad_u, grad_v):
    """The same where `turn` is (N, M), and 0 for most pairs: in row blocks, since a GPU need not be asked for which."""
    size = max(1, 16 * BLOCK // max(1, v.numel()))
    for start in range(0, len(u), size):
        rows = slice(start, start + size)
        turns = _turns(turn[rows], u[rows, None], length_u[rows, None, None], v, length_v[:, None])
        grad_u[rows] += turns[0].sum(1)
        grad_v += turns[1].sum(0)


def _fitting(grad, dtype):
    """A gradient in a narrower type; a row beyond its range keeps its direction, as inf would not."""
    if grad.dtype != dtype and grad.numel():
        grad = grad / (grad.abs().amax(1, keepdim=True) / torch.finfo(dtype).max).clamp(min=1)
    return grad.to(dtype)


class HyperbolicProjector(torch.nn.Module):
    """One linear layer from CLAP's joint space to the tangent space at the origin, shared by audio and text.

    It starts as the identity (principal directions below `embed_dim`), so epoch 0 ranks classes as plain CLAP
    does. Audio vectors are scaled to one common tangent norm, `audio_radius`: with a radius of its own for each
    clip, -d is not comparable across clips and class-wise ranking suffers. Text norms are free.
    similarity: a name of SIMILARITIES; "cosine" is the control that differs in nothing else.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        output_dim: int = 512,
        c: float = 1.0,
        temperature: float = 1.0,
        similarity: str = "hyperbolic",
        audio_radius: float = 0.5,
        learn_c: bool = False,
    ):
        super().__init__()
        self.base_c, self.temperature, self.audio_radius = c, temperature, audio_radius
        self.similarity = similarity
        self.linear = torch.nn.Linear(embed_dim, output_dim)
        torch.nn.init.eye_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        # c = base_c exp(log_c_change): positive after every step, and exactly base_c at the start.
        self.log_c_change = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=learn_c)

    @property
    def c(self):
        """The squared radius of the ball: a float, or a 0-d tensor while it is learned or lies on CUDA."""
        if self.log_c_change.requires_grad or _avoids_host_sync(self.log_c_change):
            return self.base_c * self.log_c_change.exp()
        return self.base_c * math.exp(self.log_c_change.item())

    @torch.no_grad()
    def start_at_principal_directions(self, text):
        """Let the first projection keep the directions in which the (M, embed_dim) class texts differ most."""
        output_dim, embed_dim = self.linear.weight.shape
        if output_dim < embed_dim:
            _, _, directions = torch.linalg.svd(text.double(), full_matrices=True)
            # An SVD leaves the sign open; the largest coordinate made positive, the start does not depend on LAPACK.
            signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
            self.linear.weight.copy_((directions * signs)[:output_dim])

    @torch.no_grad()
    def start_text_at(self, radius, text):
        """Scale the first projection so that the (M, embed_dim) class texts have this mean tangent norm."""
        self.linear.weight.mul_(radius / self.text(text).double().norm(dim=1).mean())

    def audio(self, embeddings):
        """(N, embed_dim) audio embeddings -> (N, output_dim) tangent vectors of norm `audio_radius`."""
        return self._audio(self.linear(embeddings))

    def _audio(self, projected):
        return self.audio_radius * torch.nn.functional.normalize(projected, dim=-1)

    def text(self, embeddings):
        """(M, embed_dim) text embeddings -> (M, output_dim) tangent vectors, at first of about the audio's norm."""
        return self._text(self.linear(embeddings))

    def _text(self, projected):
        return self.audio_radius * projected

    def compare(self, audio, text):
        """Tangent vectors (N, D), (M, D) -> similarity (N, M), by the entry of SIMILARITIES."""
        return SIMILARITIES[self.similarity].compare(audio, text, self.c, self.temperature)

    def forward(self, audio, text):
        """CLAP embeddings (N, embed_dim), (M, embed_dim) -> similarity (N, M)."""
        # One product, so there is one gradient of the weight instead of two to add up.
        audio, text = self.linear(torch.cat([audio, text])).split([len(audio), len(text)])
        return self.compare(self._audio(audio), self._text(text))

    def ball_points(self, tangent):
        """Tangent vectors (N, D) -> points of the Poincare ball (N, D), for export and pictures."""
        return expmap0(tangent, self.c)


def cosine_similarity(u, v):
    """(N, D), (M, D) -> (N, M) cosines."""
    return torch.nn.functional.normalize(u, dim=-1) @ torch.nn.functional.normalize(v, dim=-1).T


def towards_origin(audio, text, steps):
    """Points on the geodesics from clips to the origin, the root of a ball: rays of tangent vectors.

    audio (N, D), text (M, D), steps (S,) from 0 to 1 -> (S, N, D). Desai et al. 2023, "MERU", section 4.3.
    """
    return audio * (1 - steps[:, None, None])


def towards_mean_text(audio, text, steps):
    """Points on the chords from clips to the mean direction of the texts, the root where only angles count.

    audio (N, D), text (M, D), steps (S,) from 0 to 1 -> (S, N, D). Desai et al. 2023, "MERU", appendix.
    """
    unit, along = torch.nn.functional.normalize, steps[:, None, None]
    root = unit(unit(text, dim=-1).mean(0, keepdim=True), dim=-1)
    return (1 - along) * unit(audio, dim=-1) + along * root


@dataclass(frozen=True)
class Similarity:
    """One way to compare tangent vectors of audio and text, and all that the rest of the project asks of it.

    compare: (N, D), (M, D), c, temperature -> (N, M), greater for what fits better. curved: whether c means anything:
    then files hold c and the curvature, tests need --use-hyperbolic, and the vectors have a Poincare disk.
    towards_root: (audio, text, steps) -> the way to what is most general, `root` in words. label: of an axis.
    meaning, meaning_zh: what is divided by the temperature, for the model card; {c} and {curvature} are filled in.
    """

    compare: Callable
    curved: bool
    towards_root: Callable
    root: str
    label: str
    meaning: str
    meaning_zh: str


SIMILARITIES = {
    "hyperbolic": Similarity(
        compare=hyperbolic_similarity,
        curved=True,
        towards_root=towards_origin,
        root="geodesic to the origin",
        label="similarity = -distance / temperature",
        meaning="minus the distance in the Poincare ball of squared radius c = {c:g}, curvature -1/c = {curvature:g}",
        meaning_zh="负的双曲距离（庞加莱球，半径的平方 c = {c:g}，曲率 -1/c = {curvature:g}）",
    ),
    "cosine": Similarity(
        compare=lambda u, v, c, temperature: cosine_similarity(u, v) / temperature,
        curved=False,
        towards_root=towards_mean_text,
        root="cosine, to the mean text",
        label="cosine similarity",
        meaning="cosine",
        meaning_zh="余弦",
    ),
}
UNTRAINED = "cosine"  # CLAP's own similarity, without a projector


class LogitScale(torch.nn.Module):
    """logits = scale * similarity + bias with both learned; the scale starts at `start`, CLIP's 1/0.07.

    Radford et al. 2021, "Learning Transferable Visual Models", section 2.3; the bias as in Zhai et al. 2023,
    "Sigmoid Loss for Language Image Pre-Training", section 3.2.
    """

    START, LIMIT = 1 / 0.07, 100.0  # CLIP's ceiling, which prevents a diverging scale

    def __init__(self, start: float = START):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(start)))
        self.bias = torch.nn.Parameter(torch.tensor(0.0))

    @property
    def scale(self):
        return self.log_scale.exp()

    @torch.no_grad()
    def limit(self):
        """Hold the scale at the ceiling; called after each step, since a clamp in the forward pass has no way back."""
        self.log_scale.clamp_(max=math.log(self.LIMIT))

    @torch.no_grad()
    def centre(self, similarity, targets):
        """Set the bias so that the mean logit says how rare a positive is, as if nothing else were known."""
        rate = targets.double().mean().clamp(1e-6, 1 - 1e-6)  # log(0) when there is no positive or no negative
        self.bias.copy_(rate.logit() - self.scale * similarity.double().mean())

    def forward(self, similarity):
        return self.scale * similarity + self.bias


def sigmoid_loss(logits, targets):
    """Binary cross-entropy of every clip-class pair, summed over classes, averaged over clips.

    logits (N, M), targets (N, M) bool -> scalar. The candidates are the whole class list. Zhai et al. 2023,
    "Sigmoid Loss for Language Image Pre-Training", eq. 1, with several positives for a clip.
    """
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    return loss / len(logits)


def contrastive_loss(logits, targets):
    """Softmax over the distinct label texts of the batch, and over its clips for each text; several positives.

    logits (N, M), targets (N, M) bool -> scalar, the mean of both directions. Labels of other clips are negatives
    only where a clip lacks them. Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2, across modalities.
    """
    present = targets.any(0)
    if _avoids_host_sync(logits):
        logits = logits.masked_fill(~present, torch.finfo(logits.dtype).min)
    else:
        logits, targets = logits[:, present], targets[:, present]
    targets = targets.to(logits.dtype)
    by_audio = -(logits.log_softmax(1) * targets).sum(1) / targets.sum(1)
    by_text = -(logits.log_softmax(0) * targets).sum(0) / targets.sum(0).clamp(min=1)  # 0/0 of an absent text
    return (by_audio.mean() + by_text.sum() / present.sum()) / 2


def softmax_loss(logits, targets):
    """Cross-entropy over the whole class list, the target spread evenly over a clip's labels.

    logits (N, M), targets (N, M) bool -> scalar, averaged over clips.
    """
    weights = targets.to(logits.dtype)
    return torch.nn.functional.cross_entropy(logits, weights / weights.sum(1, keepdim=True))


LOSSES = {"sigmoid": sigmoid_loss, "contrastive": contrastive_loss, "softmax": softmax_loss}
