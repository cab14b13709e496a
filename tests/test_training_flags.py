"""The training's flags beyond the manual's: starts, schedule, averaging, prototypes, patience, what the split keeps."""

import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import script, tone_rows, write_rows
from safetensors.numpy import load_file
from test_training import TEXT, trainer

from data import ParquetFolder
from hyperbolic_clap.embedding.row_index import columns
from hyperbolic_clap.plumbing.config import CLASS_LABELS, TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.projector.prototypes import added, check, prototypes
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.training.groups import groups
from hyperbolic_clap.training.run_folder import check_continues

TRAIN = "train_hyperbolic_clap.py"


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a._parameters(), b._parameters(), strict=True))


def test_defaults_leave_no_trace():
    assert TrainConfig().identity().keys() == {
        "batch_size", "learning_rate", "c", "temperature", "loss", "similarity", "output_dim", "audio_radius",
        "learn_c", "seed",
    }  # fmt: skip
    assert "trained_state_dict" not in trainer().state()
    scheduled = TrainConfig(lr_schedule="cosine").identity()
    assert scheduled == TrainConfig().identity() | {"lr_schedule": "cosine", "epochs": 10}


@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
def test_scale_and_texts_start_where_they_are_told_to(similarity):
    t = trainer(similarity=similarity, logit_scale=5.0, text_radius=1.25, output_dim=8)
    assert t.logit_scale.scale.item() == pytest.approx(5)
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


FIRST_FIELDS = """audio_near_boundary audio_radius audio_radius_mean audio_radius_std base_c c clap_model clap_sha256
embed_dim epoch identity logit_bias logit_scale loss optimizer_state_dict output_dim projection_state_dict prompt
scale_state_dict seed similarity similarity_negatives similarity_positives temperature text_near_boundary
text_radius_mean text_radius_std train_loss val_loss""".split()


def test_a_checkpoint_of_before_these_flags(tones, tmp_path):
    """With nothing but the first version's fields it gives the same scores, and training ends with the same weights."""
    flags = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache"]
    script(TRAIN, *flags, "--output-dir", tmp_path / "whole", "--epochs", 2)
    script(TRAIN, *flags, "--output-dir", tmp_path / "old", "--epochs", 1)
    scores = {}
    for kind in ("new", "old"):
        for path in (tmp_path / "old").glob("*.pth") if kind == "old" else ():
            content = torch.load(path, weights_only=True)
            content = {name.replace("distance_from_origin", "radius"): value for name, value in content.items()}
            assert not set(FIRST_FIELDS) - set(content)
            checkpoints.save(path, {name: content[name] for name in FIRST_FIELDS})
        results = ["--output-json", tmp_path / "r.json", "--save-scores", tmp_path / "s.safetensors"]
        script("test_hyperbolic_clap_modelscope.py", *flags, *results,
               "--projection-checkpoint", tmp_path / "old" / "projection_epoch_1.pth")  # fmt: skip
        scores[kind] = load_file(tmp_path / "s.safetensors")["scores"]
    assert (scores["old"] == scores["new"]).all()
    script(TRAIN, *flags, "--output-dir", tmp_path / "old", "--epochs", 2, "--resume")
    one, two = (torch.load(tmp_path / folder / "projection_epoch_2.pth", weights_only=True)["projection_state_dict"]
                for folder in ("whole", "old"))  # fmt: skip
    assert all(torch.equal(one[name], two[name]) for name in one)


FLAGS = {"lr_schedule": "cosine", "average_with_start": 0.5, "logit_scale": 9.0, "text_radius": 0.7}


@pytest.mark.parametrize("flags", [FLAGS, {}, {"learn_c": True}])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, flags):
    whole, first, second = (trainer(**flags) for _ in range(3))
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


def test_trained_state_dict_that_do_not_fit_are_refused():
    t = trainer(average_with_start=0.5)
    next(epochs := t.epochs())
    content = t.state()
    del content["trained_state_dict"]["0"]
    epochs.close()
    with pytest.raises(UserError, match="trained_state_dict that does not fit"):
        check_continues("x.pth", content, t.optimizer, t.logit_scale)


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--logit-scale", "0", "0 is not a finite number above 0"),
        ("--logit-scale", "101", "101 is above 100, the ceiling of the logit scale"),
        ("--text-radius", "-1", "-1 is not a finite number above 0"),
        ("--average-with-start", "1", "1 is not from 0 to below 1"),
        ("--average-with-start", "nan", "nan is not from 0 to below 1"),
        ("--lr-schedule", "linear", "invalid choice: 'linear'"),
        ("--prototypes", "-0.1", "-0.1 is not a finite number of 0 or above"),
        ("--patience", "0", "0 is below 1, the least accepted"),
    ],
)
def test_values_out_of_range(flag, value, sentence):
    done = script(TRAIN, "--parquet-dir", "nowhere", flag, value, check=False)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def sourced(tmp_path):
    """24 tones of 6 sources; the column `other` cannot part anything, `nested` is no plain value."""
    rows = tone_rows(24)
    for i, row in enumerate(rows):
        row |= {"source": None if i in (5, 11) else f"s{i % 6}", "other": "one", "nested": ["a"]}
    write_rows(tmp_path / "sourced", rows[:12], "00.parquet")
    return write_rows(tmp_path / "sourced", rows[12:], "01.parquet")


def test_a_split_by_a_column_keeps_each_value_on_one_side(sourced, tmp_path):
    flags = ["--parquet-dir", sourced, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out"]
    flags += ["--epochs", 1]
    script(TRAIN, *flags, "--split-by", "source")
    clips = json.loads((tmp_path / "out" / "setup.json").read_text())["clips"]
    assert clips["train"] + clips["validation"] == 24
    folder = ParquetFolder(sourced, ClassList.read(CLASS_LABELS))
    rows = columns(list(folder), folder.classes)
    found = groups(folder, rows.take(np.arange(3, 24)), "source").tolist()
    values = [f"s{i % 6}" if i not in (5, 11) else i for i in range(3, 24)]
    assert found == [list(dict.fromkeys(values)).index(value) for value in values]
    done = script(TRAIN, *flags, "--resume", check=False)
    assert done.returncode == 2 and "with split_by = source, this run has its default" in done.stderr


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("speaker", "--split-by speaker: .*00.parquet has no column 'speaker'; its columns are video_id, .*other"),
        ("nested", "--split-by nested: in .*00.parquet that column is list<.*>, expected plain values"),
        ("other", "--split-by other: all 24 usable clips have 'one' there; two values are needed"),
    ],
)
def test_a_column_that_cannot_split(sourced, tmp_path, column, sentence):
    flags = ["--parquet-dir", sourced, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out"]
    done = script(TRAIN, *flags, "--split-by", column, check=False)
    assert done.returncode == 2 and re.search(sentence, done.stderr.splitlines()[-1])
    assert not list(tmp_path.glob("out/*.pth"))


def test_prototypes_add_the_cosine_to_the_mean_audio():
    audio = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 1.0]])
    targets = torch.tensor([[True, False, True], [True, False, False], [False, False, True]])
    content = prototypes(0.5, audio, targets, ["a", "b", "c"]) | {"embed_dim": 3}
    assert content["prototype_classes"] == ["a", "c"]
    half = 0.5**0.5
    assert torch.allclose(content["prototype_means"], torch.tensor([[half, half, 0], [half, 0, half]]))
    similarity = added(content, audio[:1], ["c", "new", "b", "a"])
    assert torch.allclose(similarity, 0.5 * torch.tensor([[half, 0, 0, half]]))
    assert prototypes(0.0, audio, targets, ["a", "b", "c"]) == {}


def test_prototypes_from_training_to_results(tones, tmp_path):
    flags = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache"]
    test = "test_hyperbolic_clap_modelscope.py"
    scores = {}
    for weight in (0.0, 0.3):
        home = tmp_path / f"out{weight}"
        script(TRAIN, *flags, "--output-dir", home, "--epochs", 1, "--prototypes", weight)
        (best,) = home.glob("best_*.pth")
        script(test, *flags, "--projection-checkpoint", best, "--output-json", home / "r.json",
               "--save-scores", home / "s.safetensors", "--prototypes", weight)  # fmt: skip
        scores[weight] = load_file(home / "s.safetensors")["scores"]
        assert json.loads((home / "r.json").read_text())["model_info"].get("prototypes", 0) == weight
    content = torch.load(best, weights_only=True)
    names = ClassList.read(CLASS_LABELS).names
    gain = scores[0.3] - scores[0.0]
    used = [names.index(name) for name in content["prototype_classes"]]
    assert (gain[:, used] != 0).all() and np.abs(gain).max() <= 0.3 + 1e-5
    assert (np.delete(gain, used, axis=1) == 0).all()
    done = script(TRAIN, *flags, "--output-dir", home, "--epochs", 2, "--resume", check=False)
    assert done.returncode == 2 and "trained with prototypes = 0.3, this run has its default" in done.stderr
    plain = next((tmp_path / "out0.0").glob("best_*.pth"))
    for path, says in ((plain, "which has none"), (best, "which has those of weight 0.3")):
        done = script(test, *flags, "--projection-checkpoint", path, "--prototypes", 0.2, check=False)
        assert done.returncode == 2 and f"--prototypes 0.2 contradicts {path}, {says}" in done.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prototype_weight": -1.0}, "prototype_weight = -1.0, which must be finite and above 0"),
        ({"prototype_classes": "a"}, "no list of names in prototype_classes"),
        ({"prototype_means": torch.zeros(2, 4)}, r"prototype_means that are no float32 tensor of shape \(1, 4\)"),
        ({"prototype_means": torch.full((1, 4), math.nan)}, "values in prototype_means that are not finite"),
    ],
)
def test_unsound_prototypes_are_refused(change, sentence):
    sound = {"embed_dim": 4, "prototype_weight": 0.1, "prototype_means": torch.ones(1, 4), "prototype_classes": ["a"]}
    check("x.pth", sound)
    with pytest.raises(UserError, match=sentence):
        check("x.pth", sound | change)


def test_patience_stops_and_a_resumed_run_stays_stopped(tones, tmp_path):
    flags = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out"]
    flags += ["--epochs", 30, "--learning-rate", 0.3, "--patience", 2]  # a rate that soon overfits
    done = script(TRAIN, *flags)
    setup = json.loads((tmp_path / "out" / "setup.json").read_text())
    assert "no better epoch in 2 epochs: stopped" in done.stdout
    assert setup["epochs"][-1]["epoch"] == setup["best_epoch"] + 2 < 30
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")}
    script(TRAIN, *flags, "--resume")
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")}


def test_a_c_that_does_nothing_is_a_warning(tones, tmp_path):
    flags = ("--parquet-dir", tones, "--no-cache", "--output-dir", tmp_path / "out", "--epochs", "1")
    said = "warning: --c 0.5 has no effect: --similarity cosine has no c"
    assert said in script(TRAIN, *flags, "--similarity", "cosine", "--c", "0.5").stdout
    assert "has no effect" not in script(TRAIN, *flags, "--similarity", "cosine").stdout
    assert json.loads((tmp_path / "out" / "setup.json").read_text())["arguments"]["c"] == 1.0


def test_an_unknown_flag_or_name_says_what_there_is(tones):
    done = script(TRAIN, "--parquet-dir", tones, "--learning-rat", "0.1", check=False)
    assert done.returncode == 2 and "--learning-rat 0.1" in done.stderr
    assert done.stderr.rstrip().endswith("did you mean --learning-rate?")
    done = script(TRAIN, "--parquet-dir", tones, "--similarity", "dot", check=False)
    assert done.returncode == 2 and "--similarity dot is unknown; known are hyperbolic, cosine" in done.stderr


def test_a_training_that_learned_nothing_is_a_warning_with_its_figures(tones, tmp_path):
    flags = ("--parquet-dir", tones, "--no-cache", "--output-dir", tmp_path / "out", "--epochs", "1")
    said = script(TRAIN, *flags, "--learning-rate", "1e9").stdout
    figures = r"warning: the best epoch has validation loss \S+, and before the training it was 1\d.\d+: nothing was"
    assert re.search(figures + r" learned; --learning-rate 1e\+09 is the likely cause", said)
    said = script(TRAIN, *flags, "--audio-radius", "20").stdout
    assert "100% of the validation clips lie beyond 0.99 of the ball's radius: --audio-radius 20 is large" in said
    assert "warning" not in script(TRAIN, *flags).stdout


def test_the_loss_of_the_start_is_that_of_an_untrained_trainer():
    fresh, done = trainer(), trainer()
    expected = fresh.validate(0)["val_loss"]
    list(done.epochs())
    before = [p.clone() for p in done._parameters()]
    assert done.start_loss() == expected
    assert all(torch.equal(p, q) for p, q in zip(before, done._parameters(), strict=True))
