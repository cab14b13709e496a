"""A finished evaluation is never lost: whatever the clips and labels, strict JSON, with a reason for every null."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, script
from hypothesis import given, settings
from hypothesis import strategies as st

import plot_results
from hyperbolic import HyperbolicProjector
from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics.undefined import defined_or_null
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.results.compare import CompareConfig, compare
from hyperbolic_clap.results.evaluation import evaluate
from hyperbolic_clap.results.files import read, save_scores
from hyperbolic_clap.results.tables import render

CLASSES = ClassList(["Speech", "Music", "Dog", "Bark", "Rain", "Animal", "Chirp tone"])
OTHERS = ClassList(["cat", "clock alarm", "rain"])
DIM = 8


def projector(kind: str) -> Projector:
    """Plain cosine, a trained cosine, flat or hyperbolic projector of random weights, or one that maps all to 0."""
    made = Projector(None, torch.device("cpu"))
    if kind != "plain":
        torch.manual_seed(0)
        similarity = "cosine" if kind == "cosine" else "hyperbolic"
        made.module = HyperbolicProjector(DIM, 4, 1e6 if kind == "flat" else 1.0, 1.0, similarity).eval()
        made.content = {"similarity": similarity, "c": 1.0, "temperature": 1.0, "epoch": 1, "output_dim": 4}
        if kind == "zero":
            torch.nn.init.zeros_(made.module.linear.weight)
        made.module.requires_grad_(False)
    return made


@st.composite
def materials(draw):
    """1 to 30 clips: labels at random, one class for all, all classes for one clip, or one clip again and again."""
    classes = draw(st.sampled_from([CLASSES, OTHERS]))
    count = draw(st.integers(1, 30))
    some = st.sets(st.integers(0, len(classes) - 1))
    same = draw(some)
    positions = draw(
        st.one_of(
            st.lists(some, min_size=count, max_size=count),
            st.just([same] * count),
            st.just([set(range(len(classes)))] + [same] * (count - 1)),
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    audio, text = (torch.randn(n, DIM, generator=generator) for n in (count, len(classes)))
    if draw(st.booleans()):
        audio[:] = audio[0]
    audio, text = (torch.nn.functional.normalize(x, dim=1) for x in (audio, text))
    labels = [[classes.names[p] for p in sorted(some)] for some in positions]
    rows = Rows.of(classes, range(count), [f"v{i}" for i in range(count)], labels, [[]] * count)
    return EmbeddedClips(classes, rows, audio, text, {}, lambda names: torch.ones(len(names), DIM))


def nulls(content, name: str) -> set[str]:
    if isinstance(content, dict):
        return {found for k, v in content.items() if k != "reason" for found in nulls(v, f"{name}.{k}")}
    return {name} if content is None else set()


def write(folder, name: str, material, kind: str):
    """Evaluate as the test script does and write its files; -> the path of the results."""
    tensors, evaluation = evaluate(material, projector(kind), top_k=5)
    groups = {k: v for k, v in evaluation.items() if k not in ("reasons", "predictions")}
    without = {found for group, content in groups.items() for found in nulls(content, group)}
    assert without == set(evaluation["reasons"]) and all(evaluation["reasons"].values())
    info = {"class_names": material.classes.names, "scores": f"{name}.safetensors"}
    model = {"c_meaning": "squared radius", "similarity": projector(kind).similarity}
    save_scores(folder / f"{name}.safetensors", tensors)
    write_json(folder / f"{name}.json", {"test_info": info, "model_info": model} | evaluation)
    return folder / f"{name}.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grounds")


@given(materials(), st.sampled_from(["plain", "cosine", "flat", "hyperbolic", "zero"]))
@settings(deadline=None, max_examples=40)
def test_any_evaluation_and_comparison_ends_in_strict_json(folder, material, kind):
    paths = [write(folder, "a", material, "plain"), write(folder, "b", material, kind)]
    files = [read(path, path.stem, None, ROOT) for path in paths]
    report = compare(files, CompareConfig(resamples=100))
    write_json(folder / "comparison.json", report)
    assert json.loads((folder / "comparison.json").read_text())["tables"]
    assert "nan" not in render(report, markdown=False)


@given(materials(), st.sampled_from(["plain", "hyperbolic", "zero"]))
@settings(deadline=None, max_examples=5)
def test_any_results_give_a_picture_or_a_sentence(folder, material, kind):
    paths = [str(write(folder, "a", material, "plain")), str(write(folder, "b", material, kind))]
    for picture in ("gains", "similarities"):
        args = plot_results.parser().parse_args([picture, *paths, "--output", str(folder / "p.png")])
        try:
            plot_results.main(args)
        except UserError as error:
            assert "\n" not in str(error)


def test_five_clips_of_equal_radius(tones, tmp_path):
    """What once ended in a traceback: the class means of audio have no length, and no figure could be written."""
    labels = tmp_path / "classes.json"
    labels.write_text(json.dumps({"Sine wave": 0, "Chirp tone": 1, "Music": 2}))
    out = tmp_path / "r.json"
    script("test_clap_modelscope.py", "--parquet-dir", tones, "--class-labels", labels, "--num-samples", 2,
           "--cache-dir", tmp_path, "--output-json", out)
    content = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["ontology"]["audio_radius_depth"] is None
    assert content["reasons"]["ontology.audio_radius_depth"].startswith("the radii do not vary")


def test_a_group_that_fails_is_null_and_the_rest_is_kept(caplog):
    def fails():
        return {"a": np.zeros(2)[5]}

    found = {"a": math.inf, "b": {"c": math.nan, "d": 1.5}, "map": None}
    groups, reasons = defined_or_null({"x": fails, "y": lambda: found})
    assert groups == {"x": None, "y": {"a": None, "b": {"c": None, "d": 1.5}, "map": None}}
    assert reasons["x"].startswith("IndexError: ") and "x cannot be computed" in caplog.text
    assert reasons["y.a"] == "infinite" and reasons["y.b.c"] == "not a number" and reasons["y.map"]
    with pytest.raises(UserError):
        defined_or_null({"x": lambda: (_ for _ in ()).throw(UserError("not finite"))})
    json.dumps(groups, allow_nan=False)
