"""Entry scripts as processes forked from one that has loaded everything: a real start takes seconds of imports."""

import functools
import importlib
import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType

import pytest
import tqdm
from conftest import ROOT

PRELOADED = ["torch.distributed", "transformers.models.clap.modeling_clap", "soxr", "pandas", "scipy.stats"]
ROOMS = {
    "training": ("trainer", "run_folder", "trackers", "calibration"),
    "embedding": ("clips", "pipeline"),
    "results": ("evaluation",),
}
PRELOADED += [f"hyperbolic_clap.{room}.{name}" for room, names in ROOMS.items() for name in names] + ["forks"]


@functools.cache
def server():
    """The context whose processes are forks. One server serves the whole of the tests' process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        first = start(context, len, ("",))
        first.join()
    return context


def stop():
    """End the server and wait for it, so that nothing is left when pytest has ended."""
    forkserver._forkserver._stop()


def start(context, target, arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # each fork would import pytest's again
        process = context.Process(target=target, args=arguments)
        process.start()
    return process


def enter(name: str, argv: list[str], said: tuple[Path, Path], environment: dict[str, str], piece_rows: int = 256):
    """In a fork: an entry script with small cache pieces, its output and its errors in two files."""
    import hyperbolic_clap.embedding.store
    from hyperbolic_clap.plumbing.run import run

    hyperbolic_clap.embedding.store.PIECE_ROWS = piece_rows
    os.environ.update(environment)
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared between processes and outlives a kill
    redirect(said)
    script = importlib.import_module(name.removesuffix(".py"))
    sys.argv = [name, *argv]
    sys.exit(run(script.main, script.parser().parse_args(argv)))


def redirect(said: tuple[Path, Path]):
    """Send this process's output and its errors to the ends of two files."""
    for path, descriptor in zip(said, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), descriptor)


def agent(path: str, argv: list[str], said: tuple[Path, Path], count: int, restarts: int):
    """In a fork: what torchrun does, with ranks that are forks as well."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.setsid()  # so that whatever happens, its ranks end with it
    redirect(said)
    where = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "none"}
    config = LaunchConfig(nproc_per_node=count, max_restarts=restarts, start_method="fork", **where)
    elastic_launch(config, as_main)(path, argv)


def as_main(path: str, argv: list[str]):
    sys.argv = [path, *argv]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end


def merge(folder: Path, fingerprint: str, step: int):
    """In a fork: merge all segments of a cache, and be killed before a step: a write is half done by then."""
    from hyperbolic_clap.embedding.store import EmbeddingCache

    steps = itertools.count()

    def counted(call):
        def made(path, *arguments, **options):
            if next(steps) == step:
                if arguments and isinstance(arguments[0], bytes):
                    call(path, arguments[0][: len(arguments[0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(path, *arguments, **options)

        return made

    cache = EmbeddingCache(folder, fingerprint)
    Path.write_bytes, Path.replace, Path.unlink = map(counted, (Path.write_bytes, Path.replace, Path.unlink))
    cache.flush(0)


def as_ranks(context, count: int, name: str, argv: list[str], home: Path, timeout: float = 60) -> tuple[str, str]:
    """Run an entry script as torchrun would start its ranks; what they print and say of errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    same = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    same |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0}
    said = home / "stdout", home / "stderr"
    ranks = []
    try:
        for rank in range(count):
            environment = {key: str(value) for key, value in (same | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            ranks.append(start(context, enter, (name, argv, said, environment)))
        for process in ranks:
            process.join(timeout)
            assert process.exitcode == 0, said[0].read_text() + said[1].read_text()
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return said[0].read_text(), said[1].read_text()
