"""Superclasses of AudioSet's tree, by their own text and by their subtree, against loops written out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import script
from sklearn.metrics import average_precision_score

from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.superclasses import log_sum_exp, subtree_of, superclass_metrics
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.labels import ONTOLOGY, ClassList
from hyperbolic_clap.results.evaluation import of_superclasses
from hyperbolic_clap.results.files import read
from hyperbolic_clap.results.measures import Measures, gain_of_subtrees

CLASSES = ClassList.read(CLASS_LABELS)


def plain_below() -> dict[str, set]:
    """{name: itself and everything below it}, from the ontology's file."""
    nodes = json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]
    children = {node["name"]: [other["name"] for other in nodes if node["name"] in other["parents"]] for node in nodes}

    def below(name):
        return {name}.union(*(below(child) for child in children[name]))

    return {name: below(name) for name in children if children[name]}


def test_metrics_equal_plain_loops():
    generator = torch.Generator().manual_seed(0)
    names = Ontology().names[1:]
    vectors = dict(zip(names, torch.randn(len(names), 6, generator=generator), strict=True))
    audio, targets = torch.randn(60, 6, generator=generator), torch.rand(60, 527, generator=generator) < 0.005
    targets[7] = False

    def texts_of(some):
        return torch.stack([vectors[name] for name in some])

    projector = Projector(None, torch.device("cpu"))
    material = EmbeddedClips(CLASSES, None, audio, texts_of(CLASSES.names), {}, texts_of)
    vars(material)["targets"] = targets  # what its rows would give
    scores = projector.compare(audio, material.text).numpy()
    found = superclass_metrics(of_superclasses(material, projector, scores, Ontology()))
    own, branch, valid = [], [], targets.any(1).numpy()
    for name, members in plain_below().items():
        truth = np.array([any(CLASSES.names[j] in members for j in row.nonzero()[:, 0]) for row in targets])[valid]
        if not truth.any():
            continue
        cosines = {m: torch.cosine_similarity(audio, vectors[m][None], dim=1).double() for m in members}
        own.append(average_precision_score(truth, cosines[name][valid]))
        total = sum((cosine / 0.07).exp() for cosine in cosines.values())
        branch.append(average_precision_score(truth, total.log()[valid]))
    assert found["inner_classes"] == len(own) > 50
    assert found["map_inner"] == pytest.approx(np.mean(own), abs=1e-4)
    assert found["map_inner_descendants"] == pytest.approx(np.mean(branch), abs=1e-4)


def test_the_log_sum_exp_overflows_nowhere():
    similarity = torch.tensor([[-900.0, -901.0], [900.0, 899.0]])
    expected = [-900 + math.log(1 + math.exp(-100)) / 100, 900]
    assert log_sum_exp(similarity, 100.0).tolist() == pytest.approx(expected)


def test_subtrees_of_names():
    tree, below = Ontology(), plain_below()
    assert set(subtree_of("animal", tree)) == below["Animal"]
    assert subtree_of("Bark", tree) == subtree_of("glass breaking in a kitchen", tree) == []


def test_another_class_list_has_no_superclasses():
    classes = ClassList(["dog bark", "drill press"])
    material = EmbeddedClips(classes, None, torch.eye(2), torch.eye(2), {}, None)
    assert of_superclasses(material, Projector(None, torch.device("cpu")), np.eye(2), Ontology()) == {}
    assert set(superclass_metrics({}).values()) == {None}


def test_results_files_and_comparison_hold_both(tones, tmp_path):
    flags = ("--parquet-dir", tones, "--cache-dir", tmp_path / "cache")
    path = tmp_path / "a.json"
    script("test_clap_modelscope.py", *flags, "--output-json", path, "--save-scores", tmp_path / "a.safetensors")
    stored = json.loads(path.read_text())["ontology"]
    results = read(path, "a", None, CLASS_LABELS)
    measures = Measures(results, np.flatnonzero(results.valid), 5, Ontology())
    values = measures.values()
    for name in ("map_inner", "map_inner_descendants"):
        assert values[name] == pytest.approx(stored[name], abs=1e-9)
    gain = gain_of_subtrees(values, measures.resample(200, 0))
    assert gain["difference"] == pytest.approx(stored["map_inner_descendants"] - stored["map_inner"], abs=1e-9)
    assert gain["low"] <= gain["difference"] <= gain["high"]
