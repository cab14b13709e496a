"""Token ids, equal to those of transformers' own tokenizer in the version that the pins name, and of every other."""

import hashlib
import json
import random
from functools import cache

import pytest
from conftest import TINY
from test_checkpoint_forms import write_tokenizer

from benchmarks.material import class_names
from CLAP.tokenizer import load_tokenizer
from hyperbolic_clap.plumbing.versions import at_least

ALPHABETS = [range(32, 127), range(0xA0, 0x250), range(0x4E00, 0x9FFF), range(0x1F300, 0x1F6FF), range(0x600, 0x700),
             range(32), [*range(0x300, 0x36F), *range(97, 123)]]  # fmt: skip
ODD = ["", " ", "  ", "\n", "\t x", "x", " x", "x ", "  two  spaces  ", "don't it's we'll I'M", "</s>",
       "<s> x </s>", " <mask> ", "a<mask> b", "<pad>", "a</s>b", "\u3000", "\u200b", "\ufeffx", "\x00", "e\u0301",
       "\u00e9"]  # fmt: skip


@cache
def texts() -> list[str]:
    rng, names = random.Random(0), class_names()
    found = [*ODD, *names, *(f"This is a sound of {name}." for name in names)]
    found += ["word " * count for count in (40, 44, 45, 46, 47, 48, 49, 100, 509, 510, 511, 513)]
    for _ in range(1000):
        alphabet = rng.choice(ALPHABETS)
        found.append("".join(chr(rng.choice(alphabet)) for _ in range(rng.randint(0, rng.choice([5, 40, 400])))))
    found += ["".join(rng.choice([*names, "  ", "</s>", "'s", "123"]) for _ in range(rng.randint(1, 9)))
              for _ in range(500)]  # fmt: skip
    return found


def folder_of(kind: str, tmp_path):
    if kind == "tiny":
        return TINY
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clap"}')
    if kind != "published":
        (tmp_path / "tokenizer.json").unlink()
    if kind == "bare":
        (tmp_path / "tokenizer_config.json").unlink()
        (tmp_path / "special_tokens_map.json").unlink()
    if kind == "prefixed":
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"add_prefix_space": True}))
    return tmp_path


@pytest.mark.parametrize("kind", ["tiny", "published", "vocab and merges", "bare", "prefixed"])
def test_ids_are_those_of_transformers(tmp_path, kind):
    import transformers

    if not at_least("transformers", "5"):
        pytest.skip("transformers 4 sets add_prefix_space and the mask's spaces by itself")
    folder, some = folder_of(kind, tmp_path), texts()
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for longest in (48, 512):
        mine = load_tokenizer(folder, longest)
        for text, expected in zip(some, theirs(some, truncation=True, max_length=longest)["input_ids"], strict=True):
            assert mine.encode(text).ids == expected, repr(text)


KNOWN = {  # the first 16 digits of the SHA-256 of all ids
    "tiny": "5fdd31be9afdf249",
    "published": "81dce1c3907f0de9",
    "vocab and merges": "f89797189ef8892d",
    "bare": "81dce1c3907f0de9",
    "prefixed": "2d10ecbd1bd33860",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_ids_are_the_same_in_every_version(tmp_path, kind):
    tokenizer = load_tokenizer(folder_of(kind, tmp_path), 48)
    ids = [tokenizer.encode(text).ids for text in texts()]
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16] == KNOWN[kind]


def test_cut_from_the_side_that_the_model_says(tmp_path):
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    right = load_tokenizer(tmp_path, 8).encode("one two three four five six").ids
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    left = load_tokenizer(tmp_path, 8).encode("one two three four five six").ids
    assert len(left) == len(right) == 8 and left != right and left[0] == right[0] == 0 and left[-1] == right[-1] == 2


def test_a_file_that_pads_or_cuts_by_itself_does_neither(tmp_path):
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    plain = load_tokenizer(tmp_path, 48).encode("one two three").ids
    pad = {"strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
           "pad_token": "<pad>"}  # fmt: skip
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content = json.loads(path.read_text(encoding="utf-8")) | {"padding": pad, "truncation": cut}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert load_tokenizer(tmp_path, 48).encode("one two three").ids == plain
