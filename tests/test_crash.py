"""Killed at any moment, a run leaves every file absent or whole, and what follows ends where it would have ended."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tqdm
from conftest import ROOT, TINY, tone_rows, write_rows

import checkpoints
import common
from CLAP.cache import EmbeddingCache

PIECE_ROWS = 3  # many small cache pieces instead of one, so that kills meet their writing
PRELOADED = ["torch", "transformers.models.clap.modeling_clap", "soxr", "training", "CLAP.embeddings", "test_crash"]


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything once and forks the runs: a real start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        first = context.Process(target=len, args=("",))
        first.start()
        first.join()
    return context


def train(argv: list[str], said: Path) -> None:
    """In a process of its own: the training script, its output in a file."""
    import CLAP.cache
    import train_hyperbolic_clap

    CLAP.cache.PIECE_ROWS = PIECE_ROWS
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared between processes and outlives a kill
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train_hyperbolic_clap.py", *argv]
    sys.exit(common.run(train_hyperbolic_clap.main, train_hyperbolic_clap.parser().parse_args(argv)))


class Runs:
    """Training runs on one small data set. `start` forks one; `finish` waits for it to end well."""

    def __init__(self, server, home: Path):
        self.server, self.home, self.said = server, home, home / "said"
        write_rows(home / "data", tone_rows(30)[:15], "00.parquet")
        write_rows(home / "data", tone_rows(30)[15:], "01.parquet")
        (home / "classes.json").write_text(json.dumps({"Sine wave": 0, "Chirp tone": 1, "Music": 2}))

    def start(self, output: str, *flags):
        argv = ["--parquet-dir", self.home / "data", "--class-labels", self.home / "classes.json"]
        argv += ["--checkpoint", TINY, "--device", "cpu", "--workers", "2", "--output-dir", self.home / output, *flags]
        process = self.server.Process(target=train, args=([str(part) for part in argv], self.said))
        process.start()
        return process

    def finish(self, output: str, *flags) -> float:
        """Seconds that the run took."""
        started = time.monotonic()
        process = self.start(output, *flags)
        process.join(100)
        assert process.exitcode == 0, self.said.read_text()
        return time.monotonic() - started


@pytest.fixture
def runs(server, tmp_path):
    return Runs(server, tmp_path)


def inspect(folder: Path) -> list[Path]:
    """The temporary files in a run's folder; fails if any other file is damaged."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    temporary = [path for path in files if path.name.endswith(common.TEMPORARY)]
    for path in set(files) - set(temporary):
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            checkpoints.load(path)
    return temporary


def same_content(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_content(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_content, first, second))
    return first.tolist() == second.tolist() if hasattr(first, "tolist") else first == second


def require_same_run(first: Path, second: Path) -> None:
    """The checkpoints of two runs are equal to the last bit, optimizer and figures included."""
    names = sorted(path.name for path in first.glob("*.pth"))
    assert names == sorted(path.name for path in second.glob("*.pth")) and names
    for name in names:
        assert same_content(checkpoints.load(first / name), checkpoints.load(second / name)), name
    one, other = (json.loads((folder / "setup.json").read_text()) for folder in (first, second))
    assert one["epochs"] == other["epochs"] and one["best_epoch"] == other["best_epoch"]


def kill(process, seconds: float | None) -> bool:
    """Kill a run after so many seconds; False if it had ended well before. None lets it end."""
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_kills_while_training(runs):
    rng = np.random.default_rng(0)
    flags = ("--cache-dir", runs.home / "cache", "--epochs", "30")
    runs.finish("whole", *flags)
    start = runs.finish("short", *flags, "--epochs", "1")  # with a warm cache, as the killed runs
    kills = resumes = completed = left_behind = 0
    while kills < 25 or not completed:
        folder = runs.home / f"killed{completed}"
        before = set(folder.glob("projection_epoch_*.pth"))
        process = runs.start(folder.name, *flags, "--resume")
        killed = kill(process, rng.uniform(0, 4 * start) if kills < 25 else None)
        temporary = inspect(folder)
        assert len(temporary) <= 1, "temporary files pile up"
        assert before <= set(folder.glob("projection_epoch_*.pth"))
        kills, resumes, left_behind = kills + killed, resumes + bool(before), left_behind + len(temporary)
        if not killed:
            require_same_run(runs.home / "whole", folder)
            assert not temporary
            completed += 1
    print(f"{kills} kills, {resumes} resumes after finished epochs, {completed} runs completed with equal weights,")
    print(f"0 files damaged, {left_behind} temporary files left and removed by the next start")
    assert resumes >= 10 and "Traceback" not in runs.said.read_text()


def test_kills_while_encoding(runs, encoder):
    rng = np.random.default_rng(1)
    runs.finish("whole", "--no-cache", "--epochs", "2")
    cold, start = (runs.finish("other", "--cache-dir", runs.home / "other", "--epochs", "2") for _ in range(2))
    kills = completed = left_behind = grown = 0
    while kills < 10 or not completed:
        cache, folder = runs.home / f"cache{completed}", runs.home / f"killed{completed}"
        before = set(cache.rglob("*.safetensors"))
        process = runs.start(folder.name, "--cache-dir", cache, "--epochs", "2", "--resume")
        killed = kill(process, rng.uniform(start / 2, cold) if kills < 10 else None)
        pieces = set(cache.rglob("*.safetensors"))
        known = EmbeddingCache(cache, encoder.fingerprint).known  # which removes a piece that is damaged
        assert pieces == set(cache.rglob("*.safetensors")) and before <= pieces and len(known) >= len(pieces)
        temporary = list(cache.rglob(f"*{common.TEMPORARY}"))
        assert len(temporary) <= 1, "temporary files pile up"
        for path in temporary:  # younger ones could be another run's
            os.utime(path, (0, 0))
        kills, grown, left_behind = kills + killed, grown + (before < pieces), left_behind + len(temporary)
        if not killed:
            require_same_run(runs.home / "whole", folder)
            completed += 1
    print(f"{kills} kills while encoding, {grown} runs that added pieces, {completed} completed with equal weights,")
    print(f"0 pieces damaged, {left_behind} temporary files left and removed by a later start")
    assert grown >= 5 and "Traceback" not in runs.said.read_text()
