"""Where to compute: the cores of this process, the device of --device."""

from __future__ import annotations

import os
import re

from hyperbolic_clap.plumbing import ranks
from hyperbolic_clap.plumbing.errors import UserError, warn

NO_MEMORY = (  # as CUDA, cuBLAS and cuDNN say it, PyTorch on Windows, and PyTorch on Linux
    "out of memory", "alloc_failed", "not enough memory", "can't allocate memory"
)  # fmt: skip

SPIN_COUNT = "1000"  # some microseconds: longer than within a training step, shorter than a neighbour's turn


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the machine's, did not suffice."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in NO_MEMORY)


def cores() -> int:
    """The cores that this process may use: of a job's allocation, not of its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_gently() -> None:
    """Before torch is loaded: its threads spin only shortly for each other, unless the user has said how they wait.

    By default they spin until the next parallel operation, and beside a busy process each one waits for a thread that
    has no core. What is computed does not change.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
        os.environ["KMP_BLOCKTIME"] = "0"  # where torch was built with Intel's OpenMP


def choose_device(name: str):
    """The torch.device of `--device`; without CUDA a visible warning and the CPU.

    Under torchrun the default cuda:0 (and cuda) become each rank's own device; more ranks than devices share them.
    """
    import torch

    if ranks.under_torchrun() and name in ("cuda", "cuda:0"):
        name = f"cuda:{_own_device(int(os.environ['LOCAL_RANK']), torch.cuda.device_count())}"

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is not a device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        warn(f"CUDA is not available, so --device {name} becomes cpu (torch {torch.__version__} is built {built})")
        return torch.device("cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name} does not exist; this machine has {torch.cuda.device_count()} CUDA device(s)")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        _require_kernels(device, name)
        # Where CUDA has a deterministic algorithm it is used; where it has none, torch says so and goes on.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False  # --no-autocast means float32, in the patch convolution too
    return device


def _require_kernels(device, name: str) -> None:
    """UserError if torch holds no code for the card, neither its own nor one to be translated."""
    import torch

    built = torch.cuda.get_arch_list()
    if not built:  # some builds do not say
        return
    card = torch.cuda.get_device_capability(device)
    kinds = [re.match(r"(sm|compute)_(\d+)(\d)", arch) for arch in built]
    for kind, *number in (match.groups() for match in kinds if match):
        major, minor = map(int, number)
        # Machine code runs on later cards of its generation, PTX on all later ones.
        if (major, minor) <= card and (kind == "compute" or major == card[0]):
            return
    raise UserError(
        f"--device {name}: this torch {torch.__version__} for CUDA {torch.version.cuda} holds code for "
        f"{', '.join(built)}, and none that runs on {torch.cuda.get_device_name(device)} (sm_{card[0]}{card[1]}); "
        "docs/faq.md names the torch for a card, and --device cpu works with any"
    )


def _own_device(local_rank: int, devices: int) -> int:
    if devices and local_rank >= devices:
        warn(f"rank {local_rank} of this machine shares cuda:{local_rank % devices}; it has {devices} CUDA device(s)")
    return local_rank % devices if devices else local_rank
