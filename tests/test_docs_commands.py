"""The commands of some documents parse, and those of prompts, captions, search and tagging run on small data."""

import importlib
import json
import re
import shlex

import pytest
from conftest import ROOT, flac, here, script, tone, tone_rows, write_rows


def commands(name: str) -> list[list[str]]:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^    (python \S+\.py .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("name", ["prompts", "captions", "search", "tagging", "verdict"])
def test_commands_parse(name):
    assert commands(name)
    for path, *flags in commands(name):
        if "/" not in path:  # of demo/ and benchmarks/
            importlib.import_module(path.removesuffix(".py")).parser().parse_args(flags)


@pytest.fixture(scope="module")
def run_all(tmp_path_factory):
    """run_all(document, folder): its commands, with one cache, so that the class texts are embedded once."""
    cache = tmp_path_factory.mktemp("cache")
    return lambda name, home: run_commands(name, home, cache)


def run_commands(name: str, home, cache) -> None:
    """Every command of a document in its order, in `home`, with the tiny checkpoint."""
    for path, *flags in commands(name):
        if path.startswith("demo/") or path in ("compare_results.py", "plot_results.py"):
            here(path, *flags, cwd=home)
        else:
            script(path, *flags, "--cache-dir", cache, cwd=home)


@pytest.fixture
def home(tmp_path):
    """An empty working folder with the clips that the documents call AudioSet's."""
    write_rows(tmp_path / "Datasets" / "AudioSet" / "eval", tone_rows(4))
    return tmp_path


def test_the_search_example_runs(home, run_all):
    (home / "my_dog.wav").write_bytes(flac(tone(300)))
    run_all("search", home)
    assert len(list((home / "found").glob("*/*.wav"))) == 8 and (home / "found.json").exists()


def test_the_prompts_example_runs(home, run_all):
    (home / "prompts.txt").write_text("{label}\na sound of {label}\n")
    run_all("prompts", home)
    found = [json.loads(path.read_text())["model_info"]["prompt"] for path in sorted(home.glob("*results*.json"))]
    assert "{label}\na sound of {label}" in found


def test_the_captions_example_runs(home, run_all):
    names = [f"caption_{i}" for i in range(1, 6)]
    (home / "clotho" / "evaluation").mkdir(parents=True)
    lines = [",".join(["file_name", *names])]
    for i in range(4):
        (home / "clotho" / "evaluation" / f"{i}.wav").write_bytes(flac(tone(200 * (i + 1))))
        lines.append(",".join([f"{i}.wav", *(f"tone {i} said in way {j}" for j in range(5))]))
    (home / "clotho_captions_evaluation.csv").write_text("\n".join(lines))
    rows = [row | {"captions": [f"tone number {i}", "a tone"]} for i, row in enumerate(tone_rows(12))]
    write_rows(home / "data" / "clotho" / "train", rows)
    run_all("captions", home)
    content = json.loads((home / "results_retrieval_hyperbolic.json").read_text())
    assert content["test_info"]["clips"]["captions"] == 20


def test_the_tagging_example_runs(home, run_all):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -r requirements-plot.txt)")
    train = ("train_hyperbolic_clap.py", "--parquet-dir", "Datasets/AudioSet/eval", "--epochs", "1")
    script(*train, "--no-cache", cwd=home)
    (home / "sounds").mkdir()
    for path in (home / "recording.wav", home / "sounds" / "a.flac"):
        path.write_bytes(flac(tone(300, 3)))
    run_all("tagging", home)
    assert len(json.loads((home / "tags.json").read_text())["files"]) == 2
    assert {path.name for path in (home / "labels").iterdir()} == {"recording.csv", "recording.txt"}
    assert (home / "reliability.png").stat().st_size > 5000
