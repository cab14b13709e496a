"""AudioSet's tree: distances and ancestors by hand, metrics of known answers, radius against depth."""

import json
from collections import deque

import numpy as np
import pytest

from hyperbolic_clap.metrics.hierarchy import class_mean_radius, ontology_metrics, radius_follows_depth
from hyperbolic_clap.metrics.ontology import ROOT, Ontology
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.reading.labels import ONTOLOGY


@pytest.fixture(scope="module")
def tree():
    return Ontology()


@pytest.fixture(scope="module")
def names():
    table = json.loads(CLASS_LABELS.read_text(encoding="utf-8"))
    return sorted(table, key=table.get)


def tree_metrics(top1, targets, names, *vectors):
    return ontology_metrics(top1[:, None], targets, names, Ontology(), *vectors)


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
    assert len({tree.top_level(node) for node in nodes}) == 7


def test_metrics_of_one_wrong_and_one_right_answer(names):
    targets = np.concatenate([one_hot(names, "Bark", "Piano"), one_hot(names, "Bark")])
    found = tree_metrics(np.array([names.index("Meow"), names.index("Bark")]), targets, names)
    # Meow - Cat - Domestic animals - Dog - Bark; the right answer does not count in the mean
    assert found["wrong_top1"] == 1 and found["wrong_top1_distance"] == 4
    # Meow: {Meow, Cat, Domestic, Animal}; Bark: {Bark, Dog, Domestic, Animal}; Piano: 4 more
    assert found["hierarchical_precision"] == pytest.approx((2 + 4) / (4 + 4))
    assert found["hierarchical_recall"] == pytest.approx((2 + 4) / (8 + 4))
    assert found["hierarchical_f1"] == pytest.approx(2 * 6 / (8 + 12))


def plain_tree():
    """The ontology read a second time, as plain sets: {name: parents}, {name: ancestors with itself}, edges."""
    nodes = json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]
    parents = {node["name"]: node["parents"] or ["root"] for node in nodes}

    def above(name):
        return set() if name == "root" else {name}.union(*(above(parent) for parent in parents[name]))

    neighbours = {name: set(of) for name, of in parents.items()} | {"root": set()}
    for name, of in parents.items():
        for parent in of:
            neighbours[parent].add(name)
    return {name: above(name) for name in parents}, neighbours


def plain_distance(neighbours, start, goals):
    """Edges from `start` to the nearest of `goals`, ring by ring."""
    reached, edge, steps = {start}, {start}, 0
    while not edge & goals:
        edge = set().union(*(neighbours[node] for node in edge)) - reached
        reached |= edge
        steps += 1
    return steps


def plain_rho(x, y):
    """Spearman's correlation by its definition: Pearson's of the ranks, ties at their mean rank."""
    ranks = [np.array([(np.sum(v < w) + np.sum(v <= w) + 1) / 2 for w in v]) for v in (np.array(x), np.array(y))]
    return np.corrcoef(*ranks)[0, 1]


def test_metrics_equal_a_second_implementation(names):
    generator = np.random.default_rng(3)
    ancestors, neighbours = plain_tree()
    targets = generator.random((80, len(names))) < 0.006
    targets[5] = False  # without a true class: no part of any metric of the tree
    top1 = generator.integers(len(names), size=80)
    top1[:20] = [np.flatnonzero(row)[0] if row.any() else 0 for row in targets[:20]]
    text, audio = generator.normal(size=(len(names), 6)), generator.normal(size=(80, 6)) + 0.5
    found = tree_metrics(top1, targets, names, text, audio)
    distances, both, predicted, true = [], 0, 0, 0
    for best, row in zip(top1, targets, strict=True):
        truth = {names[i] for i in np.flatnonzero(row)}
        if not truth:
            continue
        if names[best] not in truth:
            distances.append(plain_distance(neighbours, names[best], truth))
        of_best, of_truth = ancestors[names[best]], set().union(*(ancestors[name] for name in truth))
        both, predicted, true = both + len(of_best & of_truth), predicted + len(of_best), true + len(of_truth)
    assert found["wrong_top1"] == len(distances) > 40
    assert found["wrong_top1_distance"] == pytest.approx(np.mean(distances))
    assert found["hierarchical_precision"] == pytest.approx(both / predicted)
    assert found["hierarchical_recall"] == pytest.approx(both / true)
    assert found["hierarchical_f1"] == pytest.approx(2 * both / (predicted + true))
    depth = {node["name"]: node["depth"] for node in json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]}
    depths = [depth[name] for name in names]
    assert found["text_radius_depth"]["rho"] == pytest.approx(plain_rho(np.sqrt((text**2).sum(axis=1)), depths))
    assert found["text_angle_depth"]["rho"] == pytest.approx(plain_rho(plain_angles(text), depths))
    angles, members = plain_angles(audio), [np.flatnonzero(column) for column in targets.T]
    radii = {}
    for i, rows in enumerate(members):
        if len(rows) > 1:
            pairs = [audio[a] @ audio[b] for a in rows for b in rows if a != b]
            radii[i] = np.sqrt(max(np.mean(pairs), 0))
    assert found["audio_radius_depth"]["classes"] == found["audio_angle_depth"]["classes"] == len(radii)
    kept = [depths[i] for i in radii]
    assert found["audio_radius_depth"]["rho"] == pytest.approx(plain_rho(list(radii.values()), kept))
    means = [angles[members[i]].mean() for i in radii]
    assert found["audio_angle_depth"]["rho"] == pytest.approx(plain_rho(means, kept))


def plain_angles(vectors):
    mean = np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0)
    return np.array([1 - v @ mean / np.linalg.norm(v) / np.linalg.norm(mean) for v in vectors])


def test_the_angle_does_not_depend_on_the_radius(names):
    """What cosine and hyperbolic have in common: lengths alone change nothing."""
    generator = np.random.default_rng(4)
    text = generator.normal(size=(len(names), 6)) + 0.5
    longer = text * generator.uniform(0.1, 9, size=(len(names), 1))
    bark = np.zeros(1, int), one_hot(names, "Bark"), names
    found = [tree_metrics(*bark, vectors, np.ones((1, 6))) for vectors in (text, longer)]
    assert found[0]["text_angle_depth"]["rho"] == pytest.approx(found[1]["text_angle_depth"]["rho"])
    assert found[0]["text_radius_depth"] != found[1]["text_radius_depth"]


def test_nothing_wrong_has_no_distance(names):
    found = tree_metrics(np.array([names.index("Bark")]), one_hot(names, "Bark"), names)
    assert found["wrong_top1_distance"] is None and found["hierarchical_f1"] == 1


def test_another_class_list_is_undefined():
    found = tree_metrics(np.array([0]), np.array([[True, False]]), ["dog bark", "drill press"])
    assert found.pop("reason") == "2 of 2 classes are not AudioSet's, for example 'dog bark'"
    bounds = [found.pop(name) for name in [*found] if name.endswith("_bounds")]
    assert set(found.values()) == {None} and len(bounds) == 2
    assert all(set(some.values()) == {None} for some in bounds)


def test_text_radius_that_follows_depth(tree, names):
    depth = tree.depth[tree.find(names)[0]]
    text = np.eye(527) * (1.0 + depth)[:, None]
    found = tree_metrics(np.zeros(1, int), one_hot(names, "Bark"), names, text, np.ones((1, 527)))
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
