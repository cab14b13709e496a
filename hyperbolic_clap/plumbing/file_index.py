"""What was found inside a file, for as long as the system says the same of it: no second look at what is unchanged.

The content of a file is the truth, and this table stands in front of it as git's index and DVC's state table do: by
absolute path, size, the times of change of content (mtime) and of entry (ctime) to the nanosecond, and inode. A file
that was changed less than RACY_SECONDS before it was looked into is looked into again: a coarse clock could give a
later change the same time (git: "racy" entries). On Windows ctime is the time of creation, so there a change in place
that keeps the size and sets mtime back is seen by --verify-cache alone. Nothing in the table is trusted that is not
whole and of this version.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hyperbolic_clap.plumbing.errors import warn
from hyperbolic_clap.plumbing.files import write_atomic

FORMAT = "1"
RACY_SECONDS = 3.0  # FAT counts 2 s, old network disks 1 s


def stat_token(path: Path) -> dict:
    """What the system says of a file now, and when that was; taken before the file is read."""
    now, stat = time.time_ns(), os.stat(path)
    token = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return {"token": token, "settled": max(token[1:3]) + RACY_SECONDS * 1e9 < now}


class FileIndex:
    """The table, a file for each entry. folder=None: nothing is known or kept. verify: nothing is trusted, all is kept.

    kind: a sub-folder, one for all that its entries depend on besides the file itself.
    """

    def __init__(self, folder: Path | None, verify: bool = False):
        self.folder, self.verify = folder, verify
        self.warned: set[str] = set()

    def get(self, path: Path, kind: str, trust: bool = True) -> tuple[dict[str, np.ndarray], dict] | None:
        """(arrays, about) that were kept of a file, if it is still that file; None if it must be read.

        trust=False: also where everything is to be verified.
        """
        if self.folder is None or (trust and self.verify):
            return None
        entry = _entry(self.folder, path, kind)
        try:
            content = entry.read_bytes()
        except OSError:
            return None
        try:
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("its checksum differs")
            header = json.loads(content[40 : 40 + int.from_bytes(content[32:40], "little")])
            about = json.loads(header["__metadata__"]["about"])
            if about["format"] != FORMAT or about["path"] != _name(path):
                raise ValueError("it is of another version or file")
            arrays = load(content[32:])
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            self._warn_once(f"the table of known files has a damaged entry, {entry} ({error}); the file is read again")
            return None
        try:
            return (arrays, about) if about["settled"] and about["token"] == stat_token(path)["token"] else None
        except OSError:
            return None

    def put(self, path: Path, kind: str, seen: dict, arrays: dict[str, np.ndarray], **about) -> None:
        """Note what was found in a file at which was looked (`seen`) before it was read."""
        if self.folder is None:
            return
        try:
            if stat_token(path)["token"] != seen["token"]:
                return  # changed while it was read
            about |= seen | {"format": FORMAT, "path": _name(path)}
            content = save(arrays, {"about": json.dumps(about)})
            content = hashlib.sha256(content).digest() + content
            write_atomic(_entry(self.folder, path, kind), lambda temporary: temporary.write_bytes(content))
        except OSError as error:
            where = f"the table of known files in {self.folder}"
            self._warn_once(f"{where} cannot be written ({error.strerror}); later runs read these files again")

    def hash(self, path: Path, compute: Callable[[Path], bytes]) -> bytes:
        """compute(path), the hash of a file's content, or what it was when the file was last read."""
        seen = stat_token(path)
        if (kept := self.get(path, "hashes")) and "hash" in kept[0]:
            return kept[0]["hash"].tobytes()
        digest = compute(path)
        before = self.get(path, "hashes", trust=False)
        if self.verify and before and before[0]["hash"].tobytes() != digest:
            warn(f"--verify-cache: {path} had changed without its size, times or number saying so")
        self.put(path, "hashes", seen, {"hash": np.frombuffer(digest, np.uint8)})
        return digest

    def _warn_once(self, sentence: str) -> None:
        beginning = sentence[:45]
        if beginning not in self.warned:
            self.warned.add(beginning)
            warn(sentence)


def _entry(folder: Path, path: Path, kind: str) -> Path:
    return folder / kind / f"{hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:32]}.known"


def _name(path: Path) -> str:
    return os.fsencode(os.path.abspath(path)).hex()
