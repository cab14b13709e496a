"""What a training chooses, a second time by counting: thresholds, scaling, the best epoch, splits, identities."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tone_rows, write_rows

from data import ParquetFolder
from hyperbolic import SIMILARITIES, HyperbolicProjector, expmap0
from hyperbolic_clap.embedding.given import Origin, same_model
from hyperbolic_clap.embedding.texts import PROMPT
from hyperbolic_clap.metrics.calibration import fit
from hyperbolic_clap.plumbing.config import SELECT_BY, ProjectorConfig, TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import projector
from hyperbolic_clap.projector.checkpoints import rebuild
from hyperbolic_clap.projector.exported import locate, sha256
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.training import fit as training
from hyperbolic_clap.training.calibration import calibration, thresholds
from hyperbolic_clap.training.fit import _about, doubts
from hyperbolic_clap.training.groups import groups
from hyperbolic_clap.training.run_folder import FIGURES, RECALLS, RunFolder
from hyperbolic_clap.training.split import split_by_video
from hyperbolic_clap.training.trainer import Trainer


def counted_threshold(values, right):
    """The least probability of a clip of the class above which four of five clips are of it."""
    reached = [v for v in values[right] if right[values >= v].mean() >= 0.8 and (values >= v).sum() >= 5]
    return min(reached, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_what_counting_gives(seed):
    """Of classes that are easy, hard, rare, never there; probabilities tie; the order of the clips says nothing."""
    rng = np.random.default_rng(seed)
    targets = rng.random((40, 30)) < np.linspace(0, 0.6, 30)
    values = (targets * np.tile([0.1, 0.3, 0.8], 10) + rng.random(targets.shape)).round(1) / 2
    wanted = [counted_threshold(v, t) for v, t in zip(values.T, targets.T, strict=True)]
    assert thresholds(values, targets) == wanted and 2 < wanted.count(None) < 28
    mixed = rng.permutation(40)
    assert thresholds(values[mixed], targets[mixed]) == wanted


@pytest.mark.parametrize("count", [4, 5, 6])
def test_a_class_of_five_clips_has_a_threshold_of_its_own(count):
    right = np.arange(10) < count
    assert thresholds((right / 2.0)[:, None], right[:, None]) == [0.5 if count >= 5 else None]
    five = np.arange(5) < 4  # 4 of 5 are just enough
    assert thresholds(np.full((10, 1), 0.5), np.tile(five, 2)[:, None]) == [0.5]


def test_what_is_fitted_is_of_the_validation_clips_and_of_their_scaled_logits():
    rng = np.random.default_rng(0)
    names, targets = ["a", "b", "c"], torch.from_numpy(rng.random((90, 3)) < 0.5)
    similarity = torch.from_numpy(rng.normal(size=(90, 3)) + 2 * targets.numpy())
    stub = SimpleNamespace(validation=torch.arange(30, 90), train=torch.arange(30), targets=targets, text=None)
    stub.audio, stub.projector, stub.logit_scale = similarity, lambda rows, _: rows, lambda x: 5 * x - 3
    found, logits, truth = calibration(stub, names), 5 * similarity[30:].numpy() - 3, targets[30:].numpy()
    slope, shift = fit(logits.ravel(), truth.ravel())
    assert found["calibration"] == {"slope": slope, "shift": shift, "clips": 60} and slope < 0.9
    scaled = 1 / (1 + np.exp(-slope * logits - shift))
    own = {name: counted_threshold(p, t) for name, p, t in zip(names, scaled.T, truth.T, strict=True)}
    assert found["thresholds"]["by_class"] == pytest.approx(own) and len(own) == 3


def epoch(number, rng, captions):
    figures = {name: float(rng.integers(3)) for name in (*FIGURES, *(RECALLS if captions else SELECT_BY[1:]))}
    return figures | {"epoch": number}


@pytest.mark.parametrize("select_by", [*SELECT_BY, "captions"])
def test_the_best_epoch_is_what_sorting_gives(select_by):
    """The most of a metric or of both recalls, or the least loss; of equal ones the least loss, then the first."""
    captions = select_by == "captions"
    for seed in range(60):
        rng, folder = np.random.default_rng(seed), object.__new__(RunFolder)
        folder.select_by, folder.setup, folder._best = "val_loss" if captions else select_by, {"epochs": []}, None
        epochs = [epoch(i, rng, captions) for i in range(1, 7)]
        better = [folder._record(one) for one in epochs]
        most = (lambda e: sum(e[r] for r in RECALLS)) if captions else lambda e: e[select_by]
        order = sorted(epochs, key=lambda e: (0 if select_by == "val_loss" else -most(e), e["val_loss"], e["epoch"]))
        assert folder.best["epoch"] == folder.setup["best_epoch"] == order[0]["epoch"]
        assert better == [one == min(epochs[: i + 1], key=order.index) for i, one in enumerate(epochs)]
        for patience in (1, 2, 5):
            assert folder.should_stop_early(patience) == (6 - order[0]["epoch"] >= patience)
        assert not folder.should_stop_early(None)


def test_a_new_run_moves_all_of_an_earlier_one_aside_its_best_epoch_too(tmp_path):
    for name in ("projection_epoch_2.pth", "best_projection_epoch_1.pth", "notes.txt", "tensorboard/events"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    RunFolder(tmp_path, {}, False)
    (aside,) = tmp_path.glob("earlier_*")
    assert {path.name for path in aside.iterdir()} == {"projection_epoch_2.pth", "best_projection_epoch_1.pth",
                                                       "tensorboard"}  # fmt: skip
    assert {path.name for path in tmp_path.iterdir() if path.suffix} == {"notes.txt", "setup.json"}


@pytest.mark.parametrize("kept", ["all", "best"])
def test_of_kept_checkpoints_the_last_one_is_always_there_to_go_on_from(tmp_path, monkeypatch, kept):
    monkeypatch.setattr("hyperbolic_clap.projector.checkpoints.save", lambda path, content: path.write_text("x"))
    output = RunFolder(tmp_path, {"epochs": []}, False, kept=kept)
    for number, loss in enumerate([3.0, 1.0, 2.0, 2.5, 0.5], 1):
        output.keep({name: 0.0 for name in FIGURES} | {"epoch": number, "val_loss": loss})
        own = range(1, number + 1) if kept == "all" else [number]
        best = {1: 1, 5: 5}.get(number, 2)
        assert {path.name for path in tmp_path.glob("*.pth")} == {
            f"best_projection_epoch_{best}.pth", *(f"projection_epoch_{i}.pth" for i in own)}  # fmt: skip


@pytest.mark.parametrize(("patience", "last"), [(None, 5), (2, 4), (1, 3)])
def test_a_training_keeps_each_epoch_stops_after_the_best_and_doubts_that_one(tmp_path, monkeypatch, patience, last):
    losses, kept, logged, doubted = [3.0, 2.0, 2.5, 2.0, 1.0], [], [], []
    record = {name: 0.0 for name in (*FIGURES, *SELECT_BY[1:])}
    epochs = [record | {"epoch": i, "val_loss": loss} for i, loss in enumerate(losses, 1)]
    trainer = SimpleNamespace(epochs=lambda first: iter(epochs[first - 1 :]), state=dict, start_loss=lambda: 7.0)
    output = RunFolder(tmp_path, {"epochs": []}, False)
    monkeypatch.setattr(output, "keep", lambda content: kept.append(content["epoch"]) or output._record(content))
    monkeypatch.setattr(output, "count", lambda *_: None)
    monkeypatch.setattr(training, "Trainer", lambda *_: trainer)
    monkeypatch.setattr(training, "_about", lambda *_: lambda: {"identity": {}})
    monkeypatch.setattr(training, "doubts", lambda config, best, start: doubted.append((best["epoch"], start)) or [])
    tracker = SimpleNamespace(log=lambda epoch, of: logged.append((epoch, of["val_loss"])), close=lambda: None)
    clips = SimpleNamespace(tensors=lambda: (torch.ones(2),) * 3)
    model = SimpleNamespace(device="cpu", embedder=None)
    training.fit(TrainConfig(epochs=5, patience=patience), clips, ([0], [1]), model, output, tracker)
    best = 5 if patience is None else 2
    assert kept == list(range(1, last + 1)) and logged == [*enumerate(losses[:last], 1)]
    assert doubted == [(best, 7.0)] and output.best["epoch"] == best


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
def test_doubts(learned, near, similarity):
    best = {"val_loss": 1.4 if learned else 1.6, "audio_near_boundary": 0.51 if near else 0.5,
            "text_near_boundary": 0.0 if near else 1.0}  # fmt: skip
    said = doubts(TrainConfig(similarity=similarity), best, 1.0)
    assert len(said) == (not learned) + (near and similarity == "hyperbolic")
    assert len(doubts(TrainConfig(similarity=similarity), best, -1.0)) == len(said)


@pytest.mark.parametrize("kind", [str, float, int])
def test_a_split_ties_equal_values_and_nothing_else(tmp_path, kind):
    """A row without a value, None or NaN, stands for itself, whatever file it is in."""
    row, values = tone_rows(1)[0], [1, None, 2, 1, math.nan, 3, math.nan, None, 2, 5]
    values = [None if v is None or (v != v and kind is not float) else kind(v) for v in values]
    rows = [row | {"video_id": f"v{i}", "where": value} for i, value in enumerate(values)]
    write_rows(tmp_path, rows[:4], "0.parquet")
    write_rows(tmp_path, rows[4:], "1.parquet")
    folder = ParquetFolder(tmp_path, ClassList(["Sine wave", "Music"]))
    for used in ([0, 1, 2, 3, 4, 6, 7, 8, 9], [0, 2, 4, 5, 8], [5, 8, 9]):
        own = [("row", i) if values[i] is None or values[i] != values[i] else values[i] for i in used]
        found = groups(folder, SimpleNamespace(sample_ids=np.array(used)), "where").tolist()
        assert found == [list(dict.fromkeys(own)).index(value) for value in own]


def test_the_identity_of_a_run_holds_its_split_and_its_data():
    """So a run is not resumed with other training clips, although --train-ratio is no part of the settings there."""
    audio, targets, text = torch.randn(9, 4), torch.rand(9, 3) < 0.5, torch.randn(3, 4)
    split, embedder = (
        (torch.arange(6), torch.arange(6, 9)),
        SimpleNamespace(origin=Origin("", "", 4), of_texts={}, prompt="p"),
    )

    def data(tensors, split=split):
        return _about(TrainConfig(), SimpleNamespace(tensors=lambda: tensors), split, embedder)()["identity"]["data"]

    same = data((audio, targets, text))
    assert same == data((audio.clone(), targets.clone(), text.clone()))
    others = [data((audio + 1, targets, text)), data((audio, ~targets, text)), data((audio, targets, text + 1)),
              data((audio, targets, text), (torch.arange(5), torch.arange(5, 9))),
              data((audio, targets, text), (torch.arange(1, 7), torch.tensor([0, 7, 8])))]  # fmt: skip
    assert len({same, *others}) == 6


# The projector


def checkpoint(**changes):
    state = HyperbolicProjector(4, 3, 2.0).state_dict()
    content = {"similarity": "hyperbolic", "base_c": 2.0, "temperature": 0.7, "audio_radius": 0.5, "epoch": 3,
               "identity": {"seed": 1}, "optimizer_state_dict": {}, "projection_state_dict": dict(state),
               "scale_state_dict": {"log_scale": torch.tensor(2.0), "bias": torch.tensor(-1.0)},
               "prototype_weight": 0.5, "prototype_classes": ["a"], "prototype_means": torch.ones(1, 4)}  # fmt: skip
    return content | changes


def test_each_part_of_how_vectors_are_compared_is_in_a_projector_s_hash():
    base = checkpoint()
    weights = base["projection_state_dict"]
    others = [{"similarity": "cosine"}, {"base_c": 2.5}, {"temperature": 0.8}, {"audio_radius": 0.6},
              {"prototype_weight": 0.6}, {"prototype_classes": ["b"]}, {"prototype_means": torch.zeros(1, 4)},
              {"scale_state_dict": base["scale_state_dict"] | {"bias": torch.tensor(-2.0)}},
              *({"projection_state_dict": weights | {name: weights[name] + 1}} for name in weights)]  # fmt: skip
    assert len({sha256(base), *(sha256(checkpoint(**other)) for other in others)}) == 1 + len(others)
    for same in ({"epoch": 4}, {"identity": {}}, {"optimizer_state_dict": {"state": {}}}):
        assert sha256(checkpoint(**same)) == sha256(base)


def test_a_rebuilt_projector_is_the_one_that_was_trained():
    """Settings that are no weights come from the checkpoint too, none of them at its default."""
    for similarity in ("hyperbolic", "cosine"):
        trained = HyperbolicProjector(4, 3, 2.5, 0.7, similarity, 0.9)
        content = checkpoint(embed_dim=4, output_dim=3, base_c=2.5, temperature=0.7, audio_radius=0.9,
                             similarity=similarity, projection_state_dict=trained.state_dict())  # fmt: skip
        rebuilt = rebuild(content, torch.device("cpu"))
        assert torch.equal(rebuilt(torch.eye(4), 2 * torch.eye(4)), trained(torch.eye(4), 2 * torch.eye(4)).detach())
        assert (rebuilt.c, rebuilt.temperature, rebuilt.audio_radius) == (trained.c, 0.7, 0.9)


def test_a_projector_s_c_is_the_trained_one_and_a_flag_that_says_another_is_refused(monkeypatch):
    opened = Projector(None, torch.device("cpu"))
    opened.content, opened.module = {"similarity": "hyperbolic", "c": 3.0, "base_c": 2.0, "temperature": 0.7}, 1
    monkeypatch.setattr(projector, "Projector", lambda *_: opened)
    assert opened.c == 3.0
    for name, trained in (("c", 3.0), ("temperature", 0.7)):
        same = ProjectorConfig(Path("x"), **{name: trained * (1 + 1e-6)})
        assert projector.open_projector(same, torch.device("cpu")) is opened
        for value in (1.0001 * trained, 0.9999 * trained):
            with pytest.raises(UserError, match=f"--{name} .* contradicts x, which was trained with {name} = "):
                projector.open_projector(ProjectorConfig(Path("x"), **{name: value}), torch.device("cpu"))


def test_prompts_are_the_trained_ones_in_any_order_and_as_often():
    opened = Projector(None, torch.device("cpu"))
    assert opened.prompts(("x {label}",)) == ("x {label}",) and opened.prompts(None) == [PROMPT]
    opened.content = {"prompt": "a {label}\nb {label}\nb {label}"}
    trained = ["a {label}", "b {label}", "b {label}"]
    assert opened.prompts(None) == opened.prompts(trained[::-1]) == trained
    for other in (trained[:2], trained[1:], [*trained, "a {label}"], ["c {label}"]):
        with pytest.raises(UserError, match="contradicts"):
            opened.prompts(other)


@pytest.mark.parametrize(("one", "other", "same"), [
    (("a", "1"), ("a", "1"), True), (("a", "1"), ("b", "1"), True), (("a", "1"), ("a", "2"), False),
    (("a", ""), ("a", "2"), True), (("a", "1"), ("b", ""), False), (("", "1"), ("", "1"), True),
    (("", "1"), ("a", ""), None), (("", ""), ("", ""), None), (("", ""), ("a", "1"), None),
])  # fmt: skip
def test_models_are_the_same_by_their_files_and_only_without_those_by_name(one, other, same):
    assert same_model(*one, *other) is same_model(*other, *one) is same


def test_new_classes_are_those_of_no_spelling_that_was_trained():
    projector = Projector(None, torch.device("cpu"))
    projector.content = {"classes": ["Dog  Bark", "Rain"]}
    assert projector.new_classes(["dog bark", "RAIN", "Wind"]) == ["Wind"]


@pytest.mark.parametrize("similarity", [*SIMILARITIES])
def test_figures_of_a_validation_are_what_counting_gives(similarity):
    """With a c that was learned, a text here and there beyond 0.99 of its radius, and clips of every class."""
    rng = torch.Generator().manual_seed(0)
    audio, text, targets = torch.randn(11, 6, generator=rng), torch.randn(9, 6, generator=rng), torch.eye(11, 9) > 0
    targets[9:] = True
    config = TrainConfig(c=0.5, temperature=0.6, similarity=similarity, output_dim=6, learn_c=True, audio_radius=1.2)
    trainer = Trainer(config, audio, targets, text, torch.arange(4), torch.arange(4, 11))
    trainer.projector.log_c_change.data.fill_(0.9)
    found, c = trainer.validate(1), 0.5 * math.exp(0.9)
    a, t, right = 1.2 * audio[4:] / audio[4:].norm(dim=1, keepdim=True), 1.2 * text, targets[4:]
    assert found["c"] == pytest.approx(c)
    table = SIMILARITIES[similarity].compare(a, t, c, 0.6)
    assert found["similarity_positives"] == pytest.approx(table[right].mean().item(), rel=1e-5)
    assert found["similarity_negatives"] == pytest.approx(table[~right].mean().item(), rel=1e-5)
    for side, vectors in (("audio", a), ("text", t)):
        lengths = 2 * vectors.norm(dim=1).double().numpy()
        near = [math.tanh(length / 2 / c**0.5) > 0.99 for length in lengths.tolist()]
        assert found[f"{side}_near_boundary"] == pytest.approx(np.mean(near))
        assert found[f"{side}_distance_from_origin_mean"] == pytest.approx(lengths.mean(), rel=1e-5)
        assert found[f"{side}_distance_from_origin_std"] == pytest.approx(lengths.std(), abs=1e-5)
    assert 0 < found["text_near_boundary"] < 1


def test_the_first_video_trains_however_long_it_is():
    """And the last one validates: there is a clip on each side."""
    for seed in range(4):
        train, validation = split_by_video(["a"] * 9 + ["b"], 0.2, seed)
        assert len(train) and len(validation) and len(train) + len(validation) == 10


@pytest.mark.parametrize(("name", "is_id"), [("lab/clap", True), ("lab/clap.v2", True), ("lab/clap-1.5", True),
                         ("lab/clap.pth", False), ("clap", False), ("a/b/c", False), ("here/clap", False)])  # fmt: skip
def test_what_is_an_id_of_modelscope(tmp_path, monkeypatch, name, is_id):
    """OWNER/NAME that is no file, has no ending of a checkpoint, and no folder to lie in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("CLAP.checkpoint.from_modelscope", lambda *_: "fetched")
    assert locate(Path(name), "--flag") == ("fetched" if is_id else Path(name))


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_probability_is_the_sigmoid_of_the_scaled_trained_logit(calibrated):
    projector = Projector(None, torch.device("cpu"))
    with torch.no_grad():
        projector.logit_scale.log_scale.fill_(math.log(7))
        projector.logit_scale.bias.fill_(-2)
    projector.content = {"calibration": {"slope": 0.6, "shift": 0.3}}
    found = projector.probability(np.array([[-1e9, -0.5, 0.0, 0.4, 1e9]]), calibrated)[0]
    logits = [7 * s - 2 for s in (-0.5, 0.0, 0.4)]
    wanted = [1 / (1 + math.exp(-(0.6 * x + 0.3 if calibrated else x))) for x in logits]
    assert found.tolist() == pytest.approx([0, *wanted, 1], rel=1e-6)


def test_a_learned_c_is_that_of_the_weights():
    projector = HyperbolicProjector(4, 4, c=2.0)
    point = torch.tensor([[0.3, 0.0, 0.0, 0.4]])
    for change in (0.0, 0.3, -1.0):
        projector.log_c_change.data.fill_(change)
        assert float(projector.c) == pytest.approx(2 * math.exp(change))
        assert torch.equal(projector.ball_points(point), expmap0(point, 2 * math.exp(change)))


@pytest.mark.parametrize("name", [*SIMILARITIES])
def test_a_similarity_is_divided_by_the_temperature_and_its_ways_lead_to_its_root(name):
    rng, kind = torch.Generator().manual_seed(0), SIMILARITIES[name]
    audio, text = torch.randn(5, 4, generator=rng), torch.randn(6, 4, generator=rng)
    assert torch.allclose(kind.compare(audio, text, 2.0, 0.5), 2 * kind.compare(audio, text, 2.0, 1.0))
    steps = torch.linspace(0, 1, 5)
    way = kind.towards_root(audio, text, steps)
    assert way.shape == (5, 5, 4) and torch.allclose(kind.compare(way[0], text, 2.0, 1.0),
                                                     kind.compare(audio, text, 2.0, 1.0), atol=1e-6)  # fmt: skip
    assert torch.allclose(way[-1], way[-1, :1])  # the same root for all
    assert torch.allclose(way[1], 0.75 * way[0] + 0.25 * way[-1], atol=1e-6)
    unit = torch.nn.functional.normalize
    root = torch.zeros(4) if kind.curved else unit(unit(text, dim=1).mean(0), dim=0)
    assert torch.allclose(way[-1, 0], root, atol=1e-6)


def test_each_field_of_a_training_has_a_default_that_says_nothing():
    """Settings that came later are left out of the identity at their defaults, and only there."""
    base = TrainConfig().identity()
    for name in ("logit_scale", "text_radius", "lr_schedule", "average_with_start", "prototypes", "split_by"):
        assert name not in base
        value = {"lr_schedule": "cosine", "split_by": "x"}.get(name, 0.25)
        assert dataclasses.replace(TrainConfig(), **{name: value}).identity()[name] == value
