"""What Windows does otherwise, played on Linux: no fcntl, no handles on folders, no changes to files that are open."""

import errno
import json
import os
import pathlib
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from conftest import ROOT, TINY, few_classes, here, script, tone_rows, write_rows

from hyperbolic_clap.plumbing import files
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.training.run_folder import RunFolder


class Held(PermissionError):
    winerror = 32


@pytest.fixture
def windows(monkeypatch):
    """A process that meets files as on Windows; Linux tells what it has open."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the shim reads /proc")
    import fcntl

    def locking(handle, mode, count):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "held") from None

    def is_open(path) -> bool:
        whole = os.path.realpath(path)
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            taken = {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps}
        for number in os.listdir("/proc/self/fd"):
            try:
                taken.add(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return any(name == whole or name.startswith(f"{whole}/") for name in taken)

    def guarded(change):
        def guard(path, *others, **options):
            for one in (path, *others):
                if isinstance(one, (str, os.PathLike)) and is_open(one):
                    raise Held(errno.EACCES, "held by another program", str(one))
            return change(path, *others, **options)

        return guard

    def opened(path, flags, *rest, **options):
        if os.path.isdir(path) and not flags & os.O_TMPFILE == os.O_TMPFILE:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os_open(path, flags, *rest, **options)

    os_open = os.open
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(os, "open", opened)
    for name in ("unlink", "remove", "rename", "replace"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    for name in ("unlink", "rename", "replace"):  # Python 3.10 keeps os' functions elsewhere
        monkeypatch.setattr(pathlib.Path, name, guarded(getattr(pathlib.Path, name)))


def test_the_shim_holds_what_is_open(windows, tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    for change in (path.unlink, lambda: os.replace(path, tmp_path / "b"), lambda: (tmp_path).rename(tmp_path / "c")):
        with path.open(), pytest.raises(Held):
            change()
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    path.unlink()


def test_the_whole_way_on_windows(windows, tmp_path):
    """Training, a second one, resume, test, compare, search and tag."""
    folder = write_rows(tmp_path / "data", tone_rows(24))
    out, cache = tmp_path / "out", ("--cache-dir", tmp_path / "cache")
    classes = ("--class-labels", few_classes(tmp_path))
    train = ("train_hyperbolic_clap.py", "--parquet-dir", folder, "--output-dir", out, *cache, *classes)
    script(*train, "--epochs", "1")
    again = script(*train, "--epochs", "2", "--log-to", "tensorboard") if has("tensorboard") else script(*train)
    assert "was moved to" in again.stdout and len(list(out.glob("best_projection_epoch_*.pth"))) == 1
    assert "resuming after epoch" in script(*train, "--epochs", "3", "--resume").stdout
    best = next(out.glob("best_projection_epoch_*.pth"))
    flags = ("--parquet-dir", folder, *cache, *classes)
    for name, more in (("a", ()), ("b", ("--use-hyperbolic", "--projection-checkpoint", best))):
        scores = ("--save-scores", tmp_path / "scores" / f"{name}.safetensors")
        for _ in range(2):
            script("test_clap_modelscope.py", *flags, *more, *scores, "--output-json", tmp_path / f"{name}.json")
        assert json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["test_info"]["scores"] == (
            f"scores/{name}.safetensors"
        )
    compare = ("compare_results.py", tmp_path / "a.json", tmp_path / "b.json", "--report", tmp_path / "report.html")
    for _ in range(2):
        assert "needs scores" not in here(*compare).stdout
    search = ("search_sounds.py", "a tone", *flags, "--top-k", "2", "--save-audio", tmp_path / "found")
    for _ in range(2):
        script(*search, "--projection-checkpoint", best, "--use-hyperbolic")
    sound = next((tmp_path / "found").rglob("*.wav"))
    timeline = ("--timeline", "--output-dir", tmp_path / "tags")
    for more in ((), timeline, timeline):
        script("tag_sounds.py", sound, *more, *cache, "--projection-checkpoint", best, "--use-hyperbolic")
    assert not list(tmp_path.rglob("*.tmp"))


def has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_two_trainings_in_one_folder(request, system, tmp_path):
    if system == "windows":
        request.getfixturevalue("windows")
    first = RunFolder(tmp_path / "out", {}, resume=False)
    with pytest.raises(UserError, match="another training is writing to"):
        RunFolder(tmp_path / "out", {}, resume=False)
    del first
    RunFolder(tmp_path / "out", {}, resume=False)


def test_a_scanner_that_lets_go_is_waited_for(monkeypatch, tmp_path):
    tries, replace = [], pathlib.Path.replace

    def held(self, target):
        tries.append(target)
        if len(tries) < 3:
            raise Held(errno.EACCES, "held by another program", str(self))
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", held)
    files.write_json(tmp_path / "a.json", {"x": 1})
    assert len(tries) == 3 and json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_one_that_does_not_is_an_error_after_some_seconds_and_another_error_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "HELD_SECONDS", 0.1)
    errors = []

    def fails(error):
        def change():
            errors.append(error)
            raise error

        return change

    with pytest.raises(PermissionError):
        files.patiently(fails(Held()))
    assert len(errors) > 1
    errors.clear()
    with pytest.raises(PermissionError):
        files.patiently(fails(PermissionError()))
    assert len(errors) == 1


def test_an_earlier_run_is_moved_aside_whole_or_not_at_all(windows, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "HELD_SECONDS", 0.1)
    (tmp_path / "tensorboard").mkdir()
    for name in ("projection_epoch_1.pth", "best_projection_epoch_1.pth", "setup.json", "tensorboard/events"):
        (tmp_path / name).write_text("x")
    before = sorted(path for path in tmp_path.rglob("*"))
    with (tmp_path / "tensorboard" / "events").open():
        with pytest.raises(UserError, match="tensorboard of an earlier run cannot be moved aside"):
            RunFolder(tmp_path, {}, resume=False)
        assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before
    RunFolder(tmp_path, {}, resume=False)
    (aside,) = tmp_path.glob("earlier_*")
    assert len(list(aside.iterdir())) == 4 and (aside / "tensorboard" / "events").is_file()


def test_the_path_of_a_scores_file(monkeypatch, tmp_path):
    assert files.stored_path(tmp_path / "a" / "x.safetensors", tmp_path / "b") == "../a/x.safetensors"
    assert files.stored_path(Path("x.safetensors"), Path(".")) == "x.safetensors"
    monkeypatch.setattr(files, "Path", PureWindowsPath)
    monkeypatch.setattr(files.os.path, "relpath", lambda path, start: "..\\a\\x.safetensors")
    assert files.stored_path("x", "y") == "../a/x.safetensors"

    def other_drive(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(files.os.path, "relpath", other_drive)
    monkeypatch.setattr(files.os.path, "abspath", lambda path: f"D:\\scores\\{path}")
    assert files.stored_path("x.safetensors", "C:\\y") == "D:/scores/x.safetensors"


def test_names_that_windows_takes_for_one(monkeypatch, tmp_path):
    from hyperbolic_clap.plumbing.files import distinct

    assert distinct("A") != distinct("a")
    monkeypatch.setattr(sys, "platform", "win32")
    assert distinct("A") == distinct("a")


def test_a_checkout_holds_the_repositorys_bytes(tmp_path):
    import subprocess

    from CLAP.checkpoint import ModelFolder

    git = ("git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    cloned = subprocess.run([*git, "clone", "-q", "--depth", "1", f"file://{ROOT}", tmp_path / "clone"],
                            capture_output=True, text=True)  # fmt: skip
    if cloned.returncode:
        pytest.skip(f"git cannot clone here: {cloned.stderr.strip()}")
    clone = tmp_path / "clone"
    assert ModelFolder(clone / "CLAP" / "tiny").sha256 == ModelFolder(TINY).sha256
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert "w/crlf" not in listed
