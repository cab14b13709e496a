"""How far embeddings are from those that transformers' own ClapProcessor and ClapModel make, in float32."""

from __future__ import annotations

import numpy as np


def parity(encoder, clips: list, texts: list[str]) -> dict:
    """Largest cosine distances over clips (their first 10 seconds) and texts, both on the encoder's device."""
    import torch
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    from CLAP.encoder import FLOAT32, tensor
    from data import decode
    from hyperbolic_clap.plumbing.errors import RowError

    waveforms = []
    for clip in clips:
        try:
            waveforms.append(decode(clip)[: encoder.log_mel.window])
        except RowError:
            continue
    model = ClapModel.from_pretrained(encoder.folder, **FLOAT32, local_files_only=True,
                                      use_safetensors=encoder.in_safetensors).eval().to(encoder.device)  # fmt: skip
    extractor = ClapFeatureExtractor.from_pretrained(encoder.folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(encoder.folder, local_files_only=True)
    # Beside a longer clip a fused processor leaves short ones as they are; alone it marks one at random as longer.
    longer = np.random.default_rng(0).normal(0, 0.1, encoder.log_mel.window + 48_000).astype(np.float32)
    theirs, ours = [], []
    with torch.inference_mode():
        for waveform in waveforms:
            beside = [waveform, longer] if encoder.log_mel.fused else [waveform]
            inputs = extractor(beside, sampling_rate=48_000, return_tensors="pt").to(encoder.device)
            theirs.append(tensor(model.get_audio_features(**inputs))[0].float().cpu().numpy())
            window = torch.from_numpy(encoder.windows(waveform)[0])[None].to(encoder.device)
            ours.append(encoder.encode_windows(window)[0].cpu().numpy())
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(encoder.device)
        of_texts = tensor(model.get_text_features(**inputs)).float().cpu().numpy()
    return {
        "clips": len(ours), "audio": _distance(ours, theirs), "texts": len(texts),
        "text": _distance(encoder.encode_texts(texts), of_texts), "against": "ClapProcessor and ClapModel in float32",
    }  # fmt: skip


def _distance(a, b) -> float | None:
    if not len(a):
        return None
    a, b = (np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return float((1 - (a * b).sum(axis=1)).max())
