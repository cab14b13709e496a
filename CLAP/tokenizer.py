"""Text -> token ids, from the model's own files by the `tokenizers` library alone.

transformers builds a RoBERTa tokenizer anew from these files, and not in each of its versions in the same way: 4.57
sets add_prefix_space in one that version 5 saved, which moves every text vector. Here tokenizer.json is taken as it
stands; in its absence vocab.json and merges.txt become what RoBERTa's own tokenizer makes of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
           "cls_token": "<s>", "mask_token": "<mask>"}  # fmt: skip


def load_tokenizer(folder: Path, longest: int) -> Tokenizer:
    """The tokenizer of a model's folder: texts -> ids with special tokens, cut to `longest`, not padded.

    ValueError if its files contradict each other; damaged ones end in errors of many classes.
    """
    settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        # Not from_file, which wants a path in UTF-8.
        tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        written = getattr(tokenizer.pre_tokenizer, "add_prefix_space", None)
        said = settings.get("add_prefix_space", written)
        if None not in (written, said) and written != said:
            raise ValueError(f"add_prefix_space is {str(written).lower()} in tokenizer.json and {str(said).lower()} in "
                             "tokenizer_config.json; make both say what the model was trained with")  # fmt: skip
    else:
        tokenizer = _roberta(folder, settings)
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, direction=settings.get("truncation_side", "right"))
    return tokenizer


def _roberta(folder: Path, settings: dict) -> Tokenizer:
    """RoBERTa's byte-level BPE of vocab.json and merges.txt."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    merges = [(left, right) for left, right in parts]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    prefix = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    given = {name: settings.get(name) or token for name, token in SPECIAL.items()}
    special = {name: token if isinstance(token, dict) else {"content": token} for name, token in given.items()}
    tokenizer.add_special_tokens([
        AddedToken(token["content"], lstrip=token.get("lstrip", False), rstrip=token.get("rstrip", False),
                   single_word=token.get("single_word", False), normalized=token.get("normalized", False))
        for token in special.values()
    ])  # fmt: skip
    sep, cls = (special[name]["content"] for name in ("sep_token", "cls_token"))
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), True, prefix)
    return tokenizer


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
