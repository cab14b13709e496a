"""Projection checkpoints: what is in the file, and everything that is checked before one is trusted."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import torch

from common import UserError, write_atomic
from hyperbolic import HyperbolicProjector

REQUIRED = {
    "epoch": int,
    "projection_state_dict": dict,
    "optimizer_state_dict": dict,
    "scale_state_dict": dict,
    "identity": dict,
    "train_loss": float,
    "val_loss": float,
    "c": float,
    "base_c": float,
    "temperature": float,
    "embed_dim": int,
    "output_dim": int,
    "similarity": str,
    "audio_radius": float,
    "clap_model": str,
    "clap_sha256": str,
    "prompt": str,
}
SIMILARITIES = ("hyperbolic", "cosine")


def save(path: Path, content: dict) -> None:
    """Write a checkpoint whole or not at all; it loads with torch.load(weights_only=True)."""
    write_atomic(path, lambda temporary: torch.save(content, temporary))


def load(path: Path) -> dict:
    """A projection checkpoint's content on the CPU, every field checked; UserError says what is wrong."""
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        found = f"{path.parent} holds {', '.join(beside)}" if beside else f"{path.parent} holds no *.pth file"
        raise UserError(f"--projection-checkpoint {path} does not exist; {found}")
    if not zipfile.is_zipfile(path):  # torch.load would try it as a bare pickle
        raise UserError(f"--projection-checkpoint {path} is damaged or no torch checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and tensor errors of many classes
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(
                f"--projection-checkpoint {path} is refused: it holds Python objects besides tensors and plain values, "
                "and loading them could run code"
            ) from None
        raise UserError(f"--projection-checkpoint {path} is damaged or no torch checkpoint") from None
    _check(path, content)
    return content


def _check(path: Path, content) -> None:
    def refuse(reason: str):
        raise UserError(f"--projection-checkpoint {path} {reason}")

    if not isinstance(content, dict):
        refuse(f"holds a {type(content).__name__} where a dictionary of a training run is expected")
    for key, kind in REQUIRED.items():
        if key not in content:
            refuse(f"lacks the key {key!r}; train_hyperbolic_clap.py writes {', '.join(REQUIRED)}")
        if not isinstance(content[key], kind):
            refuse(f"has {key!r} of type {type(content[key]).__name__}, expected {kind.__name__}")
    for key in ("c", "base_c", "temperature", "audio_radius"):
        if not (math.isfinite(content[key]) and content[key] > 0):
            refuse(f"has {key} = {content[key]}, which must be finite and above 0")
    if content["similarity"] not in SIMILARITIES:
        refuse(f"has similarity {content['similarity']!r}; known are {' and '.join(SIMILARITIES)}")
    state = content["projection_state_dict"]
    shapes = {
        "linear.weight": (content["output_dim"], content["embed_dim"]),
        "linear.bias": (content["output_dim"],),
        "log_c_change": (),
    }
    if state.keys() != shapes.keys():
        refuse(f"has projection weights {sorted(map(str, state))}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if not isinstance(state[name], torch.Tensor) or tuple(state[name].shape) != shape:
            refuse(f"has {name} of shape {tuple(getattr(state[name], 'shape', ()))}, expected {shape}")
        if not bool(state[name].isfinite().all()):
            refuse(f"has values in {name} that are not finite")


def require_model(path: Path, content: dict, encoder) -> None:
    """UserError if a checkpoint's projector was trained on another CLAP model than the encoder."""
    if content["clap_sha256"] != encoder.sha256:
        raise UserError(
            f"--projection-checkpoint {path} was trained on the CLAP model {content['clap_model']}, "
            f"but --checkpoint {encoder.name} is another model"
        )


def rebuild(content: dict, device: torch.device) -> HyperbolicProjector:
    """The trained projector of a checked checkpoint, in eval mode on the device."""
    projector = HyperbolicProjector(
        content["embed_dim"],
        content["output_dim"],
        content["base_c"],
        content["temperature"],
        content["similarity"],
        content["audio_radius"],
    )
    projector.load_state_dict(content["projection_state_dict"])
    return projector.eval().requires_grad_(False).to(device)
