"""CONTRIBUTING's four worked examples: a loss, a similarity, a metric, a data form: what is written there runs."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ROOT, few_classes, flac, here, script, tone, tone_rows, write_rows
from safetensors.numpy import load_file

import hyperbolic
from hyperbolic_clap.metrics import classification
from hyperbolic_clap.reading import cells

TRAIN, TEST = "train_hyperbolic_clap.py", "test_clap_modelscope.py"


def recipe(heading: str) -> str:
    """The first Python example under a heading of CONTRIBUTING, without its margin."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    block = re.search(r"(?:^    .*\n|^\n)+", section[section.index("\n    ") + 1 :], re.MULTILINE)[0]
    return "\n".join(line[4:] for line in block.splitlines())


def run_recipe(heading: str, module, registry: dict, name: str, patch: pytest.MonkeyPatch) -> dict:
    """The names that an example defines, run as if it stood at the end of the module; its entry goes with the test."""
    patch.setitem(registry, name, None)
    names = vars(module) | {"__name__": module.__name__}
    before = set(names)
    exec(recipe(heading), names)
    return {name: value for name, value in names.items() if name not in before}


def test_a_loss(tones, tmp_path, monkeypatch):
    focal = run_recipe("Where a loss goes", hyperbolic, hyperbolic.LOSSES, "focal", monkeypatch)["focal_loss"]
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[True, False]])
    p = torch.sigmoid(torch.tensor([2.0, 1.0]))  # of the truth
    assert focal(logits, targets).item() == pytest.approx((-(1 - p) ** 2 * p.log()).sum().item())
    flags = ("--parquet-dir", tones, "--no-cache", "--output-dir", tmp_path / "out", "--epochs", "2")
    script(TRAIN, *flags, "--loss", "focal")
    first, last = json.loads((tmp_path / "out" / "setup.json").read_text())["epochs"]
    assert last["train_loss"] < first["train_loss"]


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """The same training and test by the ball's distance and by the same distance in the Lorentz model."""
    home = tmp_path_factory.mktemp("lorentz")
    data = ("--parquet-dir", write_rows(home / "data", tone_rows(24)), "--cache-dir", home / "cache",
            "--class-labels", few_classes(home, slice(None, None, 8)))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_recipe("Where a similarity goes", hyperbolic, hyperbolic.SIMILARITIES, "lorentz", patch)
        for name in ("hyperbolic", "lorentz"):
            train = ("--similarity", name, "--c", "0.5", "--output-dim", "16", "--output-dir", home / name)
            script(TRAIN, *data, *train, "--epochs", "2", "--learning-rate", "1e-3")
            script(TEST, *data, "--use-hyperbolic", "--projection-checkpoint", home / name / "projection_epoch_2.pth",
                   "--c", "0.5", "--output-json", home / f"{name}.json",
                   "--save-scores", home / f"{name}.safetensors")  # fmt: skip
        yield home, data


def test_a_similarity_goes_through_training_and_test(two_models):
    home, _ = two_models
    ball, lorentz = (json.loads((home / f"{name}.json").read_text()) for name in ("hyperbolic", "lorentz"))
    for key in ("use_hyperbolic", "c", "curvature", "temperature"):
        assert lorentz["model_info"][key] == ball["model_info"][key] is not None
    assert lorentz["model_info"]["similarity"] == "lorentz"
    one, other = (load_file(home / f"{name}.safetensors")["scores"] for name in ("hyperbolic", "lorentz"))
    assert np.abs(one - other).max() < 1e-5  # the models are isometric
    for name, value in ball["metrics"].items():
        assert lorentz["metrics"][name] == pytest.approx(value, abs=1e-6), name
    assert lorentz["ontology"]["way_to_root"] == ball["ontology"]["way_to_root"]
    for epoch in (1, 2):
        states = [torch.load(home / name / f"projection_epoch_{epoch}.pth", weights_only=True)
                  for name in ("hyperbolic", "lorentz")]  # fmt: skip
        assert states[1]["val_loss"] == pytest.approx(states[0]["val_loss"], rel=1e-5)


def test_a_similarity_goes_through_comparison_report_export_and_disk(two_models, monkeypatch):
    home, data = two_models
    monkeypatch.setattr("hyperbolic_clap.reporting.mds.FIT_STEPS", 3)
    monkeypatch.setattr("hyperbolic_clap.reporting.mds.PLACE_STEPS", 3)
    files = home / "hyperbolic.json", home / "lorentz.json"
    outputs = "--report", home / "r.html", "--output-json", home / "c.json", "--resamples", "100"
    here("compare_results.py", *files, *outputs)
    rows = {row["metric"]: row for row in json.loads((home / "c.json").read_text())["tables"][0]["rows"]}
    assert rows["map"]["differences"][0]["difference"] == pytest.approx(0, abs=1e-6)
    page = (home / "r.html").read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    disks = [np.array(disk["texts"], float) for disk in content["disks"]]
    assert content["disks"][1]["c"] == 0.5 and np.abs(disks[0] - disks[1]).max() < 0.01
    assert content["traversals"][0]["share"] == content["traversals"][1]["share"]
    checkpoint = home / "lorentz" / "projection_epoch_2.pth"
    here("export_projector.py", checkpoint, "--output-dir", home / "shared")
    assert "Lorentz" in (home / "shared" / "README.md").read_text(encoding="utf-8")
    script(TEST, *data, "--use-hyperbolic", "--projection-checkpoint", home / "shared",
           "--output-json", home / "again.json")  # fmt: skip
    again, before = (json.loads((home / f"{name}.json").read_text()) for name in ("again", "lorentz"))
    assert again["predictions"] == before["predictions"]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -r requirements-plot.txt)")
    script("plot_results.py", "disk", *data, "--projection-checkpoint", checkpoint, "--output", home / "disk.svg")
    here("plot_results.py", "similarities", *files, "--output", home / "similarities.svg")
    assert (home / "disk.svg").stat().st_size > 5000 and (home / "similarities.svg").stat().st_size > 5000


def test_a_metric(tones, tmp_path, monkeypatch):
    run_recipe("Where a metric goes", classification, classification.OF_CLIPS, "label_coverage", monkeypatch)
    output = tmp_path / "r.json", "--save-scores", tmp_path / "s.safetensors"
    script(TEST, "--parquet-dir", tones, "--no-cache", "--output-json", *output)
    scores, targets = (load_file(tmp_path / "s.safetensors")[name] for name in ("scores", "targets"))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    expected = np.mean([targets[i, row].sum() / targets[i].sum() for i, row in enumerate(best)])
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["label_coverage"] == pytest.approx(expected)
    (tmp_path / "again.json").write_bytes((tmp_path / "r.json").read_bytes())
    outputs = "--output-json", tmp_path / "c.json", "--resamples", "100"
    here("compare_results.py", tmp_path / "r.json", tmp_path / "again.json", *outputs)
    rows = {row["metric"]: row for row in json.loads((tmp_path / "c.json").read_text())["tables"][0]["rows"]}
    assert rows["label_coverage"]["differences"][0]["low"] == 0.0


def test_a_data_form(tmp_path, monkeypatch):
    """Audio as hexadecimal text, which some exports of databases hold."""
    run_recipe("Where a data form goes", cells, cells.FORMS, "hexadecimal text", monkeypatch)
    rows = [row | {"audio": flac(tone(150 * (i + 1))).hex()} for i, row in enumerate(tone_rows(3))]
    write_rows(tmp_path / "hex", rows)
    write_rows(tmp_path / "plain", tone_rows(3))
    found = []
    for name in ("hex", "plain"):
        output = tmp_path / f"{name}.json"
        script(TEST, "--parquet-dir", tmp_path / name, "--no-cache", "--output-json", output)
        found.append(json.loads(output.read_text())["predictions"])
    assert found[0] == found[1]
    assert pa.types.is_string(pa.table({"audio": [row["audio"] for row in rows]}).schema.field("audio").type)
