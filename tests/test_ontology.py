"""AudioSet's tree: distances and ancestors by hand, metrics of known answers, radius against depth."""

import json
from collections import deque

import numpy as np
import pytest

from common import CLASS_LABELS
from ontology import ROOT, Ontology, class_mean_radius, ontology_metrics, radius_follows_depth


@pytest.fixture(scope="module")
def tree():
    return Ontology()


@pytest.fixture(scope="module")
def names():
    table = json.loads(CLASS_LABELS.read_text(encoding="utf-8"))
    return sorted(table, key=table.get)


def one_hot(names, *classes):
    return np.array([[name in classes for name in names]])


def test_distances_equal_a_plain_search(tree):
    neighbours = [set(parents) for parents in tree.parents]
    for child, parents in enumerate(tree.parents):
        for parent in parents:
            neighbours[parent].add(child)
    for start in (tree.position["growling"], tree.position["piano"], ROOT):
        steps, queue = {start: 0}, deque([start])
        while queue:
            node = queue.popleft()
            for other in neighbours[node] - steps.keys():
                steps[other] = steps[node] + 1
                queue.append(other)
        assert tree.distances[start].tolist() == [steps[i] for i in range(len(neighbours))]


def test_ancestors_follow_every_parent(tree):
    above = {tree.names[i] for i in np.flatnonzero(tree.ancestors[tree.position["choir"]])}
    assert above == {"Choir", "Singing", "Human voice", "Human sounds", "Musical instrument", "Music"}


def test_every_class_is_found_and_has_a_branch(tree, names):
    nodes, reason = tree.find(names)
    assert reason is None and len(nodes) == 527
    assert len({tree.branch(node) for node in nodes}) == 7


def test_metrics_of_one_wrong_and_one_right_answer(names):
    targets = np.concatenate([one_hot(names, "Bark", "Piano"), one_hot(names, "Bark")])
    found = ontology_metrics(np.array([names.index("Meow"), names.index("Bark")]), targets, names)
    # Meow - Cat - Domestic animals - Dog - Bark; the right answer does not count in the mean
    assert found["wrong_top1"] == 1 and found["wrong_top1_distance"] == 4
    # Meow: {Meow, Cat, Domestic, Animal}; Bark: {Bark, Dog, Domestic, Animal}; Piano: 4 more
    assert found["hierarchical_precision"] == pytest.approx((2 + 4) / (4 + 4))
    assert found["hierarchical_recall"] == pytest.approx((2 + 4) / (8 + 4))
    assert found["hierarchical_f1"] == pytest.approx(2 * 6 / (8 + 12))


def test_nothing_wrong_has_no_distance(names):
    found = ontology_metrics(np.array([names.index("Bark")]), one_hot(names, "Bark"), names)
    assert found["wrong_top1_distance"] is None and found["hierarchical_f1"] == 1


def test_another_class_list_has_no_ground():
    found = ontology_metrics(np.array([0]), np.array([[True, False]]), ["dog bark", "drill press"])
    assert found.pop("reason") == "2 of 2 classes are not AudioSet's, for example 'dog bark'"
    assert set(found.values()) == {None}


def test_text_radius_that_follows_depth(tree, names):
    depth = tree.depth[tree.find(names)[0]]
    text = np.eye(527) * (1.0 + depth)[:, None]
    found = ontology_metrics(np.zeros(1, int), one_hot(names, "Bark"), names, text, np.ones((1, 527)))
    assert found["text_radius_depth"]["rho"] == pytest.approx(1)
    assert found["audio_radius_depth"] is None  # no class has two clips


def test_unit_vectors_have_no_radius(tree, names):
    vectors = np.random.default_rng(0).normal(size=(527, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert radius_follows_depth(np.linalg.norm(vectors, axis=1), tree.depth[tree.find(names)[0]]) is None


def test_class_mean_radius_does_not_depend_on_the_number_of_clips():
    generator = np.random.default_rng(0)
    centre = np.zeros(64)
    centre[0] = 3.0
    few, many = [], []
    for _ in range(200):
        audio = centre + generator.normal(size=(42, 64))
        targets = np.zeros((42, 2), bool)
        targets[:2, 0] = targets[2:, 1] = True
        radius = class_mean_radius(audio, targets)
        few.append(radius[0] ** 2)
        many.append(radius[1] ** 2)
    # the plain length of the mean of two would give 9 + 64 / 2
    assert np.mean(few) == pytest.approx(9, abs=1.5) and np.mean(many) == pytest.approx(9, abs=0.3)
