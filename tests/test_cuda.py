"""What only a GPU can show; skipped without one. Run by `make test-cuda`, which prints the measured figures.

What of this path the CPU can run stands in test_batcher.py.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, flac, script, tone, tone_rows, write_rows

from benchmarks.material import SMALL, make_checkpoint
from CLAP.encoder import Encoder
from data import ParquetFolder
from hyperbolic import tangent_pairwise_distance
from hyperbolic_clap.embedding.clips import embed_clips
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.config import CLASS_LABELS, TrainConfig
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

CUDA = choose_device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")  # its settings are those of a run
TRAIN, TEST = "train_hyperbolic_clap.py", "test_clap_modelscope.py"
NOT_FUSED, FUSED = "tiny", "fused"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """24 clips: tones and noise from 0.3 to 34 seconds, of other rates, one twice, one that cannot be decoded."""
    rng = np.random.default_rng(0)
    rows = tone_rows(24)
    for i, seconds in ((1, 12), (4, 34), (6, 0.3), (8, 10), (9, 21)):
        rows[i]["audio"]["bytes"] = flac(tone(150 + 90 * i, seconds))
    for i in (10, 11, 12):
        rows[i]["audio"]["bytes"] = flac(0.1 * rng.normal(size=(44_100 * 3, 2)), 44_100)
    rows[5]["audio"]["bytes"] = rows[2]["audio"]["bytes"]
    rows[7]["audio"]["bytes"] = b"broken"
    return write_rows(tmp_path_factory.mktemp("rows"), rows)


@pytest.fixture(scope="module", params=[NOT_FUSED, FUSED])
def checkpoint(request, tmp_path_factory):
    return str(TINY if request.param == NOT_FUSED else make_checkpoint(tmp_path_factory.mktemp("f"), SMALL, fused=True))


def embed(folder, checkpoint, device, size=32, cache=None, autocast=False, order=None):
    rows = ParquetFolder(folder, ClassList.read(CLASS_LABELS))
    clips = list(rows)
    keys = {clip.video_id: clip.content_key() for clip in clips}
    clips = [clips[i] for i in order] if order is not None else clips
    encoder = checkpoint if isinstance(checkpoint, Encoder) else Encoder(checkpoint, device, autocast)
    cache = cache or EmbeddingCache(None, "")
    list(embed_clips(iter(clips), encoder, cache, workers=4, batch_size=size))
    return {name: cache.get(key) for name, key in keys.items() if cache.get(key) is not None}


def farthest(a: dict, b: dict) -> float:
    """The largest cosine distance of the same clips in a and b."""
    assert a.keys() == b.keys() and a
    return max(1 - float(a[name].astype(np.float64) @ b[name].astype(np.float64)) for name in a)


def test_float32_against_the_cpu(rows, checkpoint):
    distance = farthest(embed(rows, checkpoint, CUDA), embed(rows, checkpoint, torch.device("cpu")))
    print(f"float32 on CUDA against the CPU: {distance:.1e}")
    assert distance < 1e-5


def test_bfloat16_against_float32(rows, checkpoint):
    distance = farthest(embed(rows, checkpoint, CUDA, autocast=True), embed(rows, checkpoint, CUDA))
    print(f"bfloat16 against float32: {distance:.1e}")
    assert 0 < distance < 1e-2


def test_texts_against_the_cpu(checkpoint):
    texts = ["This is a sound of Speech.", "This is a sound of Livestock, farm animals, working animals.", "x"]
    one, other = (Encoder(checkpoint, device).encode_texts(texts) for device in (CUDA, torch.device("cpu")))
    assert (1 - (one.astype(np.float64) * other).sum(axis=1)).max() < 1e-5


@pytest.mark.parametrize("autocast", [False, True])
def test_every_batch_size_and_order(rows, autocast):
    encoder = Encoder(str(TINY), CUDA, autocast)
    whole = embed(rows, encoder, CUDA)
    shuffled = np.random.default_rng(0).permutation(24)
    again = embed(rows, encoder, CUDA, order=shuffled)
    print("another order, equal to the bit:", all(np.array_equal(whole[name], again[name]) for name in whole))
    bound = 1e-3 if autocast else 1e-6
    assert farthest(whole, again) < bound
    for size in (1, 3, 64):
        distance = farthest(whole, embed(rows, encoder, CUDA, size))
        print(f"batches of {size} against 32, autocast {autocast}: {distance:.1e}")
        assert distance < bound


def test_the_same_whether_or_not_some_clips_are_known(rows):
    encoder, cache = Encoder(str(TINY), CUDA), EmbeddingCache(None, "")
    whole = embed(rows, encoder, CUDA)
    for clip in list(ParquetFolder(rows, ClassList.read(CLASS_LABELS)))[:9:2]:
        cache.add(clip.content_key(), whole[clip.video_id])
    assert farthest(whole, embed(rows, encoder, CUDA, cache=cache)) < 1e-6


def test_a_batch_that_does_not_fit(rows, caplog):
    encoder = Encoder(str(TINY), CUDA)
    whole = embed(rows, encoder, CUDA, 2)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    caplog.clear()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + 400e6) / total, CUDA)
    try:
        again = embed(rows, encoder, CUDA, 512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert farthest(whole, again) < 1e-6
    said = [r.getMessage() for r in caplog.records if "does not fit into the device's memory" in r.getMessage()]
    assert len(said) == 1, said


# The projector ---------------------------------------------------------------------------------------------------


def trained(device, **changes):
    draw = torch.Generator().manual_seed(0)
    unit = [torch.nn.functional.normalize(torch.randn(n, 64, generator=draw), dim=1) for n in (300, 40)]
    targets = torch.rand(300, 40, generator=draw) < 0.1
    targets[:, 0] = True
    settings = TrainConfig(**{"epochs": 3, "output_dim": 16, "learning_rate": 1e-3} | changes)
    order = torch.arange(300)
    trainer = Trainer(settings, *(x.to(device) for x in (unit[0], targets, unit[1])), order[:240], order[240:])
    return list(trainer.epochs()), trainer


@pytest.mark.parametrize("changes", [{}, {"similarity": "cosine"}, {"loss": "contrastive"}, {"learn_c": True}])
def test_training_against_the_cpu_and_itself(changes):
    (on_cpu, one), (on_cuda, other), (again, third) = (trained(d, **changes) for d in (torch.device("cpu"), CUDA, CUDA))
    for before, after in zip(on_cpu, on_cuda, strict=True):
        for name in ("train_loss", "val_loss", "similarity_positives", "c"):
            assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-6), name
    weights = [t.projector.linear.weight.detach().cpu() for t in (one, other, third)]
    print(f"weights after 3 epochs, CUDA against the CPU: {float((weights[0] - weights[1]).abs().max()):.1e}")
    assert torch.allclose(weights[0], weights[1], atol=1e-4)
    assert torch.equal(weights[1], weights[2]) and on_cuda == again


def test_distances_and_gradients_at_the_edges():
    draw = torch.Generator().manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(40, 8, generator=draw, dtype=torch.float64), dim=1)
    for c in (1e-2, 1.0, 1e6):
        for lengths in (1e-9, 1e-3, 1.0, 20.0, 150.0):
            u = base * lengths * c**0.5
            # Identical rows, nearly identical ones, opposite ones, the origin, and one ray.
            v = torch.cat([u[:10], u[:10] * (1 + 1e-7), -u[:10], u[:5] * 0, u[:5] * 0.5])
            results = []
            for device in ("cpu", CUDA):
                a, b = (x.to(device).requires_grad_() for x in (u, v))
                distance = tangent_pairwise_distance(a, b, c)
                distance.sum().backward()
                results.append([x.detach().cpu() for x in (distance, a.grad, b.grad)])
                with torch.no_grad():
                    assert torch.equal(tangent_pairwise_distance(a, b, c).cpu(), results[-1][0])
            for on_cpu, on_cuda in zip(*results, strict=True):
                assert bool(on_cuda.isfinite().all())
                assert torch.allclose(on_cpu, on_cuda, rtol=1e-6, atol=1e-9 * float(on_cpu.abs().max() + 1e-30))
            assert bool((results[1][0].diagonal()[:10] == 0).all())


def common(rows, home):
    return ("--parquet-dir", rows, "--cache-dir", home / "cache", "--epochs", "4", "--output-dir")


def test_runs_repeat_and_resume_goes_across_devices(rows, tmp_path):
    flags = common(rows, tmp_path)
    for name in ("one", "two"):
        script(TRAIN, *flags, tmp_path / name, "--device", "cuda:0")
    final = [checkpoints.load(tmp_path / name / "projection_epoch_4.pth") for name in ("one", "two")]
    states = [content["projection_state_dict"] for content in final]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for first, then in (("cuda:0", "cpu"), ("cpu", "cuda:0")):
        folder = tmp_path / f"from {first[:4]}"
        script(TRAIN, *flags[:4], "--epochs", "2", "--output-dir", folder, "--device", first)
        done = script(TRAIN, *flags, folder, "--resume", "--device", then, check=False)
        # Another device's embeddings are other data in their last bits; the training says so rather than mixing them.
        assert done.returncode == 2 and "was trained with data" in done.stderr
    results, projector = tmp_path / "r.json", tmp_path / "one" / "projection_epoch_4.pth"
    script(TEST, "--parquet-dir", rows, "--use-hyperbolic", "--projection-checkpoint", projector, "--device", "cpu",
           "--cache-dir", tmp_path / "cache", "--output-json", results)  # fmt: skip
    assert json.loads(results.read_text())["metrics"]["valid_samples"] == 23


def test_a_trainer_goes_on_on_the_other_device(tmp_path):
    cpu = torch.device("cpu")
    whole, _ = trained(cpu, epochs=4)
    for first, then in ((cpu, CUDA), (CUDA, cpu)):
        torch.save(trained(first, epochs=2)[1].state(), tmp_path / "state.pth")
        _, other = trained(then, epochs=2)
        other.settings.epochs = 4
        other.load_state(torch.load(tmp_path / "state.pth", map_location="cpu", weights_only=True))
        for record, expected in zip(other.epochs(first=3), whole[2:], strict=True):
            assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def test_two_ranks_on_one_device(rows, tmp_path):
    flags = ["--parquet-dir", rows, "--checkpoint", TINY, "--device", "cuda:0", "--no-autocast"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / TEST)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    for name, command in (("alone", [sys.executable, str(ROOT / TEST)]), ("ranks", torchrun)):
        rest = [*flags, "--cache-dir", tmp_path / name, "--output-json", tmp_path / f"{name}.json"]
        subprocess.run([*command, *map(str, rest)], check=True, env=environment, capture_output=True, timeout=300)
    alone, ranks = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "ranks"))
    for name, value in alone["metrics"].items():
        assert ranks["metrics"][name] == pytest.approx(value, abs=1e-6), name
