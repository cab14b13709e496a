"""The cache serves an embedding only for the same content, model and preprocessing, and survives damage."""

import contextlib
import errno
import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, cached, encoded_once, tone_rows, write_rows
from safetensors.numpy import load_file, save_file

import CLAP.encoder
from CLAP.encoder import Encoder
from data import ParquetFolder
from hyperbolic_clap.embedding.clips import embed_clips
from hyperbolic_clap.embedding.store import EmbeddingCache, default_folder
from hyperbolic_clap.embedding.texts import embed_classes
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reading.labels import ClassList

CLASSES = ClassList.read(CLASS_LABELS)


@pytest.fixture(autouse=True)
def in_time(monkeypatch, request):
    """A slow machine writes no more pieces than a fast one; the encoder meets a clip once, but where that is tested."""
    monkeypatch.setattr("hyperbolic_clap.embedding.store.PIECE_SECONDS", 1e9)
    with contextlib.nullcontext() if "encoded_anew" in request.fixturenames else encoded_once():
        yield


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
    cache = EmbeddingCache(cache_dir, encoder.audio_fingerprint)
    rows = islice(ParquetFolder(folder, CLASSES), limit)
    clips, keys = zip(*embed_clips(rows, encoder, cache, **options), strict=True)
    audio, known = cache.take(list(keys), encoder.embed_dim)
    assert known.all()
    return encoder, clips, torch.from_numpy(audio)


def test_a_warm_run_never_loads_the_model(tones, tmp_path):
    cold, _, first = embed(tones, tmp_path / "cache")
    warm, clips, second = embed(tones, tmp_path / "cache")
    assert (cold.clips, warm.clips) == (24, 0)
    assert warm._loaded is None and warm._log_mel is None
    assert torch.equal(first, second) and len(clips) == 24


def test_cold_warm_and_without_cache_are_bit_equal(tones, tmp_path, encoded_anew):
    plain = embed(tones, None, limit=10)[2]
    cold = embed(tones, tmp_path / "cache", limit=10)[2]
    part = embed(tones, tmp_path / "other", limit=7)[2]
    rest = embed(tones, tmp_path / "other", limit=10)[2]
    assert torch.equal(plain, cold) and torch.equal(plain, rest) and torch.equal(plain[:7], part)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.usefixtures("encoded_anew")
def test_the_number_of_workers_does_not_matter(tones, tmp_path, workers):
    one, other = (embed(tones, None, limit=10, workers=count)[2] for count in (workers, 2))
    assert len(one) == 10 and torch.equal(one, other)


def test_class_texts_are_encoded_once(tmp_path, encoder):
    names = CLASSES.names[:20]
    for expected in (20, 0):
        counting = CountingEncoder(str(TINY), torch.device("cpu"))
        cache = EmbeddingCache(tmp_path, counting.audio_fingerprint)
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
    before = Encoder(str(TINY), torch.device("cpu")).audio_fingerprint
    monkeypatch.setattr(CLAP.encoder, "PREPROCESSING", "other")
    assert Encoder(str(TINY), torch.device("cpu")).audio_fingerprint != before
    monkeypatch.undo()
    monkeypatch.setattr(CLAP.encoder, "version", lambda name: "0")
    assert Encoder(str(TINY), torch.device("cpu")).audio_fingerprint != before


def change_byte(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "lost", "said"),
    [
        (lambda path: change_byte(path, -(6 * 32 + 100)), 1, "some of its vectors changed"),  # in a vector
        (lambda path: change_byte(path, -(6 * 2080 + 20)), 1, "its keys or checks changed"),  # in a check
        (lambda path: change_byte(path, -100), 1, "its keys or checks changed"),  # in a key
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), 6, "it is cut off"),
        (lambda path: path.write_bytes(b""), 6, "its header is none"),
        (lambda path: path.write_bytes(bytes(10_000)), 6, "its header is none"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"format":"2"', b'"format":"0"')), 6, "differs"),
    ],
)
def test_damage_loses_what_it_hits_and_is_said_once_and_rebuilt(tones, tmp_path, damage, lost, said, caplog):
    first = embed(tones, tmp_path / "cache", limit=6)[2]
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    damage(piece)
    encoder, _, second = embed(tones, tmp_path / "cache", limit=6)
    assert encoder.clips == lost and torch.equal(first, second)
    assert len(caplog.messages) == 1 and said in caplog.text and f"{piece} is damaged" in caplog.text
    caplog.clear()
    encoder, _, third = embed(tones, tmp_path / "cache", limit=6)
    assert encoder.clips == 0 and torch.equal(first, third) and not caplog.messages
    assert len(cached(tmp_path / "cache")) == 6


def test_a_segment_of_another_model_is_not_trusted(tones, tmp_path):
    _, clips, _ = embed(tones, tmp_path / "cache")
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    stranger = EmbeddingCache(tmp_path / "cache", "f" * 64)
    stranger.folder.mkdir(parents=True)
    shutil.copy(piece, stranger.folder)
    assert not EmbeddingCache(tmp_path / "cache", "f" * 64).segments


def draw(count, seed=0, dim=8):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32), np.uint8), rng.random((count, dim), np.float32)


def filled(folder, keys, vectors, piece=10_000):
    cache = EmbeddingCache(folder, "f" * 64)
    for start in range(0, len(keys), piece):
        cache.recent = dict(zip(map(bytes, keys[start : start + piece]), vectors[start : start + piece], strict=True))
        cache.flush()
    return cache


@pytest.mark.parametrize("dim", [8, 7])
@pytest.mark.parametrize("piece", [1000, 50, 7])
def test_any_keys_are_found_in_any_order(tmp_path, dim, piece):
    keys, vectors = draw(1000, dim=dim)
    filled(tmp_path, keys, vectors, piece)
    strangers = draw(30, seed=1)[0]
    rng = np.random.default_rng(2)
    for count in (0, 1, 40, 1500, 6000):
        wanted = rng.integers(0, 1000, count)  # some of them more than once
        asked = np.concatenate([keys[wanted], strangers])
        shuffled = rng.permutation(len(asked))
        got, found = EmbeddingCache(tmp_path, "f" * 64).take(asked[shuffled], dim)
        assert np.array_equal(found, shuffled < count)
        assert np.array_equal(got[found], vectors[wanted[shuffled[found]]])
    assert EmbeddingCache(tmp_path, "f" * 64).get(keys[3].tobytes()).tolist() == vectors[3].tolist()
    assert EmbeddingCache(tmp_path, "f" * 64).get(strangers[3].tobytes()) is None
    assert not EmbeddingCache(tmp_path, "f" * 64).take(keys[:5], dim + 1)[1].any()


@pytest.mark.parametrize("stride", range(1, 7))
def test_every_nth_of_many_vectors_is_read_whatever_lies_between(tmp_path, monkeypatch, stride):
    monkeypatch.setattr("hyperbolic_clap.embedding.segments.ROWS_AT_ONCE", 4)
    keys, vectors = draw(120)
    filled(tmp_path, keys, vectors)
    (piece,) = tmp_path.rglob("*.safetensors")
    stored = load_file(piece)["keys"].tolist()
    order = np.argsort([stored.index(key.tolist()) for key in keys])  # as they lie in the file
    got, found = EmbeddingCache(tmp_path, "f" * 64).take(keys[order[::stride]], 8)
    assert found.all() and got.tolist() == vectors[order[::stride]].tolist()


def test_small_segments_are_merged_and_large_ones_left(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperbolic_clap.embedding.store.SEGMENT_ROWS", 100)
    keys, vectors = draw(700)
    filled(tmp_path, keys, vectors, 9)
    sizes = [len(load_file(path)["keys"]) for path in tmp_path.rglob("*.safetensors")]
    assert sum(sizes) == 700 == len(cached(tmp_path)) and max(sizes) <= 100 and len(sizes) < 700 / 50 + 9
    assert EmbeddingCache(tmp_path, "f" * 64).take(keys, 8)[0].tolist() == vectors.tolist()


def test_what_is_not_yet_written_is_found_beside_what_is(tmp_path):
    keys, vectors = draw(6)
    cache = filled(tmp_path, keys[:5], vectors[:5])
    cache.add(keys[5].tobytes(), vectors[5])
    assert [cache.get(key.tobytes()).tolist() for key in keys] == vectors.tolist()


def test_a_damaged_large_segment_is_replaced_by_what_is_left_of_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("hyperbolic_clap.embedding.store.SEGMENT_ROWS", 6)
    keys, vectors = draw(6)
    filled(tmp_path, keys, vectors)
    (piece,) = tmp_path.rglob("*.safetensors")
    change_byte(piece, -100)  # in a key
    cache = EmbeddingCache(tmp_path, "f" * 64)
    assert cache.take(keys, 8)[1].sum() == 5 and "is damaged" in caplog.text
    caplog.clear()
    cache.flush()
    again = EmbeddingCache(tmp_path, "f" * 64)
    assert again.take(keys, 8)[1].sum() == 5 and not caplog.messages and not piece.exists()


def test_what_another_run_merges_meanwhile_is_found(tmp_path):
    keys, vectors = draw(100)
    for start in range(0, 100, 25):
        filled(tmp_path, keys[start : start + 25], vectors[start : start + 25])
    reader, merger = EmbeddingCache(tmp_path, "f" * 64), EmbeddingCache(tmp_path, "f" * 64)
    merger.flush(most=1)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert reader.take(keys, 8)[1].all(), "open files outlive their names"
    for segment in reader.segments.values():  # as on a network disk, where they do not

        def find(*_):
            raise OSError(errno.ESTALE, "stale")

        segment.find = find
    assert reader.take(keys, 8)[1].all()


def test_many_threads_and_caches_write_at_once(tmp_path):
    keys, vectors = draw(400)

    def work(part):
        filled(tmp_path, keys[part::4], vectors[part::4], 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert EmbeddingCache(tmp_path, "f" * 64).take(keys, 8)[0].tolist() == vectors.tolist()


def piece_of_format_1(folder, keys, vectors, name="a.safetensors", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.sha256(keys.tobytes() + vectors.tobytes()).hexdigest()
    metadata = {"format": "1", "fingerprint": "f" * 64, "sha256": checksum} | changes
    save_file({"keys": keys, "embeddings": vectors}, folder / name, metadata)


def test_pieces_of_earlier_versions_are_taken_over(tmp_path, caplog):
    keys, vectors = draw(40)
    folder = tmp_path / ("f" * 32)
    for i in range(4):
        piece_of_format_1(folder, keys[i * 10 : i * 10 + 10], vectors[i * 10 : i * 10 + 10], f"{i}.safetensors")
    change_byte(folder / "3.safetensors", -100)
    for _ in range(2):
        got, found = EmbeddingCache(tmp_path, "f" * 64).take(keys, 8)
        assert found.tolist() == [True] * 30 + [False] * 10 and np.array_equal(got[:30], vectors[:30])
        assert not list(folder.glob("*.safetensors")) and "3.safetensors is damaged" in caplog.text
    assert len(cached(tmp_path)) == 30


def test_pieces_of_earlier_versions_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    keys, vectors = draw(40)
    piece_of_format_1(tmp_path / ("f" * 32), keys, vectors)

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("hyperbolic_clap.embedding.store.write", refuse)
    assert EmbeddingCache(tmp_path, "f" * 64).take(keys, 8)[0].tolist() == vectors.tolist()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1 and "cannot be written" in caplog.text


def test_pieces_are_written_while_encoding(tones, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperbolic_clap.embedding.store.PIECE_ROWS", 5)
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
    cache = EmbeddingCache(tmp_path / "cache", encoder.audio_fingerprint)
    with pytest.raises(KeyboardInterrupt):
        list(embed_clips(ParquetFolder(tones, CLASSES), encoder, cache, workers=1))
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
    piece_of_format_1(tmp_path / ("f" * 32), keys, embeddings)
    cache = EmbeddingCache(tmp_path, "f" * 64)
    assert not cache.segments and not cache.recent
    assert "a.safetensors is damaged" in caplog.text and not list(tmp_path.rglob("*.safetensors"))


def test_a_piece_that_cannot_be_read_is_not_removed(tones, tmp_path, caplog):
    embed(tones, tmp_path / "cache", limit=3)
    (piece,) = (tmp_path / "cache").rglob("*.safetensors")
    piece.unlink()
    piece.mkdir()  # as good as a disk that fails
    assert embed(tones, tmp_path / "cache", limit=3)[0].clips == 3
    assert piece.is_dir() and f"{piece} cannot be read" in caplog.text


def test_without_a_home_folder_one_sentence(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="give --cache-dir or --no-cache"):
        default_folder()
