"""From texts to embeddings: class names in the prompt, each encoded once."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from CLAP.cache import EmbeddingCache
from CLAP.encoder import Encoder
from plumbing.errors import UserError, log

PROMPT = "This is a sound of {label}."


def embed_classes(names: list[str], encoder: Encoder, cache: EmbeddingCache) -> torch.Tensor:
    """Class names -> (M, D) float32 embeddings of the prompt with each name."""
    texts = [PROMPT.format(label=name) for name in names]
    keys = [text_key(text) for text in texts]
    missing = [i for i, key in enumerate(keys) if cache.get(key) is None]
    if missing:
        log.info("encoding %d class texts", len(missing))
        for i, vector in zip(missing, encoder.encode_texts([texts[i] for i in missing]), strict=True):
            cache.add(keys[i], vector)
        cache.flush()
    text = torch.from_numpy(np.stack([cache.get(key) for key in keys]))
    if bool((text == text[0]).all()):
        raise UserError(f"--checkpoint {encoder.name} gives every class text one embedding: its tokenizer is broken")
    return text


def text_key(text: str) -> bytes:
    """SHA-256 of a text, apart from every clip's."""
    return hashlib.sha256(f"text\n{text}".encode()).digest()
