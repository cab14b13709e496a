"""Where to compute: the cores of this process, the device of --device."""

from __future__ import annotations

import os

from plumbing import ranks
from plumbing.errors import UserError, warn


def cores() -> int:
    """The cores that this process may use: of a job's allocation, not of its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str):
    """The torch.device of `--device`; without CUDA a visible warning and the CPU.

    Under torchrun the default cuda:0 (and cuda) become each rank's own device.
    """
    import torch

    if ranks.under_torchrun() and name in ("cuda", "cuda:0"):
        name = f"cuda:{os.environ['LOCAL_RANK']}"

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is not a device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        warn(f"CUDA is not available, so --device {name} becomes cpu")
        return torch.device("cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name} does not exist; this machine has {torch.cuda.device_count()} CUDA device(s)")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        # Where CUDA has a deterministic algorithm it is used; where it has none, torch says so and goes on.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False  # --no-autocast means float32, in the patch convolution too
    return device
