"""A library below its floor, and a card that its torch does not know, are one sentence before the work."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, script

from hyperbolic_clap.plumbing import versions
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError

NAME = re.compile(r"^([A-Za-z][\w-]*)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("library", versions.FLOORS)
def test_a_library_below_its_floor_is_named_before_the_work(monkeypatch, tmp_path, library):
    true = versions.version
    monkeypatch.setattr(versions, "version", lambda name: "0.9.1+cu118" if name == library else true(name))
    done = script("test_clap_modelscope.py", "--parquet-dir", tmp_path / "nowhere", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    says = f"error: {library} 0.9.1+cu118 is installed, and {library} {versions.FLOORS[library]} is the oldest"
    assert done.stderr.startswith(says) and "requirements.txt" in done.stderr


def test_versions_compare_by_their_numbers(monkeypatch):
    for version, floor, enough in (
        ("2.10.0+cu128", "2.4", True), ("2.4.0", "2.4", True), ("2.4", "2.4", True), ("2.3.1", "2.4", False),
        ("16.0.0rc1", "16", True), ("4.9", "4.46", False), ("5.0.0.dev0", "4.46", True), ("15.9", "16", False),
    ):  # fmt: skip
        monkeypatch.setattr(versions, "version", lambda name, version=version: version)
        assert versions.at_least("x", floor) == enough, (version, floor)


def test_requirements_hold_the_floors_and_constraints_a_version_of_each():
    ranges = dict(NAME.findall((ROOT / "requirements.txt").read_text()))
    assert {name: f">={floor}" for name, floor in versions.FLOORS.items()}.items() <= ranges.items()
    pinned = NAME.findall((ROOT / "constraints.txt").read_text())
    for file in ("requirements.txt", "requirements-plot.txt", "requirements-dev.txt"):
        for name, _ in NAME.findall((ROOT / file).read_text()):
            pins = [pin for other, pin in pinned if other == name]
            assert pins and all(pin.startswith("==") for pin in pins), name
            assert len(pins) == 1 or sorted(pin.split("; ")[1][15:17] for pin in pins) == ["< ", ">="], name


def test_an_older_python_is_one_sentence():
    code = "import sys; sys.version_info = (3, 9, 1); sys.version = '3.9.1 (x)'; import hyperbolic_clap"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: Python 3.10 or newer is needed, and this is 3.9.1\n")


@pytest.mark.parametrize(("built", "card", "runs"), [
    (["sm_50", "sm_60", "sm_90"], (6, 1), True),
    (["sm_50", "sm_60", "sm_90"], (12, 0), False),
    (["sm_75", "sm_80", "sm_120"], (6, 1), False),
    (["sm_86"], (8, 0), False),
    (["sm_90a", "compute_90"], (12, 0), True),
    ([], (3, 5), True),
])  # fmt: skip
def test_a_card_that_its_torch_does_not_know_is_one_sentence(monkeypatch, built, card, runs):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_arch_list=lambda: built,
        get_device_capability=lambda device: card, get_device_name=lambda device: "GTX 1080",
    ))  # fmt: skip
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *a, **k: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if runs:
        assert choose_device("cuda:0") == torch.device("cuda:0")
        return
    with pytest.raises(UserError, match=r"for CUDA 13\.0 holds code for sm_.* GTX 1080 \(sm_") as error:
        choose_device("cuda:0")
    assert "\n" not in str(error.value) and f"sm_{card[0]}{card[1]}" in str(error.value)


def test_known_model():
    """Projectors name CLAP/tiny by this, whatever reads it and wherever it was checked out."""
    from CLAP.checkpoint import ModelFolder

    assert ModelFolder(TINY).sha256 == "1d6a1bdb904302caf9d404ad54a8b86e1601f63eafde884258d9ddc6c6200982"
