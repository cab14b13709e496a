"""Every form in which CLAP lies on the hubs: four published models, six forms of weights, ModelScope's cache layouts.

No weights are fetched. What is reconstructed: the keys of config.json, preprocessor_config.json and the tokenizer files
are those that transformers 4.27 to 4.31 wrote for these models, from its configuration classes and conversion script;
depths, strides and filters are the published ones. Widths, vocabulary and weights are small and random.
"""

import fnmatch
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, tone
from safetensors.torch import save_file

from benchmarks.material import class_names
from CLAP.checkpoint import _cached, resolve_checkpoint
from CLAP.encoder import FLOAT32, Encoder, tensor
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.versions import at_least

CPU = torch.device("cpu")
# name: (fused, depths, width of the first stage)
PUBLISHED = {
    "laion/clap-htsat-unfused": (False, [2, 2, 6, 2], 6),
    "laion/clap-htsat-fused": (True, [2, 2, 6, 2], 6),
    "laion/larger_clap_general": (False, [2, 2, 12, 2], 8),
    "laion/larger_clap_music_and_speech": (False, [2, 2, 12, 2], 8),
}
# What every configuration of those versions carries along, generation settings included.
DUMPED = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False,
    "finetuning_task": None, "forced_bos_token_id": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False, "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0,
    "max_length": 20, "min_length": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "prefix": None,
    "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "return_dict": True, "sep_token_id": None, "suppress_tokens": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0,
    "torch_dtype": None, "torchscript": False, "transformers_version": "4.27.0.dev0", "typical_p": 1.0,
    "use_bfloat16": False,
}  # fmt: skip
TEXTS = ["This is a sound of Speech.", "This is a sound of Livestock, farm animals, working animals.", "x"]


def config(name: str) -> dict:
    fused, depths, width = PUBLISHED[name]
    audio = DUMPED | {
        "aff_block_r": 4, "attention_probs_dropout_prob": 0.0, "depths": depths, "drop_path_rate": 0.0,
        "enable_fusion": fused, "enable_patch_fusion": False, "enable_patch_layer_norm": True,
        "flatten_patch_embeds": True, "fusion_num_hidden_layers": 2, "fusion_type": "aff_2d" if fused else None,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 8 * width, "initializer_factor": 1.0,
        "layer_norm_eps": 1e-05, "mlp_ratio": 4.0, "model_type": "clap_audio_model",
        "num_attention_heads": [1, 2, 4, 2], "num_classes": 527, "num_hidden_layers": 4, "num_mel_bins": 64,
        "patch_embed_input_channels": 1, "patch_embeds_hidden_size": width, "patch_size": 4, "patch_stride": [4, 4],
        "projection_dim": 512, "projection_hidden_act": "relu", "qkv_bias": True, "spec_size": 256, "window_size": 8,
    }  # fmt: skip
    text = DUMPED | {
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "classifier_dropout": None, "eos_token_id": 2,
        "fusion_hidden_size": 768, "fusion_num_hidden_layers": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "hidden_size": 16, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 32,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 514, "model_type": "clap_text_model",
        "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 1, "position_embedding_type": "absolute",
        "projection_dim": 512, "projection_hidden_act": "relu", "type_vocab_size": 1, "use_cache": True,
        "vocab_size": 1000,
    }  # fmt: skip
    return {
        "_commit_hash": None, "architectures": ["ClapModel"], "audio_config": audio, "hidden_size": 768,
        "initializer_factor": 1.0, "logit_scale_init_value": 14.285714285714285, "model_type": "clap",
        "num_hidden_layers": 16, "projection_dim": 512, "projection_hidden_act": "relu", "text_config": text,
        "torch_dtype": "float32", "transformers_version": None,
    }  # fmt: skip


def preprocessor(fused: bool) -> dict:
    return {
        "chunk_length_s": 10, "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64,
        "fft_window_size": 1024, "frequency_max": 14000, "frequency_min": 50, "hop_length": 480, "max_length_s": 10,
        "n_fft": 1024, "nb_frequency_bins": 513, "nb_max_frames": 1000, "nb_max_samples": 480000,
        "padding": "repeatpad", "padding_side": "right", "padding_value": 0.0, "processor_class": "ClapProcessor",
        "return_attention_mask": False, "sampling_rate": 48000, "top_db": None,
        "truncation": "fusion" if fused else "rand_trunc",
    }  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """The five files of a RobertaTokenizer of those versions; the merges are learned from class names."""
    from tokenizers import ByteLevelBPETokenizer, processors

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer(trim_offsets=True)
    bpe.train_from_iterator(class_names(), vocab_size=1000, special_tokens=special, show_progress=False)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    bpe.save_model(str(folder))
    bpe.save(str(folder / "tokenizer.json"))
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False,
            "single_word": False}  # fmt: skip
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "</s>",
             "unk_token": "<unk>"}  # fmt: skip
    write(folder, "special_tokens_map.json", names | {"mask_token": {k: v for k, v in mask.items() if k != "__type"}})
    write(folder, "tokenizer_config.json", names | {
        "add_prefix_space": False, "errors": "replace", "mask_token": mask, "model_max_length": 512,
        "processor_class": "ClapProcessor", "special_tokens_map_file": None, "tokenizer_class": "RobertaTokenizer",
        "trim_offsets": True,
    })  # fmt: skip


def write(folder: Path, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> (folder without weights, state dict, and what transformers itself embeds)."""
    from transformers import ClapConfig, ClapModel

    made = {}

    def model(name: str) -> SimpleNamespace:
        if name not in made:
            folder = tmp_path_factory.mktemp("published")
            write(folder, "config.json", config(name))
            write(folder, "preprocessor_config.json", preprocessor(PUBLISHED[name][0]))
            write_tokenizer(folder)
            torch.manual_seed(len(name))
            network = ClapModel(ClapConfig.from_pretrained(folder)).eval()
            network.audio_model.audio_encoder.batch_norm.running_mean.fill_(-30.0)
            network.audio_model.audio_encoder.batch_norm.running_var.fill_(400.0)
            made[name] = SimpleNamespace(folder=folder, network=network, state=network.state_dict())
        return made[name]

    return model


def form(model: SimpleNamespace, folder: Path, kind: str) -> Path:
    """A copy of a published folder with its weights in one of the forms."""
    shutil.copytree(model.folder, folder, dirs_exist_ok=True)
    # Older versions stored this buffer too.
    positions = {"text_model.embeddings.position_ids": torch.arange(514)[None]}
    state = {name: value.contiguous() for name, value in (model.state | positions).items()}
    if "float16" in kind:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        write(folder, "config.json", json.loads((folder / "config.json").read_text()) | {"torch_dtype": "float16"})
    parts = [dict(list(state.items())[i::3]) for i in range(3)] if "sharded" in kind else [state]
    for stem, ending, save in (
        ("model", "safetensors", lambda part, path: save_file(part, path, {"format": "pt"})),
        ("pytorch_model", "bin", torch.save),
    ):
        if ending not in kind and kind != "both":
            continue
        if len(parts) == 1:
            save(state, folder / f"{stem}.{ending}")
            continue
        names = [f"{stem}-{i:05d}-of-{len(parts):05d}.{ending}" for i in range(1, len(parts) + 1)]
        for name, part in zip(names, parts, strict=True):
            save(part, folder / name)
        places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        write(folder, f"{stem}.{ending}.index.json", {"metadata": {"total_size": 1}, "weight_map": places})
    return folder


FORMS = ["safetensors", "bin", "both", "sharded safetensors", "sharded bin", "float16 safetensors", "float16 bin"]
SOUND = (np.random.default_rng(0).normal(0, 0.1, 12 * 48_000) + tone(440, 12, 48_000)).astype(np.float32)


def references(folder: Path):
    """transformers' own way: waveforms -> (N, 512), and texts -> (N, 512)."""
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    model = ClapModel.from_pretrained(folder, **FLOAT32).eval()
    extractor, tokenizer = ClapFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def audio(waveforms):
        inputs = extractor(waveforms, sampling_rate=48_000, return_tensors="pt")
        return tensor(model.get_audio_features(**inputs)).numpy()

    @torch.inference_mode()
    def text(texts):
        return tensor(model.get_text_features(**tokenizer(texts, return_tensors="pt", padding=True))).numpy()

    return audio, text


def distance(a, b) -> float:
    """The largest cosine distance of matching rows."""
    a, b = (np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return float((1 - (a * b).sum(axis=-1)).max())


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("kind", FORMS)
def test_each_form_of_each_model_loads(models, tmp_path, name, kind):
    model = models(name)
    encoder = Encoder(str(form(model, tmp_path / "model", kind)), CPU)
    assert encoder.in_safetensors == ("bin" not in kind)
    loaded = encoder.model.state_dict()
    assert loaded.keys() == model.state.keys()
    for key, value in model.state.items():
        expected = value.half().float() if "float16" in kind and value.is_floating_point() else value
        assert loaded[key].dtype == expected.dtype and torch.equal(loaded[key], expected), key
    assert encoder.embed_dim == 512 and encoder.log_mel.fused == PUBLISHED[name][0]
    assert encoder.log_mel.window == 480_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_parity_with_transformers(models, tmp_path, name):
    folder = form(models(name), tmp_path / "model", "safetensors")
    encoder, (audio, text) = Encoder(str(folder), CPU), references(folder)
    assert distance(encoder.encode_texts(TEXTS), text(TEXTS)) < 1e-5
    # Beside a longer clip a fused processor leaves short ones as they are; alone it marks one at random as longer.
    for clip in (SOUND[:100_000], SOUND[:480_000]):
        assert distance(encoder.encode_waveform(clip), audio([clip, SOUND])[0]) < 1e-5


def test_longer_clips_parity_of_the_crop_that_transformers_takes(models, tmp_path, monkeypatch):
    """Unfused: transformers embeds one random crop of 10 s; here every window is embedded, and they are averaged."""
    folder = form(models("laion/larger_clap_general"), tmp_path / "model", "safetensors")
    encoder, (audio, _) = Encoder(str(folder), CPU), references(folder)
    crops = []
    for start in (0, 30_000, 96_000):
        monkeypatch.setattr(np.random, "randint", lambda low, high, start=start: min(start, high - 1))
        crops.append(audio([SOUND])[0])
        assert distance(encoder.encode_waveform(SOUND[start : start + 480_000]), crops[-1]) < 1e-5
    assert distance(crops[0], crops[2]) > 1e-5  # the crop matters: a number that depends on chance
    assert np.array_equal(encoder.encode_waveform(SOUND), encoder.encode_waveform(SOUND))


def test_safetensors_go_before_a_bin_with_other_weights(models, tmp_path):
    folder = form(models("laion/clap-htsat-unfused"), tmp_path / "model", "both")
    shutil.copy(folder / "config.json", folder / "pytorch_model.bin")
    assert Encoder(str(folder), CPU).encode_texts(["x"]).shape == (1, 512)


def test_a_tokenizer_in_two_files_is_the_same(models, tmp_path):
    folder = form(models("laion/larger_clap_general"), tmp_path / "model", "safetensors")
    before = Encoder(str(folder), CPU).encode_texts(TEXTS)
    (folder / "tokenizer.json").unlink()
    assert np.array_equal(Encoder(str(folder), CPU).encode_texts(TEXTS), before)


def test_the_sha256_knows_every_shard(models, tmp_path):
    folder = form(models("laion/clap-htsat-unfused"), tmp_path / "model", "sharded safetensors")
    before = Encoder(str(folder), CPU).sha256
    shard = folder / "model-00003-of-00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert Encoder(str(folder), CPU).sha256 != before


def test_a_preprocessor_as_transformers_5_saves_it(tmp_path, encoder):
    from transformers import ClapProcessor

    if not at_least("transformers", "5"):
        pytest.skip("transformers 5 alone saves processor_config.json")
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    ClapProcessor.from_pretrained(TINY).save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "processor_config.json", tmp_path / "model")
    other = Encoder(str(tmp_path / "model"), CPU)
    assert np.array_equal(other.encode_waveform(SOUND), encoder.encode_waveform(SOUND))
    write(tmp_path / "model", "processor_config.json", {"processor_class": "ClapProcessor"})
    with pytest.raises(UserError, match="lacks preprocessor_config.json, and processor_config.json does not replace"):
        Encoder(str(tmp_path / "model"), CPU)


def pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1942000000\n")


@pytest.mark.parametrize(
    ("kind", "damage", "says"),
    [
        ("safetensors", lambda f: pointer(f / "model.safetensors"), "pointer in the place of model.safetensors"),
        ("bin", lambda f: pointer(f / "pytorch_model.bin"), "git-lfs pointer in the place of pytorch_model.bin"),
        ("bin", lambda f: pointer(f / "tokenizer.json"), "git-lfs pointer in the place of tokenizer.json"),
        ("sharded bin", lambda f: pointer(f / "pytorch_model-00002-of-00003.bin"), "pointer in the place of py"),
        ("sharded safetensors", lambda f: (f / "model-00002-of-00003.safetensors").unlink(), "lacks 1 of 3 shards"),
        ("sharded safetensors", lambda f: write(f, "model.safetensors.index.json", {}), "names no shards beside it"),
        ("sharded bin", lambda f: write(f, "pytorch_model.bin.index.json", {"weight_map": {"x": "../y.bin"}}),
         "names no shards beside it"),
        ("safetensors", lambda f: cut(f / "model.safetensors"), "cannot be loaded as a CLAP model"),
        ("sharded bin", lambda f: cut(f / "pytorch_model-00002-of-00003.bin"), "cannot be loaded as a CLAP model"),
    ],
)  # fmt: skip
def test_what_is_incomplete_is_one_sentence(models, tmp_path, kind, damage, says):
    folder = form(models("laion/clap-htsat-unfused"), tmp_path / "model", kind)
    damage(folder)
    with pytest.raises(UserError, match=says) as error:
        assert Encoder(str(folder), CPU).model
    assert "\n" not in str(error.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_a_pickle_in_a_shard_does_not_run(models, tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    folder = form(models("laion/clap-htsat-unfused"), tmp_path / "model", "sharded bin")
    torch.save({"payload": Payload()}, folder / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(UserError, match="it holds Python objects besides tensors"):
        assert Encoder(str(folder), CPU).model
    assert not (tmp_path / "ran").exists()


# ModelScope ------------------------------------------------------------------------------------------------------

LAYOUTS = [
    "hub/laion/larger_clap_general", "hub/models/laion/larger_clap_general", "models/laion/larger_clap_general",
    "laion/larger_clap_general", "models/laion--larger_clap_general/snapshots/master",
    "hub/models/laion--larger_clap_general/snapshots/main", "models/laion--larger_clap_general/snapshots/v1.0",
]  # fmt: skip
DOTTED = ["hub/laion/larger___clap", "hub/models/laion/larger___clap", "models/laion/larger.clap"]


@pytest.fixture
def nothing_from_the_hub(monkeypatch):
    """Importing modelscope is an error."""
    monkeypatch.setitem(sys.modules, "modelscope", None)


@pytest.mark.parametrize("by_home", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS + DOTTED)
def test_a_cached_model_is_found_offline(tmp_path, monkeypatch, nothing_from_the_hub, layout, by_home):
    cache = tmp_path / ".cache" / "modelscope"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    if not by_home:
        monkeypatch.setenv("MODELSCOPE_CACHE", str(cache := tmp_path / "elsewhere"))
    shutil.copytree(TINY, cache / layout)
    name = "laion/larger.clap" if layout in DOTTED else "laion/larger_clap_general"
    assert resolve_checkpoint(name).resolve() == (cache / layout).resolve()


def test_of_several_pinned_revisions_none_is_the_one_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    revisions = tmp_path / "models" / "lab--clap" / "snapshots"
    for name, there in (("v1", ["v1"]), ("v2", []), ("master", []), ("main", [])):
        (revisions / name).mkdir(parents=True)
        found = [path.name for path in _cached("lab/clap") if path.parent == revisions]
        assert found == ["master", "main", *there]


def test_a_local_folder_never_asks_the_hub(nothing_from_the_hub):
    assert resolve_checkpoint(str(TINY)) == TINY


def hub(monkeypatch, tmp_path, files: list[str]):
    """A ModelScope that holds these files, empty but for CLAP/tiny's own; -> (cache folder, names fetched)."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    target, fetched = tmp_path / "cache" / "models" / "laion--x" / "snapshots" / "master", []

    def snapshot_download(name, allow_patterns):
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns) and not (target / file).exists():
                fetched.append(file)
                shutil.copy(TINY / file, target) if (TINY / file).is_file() else (target / file).write_bytes(b"x")
        return str(target)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    return target, fetched


OTHERS = ["README.md", "flax_model.msgpack", "onnx/model.onnx", "model.fp16.safetensors", "optimizer.bin"]
SMALL_FILES = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_only_the_files_that_are_loaded_are_fetched(tmp_path, monkeypatch):
    target, fetched = hub(monkeypatch, tmp_path, [*SMALL_FILES, *OTHERS, "model.safetensors", "pytorch_model.bin"])
    assert resolve_checkpoint("laion/x") == target
    assert sorted(fetched) == sorted([*SMALL_FILES, "model.safetensors"])
    fetched.clear()
    assert resolve_checkpoint("laion/x") == target and not fetched


def test_bin_is_fetched_where_there_is_nothing_else(tmp_path, monkeypatch):
    target, fetched = hub(monkeypatch, tmp_path, [*SMALL_FILES, *OTHERS, "pytorch_model.bin"])
    assert resolve_checkpoint("laion/x") == target
    assert sorted(fetched) == sorted([*SMALL_FILES, "pytorch_model.bin"])


def test_shards_come_with_their_index(tmp_path, monkeypatch):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    _, fetched = hub(monkeypatch, tmp_path, [*SMALL_FILES, *OTHERS, "model.safetensors.index.json", *shards])
    resolve_checkpoint("laion/x")
    assert set(shards) < set(fetched) and not set(OTHERS) & set(fetched)


def test_a_download_that_was_broken_off_is_completed(tmp_path, monkeypatch):
    target, fetched = hub(monkeypatch, tmp_path, [*SMALL_FILES, "model.safetensors"])
    target.mkdir(parents=True)
    shutil.copy(TINY / "config.json", target)
    assert resolve_checkpoint("laion/x") == target
    assert "model.safetensors" in fetched


@pytest.mark.parametrize("damage", [
    lambda target: (target / "tokenizer.json").unlink(),
    lambda target: (target / "preprocessor_config.json").unlink(),
    lambda target: (target / "model.safetensors").unlink(),
])  # fmt: skip
def test_what_a_cached_model_lacks_is_fetched_before_anything_is_encoded(tmp_path, monkeypatch, damage):
    target, fetched = hub(monkeypatch, tmp_path, [*SMALL_FILES, "model.safetensors"])
    shutil.copytree(TINY, target)
    damage(target)
    assert Encoder("laion/x", CPU).encode_texts(["x"]).shape == (1, 512)
    assert len(fetched) == 1


def test_a_model_without_a_tokenizer_on_the_hub_is_one_sentence(tmp_path, monkeypatch):
    hub(monkeypatch, tmp_path, ["config.json", "preprocessor_config.json", "model.safetensors"])
    with pytest.raises(UserError, match="lacks its tokenizer"):
        Encoder("laion/x", CPU)


def test_a_model_that_cannot_be_fetched_is_one_sentence(tmp_path, monkeypatch):
    def snapshot_download(name, allow_patterns):
        raise ConnectionError("no network\nand more")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match="laion/nothing is no local path and ModelScope cannot fetch it") as error:
        resolve_checkpoint("laion/nothing")
    assert "\n" not in str(error.value)


def test_not_a_path_and_not_an_id(tmp_path):
    with pytest.raises(UserError, match="neither a local folder nor a ModelScope id"):
        resolve_checkpoint(str(tmp_path / "nowhere" / "to" / "be"))
