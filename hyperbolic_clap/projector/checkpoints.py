"""Projection checkpoints: what is in the file, and everything that is checked before one is trusted."""

from __future__ import annotations

import io
import math
import sys
import tarfile
import zipfile
from pathlib import Path

import torch

from hyperbolic import SIMILARITIES, HyperbolicProjector, LogitScale
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.projector import exported, prototypes

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


def save(path: Path, content: dict) -> None:
    """Write a checkpoint whole or not at all; it loads with torch.load(weights_only=True)."""
    data = io.BytesIO()  # torch.save to a full disk raises a RuntimeError that does not say so
    torch.save(_interned(content), data)
    write_atomic(path, lambda temporary: temporary.write_bytes(data.getbuffer()))


def _interned(value):
    """Nested content whose equal strings are one object, since the bytes of a pickle tell equal objects apart."""
    if type(value) is dict:
        return {_interned(key): _interned(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_interned, value))
    return sys.intern(value) if type(value) is str else value


def load(path: Path, flag: str = "--projection-checkpoint") -> dict:
    """A projection checkpoint's content on the CPU, every field checked; UserError says what is wrong.

    path: a .pth file of the training, its output folder (the best one), an exported folder, or its ModelScope id.
    flag: the option that asked for it, for the error's sentence.
    """
    place = exported.locate(path, flag)
    # An exported projector has nothing left of its training, and none of it is used but to continue that.
    nothing: dict = {"optimizer_state_dict": {}, "identity": {}}
    content = nothing | exported.read(place, flag) if place.is_dir() else _read(place, flag)
    _check(f"{flag} {path}", content)
    return content


def _read(path: Path, flag: str):
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        found = f"{path.parent} holds {', '.join(beside)}" if beside else f"{path.parent} holds no *.pth file"
        raise UserError(f"{flag} {path} does not exist; {found}")
    # torch.load would try it as a bare pickle, or as a tar archive, in which torch below 2.6 heeds no weights_only.
    if not zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        raise UserError(f"{flag} {path} is damaged or no torch checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError  # packed, as torch.save never does; it may unpack to more than the memory holds
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and tensor errors of many classes
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(
                f"{flag} {path} is refused: it holds Python objects besides tensors and plain values, "
                "and loading them could run code"
            ) from None
        raise UserError(f"{flag} {path} is damaged or no torch checkpoint") from None
    return content


def _check(which: str, content) -> None:
    def refuse(reason: str):
        raise UserError(f"{which} {reason}")

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
        refuse(f"has similarity {content['similarity']!r}; known are {', '.join(SIMILARITIES)}")
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
        if not state[name].is_floating_point() or "plain" not in form(state[name]):
            refuse(f"has {name} in the form {form(state[name])}, expected plain floats")
        if not bool(state[name].isfinite().all()):
            refuse(f"has values in {name} that are not finite")
    names = content.get("classes", ["one", "two"])
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(x, str) and x.strip() for x in names):
        refuse("has classes that are no list of two or more names")
    scaling = content.get("calibration", {"slope": 1.0, "shift": 0.0})
    if not isinstance(scaling, dict) or any(type(scaling.get(k)) is not float for k in ("slope", "shift")):
        refuse("has a calibration without the numbers slope and shift")
    if not_finite(scaling):
        refuse("has a calibration that is not finite")
    known = content.get("thresholds", {"by_class": {}})
    own = known.get("by_class") if isinstance(known, dict) else None
    values = [*own.values(), known.get("others") or 0.5] if isinstance(own, dict) else [None]
    if not all(type(x) is float and 0 <= x <= 1 for x in values):
        refuse("has thresholds that are no numbers from 0 to 1 by class")
    made = content["base_c"] * float(state["log_c_change"].double().exp())
    if not math.isclose(made, content["c"], rel_tol=1e-6):
        refuse(f"has c = {content['c']:g}, but its weights make it {made:g}")
    prototypes.check(which, content)


def not_finite(content, name: str = "") -> str | None:
    """The dotted name of the first tensor or float in (nested) `content` that is not finite, or None."""
    if isinstance(content, (dict, list, tuple)):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return next((found for k, v in items if (found := not_finite(v, f"{name}.{k}" if name else str(k)))), None)
    if isinstance(content, torch.Tensor):
        return None if bool(content.isfinite().all()) else name
    return name if isinstance(content, float) and not math.isfinite(content) else None


def form(content):
    """Nested content with a description in the place of each tensor, so that it can be compared."""
    if isinstance(content, torch.Tensor):
        plain = content.layout == torch.strided and content.is_contiguous()  # not one number with a lying shape
        return f"{content.dtype} {tuple(content.shape)} {'plain' if plain else content.layout}"
    if isinstance(content, dict):
        return {key: form(value) for key, value in content.items()}
    return [form(value) for value in content] if isinstance(content, (list, tuple)) else content


def training(content: dict) -> dict | None:
    """How a checked checkpoint came about: settings, seed, clips, epoch, validation figures. None of plain cosine.

    One older than the field `training` says what it has; an exported one of those, only its loss, seed and figures.
    """
    if not content:
        return None
    known, validation = content.get("training"), {name: value for name, value in content.items() if name[:4] == "val_"}
    if not isinstance(known, dict):
        names = ("loss", "seed", "text", "similarity", "temperature", "output_dim", "audio_radius")
        of_file = {"c": content["base_c"]} | {name: content[name] for name in names if name in content}
        known = {name: value for name, value in content["identity"].items() if name not in ("data", "prompt")} | of_file
    return _plain(known | {name: content[name] for name in ("epoch", "train_loss")} | {"validation": validation})


def _plain(values: dict) -> dict:
    """What JSON can hold of nested dictionaries: a file of another program may hold anything."""
    kept = {str(name): _plain(value) if isinstance(value, dict) else value for name, value in values.items()}
    number = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in kept.items()}
    return {name: v for name, v in number.items() if isinstance(v, (str, int, float, dict, type(None)))}


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


def rebuild_scale(content: dict, path: Path) -> LogitScale:
    """The trained logit scale and bias of a checked checkpoint, on the CPU; UserError if it holds none."""
    scale = LogitScale()
    if form(content["scale_state_dict"]) != form(scale.state_dict()) or not_finite(content["scale_state_dict"]):
        raise UserError(f"{path} has a scale_state_dict that holds no finite logit scale and bias")
    scale.load_state_dict(content["scale_state_dict"])
    return scale.requires_grad_(False)
