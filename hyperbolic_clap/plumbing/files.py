"""Files that are whole or absent, also if the process or the machine dies while they are written."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hyperbolic_clap.plumbing.errors import UserError

TEMPORARY = ".tmp"
NAMED = 40  # characters of a file's name in that of its temporary one, since a name may have 255 bytes at most
STALE_SECONDS = 3600.0  # far more than any file here takes to write
HELD = (5, 32, 33)  # Windows' errors of a file that another program, a virus scanner say, has open for a moment
HELD_SECONDS = 5.0


def write_atomic(path: Path, write: Callable[[Path], object], tidy: bool = True) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: the file is absent or whole, never half.

    Holds for a kill and for a crash of the machine. An OSError names `path`. tidy: remove what a killed process left of
    this very file; in vain where the name is always new.
    """
    _require_regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tidy:
            remove_stale(path.parent, path.name[:NAMED])
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:NAMED]}.", suffix=TEMPORARY, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            patiently(lambda: temporary.replace(path))
        finally:
            with contextlib.suppress(PermissionError):  # held as well, it is removed as stale by a later run
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


def require_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """`require_writable` of files, None for one not asked for; UserError for one that is read, or written as well."""
    taken = {Path(path).resolve(): path for path in inputs if path}
    for path in filter(None, outputs):
        if (other := taken.setdefault(path.resolve(), path)) is not path:
            raise UserError(f"{path} would be overwritten: {other} is read or written as well; name another file")
        require_writable(path)


def patiently(change: Callable[[], object]) -> None:
    """Rename or remove a file, again for some seconds while Windows says that another program holds it."""
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            change()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in HELD or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def open_to_lock(folder: Path) -> int:
    """A handle to lock a folder by: its own, or on Windows, which opens no folders, that of a file in it."""
    try:
        return os.open(folder, os.O_RDONLY)
    except PermissionError:
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False if another has it, True where locks are unknown."""
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _lock_on_windows(handle: int) -> bool:
    try:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # to mypy this is Linux
    except ImportError:
        pass
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EDEADLK)
    return True


def stored_path(path: Path, folder: Path) -> str:
    """A file as another in `folder` names it, for any system: relative with slashes; absolute from another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()


@contextlib.contextmanager
def in_utf8(folder: Path) -> Iterator[Path]:
    """A folder's path as libraries want it that take all paths for UTF-8; under another locale that of a link to it."""
    with contextlib.suppress(UnicodeDecodeError):
        if os.fsencode(folder).decode("utf-8") == str(folder):
            yield folder
            return
    with tempfile.TemporaryDirectory() as home:
        link = Path(home) / "link"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


def distinct(name: str) -> str:
    """A file's name as the system tells it from others: on Windows and macOS A.csv is a.csv."""
    return name.casefold() if sys.platform in ("win32", "darwin") else name


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
