"""The CUDA path as far as the CPU can run it: batches, their order and bounds, memory that does not suffice."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import cached, flac, tone, tone_rows, write_rows

from data import ParquetFolder
from hyperbolic_clap.embedding.cuda import CudaBatcher
from hyperbolic_clap.embedding.row_index import embed_rows
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.file_index import FileIndex
from hyperbolic_clap.plumbing.run import run as run_main
from hyperbolic_clap.reading.labels import ClassList

RATE = 48_000


class Device:
    """An encoder that counts and records its batches. fits: the most windows that its memory holds."""

    audio_fingerprint = "f" * 64

    def __init__(self, encoder=None, fits=10**9, fails=None):
        self.encoder, self.fits, self.fails = encoder, fits, fails
        self.batches, self.device, self.embed_dim = [], SimpleNamespace(type="cuda"), 512

    def encode_windows(self, windows):
        if len(windows) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand more")
        self.batches.append(len(windows))
        if self.fails and len(self.batches) == self.fails:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if self.encoder:
            return self.encoder.encode_windows(windows)
        return torch.nn.functional.normalize(windows[:, :4], dim=-1)

    def windows(self, waveform):
        return self.encoder.windows(waveform)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """What needs a driver is left out: pinned memory and the allocator's cache."""
    monkeypatch.setattr(CudaBatcher, "_upload", lambda self, batch: torch.from_numpy(batch))
    monkeypatch.setattr(CudaBatcher, "_free", lambda self: None)


def clips(count, seed=0):
    """{key: windows}: clips of one to three windows of 6 samples."""
    rng = np.random.default_rng(seed)
    return {bytes([i]) * 32: list(rng.normal(size=(1 + i % 3, 6)).astype(np.float32)) for i in range(count)}


def merged(windows):
    vectors = torch.nn.functional.normalize(torch.from_numpy(np.stack(windows))[:, :4], dim=-1)
    return torch.nn.functional.normalize(vectors.mean(dim=0), dim=-1).numpy()


def run(batcher, given):
    for key, windows in given.items():
        batcher.add(key, windows)
    batcher.finish()
    return batcher.cache


@pytest.mark.parametrize("size", [1, 2, 5, 32, 100])
def test_every_clip_gets_the_average_of_its_windows(size):
    given, device = clips(40), Device()
    cache = run(CudaBatcher(device, EmbeddingCache(None, ""), size), given)
    for key, windows in given.items():
        assert np.allclose(cache.get(key), merged(windows), atol=1e-6)
    assert set(device.batches) == {size}  # the last one is filled up
    assert len(device.batches) == -(-sum(map(len, given.values())) // size)


def test_a_clip_is_encoded_once_and_a_known_one_never():
    given, device = clips(9), Device()
    batcher = CudaBatcher(device, EmbeddingCache(None, ""), 4)
    known = next(iter(given))
    batcher.cache.add(known, merged(given[known]))
    for _ in range(2):  # twice while under way
        for key, windows in given.items():
            batcher.add(key, windows)
    batcher.finish()
    windows = sum(map(len, given.values())) - len(given[known])
    assert len(device.batches) == -(-windows // 4)
    run(batcher, given)  # and again when done
    assert len(device.batches) == -(-windows // 4)


def test_what_is_under_way_is_bounded(monkeypatch):
    monkeypatch.setattr(CudaBatcher, "PENDING", 12)
    batcher, most = CudaBatcher(Device(), EmbeddingCache(None, ""), 4), 0
    for key, windows in clips(60).items():
        batcher.add(key, windows)
        assert len(batcher.waiting) < 4 and sum(map(len, batcher.under_way)) < 12
        most = max(most, sum(map(len, batcher.under_way)))
    assert most >= 8 and batcher.cache.recent  # it does run ahead, and it does come back


@pytest.mark.parametrize(("fits", "size"), [(8, 8), (7, 4), (1, 1)])
def test_a_batch_that_does_not_fit_becomes_smaller_by_itself(caplog, fits, size):
    caplog.set_level(logging.WARNING)
    given, device = clips(40), Device(fits=fits)
    cache = run(CudaBatcher(device, EmbeddingCache(None, ""), 32), given)
    for key, windows in given.items():
        assert np.allclose(cache.get(key), merged(windows), atol=1e-6)
    assert set(device.batches) == {size}
    (record,) = caplog.records  # said once
    said = record.getMessage()
    assert "a batch of 32 windows does not fit into the device's memory" in said and f"goes on with {size} " in said


def test_memory_for_not_even_one_window_is_one_sentence(capsys):
    def main(_):
        run(CudaBatcher(Device(fits=0), EmbeddingCache(None, ""), 4), clips(3))

    assert run_main(main, None) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory: lower --batch-size, --encode-batch-size") and error.count("\n") == 1


@pytest.mark.parametrize("sentence", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x", "CUDA out of memory"])
def test_other_ways_to_say_that_memory_is_short(sentence):
    device, asked = Device(), []

    def encode(windows):
        asked.append(len(windows))
        if len(windows) > 2:
            raise RuntimeError(sentence)
        return windows[:, :4]

    device.encode_windows = encode
    run(CudaBatcher(device, EmbeddingCache(None, ""), 4), clips(2))
    assert asked[:2] == [4, 2]


def test_another_error_is_not_swallowed():
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(CudaBatcher(Device(fails=2), EmbeddingCache(None, ""), 4), clips(9))


# Through the whole of embed_clips ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Tones of one and of several windows, one of them twice, and a row that cannot be decoded."""
    rows = tone_rows(9)
    for i, seconds in ((1, 12), (4, 25), (6, 0.3)):
        rows[i]["audio"]["bytes"] = flac(tone(200 + 90 * i, seconds))
    rows[5]["audio"]["bytes"] = rows[2]["audio"]["bytes"]
    rows[7]["audio"]["bytes"] = b"broken"
    return ParquetFolder(write_rows(tmp_path_factory.mktemp("rows"), rows), ClassList.read(CLASS_LABELS))


def embed(rows, device, cache=None, size=4):
    options = {"skip_reason": lambda labels, matches: None, "workers": 2, "batch_size": size}
    return embed_rows(rows, FileIndex(None), (0, 9), device, cache or EmbeddingCache(None, ""), **options)


@pytest.fixture(scope="module")
def expected(rows, encoder):
    return embed(rows, encoder)


@pytest.mark.parametrize("size", [1, 5])
def test_the_same_clips_in_the_same_order_as_on_the_cpu(rows, encoder, expected, size):
    found, audio, skipped, _ = embed(rows, Device(encoder), size=size)
    assert found.video_ids == expected[0].video_ids
    assert skipped.report() == expected[2].report() and len(audio) == 8
    assert float((1 - (audio * expected[1]).sum(dim=1)).max()) < 1e-6


def test_the_same_whether_or_not_some_clips_are_known(rows, encoder, expected):
    whole = embed(rows, Device(encoder))[1]
    cache, device = EmbeddingCache(None, ""), Device(encoder)
    for clip, vector in list(zip(ParquetFolder(rows.folder, rows.classes), expected[1], strict=False))[:3]:
        cache.add(clip.content_key(), vector.numpy())
    again = embed(rows, device, cache)[1]
    assert sum(device.batches) < 12 and float((1 - (again * whole).sum(dim=1)).max()) < 1e-6


def test_finished_clips_are_kept_when_the_device_fails(rows, encoder, tmp_path):
    with pytest.raises(RuntimeError, match="device-side assert"):
        embed(rows, Device(encoder, fails=3), EmbeddingCache(tmp_path, "f" * 64), size=2)
    assert len(cached(tmp_path)) >= 2
