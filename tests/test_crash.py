"""Killed at any moment, a run leaves every file absent or whole, and what follows ends where it would have ended."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from conftest import TINY, cached, script, tone_rows, write_rows

from data import ParquetFolder
from hyperbolic_clap.embedding import segments
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import TEMPORARY, remove_stale, write_atomic, write_json
from hyperbolic_clap.projector import checkpoints

TRAIN, TEST = "train_hyperbolic_clap.py", "test_clap_modelscope.py"
PIECE_ROWS = 3  # many small cache pieces instead of one, so that kills meet their writing


@pytest.fixture(scope="module")
def server():
    return forks.server()


class Runs:
    """Training runs on one small data set. `start` forks one; `finish` waits for it to end well."""

    def __init__(self, server, home: Path):
        self.server, self.home, self.said, self.started = server, home, home / "said", []
        write_rows(home / "data", tone_rows(30)[:15], "00.parquet")
        write_rows(home / "data", tone_rows(30)[15:], "01.parquet")
        (home / "classes.json").write_text(json.dumps({"Sine wave": 0, "Chirp tone": 1, "Music": 2}))

    def start(self, output: str, *flags):
        argv = ["--parquet-dir", self.home / "data", "--class-labels", self.home / "classes.json"]
        argv += ["--checkpoint", TINY, "--device", "cpu", "--workers", "2", "--output-dir", self.home / output, *flags]
        arguments = (TRAIN, [str(part) for part in argv], (self.said, self.said), {}, PIECE_ROWS)
        process = forks.start(self.server, forks.enter, arguments)
        self.started.append(process)
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
    runs = Runs(server, tmp_path)
    yield runs
    for process in runs.started:  # also of a test that failed
        process.kill()
        process.join()


WHOLE = set()  # files that were looked into, by all that the system says of them


def inspect(folder: Path) -> list[Path]:
    """The temporary files in a run's folder; fails if any other file is damaged."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    temporary = [path for path in files if path.name.endswith(TEMPORARY)]
    for path in set(files) - set(temporary):
        stat = path.stat()
        seen = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif seen not in WHOLE:
            checkpoints.load(path)
            WHOLE.add(seen)
    return temporary


def same_content(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_content(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_content, first, second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.numpy().tobytes() == second.numpy().tobytes()
    return first == second


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
    while kills < 10 or not completed:
        folder = runs.home / f"killed{completed}"
        before = set(folder.glob("projection_epoch_*.pth"))
        process = runs.start(folder.name, *flags, "--resume")
        killed = kill(process, rng.uniform(0, 2.5 * start) if kills < 10 else None)
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
    assert resumes >= 4 and "Traceback" not in runs.said.read_text()


def test_kills_while_encoding(runs, encoder):
    rng = np.random.default_rng(1)
    runs.finish("whole", "--no-cache", "--epochs", "2")
    cold, start = (runs.finish("other", "--cache-dir", runs.home / "other", "--epochs", "2") for _ in range(2))
    kills = completed = left_behind = grown = 0
    while kills < 5 or not completed:
        cache, folder = runs.home / f"cache{completed}", runs.home / f"killed{completed}"
        before = set(cached(cache, once=False))
        process = runs.start(folder.name, "--cache-dir", cache, "--epochs", "2", "--resume")
        killed = kill(process, rng.uniform(start / 2, cold) if kills < 5 else None)
        pieces = set(cache.rglob("*.safetensors"))
        known = set(cached(cache, once=False))
        keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
        assert EmbeddingCache(cache, encoder.audio_fingerprint).take(keys, encoder.embed_dim)[1].all()
        assert before <= known
        assert pieces == set(cache.rglob("*.safetensors"))  # no damaged one was removed
        temporary = list(cache.rglob(f"*{TEMPORARY}"))
        assert len(temporary) <= 1, "temporary files pile up"
        for path in temporary:  # younger ones could be another run's
            os.utime(path, (0, 0))
        kills, grown, left_behind = kills + killed, grown + (before < known), left_behind + len(temporary)
        if not killed:
            require_same_run(runs.home / "whole", folder)
            completed += 1
    print(f"{kills} kills while encoding, {grown} runs that added pieces, {completed} completed with equal weights,")
    print(f"0 pieces damaged, {left_behind} temporary files left and removed by a later start")
    assert grown >= 2 and "Traceback" not in runs.said.read_text()


@pytest.mark.parametrize(("training", "waits_for"), [(False, "embedding:"), (True, "epoch 3: train loss")])
def test_ctrl_c(runs, encoder, training, waits_for):
    """While encoding and while training: one line, exit code 130, and finished work is kept."""
    flags = ("--cache-dir", runs.home / "cache", "--epochs", "100000" if training else "1")
    process = runs.start("out", *flags, "--workers", "1")
    while process.is_alive() and waits_for not in (runs.said.read_text() if runs.said.exists() else ""):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    said = runs.said.read_text()
    assert process.exitcode == 130, said
    assert "Traceback" not in said and said.splitlines()[-1] == "interrupted; finished work is kept"
    assert inspect(runs.home / "out") == []
    known = cached(runs.home / "cache")
    epochs = {path.name for path in (runs.home / "out").glob("projection_epoch_*.pth")}
    if training:
        assert len(known) == 33 and {f"projection_epoch_{e}.pth" for e in (1, 2, 3)} <= epochs
    else:
        assert len(known) < 33 and not epochs


def test_kill_at_every_step_of_a_merge(server, tmp_path):
    """Small segments become one: killed before any of its writes, renames and removals, nothing is lost."""
    rng = np.random.default_rng(2)
    keys, vectors = rng.integers(0, 256, (24, 32), np.uint8), rng.standard_normal((24, 8), np.float32)
    for i in range(0, 24, 4):
        path = tmp_path / "whole" / "name" / "store" / f"{i}.safetensors"
        segments.write(path, "name", keys[i : i + 4], vectors[i : i + 4])
    kills, left, counts = 0, 0, set()
    while True:
        cache = tmp_path / f"killed{kills}"
        shutil.copytree(tmp_path / "whole", cache)
        process = forks.start(server, forks.merge, (cache, "name", kills))
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        left += len(list(cache.rglob(f"*{TEMPORARY}")))
        counts.add(len(list(cache.rglob("*.safetensors"))))
        for merge_again in (False, True):
            again = EmbeddingCache(cache, "name")
            if merge_again:
                again.flush(0)
            found = again.take(keys, 8)
            assert found[1].all() and np.array_equal(found[0], vectors) and not again.refused
        assert len(cached(cache)) == 24 and len(list(cache.rglob("*.safetensors"))) == 1
        if process.exitcode == 0:
            break
        kills += 1
    print(f"{kills} kills, {left} temporary files left; segments then: {sorted(counts)}")
    assert kills >= 9 and {6, 7, 2, 1} <= counts


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Data, a cache that knows it, and the results of a run with room."""
    home = tmp_path_factory.mktemp("material")
    write_rows(home / "data", tone_rows(12))
    (home / "classes.json").write_text(json.dumps({"Sine wave": 0, "Chirp tone": 1, "Music": 2}))
    script(TRAIN, *data_flags(home), "--output-dir", home / "whole", "--epochs", "4")
    return home


def data_flags(home: Path, cache: Path | None = None) -> tuple:
    data = ("--parquet-dir", home / "data", "--class-labels", home / "classes.json")
    return *data, "--cache-dir", cache or home / "cache"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path) -> Path:
    """Leave no byte of the disk."""
    with (folder / "filler").open("wb") as file:
        while True:
            try:
                os.write(file.fileno(), bytes(4096))
            except OSError:
                return folder / "filler"


def fail(name: str, *flags) -> str:
    """The one sentence with which a script ends."""
    done = script(name, *flags, check=False)
    lines = [line for line in done.stderr.splitlines() if line and "it/s" not in line and "clip/s" not in line]
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert lines[-1].startswith("error: ") and sum("error" in line for line in lines) == 1
    print(lines[-1])
    return lines[-1]


def test_a_full_disk_ends_training_and_resume_goes_on_with_room(material, disk):
    folder, remount = disk
    flags = (*data_flags(material), "--output-dir", folder / "out", "--epochs", "4")
    sentence = fail(TRAIN, *flags)
    assert sentence == f"error: No space left on device: {folder / 'out' / 'projection_epoch_2.pth'}"
    assert inspect(folder) == []
    assert {path.name for path in folder.rglob("*.pth")} == {"projection_epoch_1.pth", "best_projection_epoch_1.pth"}
    remount("size=100m")
    script(TRAIN, *flags, "--resume")
    require_same_run(material / "whole", folder / "out")


def test_a_full_disk_leaves_earlier_results_as_they_are(material, disk):
    folder, _ = disk
    flags = (*data_flags(material), "--output-json", folder / "r.json")
    scores = ("--save-scores", folder / "r.safetensors")
    script(TEST, *flags, *scores)
    filler = fill(folder)
    before = contents(folder)
    assert fail(TEST, *flags) == f"error: No space left on device: {folder / 'r.json'}"
    assert fail(TEST, *flags, *scores) == f"error: No space left on device: {folder / 'r.safetensors'}"
    assert before == contents(folder)
    filler.unlink()
    script(TEST, *flags, *scores)


@pytest.mark.parametrize("way", ["full", "read-only"])
def test_a_cache_without_room_is_a_warning(material, disk, way):
    folder, remount = disk
    script(TEST, *data_flags(material), "--output-json", material / "with.json")
    if way == "full":
        fill(folder)
    else:
        remount("ro")
    done = script(TEST, *data_flags(material, folder / "cache"), "--output-json", material / "without.json")
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: the embedding cache")]
    print(warning)
    assert warning.endswith("; the run goes on without it") and str(folder / "cache") in warning
    one, other = (json.loads((material / name).read_text()) for name in ("with.json", "without.json"))
    assert all(one[key] == other[key] for key in ("metrics", "predictions", "similarity_stats"))
    assert not list(folder.rglob("*.safetensors"))


def test_a_read_only_output_is_said_before_the_work(material, disk, monkeypatch):
    folder, remount = disk
    script(TRAIN, *data_flags(material), "--output-dir", folder / "out", "--epochs", "1")
    script(TEST, *data_flags(material), "--output-json", folder / "r.json")
    before = contents(folder)
    remount("ro")
    monkeypatch.setattr("hyperbolic_clap.embedding.pipeline.embed_rows", None)  # it would fail
    train, test = (TRAIN, *data_flags(material)), (TEST, *data_flags(material))
    for wrong, named in (
        ((*train, "--output-dir", folder / "new"), "new/setup.json"),
        ((*train, "--output-dir", folder / "out"), "out/earlier_"),
        ((*train, "--output-dir", folder / "out", "--resume"), "out/setup.json"),
        ((*test, "--output-json", folder / "r.json"), "r.json"),
        ((*test, "--output-json", folder / "new" / "r.json"), "new/r.json"),
        ((*test, "--output-json", material / "r.json", "--save-scores", folder / "r.safetensors"), "r.safetensors"),
    ):
        assert fail(*wrong).startswith(f"error: Read-only file system: {folder / named}")
    assert before == contents(folder)


def test_an_input_that_vanishes_is_one_sentence(tmp_path, monkeypatch):
    write_rows(tmp_path / "data", tone_rows(4), "00.parquet")
    check = ParquetFolder._check

    def vanish(folder, file):
        found = check(folder, file)
        file.unlink()
        return found

    monkeypatch.setattr(ParquetFolder, "_check", vanish)
    flags = ("--parquet-dir", tmp_path / "data", "--output-json", tmp_path / "r.json", "--no-cache")
    done = script(TEST, *flags, check=False)
    print(done.stderr.splitlines()[-1])
    wanted = f"error: {tmp_path / 'data' / '00.parquet'} was there when the run began and is no longer"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == wanted and not (tmp_path / "r.json").exists()


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "[a]*.json"
    write_json(path, {"a": "\udcff"})
    assert json.loads(path.read_text()) == {"a": "\udcff"}
    for error in (OSError(5, "broken"), KeyboardInterrupt(), ValueError()):

        def write(temporary, error=error):
            temporary.write_text("half")
            raise error

        with pytest.raises(type(error)):
            write_atomic(path, write)
    assert contents(tmp_path) == {path: path.read_bytes()} and json.loads(path.read_text())


def test_stale_temporary_files_are_removed_and_others_left(tmp_path):
    target = tmp_path / "[a]*.json"
    stale, young, other = (tmp_path / f".{name}.x.tmp" for name in (target.name, "[a]*.json.y", "b.json"))
    for path in (stale, young, other):
        path.write_text("half")
    os.utime(stale, (0, 0))
    os.utime(other, (0, 0))
    write_json(target, {})
    assert {path for path in tmp_path.iterdir()} == {target, young, other}
    remove_stale(tmp_path)
    assert {path for path in tmp_path.iterdir()} == {target, young}


def test_a_folder_or_a_device_is_not_replaced(tmp_path):
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match="is a folder or a device; give the name of a file"):
            write_json(path, {})
    assert not Path(os.devnull).is_file()
