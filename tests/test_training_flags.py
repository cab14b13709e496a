"""The training's flags beyond the manual's: start of scale and texts, schedule, averaging with the start."""

import math

import pytest
import torch
from conftest import script
from test_training import TEXT, trainer

from plumbing.errors import UserError
from training import checkpoints
from training.loop import Settings

TRAIN = "train_hyperbolic_clap.py"


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a._parameters(), b._parameters(), strict=True))


def test_defaults_leave_no_trace():
    assert Settings().identity().keys() == {
        "batch_size", "learning_rate", "c", "temperature", "loss", "similarity", "output_dim", "audio_radius",
        "learn_c", "seed",
    }  # fmt: skip
    assert "trained_parameters" not in trainer().state()
    assert Settings(lr_schedule="cosine").identity() == Settings().identity() | {"lr_schedule": "cosine", "epochs": 10}


@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
def test_scale_and_texts_start_where_they_are_told_to(similarity):
    t = trainer(similarity=similarity, logit_scale=5.0, text_radius=1.25, output_dim=8)
    assert t.scale.scale.item() == pytest.approx(5)
    assert t.projector.text(TEXT).norm(dim=1).mean().item() == pytest.approx(1.25)
    plain = trainer(similarity=similarity, output_dim=8)
    assert torch.allclose(t.projector.audio(TEXT), plain.projector.audio(TEXT), atol=1e-6)  # a scale, no turn


def test_the_radius_of_a_flat_head_is_the_unit_of_its_scale():
    """Without curvature, radius r and scale s are r = 1 and scale r s: the protocol gives flat no trial for r."""
    runs = []
    for radius in (0.5, 2.0):
        t = trainer(c=1e6, audio_radius=radius, logit_scale=8 / radius, text_radius=radius)
        runs.append([record["val_loss"] for record in t.epochs()])
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)


def test_a_cosine_schedule_ends_near_zero_and_is_constant_by_default():
    seen = {}
    for schedule in ("constant", "cosine"):
        t, rates = trainer(lr_schedule=schedule, batch_size=18), []
        step = t.optimizer.step
        t.optimizer.step = lambda: (rates.append([g["lr"] for g in t.optimizer.param_groups]), step())  # noqa: B023
        list(t.epochs())
        seen[schedule] = torch.tensor(rates)
        assert [g["lr"] for g in t.optimizer.param_groups] == [1e-3, 1e-3]
    assert (seen["constant"] == 1e-3).all() and len(seen["cosine"]) == 16
    expected = [1e-3 * (1 + math.cos(math.pi * k / 16)) / 2 for k in range(16)]
    assert torch.allclose(seen["cosine"], torch.tensor(expected)[:, None].expand(-1, 2))


def test_the_average_is_validated_and_kept_and_training_goes_on_from_the_trained_weights():
    plain, averaged = trainer(), trainer(average_with_start=0.25)
    start = [p.clone() for p in plain._parameters()]
    for record, other in zip(plain.epochs(), averaged.epochs(), strict=True):
        assert record["train_loss"] == other["train_loss"] and record["val_loss"] != other["val_loss"]
        for p, q, s in zip(plain._parameters(), averaged._parameters(), start, strict=True):
            assert torch.allclose(q, 0.75 * p + 0.25 * s, atol=1e-6)
        assert torch.equal(averaged.state()["projection_state_dict"]["linear.weight"], averaged.projector.linear.weight)
    assert same(plain, averaged)


FLAGS = {"lr_schedule": "cosine", "average_with_start": 0.5, "logit_scale": 9.0, "text_radius": 0.7}


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole, first, second = (trainer(**FLAGS) for _ in range(3))
    records = list(whole.epochs())
    for record in first.epochs():
        if record["epoch"] == 2:
            checkpoints.save(tmp_path / "two.pth", first.state())
            break
    second.load_state(torch.load(tmp_path / "two.pth", weights_only=True))
    assert list(second.epochs(first=3)) == records[2:]
    assert same(whole, second)


def test_resuming_under_other_flags(tones, tmp_path):
    """One sentence that names both, whichever of the two runs has the flag."""
    flags = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out"]
    cosine = ["--lr-schedule", "cosine", "--average-with-start", "0.5"]
    script(TRAIN, *flags, "--epochs", 1)
    done = script(TRAIN, *flags, "--epochs", 2, "--resume", *cosine, check=False)
    assert done.returncode == 2 and "was trained with lr_schedule = its default, this run has cosine;" in done.stderr
    script(TRAIN, *flags, "--epochs", 2, *cosine)
    done = script(TRAIN, *flags, "--epochs", 2, "--resume", check=False)
    assert done.returncode == 2 and "was trained with lr_schedule = cosine, this run has its default;" in done.stderr
    done = script(TRAIN, *flags, "--epochs", 3, "--resume", *cosine, check=False)
    assert done.returncode == 2 and "was trained with epochs = 2, this run has 3;" in done.stderr
    script(TRAIN, *flags, "--epochs", 2, "--resume", *cosine)


def test_trained_parameters_that_do_not_fit_are_refused():
    t = trainer(average_with_start=0.5)
    next(epochs := t.epochs())
    content = t.state()
    content["trained_parameters"] = content["trained_parameters"][:-1]
    epochs.close()
    with pytest.raises(UserError, match="trained_parameters that do not fit"):
        checkpoints.check_continues("x.pth", content, t.optimizer, t.scale)


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--logit-scale", "0", "0 is not a finite number above 0"),
        ("--logit-scale", "101", "101 is above 100, the ceiling of the logit scale"),
        ("--text-radius", "-1", "-1 is not a finite number above 0"),
        ("--average-with-start", "1", "1 is not from 0 to below 1"),
        ("--average-with-start", "nan", "nan is not from 0 to below 1"),
        ("--lr-schedule", "linear", "invalid choice: 'linear'"),
    ],
)
def test_values_out_of_range(flag, value, sentence):
    done = script(TRAIN, "--parquet-dir", "nowhere", flag, value, check=False)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
