"""Two dimensions for many: the hyperbolic fit and the traversal to the root, against what can be known of them."""

import numpy as np
import pytest
import torch

from hyperbolic import SIMILARITIES, cosine_similarity, hyperbolic_similarity, tangent_pairwise_distance
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.traversal import STEPS, ancestors_in_order, traversal_metrics, traverse
from hyperbolic_clap.reporting.mds import evenly, hyperbolic_mds, stress


def plane(count: int, radius: float, dimensions: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    vectors *= radius * torch.rand(count, 1, generator=generator, dtype=torch.float64) / vectors.norm(dim=1)[:, None]
    if dimensions == 2:
        return vectors
    turn = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))[0]
    return vectors @ turn[:2]


def test_points_of_a_hyperbolic_plane_in_many_dimensions_are_found_again():
    """A turned hyperbolic plane within 8 dimensions loses nothing, and no flat plane can hold it."""
    points = plane(60, 3.0, 8)
    flat = hyperbolic_mds(points[:40], points[40:], 1.0)
    assert not flat.exact and flat.stress < 0.02 and flat.flat_stress > 0.1 and flat.rank > 0.99
    places = torch.from_numpy(np.concatenate([flat.text, flat.audio]))
    pairs = tangent_pairwise_distance(places, places, 1.0), tangent_pairwise_distance(points, points, 1.0)
    assert stress(*pairs) < 0.02
    again = hyperbolic_mds(points[:40], points[40:], 1.0)
    assert (again.text == flat.text).all() and (again.audio == flat.audio).all()


def test_clips_beyond_the_landmarks_are_placed_as_well(monkeypatch):
    points = plane(60, 2.0, 8)
    monkeypatch.setattr("hyperbolic_clap.reporting.mds.LANDMARKS", 5)
    flat = hyperbolic_mds(points[:40], points[40:], 1.0)
    places = torch.from_numpy(np.concatenate([flat.text, flat.audio]))
    pairs = tangent_pairwise_distance(places, places, 1.0), tangent_pairwise_distance(points, points, 1.0)
    assert stress(*pairs) < 0.03


def test_two_dimensions_are_shown_as_they_are():
    points = plane(30, 1.5)
    flat = hyperbolic_mds(points[:20], points[20:], 2.0)
    assert flat.exact and flat.stress == 0 and flat.flat_stress > 0.01
    assert (flat.text == points[:20].numpy()).all() and (flat.audio == points[20:].numpy()).all()


@pytest.mark.parametrize("clips", [0, 1])
def test_few_or_equal_points(clips):
    flat = hyperbolic_mds(torch.ones(3, 5), torch.ones(clips, 5), 1.0)
    assert flat.audio.shape == (clips, 2) and np.isfinite(flat.text).all() and np.isfinite(flat.stress)


def test_evenly():
    assert evenly(0, 3).tolist() == [] and evenly(2, 3).tolist() == [0, 1] and evenly(101, 3).tolist() == [0, 50, 100]


NAMES = ["Animal", "Dog", "Bark", "Domestic animals, pets", "Music", "Howl"]


@pytest.fixture(scope="module")
def tree():
    return Ontology()


def counts(tree, met, truth):
    nodes, _ = tree.find(NAMES)
    targets = np.zeros((1, len(NAMES)), bool)
    targets[0, [NAMES.index(name) for name in truth]] = True
    row = np.array([[NAMES.index(name) for name in met]])
    return ancestors_in_order(row, targets, nodes, tree)[0].tolist()


def test_ancestors_are_counted_in_order(tree):
    """Bark lies below Dog, that below Domestic animals, pets, and that below Animal."""
    whole = ["Bark", "Dog", "Domestic animals, pets", "Animal"]
    assert counts(tree, whole, ["Bark"]) == [3, 3]
    assert counts(tree, whole, ["Bark", "Dog", "Animal"]) == [3, 3]  # only the most special class asks
    assert counts(tree, ["Bark", "Music", "Dog", "Dog", "Music", "Animal"], ["Bark"]) == [2, 3]
    assert counts(tree, whole[::-1], ["Bark"]) == [1, 3]
    assert counts(tree, ["Bark", "Music"], ["Bark"]) == [0, 3]
    assert counts(tree, ["Animal", "Dog", "Animal"], ["Dog"]) == [1, 2]
    assert counts(tree, whole, ["Music"]) == [0, 0]


HYPERBOLIC, COSINE = (SIMILARITIES[name] for name in ("hyperbolic", "cosine"))


def hyperbolic_compare(audio, text):
    return hyperbolic_similarity(audio, text, 1.0, 1.0)


def test_a_tree_laid_out_on_a_ray_is_walked_in_order(tree):
    """Texts at ever smaller radii in the clip's direction are its ancestors, and all are met.

    By chance one of six: at the origin two texts are equally near, and the first, Animal, is met by both clips.
    """
    names = ["Bark", "Dog", "Domestic animals, pets", "Animal", "Trumpet", "Brass instrument", "Musical instrument",
             "Music"]
    ray = torch.tensor([3.0, 2.2, 1.4, 0.7])
    text = torch.cat([torch.stack([ray, 0 * ray], 1), torch.stack([0 * ray, ray], 1)])
    audio, targets = text[[0, 4]], np.eye(8, dtype=bool)[[0, 4]]
    figure = traversal_metrics(hyperbolic_compare, HYPERBOLIC, audio, text, targets, names, tree)
    assert (figure["share"], figure["shuffled"], figure["clips"], figure["reason"]) == (1.0, 1 / 6, 2, None)
    assert figure["walk"] == "geodesic to the origin" and figure["low"] == figure["high"] == 1.0
    met = traverse(hyperbolic_compare, HYPERBOLIC.towards_root, audio, text)
    assert met[0, 0] == 0 and met[0, -1] in (3, 7) and list(dict.fromkeys(met[0].tolist()))[:4] == [0, 1, 2, 3]
    flat = traverse(cosine_similarity, COSINE.towards_root, audio, text)
    assert flat.shape == (2, STEPS) and flat[0, 0] in range(4)  # cosine sees no radius


def test_an_undefined_share_is_null_with_its_reason(tree):
    vectors = cosine_similarity, COSINE, torch.ones(2, 3), torch.eye(3)
    figure = traversal_metrics(*vectors, np.ones((2, 3), bool), ["Music", "drill", "press"], tree)
    assert figure["share"] is None and "are not AudioSet's" in figure["reason"]
    figure = traversal_metrics(*vectors, np.zeros((2, 3), bool), ["Music", "Dog", "Bark"], tree)
    assert figure["share"] is None and figure["clips"] == 0 and "class with an ancestor" in figure["reason"]
