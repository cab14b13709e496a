"""What keys and fingerprints are made of: each ingredient changed alone gives another one; what is none does not."""

import dataclasses
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY

import CLAP.encoder
from data import Clip
from hyperbolic_clap.embedding.pipeline import open_embedder
from hyperbolic_clap.embedding.row_index import keys_of
from hyperbolic_clap.embedding.texts import text_key
from hyperbolic_clap.plumbing import file_index
from hyperbolic_clap.plumbing.config import EncoderConfig, TrainConfig
from hyperbolic_clap.plumbing.file_index import FileIndex, stat_token
from hyperbolic_clap.training.split import fingerprint


def encoder(model=TINY, device="cpu", autocast=True):
    """Of audio, of text: what vectors are kept under."""
    made = CLAP.encoder.Encoder(str(model), torch.device(device), autocast)
    return made.audio_fingerprint, made.text_fingerprint


def change(path):
    content = bytearray(path.read_bytes())
    if path.suffix == ".json":
        content = content.rstrip()[:-1] + b', "changed": 1}'
    else:
        content[-1] ^= 1
    path.write_bytes(content)


BOTH, AUDIO, TEXT = (0, 1), (0,), (1,)


@pytest.mark.parametrize(("file", "of"), [("model.safetensors", BOTH), ("config.json", BOTH),
                         ("preprocessor_config.json", AUDIO), ("tokenizer.json", TEXT)])  # fmt: skip
def test_the_model_s_files_are_in_the_fingerprint(tmp_path, file, of):
    shutil.copytree(TINY, tmp_path / "model")
    before = encoder(tmp_path / "model")
    assert before == encoder()  # and not its folder
    change(tmp_path / "model" / file)
    after = encoder(tmp_path / "model")
    assert all(before[i] != after[i] for i in of)


def test_what_a_file_is_called_is_in_the_fingerprint(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    before, found = encoder(tmp_path / "model"), []
    for name in ("special_tokens_map.json", "vocab.json"):
        (tmp_path / "model" / name).write_text("{}")
        found.append(encoder(tmp_path / "model"))
        (tmp_path / "model" / name).unlink()
    assert len({text for _, text in [before, *found]}) == 3 and {audio for audio, _ in found} == {before[0]}


@pytest.mark.parametrize(("library", "of"), [("torch", BOTH), ("transformers", BOTH), ("soxr", AUDIO),
                         ("tokenizers", TEXT), ("libsndfile", AUDIO), ("preprocessing", AUDIO)])  # fmt: skip
def test_versions_are_in_the_fingerprint(monkeypatch, library, of):
    before, version = encoder(), CLAP.encoder.version
    if library == "libsndfile":
        monkeypatch.setattr(soundfile, "__libsndfile_version__", "0")
    elif library == "preprocessing":
        monkeypatch.setattr(CLAP.encoder, "PREPROCESSING", "0")
    else:
        monkeypatch.setattr(CLAP.encoder, "version", lambda name: "0" if name == library else version(name))
    after = encoder()
    assert all(before[i] != after[i] for i in of)


def test_device_and_precision_are_in_the_fingerprint():
    cpu, cuda, float32 = encoder(), encoder(device="cuda"), encoder(device="cuda", autocast=False)
    assert len({cpu[0], cuda[0], float32[0]}) == 3 and cpu[1] != cuda[1]
    assert encoder(autocast=False) == cpu and encoder(device="cuda:1") == cuda


def test_keys_of_clips():
    samples = np.arange(12, dtype=np.float32)
    clip = Clip(1, "a", ["x"], ["y"], [3], samples, 16_000)
    keys = {clip.content_key()}
    others = [{"audio": samples.reshape(3, 4)}, {"audio": samples.reshape(4, 3)}, {"audio": samples.view(np.int32)},
              {"audio": samples + 1}, {"rate": 16_001}, {"audio": samples.tobytes()}, {"audio": b"x"}]  # fmt: skip
    keys |= {dataclasses.replace(clip, **other).content_key() for other in others}
    assert len(keys) == 1 + len(others)
    same = dataclasses.replace(clip, sample_id=2, video_id="b", human_labels=[], machine_labels=[], positions=[])
    assert same.content_key() == clip.content_key()
    strided = dataclasses.replace(clip, audio=np.repeat(samples, 2)[::2])
    assert strided.content_key() == clip.content_key()


def test_keys_of_texts():
    texts = ["rain", "Rain", "rain ", "text\nrain", "encoded\nrain", ""]
    keys = {text_key(text, fingerprint) for text in texts for fingerprint in ("a", "b")}
    keys |= {Clip(0, "", [], [], audio=text.encode()).content_key() for text in (*texts, "text\nrain")}
    assert len(keys) == 3 * len(texts) and all(len(key) == 32 for key in keys)


@pytest.mark.parametrize("what", ["size", "content time", "entry time", "number", "nothing"])
def test_a_file_is_known_by_its_size_times_and_number(tmp_path, what, monkeypatch):
    monkeypatch.setattr(file_index, "RACY_SECONDS", -1)
    file, index = tmp_path / "a", FileIndex(tmp_path / "table")
    file.write_bytes(b"12345678")
    seen, real = stat_token(file), os.stat(file)
    index.put(file, "kind", seen, {"x": np.arange(3)})
    changed = {"size": 0, "content time": 1, "entry time": 2, "number": 3}.get(what)
    values = [real.st_size, real.st_mtime_ns, real.st_ctime_ns, real.st_ino]
    if changed is not None:
        values[changed] += 1

    class Stat:
        st_size, st_mtime_ns, st_ctime_ns, st_ino = values
        st_mode = real.st_mode

    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: Stat if path == file else stat(path, **options))
    assert (index.get(file, "kind") is None) == (what != "nothing")
    assert index.get(file, "another kind") is None


@pytest.mark.parametrize("age", [0.0, 2.9, 3.1])
def test_a_file_is_known_only_if_it_lay_still_for_three_seconds(tmp_path, monkeypatch, age):
    file, index = tmp_path / "a", FileIndex(tmp_path / "table")
    file.write_bytes(b"12345678")
    monkeypatch.setattr(file_index.time, "time_ns", lambda: int(os.stat(file).st_ctime_ns + age * 1e9))
    index.put(file, "kind", stat_token(file), {"x": np.arange(3)})
    assert (index.get(file, "kind") is not None) == (age > 3)


def test_a_file_that_changed_since_it_was_looked_at_and_another_s_entry_are_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(file_index, "RACY_SECONDS", -1)
    index, files = FileIndex(tmp_path / "table"), [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(b"12345678")
        seen = stat_token(file)
        index.put(file, "kind", seen | {"token": [9, *seen["token"][1:]]}, {"x": np.arange(3)})
    assert not list((tmp_path / "table").rglob("*.known"))
    index.put(files[0], "kind", seen | {"token": stat_token(files[0])["token"]}, {"x": np.arange(3)})
    (entry,) = (tmp_path / "table").rglob("*.known")
    os.link(files[0], tmp_path / "c")  # the same size, times and number under another name
    index.put(files[0], "kind", stat_token(files[0]), {"x": np.arange(3)})
    shutil.copy(entry, file_index._entry(tmp_path / "table", tmp_path / "c", "kind"))
    assert index.get(files[0], "kind") is not None and index.get(tmp_path / "c", "kind") is None


@pytest.mark.parametrize("now", [1, 5, 9])
def test_a_hash_that_is_not_what_was_known_is_said(tmp_path, monkeypatch, now, caplog):
    monkeypatch.setattr(file_index, "RACY_SECONDS", -1)
    (tmp_path / "a").write_bytes(b"12345678")
    assert FileIndex(tmp_path / "table").hash(tmp_path / "a", lambda _: bytes([5] * 32)) == bytes([5] * 32)
    assert FileIndex(tmp_path / "table").hash(tmp_path / "a", lambda _: bytes([9] * 32)) == bytes([5] * 32)
    index = FileIndex(tmp_path / "table", verify=True)
    assert index.hash(tmp_path / "a", lambda _: bytes([now] * 32)) == bytes([now] * 32)
    assert ("had changed without" in caplog.text) == (now != 5)


def test_the_identity_of_a_training():
    """Every setting but those that only say how long it goes on, or which the data's fingerprint holds."""
    other = {"loss": "softmax", "similarity": "cosine", "learn_c": True, "lr_schedule": "cosine", "split_by": "x",
             "logit_scale": 5.0, "text_radius": 2.0, "text": "captions", "patience": 3,
             "select_by": "val_map"}  # fmt: skip
    base = TrainConfig()
    for name, value in dataclasses.asdict(base).items():
        changed = dataclasses.replace(base, **{name: other.get(name, value and value * 2 or 0.5)})
        assert changed != base
        left_out = name in ("epochs", "text", "train_ratio", "patience", "select_by")
        assert (changed.identity() == base.identity()) == left_out, name
    cosine = dataclasses.replace(base, lr_schedule="cosine")
    assert dataclasses.replace(cosine, epochs=99).identity() != cosine.identity()


def test_the_fingerprint_of_the_data():
    x, y = torch.arange(6.0), torch.arange(6)
    others = (x, y), (y, x), (x,), (x.view(2, 3), y), (x + 1, y), (x.double(), y)
    assert len({fingerprint(*tensors) for tensors in others}) == 6 and fingerprint(x, y) == fingerprint(x.clone(), y)
    long = torch.arange(10_000.0)
    assert fingerprint(long) != fingerprint(torch.cat([long[:-1], long[:1]]))


def test_the_cache_lies_by_what_makes_a_clip_s_vector(tmp_path):
    """By weights and preprocessing, not by the model's files alone."""
    embedder = open_embedder(EncoderConfig(str(TINY), cache_dir=tmp_path), torch.device("cpu"))
    assert embedder.cache.fingerprint == embedder.encoder.audio_fingerprint != embedder.encoder.sha256


def test_a_clip_s_key_is_its_own_in_whatever_order_the_ranks_bring_their_rows():
    keys = np.random.default_rng(0).integers(0, 256, (10, 32), np.uint8)  # of the rows 0 to 9
    spans = (5, 0, 3), (0, 4, 5), (0, 0, 4), (5, 3, 5)  # (first, start, stop)
    parts = [SimpleNamespace(span=SimpleNamespace(first=first, start=start, stop=stop),
                             keys=keys[first + start : first + stop]) for first, start, stop in spans]  # fmt: skip
    ids = np.array([9, 0, 4, 5, 7])
    assert np.array_equal(keys_of(ids, parts), keys[ids])
