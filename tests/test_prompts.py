"""Prompts: templates from flags and files, their average, and that training and testing agree on them."""

import json

import numpy as np
import pytest
import torch
from conftest import script

from hyperbolic_clap.embedding import texts as module
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.embedding.texts import PROMPT, embed_classes
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.flags import Parser, add_model_flags, encoder_config

NAMES = ["Dog", "Rain", "Sine wave"]
TEMPLATES = ["This is a sound of {label}.", "{label}", "a {label} {recording} of {label}"]


def test_several_prompts_are_the_mean_of_unit_vectors(encoder):
    cache = EmbeddingCache(None, encoder.audio_fingerprint)
    found = embed_classes(NAMES, encoder, cache, TEMPLATES)
    for name, vector in zip(NAMES, found, strict=True):
        texts = [template.replace("{label}", name) for template in TEMPLATES]
        mean = torch.from_numpy(encoder.encode_texts(texts)).mean(dim=0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)
    assert not torch.allclose(found[0], embed_classes(NAMES, encoder, cache)[0], atol=1e-3)


def test_one_prompt_gives_the_encoder_s_own_bits(encoder):
    cache = EmbeddingCache(None, encoder.audio_fingerprint)
    expected = torch.from_numpy(encoder.encode_texts([f"This is a sound of {name}." for name in NAMES]))
    assert torch.equal(embed_classes(NAMES, encoder, cache), expected)
    assert torch.equal(embed_classes(NAMES, encoder, cache, [PROMPT]), expected)


def prompts(*flags) -> tuple[str, ...] | None:
    """The templates that a command line gives."""
    parser = Parser("")
    add_model_flags(parser)
    return encoder_config(parser.parse_args(list(map(str, flags)))).prompts


def test_one_prompt_is_left_as_it_is_and_several_have_length_one(monkeypatch):
    monkeypatch.setattr(module, "embed_texts", lambda given, *_: torch.tensor([[float(len(t)), 1] for t in given]))
    for prompts in (["{label}"], ["{label}", "a {label}"]):
        found = embed_classes(["dog", "cats"], None, None, prompts)
        rows = torch.tensor(
            [[float(np.mean([len(p.replace("{label}", n)) for p in prompts])), 1] for n in ("dog", "cats")]
        )
        assert torch.allclose(found, rows if len(prompts) == 1 else torch.nn.functional.normalize(rows, dim=1))


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa sound of {label}\n\n  {label}, recorded \n", encoding="utf-8")
    assert prompts("--prompt-file", path) == ("a sound of {label}", "{label}, recorded")
    assert prompts() is None


@pytest.mark.parametrize(
    ("content", "says"), [("", "is empty"), ("\n \n", "is empty"), ("a sound\n", "'a sound' is not one line")]
)
def test_bad_files(tmp_path, content, says):
    path = tmp_path / "prompts.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        prompts("--prompt-file", path)
    with pytest.raises(UserError, match="exclude each other"):
        prompts("--prompt", PROMPT, "--prompt-file", path)
    with pytest.raises(UserError, match="cannot be read"):
        prompts("--prompt-file", tmp_path / "none.txt")


def test_training_and_testing_agree_on_the_prompt(tones, tmp_path):
    common = ("--parquet-dir", tones, "--cache-dir", tmp_path / "cache")
    given = ("--prompt", "a {label}", "--prompt", "the sound of {label}")
    train = ("train_hyperbolic_clap.py", *common, "--output-dir", tmp_path / "out", "--epochs", "1")
    script(*train, *given)
    (best,) = (tmp_path / "out").glob("best_*.pth")
    content = torch.load(best, weights_only=True)
    assert content["prompt"] == "a {label}\nthe sound of {label}"
    output = tmp_path / "results.json"
    test = ("test_clap_modelscope.py", *common, "--output-json", output)
    trained = (*test, "--use-hyperbolic", "--projection-checkpoint", best)
    script(*trained)  # the checkpoint's own
    first = json.loads(output.read_text())
    script(*trained, *given[2:], *given[:2])  # the same in another order
    second = json.loads(output.read_text())
    assert first["predictions"] == second["predictions"]
    assert first["model_info"]["prompt"] == content["prompt"]
    done = script(*trained, "--prompt", "{label}", check=False)
    assert done.returncode == 2 and "'{label}' contradicts" in done.stderr
    assert "trained with 'a {label} | the sound of {label}'" in done.stderr
    script(*test, "--prompt", "{label}")
    assert json.loads(output.read_text())["model_info"]["prompt"] == "{label}"
    done = script(*train, "--epochs", "2", "--resume", "--prompt", "{label}", check=False)
    assert done.returncode == 2 and "prompt = a {label}\\nthe sound" in done.stderr
    done = script(*test, "--prompt", "no label", check=False)
    assert done.returncode == 2 and "'no label' is not one line that holds {label}" in done.stderr
