"""The negatives of benchmarks/hierarchy_table.py: cones against the ball's own arithmetic, tables that add up."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_protocol import Inline

from hyperbolic import expmap0
from hyperbolic_clap.metrics.ontology import audioset
from hyperbolic_clap.plumbing.config import CLASS_LABELS, TrainConfig
from hyperbolic_clap.reading.labels import ClassList

sys.path.insert(0, str(ROOT / "benchmarks"))
import geometry_runs  # noqa: E402
import hierarchy_runs  # noqa: E402
import hierarchy_table  # noqa: E402
import tree_extras  # noqa: E402
from geometry_search import Trial  # noqa: E402


def test_cones_equal_those_of_the_ball():
    """The angle at x between the ray from the origin and the geodesic to y, by Mobius addition."""
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(200, 3, generator=draw, dtype=torch.float64) * 0.7 for _ in range(2))
    c, width = 2.0, 0.2
    x, y = (expmap0(w, c) / c**0.5 for w in (-u, v))  # in the unit ball
    xy, xx, yy = (x * y).sum(1)[:, None], x.square().sum(1)[:, None], y.square().sum(1)[:, None]
    towards = ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)
    angle = torch.cosine_similarity(towards, u).clamp(-1, 1).acos()
    aperture = (width * (1 - xx) / xx.sqrt())[:, 0].clamp(max=1).asin()
    expected = (angle - aperture).relu()
    found = hierarchy_runs.outside(u, v, c, width)
    assert torch.allclose(found, expected, atol=1e-3) and 20 < (found > 0).sum() < 200
    small = 1e-3
    flat = hierarchy_runs.outside(small * u, small * v, geometry_runs.FLAT, small * width)
    curved = hierarchy_runs.outside(small * u, small * v, 1.0, small * width)
    assert torch.allclose(flat, curved, atol=1e-4)
    for c in (1.0, geometry_runs.FLAT):
        assert (hierarchy_runs.outside(u, 2 * u, c) == 0).all()
        assert torch.allclose(hierarchy_runs.outside(u, -u, c, 1e-9), torch.tensor(np.pi).double(), atol=1e-2)
        w = torch.cat([u, torch.zeros(1, 3)]).requires_grad_()
        hierarchy_runs.outside(w, torch.cat([v, v[:1]]), c).sum().backward()
        assert w.grad.isfinite().all()


def test_few_clips_of_each_class():
    targets = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.2
    train = torch.arange(0, 200, 2)
    for shots in (1, 3):
        some = hierarchy_runs.few(targets, train, shots, 5)
        assert set(some.tolist()) <= set(train.tolist()) and len(some) == len(some.unique()) <= 9 * shots
        assert (targets[some].sum(0) >= shots).all()
        assert not torch.equal(some, hierarchy_runs.few(targets, train, shots, 6))


@pytest.fixture
def tree(monkeypatch):
    """60 clips of the 527 classes in 8 dimensions, texts at random; few resamples, one seed."""
    draw = torch.Generator().manual_seed(0)
    nodes = torch.nn.functional.normalize(torch.randn(len(audioset().names) - 1, 8, generator=draw), dim=1)
    names = ClassList.read(CLASS_LABELS).names
    text = nodes[audioset().find(names)[0] - 1]
    audio = torch.nn.functional.normalize(torch.randn(60, 8, generator=draw), dim=1)
    targets = torch.zeros(60, 527, dtype=torch.bool)
    targets[:, :100] = torch.rand(60, 100, generator=draw) < 0.1
    targets[:, 0] |= ~targets.any(1)
    folder = geometry_runs.Folder(audio, targets, np.arange(60))
    found = hierarchy_runs.Tree(folder, {"eval": folder}, text, nodes, names)
    monkeypatch.setattr(geometry_runs, "DATA", found)
    monkeypatch.setattr(hierarchy_runs, "RESAMPLES", 20)
    for module in (hierarchy_runs, hierarchy_table):
        monkeypatch.setattr(module, "SEEDS", 1)
    monkeypatch.setattr(hierarchy_table, "SHOTS", (1, 2))
    monkeypatch.setattr(hierarchy_table, "CONES", (1.0,))
    return found


@pytest.mark.parametrize("part", hierarchy_table.PARTS)
def test_parts(tree, part):
    sides = {"hyperbolic": {}, "flat": {"c": geometry_runs.FLAT}, "cosine": {"similarity": "cosine"}}
    settings = {side: TrainConfig(epochs=1, output_dim=8, batch_size=64, **given) for side, given in sides.items()}
    rows = hierarchy_table.table(part, hierarchy_table.PARTS[part](Inline(), settings, settings))
    assert {len(row) for row in rows} == {7 + 12} and len({tuple(row[1:5]) for row in rows}) == len(rows)
    by = {tuple(row[1:5]): row[5:] for row in rows}
    variants = list(dict.fromkeys(row[1] for row in rows))
    assert len(variants) == (1 if part in ("unseen", "subtree") else 2)
    for (variant, side, on, metric), cells in by.items():
        value, std, *cells = cells
        first, *others = (cells[i : i + 3] for i in range(0, 12, 3))
        assert float(std) >= 0 and all(float(low) <= float(high) for _, low, high in (first, *others) if low)
        if variant != variants[0]:
            known = by[variants[0], side, on, metric]
            assert float(first[0]) == pytest.approx(float(value) - float(known[0]), abs=0.02)
        for other, difference in zip(hierarchy_table.BESIDE, others, strict=True):
            beside = by.get((variant, other, on, metric), by.get((variants[0], other, on, metric)))
            if side == "hyperbolic" and beside:
                assert float(difference[0]) == pytest.approx(float(value) - float(beside[0]), abs=0.02)
    inner = {key[1]: cells for key, cells in by.items() if key[0] == variants[0] and key[3] == "map_inner"}
    assert set(inner) == ({"untrained", *sides} if part in ("labels", "cones") else set())


def test_held_out_classes_are_not_trained(tree):
    for subtree in (False, True):
        for held in hierarchy_runs.held_out(subtree):
            assert len(held) >= 8 and tree.train.targets[:, held].any(0).all()
    below = audioset().ancestors[audioset().find(tree.names)[0]]
    assert all(below[held].all(0).any() for held in hierarchy_runs.held_out(True))


def test_the_scale_of_the_path_lengths_is_free():
    """Whatever the unit of the distances, the error is that of the best scale, found here by trying many."""
    draw = torch.Generator().manual_seed(0)
    found, wanted = torch.rand(2, 50, generator=draw, dtype=torch.float64) + 0.5
    errors = [float((scale * found / wanted - 1).square().mean()) for scale in np.linspace(0.2, 3, 3000)]
    for unit in (1, 7.5):
        least = float((tree_extras.relative(unit * found, wanted) - 1).square().mean())
        assert least == pytest.approx(min(errors), abs=1e-6)


def test_classes_by_their_path_to_the_best(tree):
    order = np.argsort(np.random.default_rng(0).random((20, 527)), axis=1)
    found, paths = tree_extras.by_path(order), tree_extras.class_tree().distances
    assert (found[:, 0] == order[:, 0]).all() and (np.sort(found, axis=1) == np.arange(527)).all()
    for before, after in zip(order, found, strict=True):
        rank = {j: i for i, j in enumerate(before)}
        assert list(after) == sorted(before, key=lambda j: (paths[before[0], j], rank[j]))


def test_the_regulariser_pulls_towards_the_tree_and_leaves_the_validation_alone(tree, monkeypatch):
    monkeypatch.setattr(tree_extras, "CLASSES_A_STEP", 16)
    for given in ({}, {"c": geometry_runs.FLAT}, {"similarity": "cosine"}):
        settings = TrainConfig(epochs=3, output_dim=8, batch_size=16, learning_rate=3e-3, loss="sigmoid", **given)
        plain, pulled = (tree_extras.train(settings, weight, False)[0] for weight in (0.0, 100.0))
        errors = [float(tree_extras.text_figures(head, tree_extras.half_of(0))["texts", "error of the path lengths"][0])
                  for head in (plain, pulled)]  # fmt: skip
        assert errors[1] < errors[0], given


def test_every_training_is_kept_and_the_table_adds_up(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(tree_extras, "SEEDS", 1)
    monkeypatch.setattr(tree_extras, "WEIGHTS", (0.0, 100.0))
    monkeypatch.setattr(tree_extras, "DIM", 8)
    monkeypatch.setattr(tree_extras, "trials", lambda: [TRIAL])
    rows = tree_extras.rows_of(*tree_extras.all_runs(Inline(), tmp_path, 1))
    assert len(list(tmp_path.iterdir())) == 1 + 3 * 2 + 3
    monkeypatch.setattr(tree_extras, "figures", None)
    assert tree_extras.rows_of(*tree_extras.all_runs(Inline(), tmp_path, 1)) == rows
    assert {len(row) for row in rows} == {len(hierarchy_table.HEADER) + 1}
    by = {tuple(row[:5]): row[5:] for row in rows}
    assert len(by) == len(rows) and {key[0] for key in by} == {"regulariser", "half", "ranking"}
    ranked = "weight 0, ranked by the tree"
    for side in ("cosine", "flat", "hyperbolic"):
        for metric in ("sibling_recall@5", "cousin_recall@5"):
            value = by["ranking", ranked, side, "eval", metric]
            last = by["regulariser", "weight 100", side, "eval", metric]
            assert float(value[2]) == pytest.approx(float(value[0]) - float(last[0]), abs=0.02)
        halves = [by["half", "weight 0", side, "texts", f"sibling share{half}"] for half in tree_extras.HALVES]
        shares = [float(values[0]) for values in halves]
        whole = float(by["regulariser", "weight 0", side, "texts", "sibling share"][0])
        assert min(shares) <= whole <= max(shares)
    assert by["regulariser", "weight 0", "untrained", "eval", "acc@1"][-1] == ""
    assert "--epochs 1" in by["ranking", ranked, "flat", "eval", "sibling_recall@5"][-1]


TRIAL = Trial(learning_rate=1e-3, batch_size=64, epochs=1, audio_radius=0.5, scale=None, text_length=None)
