"""A trained projector to share: a folder of safetensors and JSON, and nothing else of its training.

    model.safetensors   every tensor of the checkpoint but the optimizer's: `projection_state_dict.linear.weight`
                        (output_dim, embed_dim), `.linear.bias`, `.log_c_change`, `scale_state_dict.log_scale`, `.bias`
    config.json         every other value under its name in the checkpoint, with the SHA-256 of model.safetensors
    configuration.json  what ModelScope reads

All fields of the checkpoint travel along; what is read back is what was written, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import torch

from hyperbolic_clap.plumbing.config import CONVENTION
from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.plumbing.files import write_atomic, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, VERSION = "hyperbolic_clap_projection", 1
OF_THE_TRAINING = ("optimizer_state_dict", "identity", "trained_state_dict")  # only continuing one needs them


def split(content: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """A checkpoint without OF_THE_TRAINING -> (its tensors, a tensor of a dictionary named `group.key`, all else)."""
    tensors, values = {}, {}
    for key, value in content.items():
        if key in OF_THE_TRAINING:
            continue
        if isinstance(value, torch.Tensor):
            tensors[key] = value.contiguous()
        elif isinstance(value, dict) and value and all(isinstance(part, torch.Tensor) for part in value.values()):
            tensors |= {f"{key}.{name}": part.contiguous() for name, part in value.items()}
        else:
            values[key] = value
    return tensors, values


def sha256(content: dict) -> str:
    """Identifies a projector in whatever file it lies: SHA-256 of its tensors and of how its vectors are compared."""
    compared = [content[name] for name in ("similarity", "base_c", "temperature", "audio_radius")]
    compared += [content[name] for name in ("prototype_weight", "prototype_classes") if name in content]
    digest = hashlib.sha256(repr(compared).encode())
    for name, tensor in sorted(split(content)[0].items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def is_free(folder: Path) -> bool:
    """Whether a folder is absent or empty, or holds an earlier export, which may be replaced."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return True
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(folder: Path, content: dict, clap_model: str) -> None:
    """Write a checked checkpoint as such a folder. clap_model: the name by which others know the CLAP model."""
    from safetensors.torch import save

    tensors, values = split(content)
    data = save(tensors, {"format": "pt"})
    projector = {"format": FORMAT, "format_version": VERSION, "convention": CONVENTION}
    values = projector | values | {"clap_model": clap_model, "weights_sha256": hashlib.sha256(data).hexdigest()}
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(f"the checkpoint holds {name!r}, whose values no JSON can hold") from None
    write_atomic(folder / WEIGHTS, lambda temporary: temporary.write_bytes(data))
    write_json(folder / CONFIG, values)
    write_json(folder / "configuration.json", {"framework": "pytorch", "task": "zero-shot-classification"})


def best_of(path: Path, flag: str) -> Path:
    """The best checkpoint in `path` if that is a training's output folder, else `path` itself; UserError if unclear."""
    if not path.is_dir() or (path / CONFIG).exists():
        return path
    found = sorted(path.glob("best_projection_epoch_*.pth"))
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{flag} {path} holds {names}, left by a training that was killed; name one of them, or let "
                        "--resume finish it")
    if not found and any(path.glob("setup.json")):
        raise UserError(f"{flag} {path} is the folder of a training that has finished no epoch")
    return found[0] if found else path


def locate(path: Path, flag: str) -> Path:
    """The file or exported folder that `path` means.

    Of a training's output folder its best checkpoint; of an id OWNER/NAME, which is no path, what ModelScope has cached
    or fetches.
    """
    path = best_of(path, flag)
    name = path.as_posix()
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix != ".pth" and not path.parent.exists()
    if path.exists() or not is_id:
        return path
    from CLAP.checkpoint import from_modelscope

    return from_modelscope(name, flag, lambda folder: all((folder / n).is_file() for n in (CONFIG, WEIGHTS)),
                           (CONFIG, WEIGHTS))  # fmt: skip


def read(folder: Path, flag: str) -> dict:
    """The checkpoint that `write` was given, without OF_THE_TRAINING. UserError in one sentence if it is not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{flag} {folder} is no exported projector: it lacks {' and '.join(missing)}")
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{flag} {folder} has a {CONFIG} that is not JSON") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f"{flag} {folder} is no exported projector: its {CONFIG} is not one of export_projector.py")
    if values.pop("format_version", None) != VERSION:
        raise UserError(f"{flag} {folder} was exported by a newer version of this project, in another format")
    values.pop("convention", None)
    if values.pop("weights_sha256", None) != hashlib.sha256(data).hexdigest():
        raise UserError(f"{flag} {folder} is damaged or was changed: its {WEIGHTS} is not the one its {CONFIG} names")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{flag} {folder} has a {WEIGHTS} that cannot be read: {first_line(error)}") from None
    for name, tensor in tensors.items():
        group, dot, key = name.partition(".")
        if dot:
            part = values.setdefault(group, {})
            if not isinstance(part, dict):
                raise UserError(f"{flag} {folder} holds {group} both in {CONFIG} and in {WEIGHTS}")
            part[key] = tensor
        else:
            values[name] = tensor
    return values
