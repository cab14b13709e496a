"""One run of a script: what can go wrong becomes a sentence and an exit code, and what it was stays on record."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hyperbolic_clap.plumbing import ranks
from hyperbolic_clap.plumbing.device import out_of_memory, wait_gently
from hyperbolic_clap.plumbing.errors import Printable, UserError, printable
from hyperbolic_clap.plumbing.versions import require_versions, versions

Flags = TypeVar("Flags")
GARBAGE = 100_000  # new objects before a look; Python's own is 700 or 2000
OUT_OF_MEMORY = "out of memory: lower --batch-size, --encode-batch-size or --num-samples, or run with --device cpu"


def run(main: Callable[[Flags], None], flags: Flags) -> int:
    """Run `main` and turn what can go wrong outside the program into one sentence and an exit code."""
    # Imports make a million objects that stay: looking through them for garbage is an eighth of a known run.
    gc.set_threshold(GARBAGE)
    ranks.use_all_cores()
    wait_gently()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no run
    # One log: the other ranks only warn, and say who they are.
    level, sign = (logging.WARNING, f"rank {ranks.rank()}: ") if ranks.rank() else (logging.INFO, "")
    handler = _Log(sys.stdout)
    handler.setFormatter(Printable(f"{sign}%(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    try:
        require_versions()
        main(flags)
    except UserError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; finished work is kept", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            return _fail(OUT_OF_MEMORY, 1)
        raise
    return 0


class _Log(logging.StreamHandler):
    """A log that ends without a word where its reader has left (`| head`): the work itself goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules or not sys.stderr.isatty():
            return super().emit(record)
        with sys.modules["tqdm"].tqdm.external_write_mode(sys.stdout):  # a line above the bar, not behind it
            return super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)


def _fail(sentence: str, code: int) -> int:
    sign = f"rank {ranks.rank()}: " if ranks.rank() else ""
    print(sign + (f"error: {printable(sentence)}" if code != 130 else sentence), file=sys.stderr)
    return code


def describe_run(arguments: dict, device, world_size: int) -> dict:
    """What was run, for setup.json and the results JSON. arguments: {flag: value}, as plumbing/flags.py gives them."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "arguments": arguments,
        "device": str(device),
        "world_size": world_size,
        "versions": versions(),
    }


def describe_test(arguments: dict, device, world_size: int, started: float, **facts) -> dict:
    """What a test was and found in its data, for the results JSON. started: time.time() of its beginning."""
    when = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))}
    return describe_run(arguments, device, world_size) | when | facts | {"seconds": round(time.time() - started, 3)}
