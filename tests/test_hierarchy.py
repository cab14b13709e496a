"""Hierarchical metrics against plain sets and loops on random trees; taxonomies of one's own, good and bad."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics import weighted
from hyperbolic_clap.metrics.hierarchy import (
    RECALL,
    TREE_METRICS,
    TWO_LEVELS,
    ClassTree,
    hubness,
    ontology_metrics,
    recall_bounds,
    tree_ratios,
    two_level_averages,
)
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.traversal import ancestors_in_order
from hyperbolic_clap.metrics.undefined import NO_RELATIVE, NO_TWO_LEVELS
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.results.compare import CompareConfig, compare
from hyperbolic_clap.results.evaluation import evaluate
from hyperbolic_clap.results.files import read, save_scores

STEPS = {"sibling_recall@5": 1, "cousin_recall@5": 2}


class Plain:
    """A tree as dictionaries of sets."""

    def __init__(self, parents):
        self.parents = {name: set(above) or {"root"} for name, above in parents.items()}

    def up(self, name, steps):
        """The nodes at most so many steps above, itself included, without the root."""
        if name == "root":
            return set()
        return {name}.union(*(self.up(p, steps - 1) for p in self.parents[name])) if steps else {name}

    def height(self, name):
        return max((1 + self.height(child) for child, above in self.parents.items() if name in above), default=0)

    def distance(self, a, b):
        reached, steps = {a}, 0
        while b not in reached:
            reached |= {p for name in reached - {"root"} for p in self.parents[name]} | {
                child for child, above in self.parents.items() if above & reached}
            steps += 1
        return steps

    def lca_height(self, a, b):
        if a == b:
            return 0
        return min(map(self.height, (self.up(a, 99) & self.up(b, 99)) | {"root"}))

    def specific(self, labels):
        return {a for a in labels if not any(a != b and a in self.up(b, 99) for b in labels)}

    def near(self, specific, others, steps):
        """Of the others those that share a node with one of the specific labels."""
        return {c for c in others if any(self.up(a, steps) & self.up(c, steps) for a in specific)}


@st.composite
def trees(draw):
    """{name: parents} of 3 to 9 nodes, with several parents, several tops and nodes without children."""
    count = draw(st.integers(3, 9))
    parents = {}
    for i in range(count):
        above = draw(st.sets(st.integers(0, max(i - 1, 0)), max_size=2)) if i else set()
        parents[f"n{i}"] = [f"n{j}" for j in sorted(above)]
    order = draw(st.permutations([*parents]))
    return {name: parents[name] for name in order}


@given(trees(), st.integers(0, 999), st.integers(1, 12), st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_metrics_equal_plain_sets_and_loops(parents, seed, clips, data):
    tree, plain = Ontology(parents), Plain(parents)
    names = data.draw(st.lists(st.sampled_from([*parents]), min_size=2, max_size=7, unique=True))
    generator = np.random.default_rng(seed)
    targets = generator.random((clips, len(names))) < generator.uniform(0.1, 0.9)
    targets[generator.integers(clips)] = False
    order = np.argsort(generator.random(targets.shape), axis=1)
    found = ontology_metrics(order, targets, names, tree)
    sums = {name: [] for name in ("tree_induced_error", "lca_height", "jaccard", *STEPS)}
    ceilings, chances = {name: [] for name in STEPS}, {name: [] for name in STEPS}
    related = {name: any(plain.up(a, k) & plain.up(b, k) for a, b in combinations(names, 2))
               for name, k in STEPS.items()}  # fmt: skip
    slots, by_size = [], {}
    for row, ranks in zip(targets, order, strict=True):
        labels = {names[j] for j in np.flatnonzero(row)}
        if not labels:
            continue
        best, classes = names[ranks[0]], set(names)
        sums["tree_induced_error"].append(min(plain.distance(best, t) for t in labels))
        sums["lca_height"].append(min(plain.lca_height(best, t) for t in labels))
        ups = {name: plain.up(name, 99) for name in names}
        sums["jaccard"].append(max(len(ups[best] & ups[t]) / len(ups[best] | ups[t]) for t in labels))
        outside = [names[j] for j in ranks if names[j] not in labels]
        slots.append(len(outside[:5]))
        for name, steps in STEPS.items():
            specific = plain.specific(labels)
            near = plain.near(specific, classes - labels, steps)
            sums[name].append(len(near & set(outside[:5])))
            ceilings[name].append(min(len(near), len(outside[:5])))
            key = name, len(labels), len(specific)
            if key not in by_size:  # every way to lay so many labels, and so many specific ones, on the classes
                ways = [len(plain.near(some, classes - {*way}, steps)) for way in combinations(names, len(labels))
                        for some in combinations(way, len(specific))]  # fmt: skip
                by_size[key] = np.mean(ways) / max(len(outside), 1)
            chances[name].append(by_size[key] * len(outside[:5]))
    if not slots:
        assert found["reason"] == "no clip has a true class" and found["jaccard"] is None
        return
    for name in ("tree_induced_error", "lca_height", "jaccard"):
        assert found[name] == pytest.approx(np.mean(sums[name])), name
    for name in STEPS:
        bounds = found[f"{name}_bounds"]
        if not related[name] or not sum(slots):
            assert found[name] is bounds["chance"] is bounds["ceiling"] is None
            continue
        assert found[name] == pytest.approx(sum(sums[name]) / sum(slots))
        assert bounds["ceiling"] == pytest.approx(sum(ceilings[name]) / sum(slots))
        assert bounds["chance"] == pytest.approx(sum(chances[name]) / sum(slots), abs=0.04)


def test_chance_is_that_of_all_clips_whatever_their_numbers_of_labels():
    """Of clips with one label, and of clips with a third of the classes, it is the mean over both."""
    names = [f"c{i}" for i in range(30)]
    tree = Ontology({f"g{i}": [] for i in range(15)} | {name: [f"g{i // 2}"] for i, name in enumerate(names)})
    classes = ClassTree(tree.find(names)[0], tree)
    rng = np.random.default_rng(0)
    few, many = (np.argsort(rng.random((60, 30)), axis=1) < count for count in (1, 10))
    mixed = few, many, np.vstack([few, many])
    chances = [recall_bounds(some, classes)["sibling_recall@5"]["chance"] for some in mixed]
    assert chances[:2] == pytest.approx([1 / 29, 10 / 29], abs=0.01)
    assert chances[2] == pytest.approx(np.mean(chances[:2]), abs=0.01)


@given(trees(), st.integers(0, 999), st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_ancestors_in_order_equal_all_runs_tried(parents, seed, data):
    tree, plain = Ontology(parents), Plain(parents)
    names = data.draw(st.lists(st.sampled_from([*parents]), min_size=2, max_size=8, unique=True))
    generator = np.random.default_rng(seed)
    targets = generator.random((9, len(names))) < generator.uniform(0, 0.6)
    met = generator.integers(len(names), size=(9, 7))
    found = ancestors_in_order(met, targets, tree.find(names)[0], tree)

    def longest(classes):
        """Of all subsequences of which each is a proper ancestor of the one before."""
        runs = [run for size in range(len(classes) + 1) for run in combinations(classes, size)
                if all(a != b and b in plain.up(a, 99) for a, b in zip(run, run[1:], strict=False))]
        return max(map(len, runs))

    for row, truth, (inside, whole) in zip(met, targets, found.tolist(), strict=True):
        special = plain.specific({names[j] for j in np.flatnonzero(truth)})
        above = {b for a in special for b in plain.up(a, 99) - {a} if b in names}
        assert inside == longest([names[j] for j in dict.fromkeys(row.tolist()) if names[j] in above])
        chains = [[b for b in sorted(names, key=plain.height) if b in plain.up(a, 99) - {a}] for a in special]
        assert whole == max(map(longest, chains), default=0)


def test_recalls_of_audioset_by_hand():
    """A clip of Bark: of its five next best classes Growling, Howl and Dog are siblings or parent, Meow a cousin."""
    names = ["Bark", "Animal", "Dog", "Growling", "Howl", "Cat", "Meow", "Music"]
    order = np.array([[0, 1, 3, 4, 2, 7, 6, 5]])
    targets = np.array([[True, True] + [False] * 6])
    found = ontology_metrics(order, targets, names, Ontology())
    assert found["sibling_recall@5"] == 3 / 5  # Animal is a label and no slot
    assert found["sibling_recall@5_bounds"]["ceiling"] == 3 / 5
    assert found["cousin_recall@5"] == 4 / 5  # Meow is two steps below Domestic animals, as Bark is
    assert found["cousin_recall@5_bounds"]["ceiling"] == 1  # Cat too


def test_two_levels_as_the_task_defines_them():
    """By its baseline's loops: precision over the clips with a class as answer, recall as truth."""
    tree = Ontology({"a1": ["a"], "a2": ["a"], "b1": ["b"], "b2": ["b"], "b3": ["b"], "a": [], "b": []})
    names = ["a1", "a2", "b1", "b2", "b3"]
    generator = np.random.default_rng(0)
    truth, answer = generator.integers(4, size=40), generator.integers(5, size=40)
    classes = ClassTree(tree.find(names)[0], tree)
    found = two_level_averages(weighted.plain(40), answer, np.eye(5, dtype=bool)[truth], classes)

    def overlap(i):
        if answer[i] == truth[i]:
            return 1.0
        return 0.75 * 0.5 if names[answer[i]][0] == names[truth[i]][0] else 0.0

    wanted = []
    for c in range(4):
        p = np.mean([overlap(i) for i in range(40) if answer[i] == c])
        r = np.mean([overlap(i) for i in range(40) if truth[i] == c])
        wanted.append((p, r, 2 * p * r / (p + r)))
    for name, value in zip(("hP", "hR", "hF"), np.mean(wanted, axis=0), strict=True):
        assert found[name][0] == pytest.approx(value)
    assert two_level_averages(weighted.plain(1), answer[:1], np.ones((1, 5), bool), classes) == {}
    assert not ClassTree(Ontology().find(["Music", "Bark"])[0], Ontology()).two_levels


def test_hubness_by_hand():
    similarity = -np.abs(np.subtract.outer([0.0, 1, 2, 3, 4, 5, 20], [0.0, 1, 2, 3, 4, 5, 20]))
    counts = np.array([5, 6, 6, 6, 6, 6, 0], float)  # of 7 points on a line all but the farthest
    found = hubness(similarity)
    assert found["hubness_largest"] == 6
    assert found["hubness_skewness"] == pytest.approx(((counts - 5) ** 3).mean() / ((counts - 5) ** 2).mean() ** 1.5)
    assert hubness(np.eye(2)) == {"hubness_skewness": None, "hubness_largest": None}
    assert hubness(np.ones((6, 6)))["hubness_skewness"] is None


def test_weights_are_repeated_clips():
    generator, names = np.random.default_rng(0), Ontology().names[1:60]
    targets = generator.random((30, 59)) < 0.1
    targets[:, 0] |= ~targets.any(axis=1)
    order = np.argsort(generator.random((30, 59)), axis=1)
    classes = ClassTree(Ontology().find(names)[0], Ontology())
    weights = generator.integers(0, 4, size=30)
    ratios = tree_ratios(order, targets, classes)
    again = tree_ratios(order.repeat(weights, axis=0), targets.repeat(weights, axis=0), classes)
    for name, parts in ratios.items():
        value = weighted.ratio(weights[None].astype(float), *parts)[0]
        assert value == pytest.approx(weighted.ratio(weighted.plain(weights.sum()), *again[name])[0]), name


def test_a_taxonomy_is_read_from_json_or_csv(tmp_path):
    table = {"Dog": "Animal", "Bark, woof": ["Dog", "Noise"], "Animal": None}
    write_json(tmp_path / "t.json", table)
    (tmp_path / "t.csv").write_text(
        'Class,Parent\nDog,Animal\n"Bark, woof",dog\n"bark,woof",Noise\nAnimal,\n\n', encoding="utf-8-sig")
    for name in ("t.json", "t.csv"):
        tree = Ontology.read(tmp_path / name)
        assert tree.names[1:] == ["Dog", "Bark, woof", "Animal", "Noise"]
        assert tree.depth.tolist() == [-1, 1, 1, 0, 0] and tree.height.tolist() == [3, 1, 0, 2, 1]
        assert [tree.names[i] for i in tree.parents[2]] == ["Dog", "Noise"]
        assert Ontology.from_json(json.loads(json.dumps(tree.to_json()))).parents == tree.parents
        assert tree.find(["Cat", "Dog"])[1] == "1 of 2 classes are not in the taxonomy, for example 'Cat'"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.json", '{"A": "B", "B": "C", "C": "A"}', "has a circle: A -> B -> C -> A"),
        ("t.json", '{"A": "A"}', "has a circle: A -> A"),
        ("t.json", '{"A": null, "B": []}', "has no edge: none of its 2 classes has a parent"),
        ("t.json", '{"A": "B", "a ": "C"}', "names 'A' twice"),
        ("t.json", '{"A": 3}', "no text or list of texts as the parent of 'A'"),
        ("t.json", "[1]", "is no JSON object of the form"),
        ("t.json", "A,B", "is not JSON"),
        ("t.csv", "A,B\nB,C,D\n", "line 2 of the taxonomy is no class and its parent"),
        ("t.csv", ",B\n", "line 1 of the taxonomy is no class and its parent"),
        ("t.csv", "", "has no edge"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_what_is_no_taxonomy_is_one_sentence(tmp_path, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as error:
        Ontology.read(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


FOUR = {"dog": ["pets"], "cat": ["pets"], "rain": ["weather"], "wind": ["weather"], "pets": [], "weather": []}


def of_labels(names, labels, tree, seed=0):
    """(tensors, what the results JSON says) of random clips with these labels against the classes `names`."""
    classes, generator = ClassList(names), torch.Generator().manual_seed(seed)
    audio, text = (torch.randn(size, 8, generator=generator) for size in (len(labels), len(names)))
    count = range(len(labels))
    rows = Rows.of(classes, count, [f"v{i}" for i in count], labels, [[]] * len(labels))
    made = EmbeddedClips(classes, rows, audio, text, {}, lambda names: torch.ones(len(names), 8))
    return evaluate(made, Projector(None, torch.device("cpu")), 3, tree)


FIELD = ("tree_induced_error", "lca_height", "jaccard", "hierarchical_f1", "sibling_recall@5", "cousin_recall@5", "hF")


@pytest.mark.parametrize(
    ("names", "labels", "parents", "undefined"),
    [
        (["dog", "cat", "rain", "wind"], [["dog"]], FOUR, {"hF": NO_TWO_LEVELS}),  # and a wrong answer
        (["dog", "cat", "rain", "wind"], [["dog", "cat", "rain", "wind"]] * 3, FOUR,
         {"sibling_recall@5": NO_RELATIVE, "cousin_recall@5": NO_RELATIVE, "hF": NO_TWO_LEVELS}),
        (["dog", "rain"], [["dog"], ["rain"]], FOUR, {"sibling_recall@5": NO_RELATIVE, "cousin_recall@5": NO_RELATIVE}),
        (["dog", "cat"], [["dog"], ["cat"]], {"dog": [], "cat": []},
         {"sibling_recall@5": NO_RELATIVE, "cousin_recall@5": NO_RELATIVE, "hF": NO_TWO_LEVELS}),
        (["dog", "drill", "press"], [["dog"], ["drill"]], FOUR,
         dict.fromkeys(FIELD, "2 of 3 classes are not in the taxonomy, for example 'drill'")),
    ],
    ids=["one clip", "all classes", "no two related", "no edge", "few in the tree"],
)  # fmt: skip
def test_what_is_undefined_is_null_with_its_reason(tmp_path, names, labels, parents, undefined):
    _, found = of_labels(names, labels, Ontology(parents))
    write_json(tmp_path / "r.json", found)  # strict: no NaN
    ontology, reasons = found["ontology"], found["reasons"]
    assert {name for name in FIELD if ontology[name] is None} == set(undefined)
    for name, reason in undefined.items():
        assert reasons[f"ontology.{name}"] == reason
    for name in ("sibling_recall@5", "cousin_recall@5"):
        for bound, value in ontology[f"{name}_bounds"].items():
            assert (value is None) == (name in undefined) == (f"ontology.{name}_bounds.{bound}" in reasons)
    missing = {f"ontology.{name}" for name, value in ontology.items() if value is None and name != "reason"}
    assert missing <= set(reasons)


@pytest.fixture
def evaluated(tmp_path):
    """Two results files against a taxonomy of one's own, with scores."""
    tree, names, paths = Ontology(FOUR), ["dog", "cat", "rain", "wind"], []
    for seed in range(2):
        tensors, evaluation = of_labels(names, [[names[i % 4]] for i in range(30)], tree, seed)
        info = {"class_names": names, "scores": f"{seed}.safetensors", "taxonomy": tree.to_json()}
        save_scores(tmp_path / f"{seed}.safetensors", tensors)
        write_json(tmp_path / f"{seed}.json", {"test_info": info, "model_info": {"c_meaning": ""}} | evaluation)
        paths.append(tmp_path / f"{seed}.json")
    return paths


def test_a_comparison_uses_the_taxonomy_of_its_files(evaluated):
    stored = json.loads(evaluated[0].read_text())["ontology"]
    assert None not in [stored[name] for name in ("hF", "sibling_recall@5", "lca_height", "jaccard", "hubness_largest")]
    files = [read(path, path.stem, None, path) for path in evaluated]
    rows = {row["metric"]: row for row in compare(files, CompareConfig(resamples=200))["tables"][0]["rows"]}
    for name in (*TREE_METRICS, *RECALL, *TWO_LEVELS):
        entry = rows[name]["differences"][0]
        assert entry["paired"] and entry["low"] <= entry["difference"] <= entry["high"], name
        assert rows[name]["values"][0] == {"value": stored[name], "source": "stored", "comparable": True}
    assert rows["hubness_largest"]["differences"][0]["note"] == "over classes"


def test_older_results_are_recomputed_where_scores_are_stored(evaluated):
    stored = json.loads(evaluated[0].read_text())["ontology"]
    for path in evaluated:
        content = json.loads(path.read_text())
        del content["ontology"]
        write_json(path, content)
    files = [read(path, path.stem, None, path) for path in evaluated]
    rows = {row["metric"]: row for row in compare(files, CompareConfig(resamples=200))["tables"][0]["rows"]}
    for name in ("hF", "sibling_recall@5", "lca_height", "jaccard"):
        assert rows[name]["values"][0]["source"] == "recomputed"
        assert rows[name]["values"][0]["value"] == pytest.approx(stored[name])
        assert "low" in rows[name]["differences"][0]


@pytest.mark.parametrize("other", [{"dog": ["a"], "rain": ["a"], "cat": ["b"], "wind": ["b"]}, None])
def test_files_of_two_trees_are_measured_by_the_first(evaluated, other):
    """By another taxonomy, or by AudioSet's, in which these classes are not: then its figures have no difference."""
    for path in evaluated:
        content = json.loads(path.read_text())
        content["ontology"] |= {"hF": 0.9, "text_angle_depth": {"rho": 0.5}}
        content["test_info"]["taxonomy"] = content["test_info"]["taxonomy"] if path == evaluated[0] else other
        write_json(path, content)
    paths = evaluated if other else evaluated[::-1]
    files = [read(path, path.stem, None, path) for path in paths]
    found = compare(files, CompareConfig(resamples=200))
    told = f"{paths[1].stem} was tested with another taxonomy than {paths[0].stem}, whose is taken for both"
    assert found["notes"].count(told) == 1 and not any(f"{paths[1].stem} stores hF" in n for n in found["notes"])
    rows = {row["metric"]: row for row in found["tables"][0]["rows"]}
    assert rows["text_angle_depth"]["differences"][0]["difference"] is None
    entry = rows["hF"]["differences"][0]
    if other:
        assert rows["hF"]["values"][1]["source"] == "recomputed"
        assert entry["low"] <= entry["difference"] <= entry["high"]
    else:
        assert entry["difference"] is None
    same = compare([files[0], files[0]], CompareConfig(resamples=200))
    assert not any("taxonomy" in note for note in same["notes"])


def test_relatives_among_all_of_audiosets_classes():
    """A clip whose next best classes are its siblings finds them all; one whose rankings stop at ten has no recall."""
    tree = Ontology()
    names = tree.names[1:528]
    classes, targets = ClassTree(tree.find(names)[0], tree), np.zeros((2, 527), bool)
    near = classes.relatives["sibling_recall@5"]
    own = np.flatnonzero(near.sum(axis=1) > 6)[:2]
    targets[[0, 1], own] = True
    order = np.stack([np.argsort(-(near[i] + 2 * (np.arange(527) == i)), kind="stable") for i in own])
    found = ontology_metrics(order, targets, names, tree)
    assert found["sibling_recall@5"] == 1 == found["sibling_recall@5_bounds"]["ceiling"]
    assert ontology_metrics(order[:, :10], targets, names, tree)["sibling_recall@5"] is None
