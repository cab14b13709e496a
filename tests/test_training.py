"""The projector, the losses and the training loop on embeddings."""

import math
import zipfile

import pytest
import torch

from hyperbolic import (
    HyperbolicProjector,
    LogitScale,
    contrastive_loss,
    cosine_similarity,
    expmap0,
    sigmoid_loss,
    softmax_loss,
)
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.training.fit import describe
from hyperbolic_clap.training.run_folder import RunFolder
from hyperbolic_clap.training.split import split_by_video
from hyperbolic_clap.training.trainer import Trainer


def unit(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def target_matrix(positions, classes):
    return torch.stack([torch.zeros(classes, dtype=torch.bool).index_fill(0, torch.tensor(p), True) for p in positions])


TEXT = unit(12, 32, 1)
POSITIONS = [[i % 12, (i * 5 + 1) % 12] for i in range(90)]
TARGETS = target_matrix(POSITIONS, 12)
AUDIO = torch.nn.functional.normalize(TARGETS.float() @ TEXT + 0.8 * unit(90, 32, 2), dim=1)


def trainer(**changes):
    settings = TrainConfig(**{"learning_rate": 1e-3, "epochs": 4, "output_dim": 32} | changes)
    return Trainer(settings, AUDIO, TARGETS, TEXT, *split_by_video([str(i) for i in range(90)], 0.8, 0))


def test_epoch_zero_ranks_as_cosine():
    for radius in (0.5, 2.0, 8.0):
        projector = HyperbolicProjector(32, 32, audio_radius=radius)
        assert torch.equal(projector(AUDIO, TEXT).argsort(1), cosine_similarity(AUDIO, TEXT).argsort(1))
    principal = HyperbolicProjector(32, 12, similarity="cosine")
    principal.start_at_principal_directions(TEXT)
    # 12 directions hold 12 texts without loss.
    tangent = principal.text(TEXT) / principal.audio_radius
    assert torch.allclose(tangent @ tangent.T, TEXT @ TEXT.T, atol=1e-5)


def test_audio_has_one_radius_and_text_its_own():
    projector = HyperbolicProjector(32, 8, audio_radius=1.5)
    assert torch.allclose(projector.audio(AUDIO).norm(dim=1), torch.tensor(1.5))
    assert projector.text(TEXT).norm(dim=1).std() > 0
    ball = projector.ball_points(projector.audio(AUDIO))
    assert torch.allclose(ball, expmap0(projector.audio(AUDIO), 1.0)) and (ball.norm(dim=1) < 1).all()


@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
@pytest.mark.parametrize("loss", ["sigmoid", "contrastive", "softmax"])
def test_training_lowers_the_loss(similarity, loss):
    records = list(trainer(similarity=similarity, loss=loss, epochs=8).epochs())
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    if loss == "sigmoid":
        assert records[-1]["val_loss"] < records[0]["val_loss"]
    assert records[-1]["similarity_positives"] > records[-1]["similarity_negatives"]
    assert all(math.isfinite(v) for record in records for v in record.values())


def test_two_runs_are_bit_equal_and_the_seed_matters():
    first, second, other = trainer(), trainer(), trainer(seed=7)
    records = [list(t.epochs()) for t in (first, second, other)]
    assert records[0] == records[1] != records[2]
    assert torch.equal(first.projector.linear.weight, second.projector.linear.weight)


def test_a_smaller_c_gives_another_result_and_a_large_c_is_flat():
    projector = HyperbolicProjector(32, 32, c=1e8)
    u, v = projector.audio(AUDIO), projector.text(TEXT)
    assert torch.allclose(-projector.compare(u, v), 2 * torch.cdist(u, v), rtol=1e-4)
    assert not torch.allclose(HyperbolicProjector(32, 32, c=0.1)(AUDIO, TEXT), projector(AUDIO, TEXT), rtol=0.05)


def test_learned_c_moves_and_the_given_c_stays():
    for learn, same in ((True, False), (False, True)):
        t = trainer(learn_c=learn, c=0.3, epochs=2)
        records = list(t.epochs())
        assert (records[-1]["c"] == 0.3) is same


def test_losses_against_their_definitions():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = target_matrix([[0, 2], [2], [1], [0], [5]], 7)
    expected = 0.0
    for i in range(5):
        for j in range(7):
            sign = 1 if targets[i, j] else -1
            expected += math.log1p(math.exp(-sign * logits[i, j])) / 5
    assert sigmoid_loss(logits, targets).item() == pytest.approx(expected)
    present = [0, 1, 2, 5]
    rows = sum(
        -sum(logits[i, j] - torch.logsumexp(logits[i, present], 0) for j in present if targets[i, j]) / targets[i].sum()
        for i in range(5)
    )
    columns = sum(
        -sum(logits[i, j] - torch.logsumexp(logits[:, j], 0) for i in range(5) if targets[i, j]) / targets[:, j].sum()
        for j in present
    )
    assert contrastive_loss(logits, targets).item() == pytest.approx(float(rows / 5 + columns / 4) / 2)
    softmax = sum(
        -sum(logits[i, j] - torch.logsumexp(logits[i], 0) for j in range(7) if targets[i, j]) / targets[i].sum()
        for i in range(5)
    )
    assert softmax_loss(logits, targets).item() == pytest.approx(float(softmax / 5))


def test_a_shared_label_is_never_a_negative():
    """Two clips with one label: each is a positive of that text, so pulling either away costs."""
    logits = torch.zeros(2, 3, requires_grad=True)
    contrastive_loss(logits, target_matrix([[1], [1]], 3)).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_the_bias_starts_at_the_rate_of_positives():
    scale = LogitScale()
    similarity = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))
    scale.centre(similarity, TARGETS)
    assert scale.scale.item() == pytest.approx(1 / 0.07)
    assert scale(similarity).mean().sigmoid().item() == pytest.approx(TARGETS.double().mean().item(), rel=1e-4)


def test_a_loss_that_is_not_finite_from_the_start():
    bad = trainer()
    with torch.no_grad():
        bad.projector.linear.weight[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite at epoch 1, step 1; an extreme --c, --temperature or --audio-rad"):
        list(bad.epochs())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("call", "where"),
    [(2, "1, step 2"), (64, "1, step 64"), (65, "1, step 65"), (72, "1, step 72"), (73, "1, in"), (74, "2, step 1")],
)
def test_a_loss_that_is_not_finite_stops_the_run_at_any_step(value, call, where):
    """72 steps of one clip and one of validation; the loss lies once, whatever the weights are."""
    bad, calls, plain = trainer(batch_size=1), [], trainer().loss

    def loss(logits, targets):
        calls.append(1)
        return plain(logits, targets) * (value if len(calls) == call else 1)

    bad.loss, finished = loss, []
    with pytest.raises(UserError, match=f"not finite at epoch {where}.*; --learning-rate 0.001 is the likely cause"):
        finished.extend(bad.epochs())
    assert len(finished) == call // 74


def test_weights_that_are_not_finite_are_never_kept(tmp_path):
    run, first = RunFolder(tmp_path, {"epochs": []}, resume=False), trainer()
    figures = next(first.epochs())
    run.keep(figures | first.state())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        first.logit_scale.bias.fill_(math.nan)
    with pytest.raises(UserError, match="after epoch 2 the values in scale_state_dict.bias are not finite"):
        run.keep(figures | {"epoch": 2} | first.state())
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_belongs_to_one_training_at_a_time(tmp_path):
    first = RunFolder(tmp_path / "out", {"epochs": []}, resume=False)
    with pytest.raises(UserError, match="another training is writing to .*out; give another --output-dir"):
        RunFolder(tmp_path / "out", {"epochs": []}, resume=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["setup.json"]
    del first
    RunFolder(tmp_path / "out", {"epochs": []}, resume=True)


def test_a_learned_c_that_collapses_stops_the_run():
    with pytest.raises(UserError, match="at epoch 1: c, the squared radius .* got .*; --learning-rate 1e.06 is"):
        list(trainer(learn_c=True, learning_rate=1e6).epochs())


def test_without_any_negative_their_similarity_is_none():
    settings, rows = TrainConfig(epochs=1, output_dim=32), torch.arange(90)
    every = Trainer(settings, AUDIO, torch.ones_like(TARGETS), TEXT, rows[:72], rows[72:])
    (record,) = every.epochs()
    assert record["similarity_negatives"] is None and record["similarity_positives"] < 0
    assert len(describe(record, 1)) <= 100


def test_split_keeps_videos_together_and_follows_the_seed():
    ids = [f"v{i // 3}" for i in range(60)]
    train, validation = split_by_video(ids, 0.8, 1)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(60))
    assert not {ids[i] for i in train} & {ids[i] for i in validation}
    assert len(train) == 48
    assert torch.equal(train, split_by_video(ids, 0.8, 1)[0])
    assert not torch.equal(train, split_by_video(ids, 0.8, 2)[0])
    for ratio in (0.001, 0.999):
        assert all(len(part) for part in split_by_video(ids, ratio, 0))
    with pytest.raises(UserError, match="cannot be split"):
        split_by_video(["a"] * 5, 0.8, 0)


def test_checkpoints_are_checked(tmp_path):
    good = {
        "epoch": 1,
        "projection_state_dict": HyperbolicProjector(8, 4).state_dict(),
        "optimizer_state_dict": {},
        "scale_state_dict": {},
        "identity": {},
        "train_loss": 1.0,
        "val_loss": 1.0,
        "c": 1.0,
        "base_c": 1.0,
        "temperature": 1.0,
        "embed_dim": 8,
        "output_dim": 4,
        "similarity": "hyperbolic",
        "audio_radius": 2.0,
        "clap_model": "x",
        "clap_sha256": "y",
        "prompt": "{label}",
    }
    path = tmp_path / "a.pth"
    checkpoints.save(path, good)
    assert isinstance(checkpoints.rebuild(checkpoints.load(path), torch.device("cpu")), HyperbolicProjector)
    state = good["projection_state_dict"]
    broken = [
        ({k: v for k, v in good.items() if k != "c"}, "lacks the key 'c'"),
        (good | {"c": -1.0}, "c = -1.0, which must be finite and above 0"),
        (good | {"temperature": math.nan}, "temperature = nan"),
        (good | {"similarity": "dot"}, "'dot'"),
        (good | {"embed_dim": 9}, r"shape \(4, 8\), expected \(4, 9\)"),
        (good | {"projection_state_dict": {"w": 1}}, "projection weights"),
        (good | {"projection_state_dict": state | {"linear.bias": torch.full((4,), math.nan)}}, "not finite"),
        (good | {"projection_state_dict": state | {"linear.bias": torch.zeros(4, dtype=torch.int32)}}, "plain floats"),
        (good | {"projection_state_dict": state | {"linear.bias": torch.zeros(4).to_sparse()}}, "plain floats"),
        (good | {"projection_state_dict": state | {"linear.bias": torch.zeros(1).expand(4)}}, "plain floats"),
        (good | {"c": 2.0}, "c = 2, but its weights make it 1"),
        (good | {"projection_state_dict": state | {"log_c_change": torch.tensor(5000.0)}}, "weights make it inf"),
        ([1, 2], "holds a list"),
    ]
    for content, says in broken:
        checkpoints.save(path, content)
        with pytest.raises(UserError, match=says):
            checkpoints.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))  # a decompression bomb
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(path)
    with pytest.raises(UserError, match=r"gone.pth does not exist; .* holds a.pth"):
        checkpoints.load(tmp_path / "gone.pth")


def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "evil.pth"
    torch.save({"epoch": 1, "payload": Payload()}, path)
    with pytest.raises(UserError, match="evil.pth is refused: it holds Python objects"):
        checkpoints.load(path)
    assert not (tmp_path / "ran").exists()
