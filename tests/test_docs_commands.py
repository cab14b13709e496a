"""The commands of some documents parse, and those of search run on small data."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT, flac, script, tone, tone_rows, write_rows


def commands(name: str) -> list[list[str]]:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^    (python \S+\.py .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("name", ["prompts", "captions", "search", "tagging", "verdict"])
def test_commands_parse(name):
    assert commands(name)
    for path, *flags in commands(name):
        if "/" not in path:  # of demo/ and benchmarks/
            importlib.import_module(path.removesuffix(".py")).parser().parse_args(flags)


def test_the_search_example_runs(tmp_path):
    write_rows(tmp_path / "Datasets" / "AudioSet" / "eval", tone_rows(4))
    (tmp_path / "my_dog.wav").write_bytes(flac(tone(300)))
    for path, *flags in commands("search"):
        script(path, *flags, "--cache-dir", tmp_path / "cache", cwd=tmp_path)
    assert len(list((tmp_path / "found").glob("*/*.wav"))) == 8 and (tmp_path / "found.json").exists()
