"""Which epoch is the best: metrics of the validation clips, --select-by, --keep, and checkpoints older than these."""

import json

import numpy as np
import pytest
import torch
from conftest import script
from test_training import AUDIO, TARGETS, TEXT, trainer

from hyperbolic_clap.metrics.classification import HEADLINE, headline, metrics
from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.training import trainer as trainer_module
from hyperbolic_clap.training.fit import describe

TRAIN = "train_hyperbolic_clap.py"


def test_headline_figures_are_those_of_the_metrics():
    draw = np.random.default_rng(0)
    scores, targets = draw.normal(size=(60, 9)).astype(np.float32).round(1), draw.random((60, 9)) < 0.2
    targets[np.arange(60), np.arange(60) % 8] = True
    whole = metrics(scores, targets, 5)
    four = {name: whole[name] for name in HEADLINE}
    assert headline(scores, targets) == four | {"mean": sum(four.values()) / 4} and len(set(four.values())) == 4


@pytest.mark.parametrize("loss", ["sigmoid", "contrastive"])
def test_each_epoch_has_the_metrics_of_its_first_validation_clips(monkeypatch, loss):
    for most in (4096, 7):
        monkeypatch.setattr(trainer_module, "RANKED_ROWS", most)
        t = trainer(epochs=2, loss=loss)
        t.audio = AUDIO.roll(3, dims=0)  # clips that are nothing like their texts: no two have the same figures
        for record in t.epochs():
            rows = t.validation[:most]
            with torch.no_grad():
                scores = t.projector(t.audio[rows], TEXT).numpy()
            for name, value in headline(scores, TARGETS[rows].numpy()).items():
                assert record[f"val_{name}"] == pytest.approx(value, abs=1e-6)


def test_the_line_of_an_epoch_is_short_whatever_the_figures():
    figures = {"epoch": 10000, "train_loss": 1.5e300, "val_loss": 1.5e300, "val_acc@1": 1.0, "val_map": 1.0}
    assert len(describe(figures, 9999)) <= 100
    figures = {"epoch": 10000, "train_loss": 1.5e300, "val_loss": 1.5e300, "val_r1_text_to_audio": 1.0,
               "val_r1_audio_to_text": 1.0}  # fmt: skip
    assert len(describe(figures, 9999)) <= 100


@pytest.fixture
def train(tones, tmp_path):
    """train(folder, *flags, check=True) on 24 tones, at a rate at which the best epochs of several measures differ."""
    flags = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache", "--learning-rate", 0.05]
    return lambda out, *more, check=True: script(TRAIN, *flags, "--output-dir", tmp_path / out, *more, check=check)


def setup(folder) -> dict:
    return json.loads((folder / "setup.json").read_text())


def weights(path):
    return torch.load(path, weights_only=True)["projection_state_dict"]["linear.weight"]


def test_select_by_names_the_best_epoch_and_changes_no_weights(train, tmp_path):
    for out, *flags in (("loss",), ("map", "--select-by", "val_map")):
        train(out, "--epochs", 6, *flags)
    epochs, other = (setup(tmp_path / out)["epochs"] for out in ("loss", "map"))
    assert epochs == other
    by = {"loss": min(epochs, key=lambda e: e["val_loss"]),
          "map": min(epochs, key=lambda e: (-e["val_map"], e["val_loss"]))}  # fmt: skip
    for out, best in by.items():
        (path,) = (tmp_path / out).glob("best_*.pth")
        assert path.name == f"best_projection_epoch_{best['epoch']}.pth"
        assert setup(tmp_path / out)["best_epoch"] == best["epoch"]
    assert torch.equal(*(weights(tmp_path / out / "projection_epoch_6.pth") for out in by))
    # Resumed under another --select-by: the best is found again from what the checkpoints hold.
    train("loss", "--epochs", 6, "--resume", "--select-by", "val_map")
    (path,) = (tmp_path / "loss").glob("best_*.pth")
    assert path.name == f"best_projection_epoch_{by['map']['epoch']}.pth"
    assert torch.equal(weights(path), weights(tmp_path / "map" / path.name))


def test_patience_goes_by_what_selects(train, tmp_path):
    train("out", "--epochs", 30, "--patience", 2, "--select-by", "val_acc@1")
    epochs = setup(tmp_path / "out")["epochs"]
    best = min(epochs, key=lambda e: (-e["val_acc@1"], e["val_loss"]))["epoch"]
    assert len(epochs) == best + 2 < 30


def test_captions_have_no_metric_of_classes_to_select_by(train):
    done = train("out", "--text", "captions", "--select-by", "val_map", check=False)
    assert done.returncode == 2 and "--select-by val_map needs a class list" in done.stderr


def test_keep_best_leaves_the_best_and_the_last_and_resumes(train, tmp_path):
    train("all", "--epochs", 6)
    train("best", "--epochs", 4, "--keep", "best")
    (best,) = (tmp_path / "best").glob("best_*.pth")
    assert {p.name for p in (tmp_path / "best").glob("*.pth")} == {best.name, "projection_epoch_4.pth"}
    train("best", "--epochs", 6, "--resume", "--keep", "best")
    one, other = setup(tmp_path / "all"), setup(tmp_path / "best")
    assert one["epochs"] == other["epochs"] and one["best_epoch"] == other["best_epoch"]
    for name in (f"best_projection_epoch_{one['best_epoch']}.pth", "projection_epoch_6.pth"):
        assert torch.equal(weights(tmp_path / "all" / name), weights(tmp_path / "best" / name))


def test_a_best_epoch_that_was_not_kept_is_one_sentence(train, tmp_path):
    train("out", "--epochs", 4, "--keep", "best")
    content = setup(tmp_path / "out")
    content["epochs"][1]["val_map"] = 2.0
    (tmp_path / "out" / "setup.json").write_text(json.dumps(content))
    for gone in (tmp_path / "out").glob("best_projection_epoch_2.pth"):
        gone.unlink()
    done = train("out", "--epochs", 5, "--resume", "--select-by", "val_map", check=False)
    assert done.returncode == 2 and "by --select-by val_map epoch 2 is the best, whose checkpoint" in done.stderr


def test_checkpoints_older_than_these_figures_resume_by_the_loss(train, tmp_path):
    train("whole", "--epochs", 3)
    train("old", "--epochs", 2)
    for path in (tmp_path / "old").glob("*.pth"):
        content = torch.load(path, weights_only=True)
        old = {name.replace("distance_from_origin", "radius"): value for name, value in content.items()}
        new = ("training", "val_acc@1", "val_map", "val_map_samples")
        checkpoints.save(path, {name: value for name, value in old.items() if name not in new})
    done = train("old", "--epochs", 3, "--resume", "--select-by", "val_map", check=False)
    assert done.returncode == 2 and "is older than --select-by and holds no val_map; leave" in done.stderr
    train("old", "--epochs", 3, "--resume")
    one, other = setup(tmp_path / "whole")["epochs"], setup(tmp_path / "old")["epochs"]
    assert one[2] == other[2] and not {"val_map"} & other[0].keys()
    distance = "text_distance_from_origin_mean"
    assert [e[distance] for e in one] == [e[distance] for e in other]
