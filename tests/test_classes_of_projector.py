"""A projector knows the classes it was trained on; a tower that tells nothing apart is reported."""

import json
import re
import shutil

import pytest
import soundfile
import torch
from conftest import TINY, script, tone, tone_rows, write_rows
from safetensors.torch import load_file, save_file

from hyperbolic_clap.embedding.towers import check_towers, mean_cosine
from hyperbolic_clap.plumbing.errors import UserError

TRAIN, TEST = "train_hyperbolic_clap.py", "test_hyperbolic_clap_modelscope.py"
OWN = ("low hum", "high whistle", "beep")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A projector trained on three classes of its own, its data, and the same as older ones are, without them."""
    home = tmp_path_factory.mktemp("classes")
    write_rows(home / "data", tone_rows(18, labels=OWN))
    (home / "own.json").write_text(json.dumps({name: i for i, name in enumerate(OWN)}))
    flags = ("--class-labels", home / "own.json", "--output-dir", home / "out", "--epochs", "1")
    script(TRAIN, *data(home), *flags)
    content = torch.load(home / "out" / "projection_epoch_1.pth", weights_only=True)
    assert content["classes"] == list(OWN)
    torch.save(content, home / "new.pth")
    del content["classes"]
    torch.save(content, home / "old.pth")
    return home


def data(home):
    return "--parquet-dir", home / "data", "--cache-dir", home / "cache"


def result_of(home, checkpoint, *flags):
    output = home / "r.json"
    done = script(TEST, *data(home), "--projection-checkpoint", home / checkpoint, "--output-json", output, *flags)
    return done.stdout, json.loads(output.read_text())


def test_its_classes_are_the_default_of_a_test(home):
    log, result = result_of(home, "new.pth")
    assert result["test_info"]["class_names"] == list(OWN) and result["model_info"]["new_classes"] == 0
    _, given = result_of(home, "new.pth", "--class-labels", home / "own.json")
    assert given["metrics"] == result["metrics"] and result["metrics"]["acc@3"] == 1.0
    assert "zero-shot" not in log


def test_other_classes_are_allowed_and_said(home, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"Low  Hum": 0, "drum": 1, "beep": 2, "flute": 3}))
    log, result = result_of(home, "new.pth", "--class-labels", tmp_path / "other.json")
    assert result["model_info"]["new_classes"] == 2
    assert re.search(r"2 of 4 classes are new to \S+new.pth \(drum; flute\), which meets them zero-shot", log)


def test_an_older_projector_meets_audioset(home, tmp_path):
    _, result = result_of(home, "old.pth", "--class-labels", home / "own.json")
    assert result["model_info"]["new_classes"] is None
    write_rows(tmp_path / "data", tone_rows(3))
    output = tmp_path / "r.json"
    script(TEST, "--parquet-dir", tmp_path / "data", "--no-cache", "--projection-checkpoint", home / "old.pth",
           "--output-json", output)  # fmt: skip
    assert json.loads(output.read_text())["test_info"]["classes"] == 527


def test_tags_and_search_take_them_too(home, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300), 16_000)
    model = ("--projection-checkpoint", home / "new.pth", "--use-hyperbolic", "--cache-dir", home / "cache")
    script("tag_sounds.py", tmp_path / "a.wav", *model, "--branches", "--output-json", tmp_path / "t.json")
    (tagged,) = json.loads((tmp_path / "t.json").read_text())["files"]
    assert {tag["classname"] for tag in tagged["tags"]} == set(OWN)
    done = script("search_sounds.py", "Music", "--parquet-dir", home / "data", *model)
    assert "superclass" not in done.stdout  # AudioSet's tree is not this model's


@pytest.mark.parametrize("classes", ["low hum", [], ["one"], ["one", 2], ["one", " "]])
def test_classes_that_are_none_are_refused(home, tmp_path, classes):
    torch.save(torch.load(home / "new.pth", weights_only=True) | {"classes": classes}, tmp_path / "x.pth")
    done = script(TEST, *data(home), "--projection-checkpoint", tmp_path / "x.pth", check=False)
    assert done.returncode == 2 and "classes that are no list of two or more names" in done.stderr


def test_the_mean_cosine_is_that_of_all_pairs():
    vectors = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [float(vectors[i] @ vectors[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert mean_cosine(vectors[:1]) is None
    with pytest.raises(UserError, match="gives every class text one embedding"):
        check_towers("x", vectors[:1].expand(3, -1), vectors)


def test_a_collapsed_tower_is_a_visible_warning(home, tmp_path):
    """A text tower whose last layer adds one large vector to everything: similar figures are on a hub."""
    shutil.copytree(TINY, tmp_path / "collapsed")
    weights = load_file(TINY / "model.safetensors")
    weights["text_projection.linear2.bias"] += 100.0
    save_file(weights, tmp_path / "collapsed" / "model.safetensors", {"format": "pt"})
    flags = ("--parquet-dir", home / "data", "--no-cache", "--class-labels", home / "own.json")
    for model, broken in ((tmp_path / "collapsed", True), (TINY, False)):
        output = tmp_path / "r.json"
        done = script("test_clap_modelscope.py", *flags, "--checkpoint", model, "--output-json", output)
        figures = json.loads(output.read_text())["model_info"]["mean_cosine"]
        assert (figures["texts"] > 0.98) is broken and figures["clips"] < 0.98
        assert ("warning: the text tower of" in done.stdout) is broken
