"""--log-to: what a tracker keeps, setup.json and the terminal say the same; a missing package is one sentence."""

import json
import math
import os
import re
import sys

import pytest
from conftest import ROOT, TINY, finish, script, tone_rows, write_rows

from hyperbolic_clap.training.trackers import numbers, open_tracker, require

TRAIN = "train_hyperbolic_clap.py"
EPOCHS = 2
WANTED = (
    "train_loss val_loss val_acc@1 val_map val_map_samples logit_scale audio_distance_from_origin_mean "
    "text_distance_from_origin_mean audio_near_boundary text_near_boundary similarity_positives similarity_negatives"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of tones that is embedded once."""
    home = tmp_path_factory.mktemp("tracked")
    write_rows(home / "data", tone_rows(12))
    return home


def flags(home, *more):
    return ["--parquet-dir", home / "data", "--cache-dir", home / "cache", "--epochs", EPOCHS, *more]


def curves(folder):
    """{figure: its value in each epoch}, from setup.json."""
    epochs = json.loads((folder / "setup.json").read_text(encoding="utf-8"))["epochs"]
    assert [entry["epoch"] for entry in epochs] == list(range(1, EPOCHS + 1))
    return {name: [entry[name] for entry in epochs] for name in epochs[0] if name != "epoch"}


def test_the_terminal_says_what_setup_json_holds(home, tmp_path):
    done = script(TRAIN, *flags(home, "--output-dir", tmp_path / "out", "--c", "0.03"))
    held = curves(tmp_path / "out")
    assert set(WANTED) <= held.keys()
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert len(lines) == EPOCHS
    figure = r"([\d.]+)"
    pattern = rf"epoch (\d+): train loss {figure}, val loss {figure}, acc@1 {figure}, map {figure}, best(: \d+| so far)"
    for epoch, line in enumerate(lines):
        assert len(line) <= 100
        found = re.fullmatch(pattern, line)
        for name, printed in zip(("train_loss", "val_loss", "val_acc@1", "val_map"), found.groups()[1:5], strict=True):
            assert float(printed) == pytest.approx(held[name][epoch], abs=0.51e-4), name
    # c = 0.03: the boundary, 0.99 of the ball's radius, lies at d = 0.92, and all points lie beyond it
    assert held["audio_near_boundary"] == [1.0] * EPOCHS and held["text_near_boundary"][0] > 0.9


def test_tensorboard_holds_every_figure(home, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    done = script(TRAIN, *flags(home, "--output-dir", out, "--log-to", "tensorboard"))
    assert f"tensorboard --logdir {out / 'tensorboard'}" in done.stdout
    (path,) = (out / "tensorboard").glob("events.out.tfevents.*")
    events = EventAccumulator(str(path))
    events.Reload()
    held = curves(out)
    assert set(events.Tags()["scalars"]) == held.keys() >= set(WANTED)
    for name, values in held.items():
        points = events.Scalars(name)
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6), name  # kept in float32


def test_swanlab_holds_every_figure(home, tmp_path):
    for package in ("swanlab", "swanboard"):
        pytest.importorskip(package, reason='swanlab is not installed (pip install "swanlab[dashboard]")')
    out = tmp_path / "out"
    command = [sys.executable, ROOT / TRAIN, "--checkpoint", TINY, "--device", "cpu"]
    command += flags(home, "--output-dir", out, "--log-to", "swanlab")
    # SwanLab changes the streams and hooks of its process, so it gets one of its own.
    done = finish(command, 300, env=os.environ | {"SWANLAB_SAVE_DIR": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    found = [
        [json.loads(line)["data"] for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (out / "swanlab").glob("run-*/logs/*/*.log")
    ]
    held = curves(out)
    assert sorted(found) == sorted(held.values())


@pytest.mark.parametrize(
    ("kind", "blocked", "command"),
    [
        ("tensorboard", ("tensorboard", "torch.utils.tensorboard"), "pip install tensorboard"),
        ("swanlab", ("swanlab",), 'pip install "swanlab[dashboard]"'),
        ("swanlab", ("swanboard",), 'pip install "swanlab[dashboard]"'),
    ],
)
def test_a_missing_package_is_one_sentence_and_no_run_is_moved(home, tmp_path, monkeypatch, kind, blocked, command):
    out = tmp_path / "out"
    out.mkdir()
    (out / "setup.json").write_text("{}")
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)  # import finds None and raises ImportError
    done = script(TRAIN, *flags(home, "--output-dir", out, "--log-to", kind), check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: --log-to {kind} needs a package that is missing: {command}\n"
    assert [path.name for path in out.iterdir()] == ["setup.json"] and (out / "setup.json").read_text() == "{}"


def test_an_unknown_tracker_is_named(home):
    done = script(TRAIN, *flags(home, "--log-to", "wandb"), check=False)
    assert done.returncode == 2 and "'wandb'" in done.stderr and "tensorboard" in done.stderr


def test_without_a_tracker_nothing_is_needed_or_written(tmp_path):
    require(None)
    tracker = open_tracker(None, tmp_path)
    tracker.log(1, {"train_loss": 1.0})
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_only_finite_numbers_become_points():
    figures = {"epoch": 3, "train_loss": 0.5, "val_loss": math.nan, "c": 1, "name": "x", "flag": True, "none": None}
    assert numbers(figures) == {"train_loss": 0.5, "c": 1}
