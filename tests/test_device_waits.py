"""What runs on CUDA looks at no values: that form of the distance, run here, and the operations of a training step.

On CUDA each look at a value (a branch, an item, the number of what is found) waits for the device.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hyperbolic
from hyperbolic import contrastive_loss, tangent_pairwise_distance
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.training.trainer import Trainer

LOOKS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "unique_dim", "_unique2", "masked_select"}


@pytest.fixture
def blind(monkeypatch):
    """Tensors of the CPU are treated as those of CUDA from when it is called."""
    return lambda: monkeypatch.setattr(hyperbolic, "_avoids_host_sync", lambda x: True)


def edges(dim, dtype, c):
    """Rows of every length, and beside them the same, near, opposite and zero ones, and others on their rays."""
    draw = torch.Generator().manual_seed(dim)
    lengths = torch.tensor([0, 1e-12, 1e-6, 1e-3, 0.5, 1.0, 5.0, 20.0, 149.0, 151.0, 400.0, 1e4]).double()
    unit = torch.nn.functional.normalize(torch.randn(len(lengths), dim, generator=draw, dtype=torch.float64), dim=1)
    u = unit * lengths[:, None] * c**0.5
    others = torch.randn(20, dim, generator=draw, dtype=torch.float64) * c**0.5
    near = u * (1 + 1e-4) + 1e-5 * u.norm(dim=1, keepdim=True) * unit.roll(1, 0)
    return u.to(dtype), torch.cat([u, near, -u, 2 * u, others]).to(dtype)


def measured(u, v, c):
    """The distance and the gradients of its sum, once in a graph and once without."""
    u, v, c = (x.detach().clone().requires_grad_() for x in (u, v, c))
    distance = tangent_pairwise_distance(u, v, c)
    with torch.no_grad():
        assert torch.equal(tangent_pairwise_distance(u, v, c), distance)
    return distance.detach(), *torch.autograd.grad(distance.sum(), [u, v, c])


@pytest.mark.parametrize("c", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("dim", [2, 16, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_are_equal_at_the_edges(blind, dtype, dim, c):
    u, v = edges(dim, dtype, c)
    scale = torch.tensor(c, dtype=torch.float64)
    looking = measured(u, v, scale)
    blind()
    found = measured(u, v, scale)
    assert (found[0].diagonal() == 0).all() and torch.isfinite(found[3])
    assert torch.allclose(found[0], looking[0], rtol=1e-7, atol=0)
    for got, wanted in zip(found[1:3], looking[1:3], strict=True):
        assert got.isfinite().all()
        assert ((got - wanted).norm(dim=1) <= 1e-7 * wanted.norm(dim=1)).all()
    assert abs(found[3] - looking[3]) <= 1e-7 * abs(looking[3])


def test_both_forms_of_the_contrastive_loss_are_equal(blind):
    draw = torch.Generator().manual_seed(0)
    targets = torch.rand(16, 40, generator=draw) < 0.1
    targets[:, 3] = False
    targets[:, 5] = True
    results = []
    for form in ("looking", "blind"):
        if form == "blind":
            blind()
        logits = (9 * torch.randn(16, 40, generator=torch.Generator().manual_seed(1))).requires_grad_()
        loss = contrastive_loss(logits, targets)
        results.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    assert (results[0][1][:, ~targets.any(0)] == 0).all()
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


class Looks(TorchDispatchMode):
    """Counts operations whose result or shape the host must wait for."""

    def __init__(self):
        super().__init__()
        self.seen, self.operations = Counter(), 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.operations += 1
        name = operation._schema.name.split("::")[1]
        chosen = arguments[1] if name in ("index", "index_put", "index_put_") else []
        self.seen[name] += name in LOOKS or any(x is not None and x.dtype == torch.bool for x in chosen)
        return operation(*arguments, **options or {})


def looks(settings, steps):
    """(how often a training of so many steps looks at a value, how many operations it has)."""
    draw = torch.Generator().manual_seed(0)
    clips = steps * settings.batch_size
    audio, text = (torch.nn.functional.normalize(torch.randn(n, 32, generator=draw), dim=1) for n in (clips, 20))
    targets = torch.rand(clips, 20, generator=draw) < 0.2
    targets[:, 0] = True
    order = torch.arange(clips)
    trainer = Trainer(settings, audio, targets, text, order, order)
    with Looks() as mode:
        trainer._train_epoch(1)
    assert all(parameter.isfinite().all() for parameter in trainer.projector.parameters())
    return sum(mode.seen.values()), mode.operations


@pytest.mark.parametrize("loss", ["sigmoid", "contrastive", "softmax"])
@pytest.mark.parametrize("learn_c", [False, True])
def test_a_training_step_looks_at_nothing(blind, loss, learn_c):
    settings = TrainConfig(epochs=1, loss=loss, learn_c=learn_c, output_dim=8)
    before = looks(settings, 3)[0], looks(settings, 6)[0]
    assert before[1] > before[0]  # a look in each step is counted
    blind()
    (few, some), (many, more) = looks(settings, 3), looks(settings, 6)
    assert few == many <= 2 and more - some > 3 * 50  # those at the end of an epoch


def test_a_learned_c_that_breaks_is_still_said(blind):
    blind()
    settings = TrainConfig(epochs=3, learn_c=True, learning_rate=1e6, output_dim=8)
    draw = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(32, 8, generator=draw), dim=1)
    targets = torch.eye(8, dtype=torch.bool).repeat(4, 1)
    order = torch.arange(32)
    from hyperbolic_clap.plumbing.errors import UserError

    with pytest.raises(UserError, match="not finite"):
        list(Trainer(settings, audio, targets, audio[:8], order, order).epochs())
