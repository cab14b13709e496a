"""From texts to embeddings: class names in one or several prompts, each text encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from CLAP.encoder import Encoder
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.errors import log

PROMPT = "This is a sound of {label}."


def embed_classes(
    names: list[str], encoder: Encoder, cache: EmbeddingCache, prompts: Sequence[str] = (PROMPT,)
) -> torch.Tensor:
    """Class names -> (M, D) float32 unit embeddings of the prompt with each name.

    Of several prompts the average, normalised again (Radford et al. 2021, "Learning Transferable Visual Models",
    section 3.1.4).
    """
    text = embed_texts([prompt.replace("{label}", name) for prompt in prompts for name in names], encoder, cache)
    if len(prompts) > 1:
        text = torch.nn.functional.normalize(text.view(len(prompts), len(names), -1).mean(dim=0), dim=-1)
    return text


def embed_texts(texts: list[str], encoder: Encoder, cache: EmbeddingCache) -> torch.Tensor:
    """Texts -> (M, D) float32 unit embeddings; each distinct text is encoded once, ever."""
    keys = [text_key(text, encoder.text_fingerprint) for text in texts]
    vectors, known = cache.take(keys, encoder.embed_dim)
    if missing := list({key: i for i, key in enumerate(keys) if not known[i]}.values()):
        log.info("encoding %d texts", len(missing))
        for i, vector in zip(missing, encoder.encode_texts([texts[i] for i in missing]), strict=True):
            cache.add(keys[i], vector)
        vectors = cache.take_all(keys, encoder.embed_dim)
        cache.flush()
    return torch.from_numpy(vectors)


def text_key(text: str, fingerprint: str) -> bytes:
    """SHA-256 of a text and of what else its vector depends on, apart from every clip's."""
    return hashlib.sha256(f"text\n{fingerprint}\n{text}".encode()).digest()
