"""What every entry script shares: the parser, error handling, the device, whole-or-nothing files."""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import ranks

ROOT = Path(__file__).resolve().parent
CLASS_LABELS = ROOT / "CLAP" / "class_labels" / "audioset_class_labels_indices.json"
DEFAULT_CHECKPOINT = "laion/larger_clap_general"
TEMPORARY = ".tmp"
STALE_SECONDS = 3600.0  # far more than any file here takes to write
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # CUDA, PyTorch on Windows, on Linux
OUT_OF_MEMORY = "out of memory: lower --batch-size or --num-samples, or run with --device cpu"

log = logging.getLogger("hyperbolic_clap")


class UserError(Exception):
    """Something the user can mend, told in one sentence; ends a script with exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, the script's docstring as help, and no abbreviated flags."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def positive(text: str) -> float:
    """A finite float above 0."""
    value = _number(text, float)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def fraction(text: str) -> float:
    """A float strictly between 0 and 1."""
    value = _number(text, float)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1 (both excluded)")
    return value


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of `minimum` or more."""

    def whole(text: str) -> int:
        value = _number(text, int)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}, the least accepted")
        return value

    return whole


def seed(text: str) -> int:
    """A whole number that every random generator takes."""
    value = _number(text, int)
    if not -(2**31) <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between {-(2**31)} and {2**32 - 1}")
    return value


def _number(text: str, kind: type):
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {noun}") from None


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that training and testing have in common: data, model, device, cache."""
    add = parser.add_argument
    add("--parquet-dir", type=Path, required=True, help="folder with the *.parquet files (top level, sorted)")
    add("--device", default="cuda:0", help="cuda:0, cuda, cpu, ... (default: cuda:0; the CPU if there is no CUDA)")
    add(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        help=f"the CLAP model: a local folder or a ModelScope id (default: {DEFAULT_CHECKPOINT}, "
        "from the local ModelScope cache or else fetched)",
    )
    add(
        "--class-labels",
        type=Path,
        default=CLASS_LABELS,
        help="JSON of class name -> index (default: the 527 AudioSet classes)",
    )
    add("--encode-batch-size", type=at_least(1), default=32, help="windows per encoder batch on CUDA (default: 32)")
    add("--workers", type=at_least(1), default=None, help="decoding threads (default: one for each core)")
    add("--no-autocast", action="store_true", help="encode in float32 on CUDA instead of bfloat16 autocast")
    add("--cache-dir", type=Path, default=None, help="embedding cache (default: the user's cache folder)")
    add("--skip-bad-files", action="store_true", help="skip and count parquet files that are damaged or lack a column")
    add("--no-cache", action="store_true", help="neither read nor write the embedding cache")


def run(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run `main` and turn what can go wrong outside the program into one sentence and an exit code."""
    ranks.use_all_cores()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no run
    # One log: the other ranks only warn, and say who they are.
    level, sign = (logging.WARNING, f"rank {ranks.rank()}: ") if ranks.rank() else (logging.INFO, "")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Printable(f"{sign}%(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    try:
        main(arguments)
    except UserError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; finished work is kept", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in NO_MEMORY):
            return _fail(OUT_OF_MEMORY, 1)
        raise
    return 0


class Printable(logging.Formatter):
    """Log lines in which nothing from the data breaks the line or steers the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        record.args = tuple(printable(str(a)) if isinstance(a, (str, Path)) else a for a in record.args or ())
        return "\n".join(map(printable, super().format(record).split("\n")))


def printable(text: str) -> str:
    """One line in which control characters and the like are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fail(sentence: str, code: int) -> int:
    sign = f"rank {ranks.rank()}: " if ranks.rank() else ""
    print(sign + (f"error: {printable(sentence)}" if code != 130 else sentence), file=sys.stderr)
    return code


def warn(sentence: str) -> None:
    """A warning the user must see: one line, marked, in the log."""
    log.warning("warning: %s", sentence)


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


def write_atomic(path: Path, write: Callable[[Path], None], tidy: bool = True) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: the file is absent or whole, never half.

    Holds for a kill and for a crash of the machine. An OSError names `path`. tidy: remove what a killed process left of
    this very file; in vain where the name is always new.
    """
    _require_regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tidy:
            remove_stale(path.parent, path.name)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    with contextlib.suppress(OSError):  # not every system and file system can synchronise a folder
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_stale(folder: Path, name: str | None = None, seconds: float = STALE_SECONDS) -> None:
    """Remove what killed processes left of files that they were writing in `folder`: of `name`, or of all.

    seconds: the age from which on a temporary file counts as left behind; another process may be writing a younger one.
    """
    for temporary in folder.glob(f".{glob.escape(name) if name else '*'}.*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - temporary.stat().st_mtime >= seconds:
                temporary.unlink()


def require_writable(path: Path) -> None:
    """The error of `write_atomic`, as far as it can be known beforehand: now, instead of after hours of work."""
    _require_regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _require_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # a rename would replace /dev/null for everybody
        raise UserError(f"{path} is a folder or a device; give the name of a file")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: dict) -> None:
    """Strict JSON (no NaN, no Infinity), whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates, which Python's escape writes as JSON's.
    data = text.encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def plain_arguments(arguments: argparse.Namespace) -> dict:
    """The arguments as JSON values, paths as text."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}


def versions() -> dict[str, str]:
    """Versions of Python and of every library that a number depends on."""
    libraries = ("torch", "transformers", "numpy", "pyarrow", "soundfile", "soxr", "scikit-learn")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries}
