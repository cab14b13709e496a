"""The cache serves an embedding only for the same content, model and preprocessing, and survives damage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, tone_rows, write_rows
from safetensors.numpy import load_file, save_file

import CLAP.encoder
from CLAP.cache import EmbeddingCache, default_folder
from CLAP.encoder import Encoder
from data import ParquetFolder
from embedding.clips import embed_clips
from embedding.texts import embed_classes
from plumbing.errors import UserError
from plumbing.flags import CLASS_LABELS
from reading.labels import ClassList

CLASSES = ClassList.read(CLASS_LABELS)


class CountingEncoder(Encoder):
    """Counts what passes the network."""

    clips = texts = 0

    def encode_waveform(self, waveform):
        self.clips += 1
        return super().encode_waveform(waveform)

    def encode_texts(self, texts):
        self.texts += len(texts)
        return super().encode_texts(texts)


def embed(folder, cache_dir, model=TINY, limit=1000, **options):
    encoder = CountingEncoder(str(model), torch.device("cpu"))
    cache = EmbeddingCache(cache_dir, encoder.fingerprint)
    clips, audio, skipped = embed_clips(
        ParquetFolder(folder, CLASSES), encoder, cache, limit, lambda clip: None, **options
    )
    return encoder, clips, audio


def test_a_warm_run_never_loads_the_model(tones, tmp_path):
    cold, _, first = embed(tones, tmp_path / "cache")
    warm, clips, second = embed(tones, tmp_path / "cache")
    assert (cold.clips, warm.clips) == (24, 0)
    assert warm._model is None and warm._log_mel is None
    assert torch.equal(first, second) and len(clips) == 24


def test_cold_warm_and_without_cache_are_bit_equal(tones, tmp_path):
    plain = embed(tones, None)[2]
    cold = embed(tones, tmp_path / "cache")[2]
    part = embed(tones, tmp_path / "other", limit=7)[2]
    rest = embed(tones, tmp_path / "other")[2]
    assert torch.equal(plain, cold) and torch.equal(plain, rest) and torch.equal(plain[:7], part)


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_workers_does_not_matter(tones, tmp_path, workers):
    assert torch.equal(embed(tones, None, workers=workers)[2], embed(tones, None, workers=2)[2])


def test_class_texts_are_encoded_once(tmp_path, encoder):
    names = CLASSES.names[:20]
    for expected in (20, 0):
        counting = CountingEncoder(str(TINY), torch.device("cpu"))
        cache = EmbeddingCache(tmp_path, counting.fingerprint)
        text = embed_classes(names, counting, cache)
        assert counting.texts == expected
    assert np.array_equal(text.numpy(), encoder.encode_texts([f"This is a sound of {name}." for name in names]))


def test_changed_content_misses_and_renamed_files_hit(tmp_path):
    rows = tone_rows(6)
    write_rows(tmp_path / "a", rows)
    embed(tmp_path / "a", tmp_path / "cache")
    rows[2]["audio"]["bytes"] = tone_rows(7)[6]["audio"]["bytes"]
    write_rows(tmp_path / "a", rows)
    assert embed(tmp_path / "a", tmp_path / "cache")[0].clips == 1
    shutil.move(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "00.parquet").rename(tmp_path / "b" / "renamed.parquet")
    assert embed(tmp_path / "b", tmp_path / "cache")[0].clips == 0


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_another_model_or_preprocessing_misses(tones, tmp_path, file):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    embed(tones, tmp_path / "cache", model, limit=3)
    path = model / file
    if file.endswith(".json"):
        path.write_text(path.read_text().rstrip()[:-1] + ', "note": 1}')
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert embed(tones, tmp_path / "cache", model, limit=3)[0].clips == 3


def test_another_pipeline_version_or_precision_misses(monkeypatch):
    before = Encoder(str(TINY), torch.device("cpu")).fingerprint
    monkeypatch.setattr(CLAP.encoder, "PREPROCESSING", "other")
    assert Encoder(str(TINY), torch.device("cpu")).fingerprint != before
    monkeypatch.undo()
    monkeypatch.setattr(CLAP.encoder.metadata, "version", lambda name: "0")
    assert Encoder(str(TINY), torch.device("cpu")).fingerprint != before


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"format":"1"', b'"format":"0"')),
    ],
)
def test_damaged_pieces_are_said_and_rebuilt(tones, tmp_path, damage, caplog):
    first = embed(tones, tmp_path / "cache")[2]
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    damage(piece)
    encoder, _, second = embed(tones, tmp_path / "cache")
    assert encoder.clips == 24 and torch.equal(first, second)
    assert "is damaged" in caplog.text
    assert embed(tones, tmp_path / "cache")[0].clips == 0


def test_a_piece_of_another_model_is_not_trusted(tones, tmp_path):
    embed(tones, tmp_path / "cache")
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    stranger = EmbeddingCache(tmp_path / "cache", "f" * 64)
    stranger.folder.mkdir()
    shutil.copy(piece, stranger.folder)
    assert not EmbeddingCache(tmp_path / "cache", "f" * 64).known


def test_pieces_are_written_while_encoding(tones, tmp_path, monkeypatch):
    monkeypatch.setattr("CLAP.cache.PIECE_ROWS", 5)
    embed(tones, tmp_path / "cache")
    pieces = [load_file(piece) for piece in (tmp_path / "cache").rglob("*.safetensors")]
    assert sorted(len(piece["keys"]) for piece in pieces) == [4, 5, 5, 5, 5]


def test_an_interrupted_run_keeps_what_it_encoded(tones, tmp_path):
    class Interrupted(CountingEncoder):
        def encode_waveform(self, waveform):
            if self.clips == 10:
                raise KeyboardInterrupt
            return super().encode_waveform(waveform)

    encoder = Interrupted(str(TINY), torch.device("cpu"))
    cache = EmbeddingCache(tmp_path / "cache", encoder.fingerprint)
    with pytest.raises(KeyboardInterrupt):
        embed_clips(ParquetFolder(tones, CLASSES), encoder, cache, 24, lambda clip: None, workers=1)
    assert embed(tones, tmp_path / "cache")[0].clips == 14


def test_a_folder_that_cannot_be_written_is_a_warning(tones, tmp_path, caplog):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    encoder, _, audio = embed(tones, blocked)
    assert encoder.clips == 24 and "cannot be written" in caplog.text
    assert torch.equal(audio, embed(tones, None)[2])


def test_two_runs_share_a_cache(tones, tmp_path):
    embed(tones, tmp_path / "cache", limit=10)
    embed(tones, tmp_path / "cache", limit=24)
    assert embed(tones, tmp_path / "cache")[0].clips == 0


@pytest.mark.parametrize(
    ("keys", "embeddings"),
    [
        (np.zeros((2, 32), np.uint8), np.full((2, 4), np.nan, np.float32)),
        (np.zeros((2, 32), np.uint8), np.zeros((2, 4), np.float64)),
        (np.zeros((2, 32), np.uint8), np.zeros((3, 4), np.float32)),
        (np.zeros((2, 31), np.uint8), np.zeros((2, 4), np.float32)),
        (np.zeros((), np.uint8), np.zeros(2, np.float32)),
    ],
)
def test_a_strangers_piece_with_a_right_checksum(tmp_path, keys, embeddings, caplog):
    cache = EmbeddingCache(tmp_path, "f" * 64)
    cache.folder.mkdir()
    content = {"keys": keys, "embeddings": embeddings}
    save_file(content, cache.folder / "a.safetensors", cache._metadata(keys, embeddings))
    assert not EmbeddingCache(tmp_path, "f" * 64).known
    assert "a.safetensors is damaged" in caplog.text and not list(cache.folder.iterdir())


def test_a_piece_that_cannot_be_read_is_not_removed(tones, tmp_path, caplog):
    embed(tones, tmp_path / "cache", limit=3)
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    piece.unlink()
    piece.mkdir()  # as good as a disk that fails
    assert embed(tones, tmp_path / "cache", limit=3)[0].clips == 3
    assert piece.is_dir() and f"cache piece {piece} cannot be read" in caplog.text


def test_without_a_home_folder_one_sentence(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="give --cache-dir or --no-cache"):
        default_folder()
