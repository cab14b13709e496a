"""The encoder: equal to transformers' own CLAP path, and the same for a clip whatever stands beside it."""

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from conftest import TINY, tone

from benchmarks.material import SMALL, make_checkpoint
from CLAP.encoder import FLOAT32, Encoder, tensor
from CLAP.logmel import LogMel
from data import ParquetFolder, decode
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reading.labels import ClassList

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def waveforms(realsounds):
    rows = ParquetFolder(realsounds / "eval", ClassList.read(CLASS_LABELS))
    return [decode(clip) for clip, _ in zip(rows, range(20), strict=False)]


@pytest.fixture(scope="module")
def reference():
    from transformers import ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    model = ClapModel.from_pretrained(TINY, **FLOAT32).eval()
    extractor = ClapFeatureExtractor.from_pretrained(TINY)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY, add_prefix_space=True)  # else version 4 takes it away

    def embed(waveform):
        inputs = extractor(waveform, sampling_rate=48_000, return_tensors="pt")
        with torch.inference_mode():
            return tensor(model.get_audio_features(**inputs))[0].numpy()

    def embed_text(text):
        inputs = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            return tensor(model.get_text_features(**inputs))[0].numpy()

    return embed, embed_text


def cosine_distance(a, b):
    return 1 - float(a.astype(np.float64) @ b.astype(np.float64))


def test_parity_with_transformers_on_real_clips(encoder, waveforms, reference):
    for waveform in waveforms:
        assert cosine_distance(encoder.encode_waveform(waveform), reference[0](waveform)) < 1e-5


def test_text_parity_with_transformers(encoder, reference):
    texts = ["This is a sound of Speech.", "This is a sound of Livestock, farm animals, working animals.", "x"]
    for vector, text in zip(encoder.encode_texts(texts), texts, strict=True):
        assert cosine_distance(vector, reference[1](text)) < 1e-5


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_log_mel_equals_the_extractor(truncation, padding):
    from transformers import ClapFeatureExtractor

    config = json.loads((TINY / "preprocessor_config.json").read_text()) | {
        "truncation": truncation,
        "padding": padding,
    }
    rng = np.random.default_rng(0)
    # Low-passed noise and a tone leave bands 100 dB down, where float32 transforms fail.
    smooth = np.convolve(rng.normal(size=70_000), np.hanning(64) / 32, mode="same")
    for waveform in (smooth, tone(440, 3, 48_000), np.zeros(1000), rng.normal(size=480_000), np.ones(1)):
        waveform = waveform.astype(np.float32)
        expected = ClapFeatureExtractor(**config)(waveform, sampling_rate=48_000, return_tensors="pt")["input_features"]
        log_mel = LogMel(config)
        actual = log_mel(torch.from_numpy(log_mel.pad(waveform))[None])
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) < 1e-3


def test_alone_and_in_a_batch(encoder):
    windows = torch.from_numpy(
        np.stack([encoder.windows(tone(f, 2, 48_000).astype("f4"))[0] for f in (200, 900, 4000)])
    )
    together = encoder.encode_windows(windows)
    for window, vector in zip(windows, together, strict=True):
        alone = encoder.encode_windows(window[None])[0]
        assert float((alone - vector).abs().max()) < 1e-5
        assert torch.equal(alone, encoder.encode_windows(window[None])[0])


def test_a_text_does_not_depend_on_its_neighbours(encoder):
    names = ClassList.read(CLASS_LABELS).names
    whole = encoder.encode_texts(names)
    assert np.array_equal(encoder.encode_texts(names[40:77][::-1]), whole[40:77][::-1])
    assert np.unique(whole, axis=0).shape[0] == 527


def test_long_clips_are_cut_into_windows(encoder):
    second = 48_000
    clip = np.random.default_rng(0).normal(0, 0.1, 25 * second).astype(np.float32)
    assert len(encoder.windows(clip[: 10 * second])) == 1
    assert len(encoder.windows(clip[: 10 * second + second - 1])) == 1
    assert len(encoder.windows(clip[: 11 * second])) == 2
    parts = [encoder.encode_waveform(clip[start * second : (start + 10) * second]) for start in (0, 10, 20)]
    mean = np.mean(parts, axis=0)
    assert np.allclose(encoder.encode_waveform(clip), mean / np.linalg.norm(mean), atol=1e-6)
    assert np.array_equal(encoder.encode_waveform(clip[: 10 * second + 30_000]), parts[0])


def test_fused_checkpoint_has_no_randomness(tmp_path):
    from transformers import ClapFeatureExtractor, ClapModel

    encoder = Encoder(str(make_checkpoint(tmp_path, SMALL, fused=True)), CPU)
    waveform = tone(440, 4, 48_000).astype(np.float32)
    vector = encoder.encode_waveform(waveform)
    assert np.array_equal(vector, encoder.encode_waveform(waveform))
    model = ClapModel.from_pretrained(tmp_path).eval()
    inputs = ClapFeatureExtractor.from_pretrained(tmp_path)(waveform, sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():  # the processor marks a random clip as longer; without that mark both agree
        plain = tensor(model.get_audio_features(inputs["input_features"], torch.zeros(1, 1, dtype=torch.bool)))[0]
    assert cosine_distance(vector, plain.numpy()) < 1e-5


def test_float16_weights_run_in_float32(encoder):
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no CLAP model"),
        (lambda f: (f / "config.json").write_text("{"), "config.json that is not JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "'bert' model"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json that is not a JSON object"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded as a CLAP model"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded with its tokenizer"),
        (lambda f: (f / "tokenizer.json").unlink(), "lacks its tokenizer: tokenizer.json, or vocab.json and"),
        (lambda f: change(f / "tokenizer_config.json", add_prefix_space=False), "add_prefix_space is true in token"),
        (lambda f: add_token(f / "tokenizer.json", "zzz", 1200), "what its tokenizer gives: id 1200 of 1200"),
        (lambda f: change(f / "config.json", projection_dim="x"), "CLAP model: (Validation error|empty)"),
        (lambda f: change(f / "preprocessor_config.json", hop_length=0), "windows of 480000 samples in steps of 0"),
        (lambda f: change(f / "preprocessor_config.json", max_length_s=10**6), "windows of 48000000000 samples"),
        (lambda f: change(f / "preprocessor_config.json", fft_window_size="x"), "cannot make spectrograms with its"),
    ],
)
def test_a_damaged_model_is_named(tmp_path, damage, says):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    damage(folder)
    with pytest.raises(UserError, match=says) as error:
        encoder = Encoder(str(folder), CPU)
        assert encoder.log_mel and encoder.encode_texts(["x zzz"]) is not None
    assert "\n" not in str(error.value)


def add_token(path, content, number):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokens = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    change(path, added_tokens=[*tokens, plain | {"id": number, "content": content}])


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values))


@pytest.mark.parametrize("form", ["zip", "pickle", "tar"])
def test_a_pickle_in_a_model_is_refused_and_does_not_run(tmp_path, form):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    path = tmp_path / "model" / "pytorch_model.bin"
    torch.save({"payload": Payload()}, path, _use_new_zipfile_serialization=form == "zip")
    says = "it holds Python objects"
    if form == "tar":  # torch before 0.4 wrote these; torch before 2.6 loads them without weights_only
        says, content = "is cut off, or no file of torch.save", io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for name in ("storages", "tensors", "pickle"):
                data = pickle.dumps(Payload() if name == "pickle" else 0, protocol=2)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        path.write_bytes(content.getvalue())
    with pytest.raises(UserError, match=f"cannot be loaded as a CLAP model: .*{says}") as error:
        assert Encoder(str(tmp_path / "model"), CPU).model
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_does_not_run(tmp_path, encoder):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    foreign = {"AutoTokenizer": ["foreign.T", None], "AutoModel": "foreign.M", "AutoConfig": "foreign.C"}
    change(model / "config.json", auto_map=foreign)
    change(model / "tokenizer_config.json", auto_map=foreign, tokenizer_class="T")
    (model / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\nC = M = T\n")
    assert np.array_equal(Encoder(str(model), CPU).encode_texts(["x"]), encoder.encode_texts(["x"]))
    assert not (tmp_path / "ran").exists()


def test_all_of_a_model_is_loaded_before_the_first_clip_is_encoded(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    encoder = Encoder(str(tmp_path / "model"), CPU)
    with pytest.raises(UserError, match="cannot be loaded with its tokenizer"):
        encoder.encode_waveform(tone(440, 2, 48_000).astype(np.float32))


def test_what_a_key_depends_on(tmp_path):
    """A clip's on weights and preprocessing, a text's on weights and tokenizer."""

    def of(folder):
        encoder = Encoder(str(folder), CPU)
        return encoder.audio_fingerprint, encoder.text_fingerprint

    before = of(TINY)
    for name, changed in (
        ("tokenizer.json", (False, True)), ("preprocessor_config.json", (True, False)), ("config.json", (True, True)),
        ("model.safetensors", (True, True)), ("README.md", (False, False)),
    ):  # fmt: skip
        folder = tmp_path / name
        shutil.copytree(TINY, folder)
        if name == "model.safetensors":
            content = bytearray((folder / name).read_bytes())
            content[-1] ^= 1
            (folder / name).write_bytes(content)
        else:
            with (folder / name).open("a") as file:
                file.write("\n")
        assert tuple(a != b for a, b in zip(before, of(folder), strict=True)) == changed, name


def test_missing_weights_are_not_filled_with_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY, tmp_path / "model")
    weights = load_file(TINY / "model.safetensors")
    weights.pop("audio_projection.linear1.weight")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="audio_projection.linear1.weight"):
        assert Encoder(str(tmp_path / "model"), CPU).model
