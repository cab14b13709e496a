"""The class list, and the many spellings in which a parquet column may hold a clip's labels."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hyperbolic_clap.plumbing.config import ROOT
from hyperbolic_clap.plumbing.errors import UserError

ONTOLOGY = ROOT / "CLAP" / "class_labels" / "audioset_ontology.json"
# A quoted item of a written list, closed by its quote or the end: whatever opens matches, so the time is linear.
_QUOTED = re.compile(
    r"""(?<![^\s,(\[])[bu]?(?:'([^'\\]*(?:\\.[^'\\]*)*)(?:'|\\?\Z)|"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z))""", re.DOTALL
)
_BESIDE_QUOTED = re.compile(r"(?:[\s,\[\]()]|None|nan|np\.str_)*")


@lru_cache(1 << 16)  # a million rows have a few hundred different labels
def normalise(name: str) -> str:
    """A label as it is compared: without regard to case, repeated space and space around it or its commas."""
    return ", ".join(" ".join(part.split()) for part in name.split(",")).casefold()


class ClassList:
    """The classes of an evaluation, in the order of their indices.

    names: the display names. A JSON file of name -> index gives them (AudioSet's 527, ESC-50's 50, ...).
    """

    def __init__(self, names: list[str]):
        self.names = names
        self.position = {normalise(name): i for i, name in enumerate(names)}
        self.most_parts = 1 + max((name.count(",") for name in self.position), default=0)
        # AudioSet files sometimes hold machine ids (/m/09x0r) where the names should be.
        for node in json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]:
            if normalise(node["name"]) in self.position:
                self.position.setdefault(normalise(node["id"]), self.position[normalise(node["name"])])

    @classmethod
    def read(cls, path: Path) -> ClassList:
        """The class list of a JSON file of name -> index; UserError if it is not one."""
        try:
            # Pairs, because a plain object would silently lose a name that occurs twice.
            table = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
        except OSError as error:
            raise UserError(f"--class-labels {path} cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError):
            raise UserError(f"--class-labels {path} is not JSON; it must be an object of class name -> index") from None
        if not isinstance(table, _Pairs) or len(table) < 2 or not all(type(index) is int for _, index in table):
            raise UserError(f"--class-labels {path} must be an object of two or more class names -> whole-number index")
        names = [name for name, _ in sorted(table, key=lambda pair: pair[1])]
        if not all(map(normalise, names)):
            raise UserError(f"--class-labels {path} holds an empty class name; each class needs a name")
        counts = Counter([*(index for _, index in table), *map(normalise, names)])
        if twice := [key for key, count in counts.items() if count > 1]:
            raise UserError(f"--class-labels {path} holds the index or name {twice[0]!r} twice; each must occur once")
        return cls(names)

    @classmethod
    def of(cls, names: Sequence[str]) -> ClassList:
        """The class list of the names themselves, in their order; UserError if it is one name, or holds one twice."""
        if len(names) < 2:
            raise UserError(f"--classes {names[0]!r} is one name; give two or more, which are compared")
        counts = Counter(map(normalise, names))
        if twice := [name for name in names if counts[normalise(name)] > 1]:
            raise UserError(f"--classes holds the name {twice[0]!r} twice; each must occur once")
        return cls(list(names))

    def __len__(self) -> int:
        return len(self.names)

    def find(self, label: str) -> int | None:
        """The position of one label, or None."""
        return self.position.get(normalise(label))

    def match(self, labels: list[str]) -> list[int]:
        """The positions of the labels that are in the class list, ascending, each once."""
        return sorted({p for p in map(self.find, labels) if p is not None})

    def near(self, label: str) -> str | None:
        """The class name that looks most like `label`, for error messages."""
        close = difflib.get_close_matches(label[:100], self.names, n=1, cutoff=0.0)
        return close[0] if close else None

    def parse(self, value) -> list[str]:
        """One cell of a label column -> label names, in order, each once.

        value: None, text, or a (nested) list of them; anything else in it is no label. Text may be one name, names
        joined by commas (AudioSet names contain commas themselves, so the longest known names are matched first),
        by semicolons or bars, or a JSON, Python or NumPy list written out.
        """
        found: dict[str, str] = {}
        waiting = [value]  # a stack instead of recursion: lists may nest as deep as they like
        while waiting:
            value = waiting.pop()
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            if isinstance(value, str):
                names, more = self._read(value.strip())
                for name in names:
                    found.setdefault(normalise(name), name.encode("utf-8", "replace").decode("utf-8"))
                waiting += reversed(more)
            elif isinstance(value, (list, tuple)):
                waiting += reversed(value)
        return list(found.values())

    def _read(self, text: str) -> tuple[list[str], list]:
        """A text as (names, values that must be parsed in turn); one of the two is empty."""
        if not text or self.find(text) is not None:
            return [text] if text else [], []
        if text[0] in "[('\"" and text[-1] in "])'\"":
            items = _written_list(text)
            if items is not None:
                return [], items
            if text[0] in "[(":
                text = text[1:-1]
        for separator in ";|\t\n":
            text = text.replace(separator, "\n")
        return [name for line in text.split("\n") for name in self._split_commas(line)], []

    def _split_commas(self, text: str) -> list[str]:
        parts = [part.strip() for part in text.split(",")]
        names, start = [], 0
        while start < len(parts):
            for end in range(min(len(parts), start + self.most_parts), start, -1):
                name = ", ".join(parts[start:end])
                if self.find(name) is not None or end == start + 1:
                    break
            if name:
                names.append(name)
            start = end
        return names


class _Pairs(list):
    """A JSON object as its (name, value) pairs."""


def _written_list(text: str) -> list | None:
    """The items of a list written out as text: JSON, Python, or NumPy (which has no commas); None if it is none."""
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except (ValueError, RecursionError):
        # Python's own parser would join neighbouring strings, so a NumPy list would become one long name.
        if not _BESIDE_QUOTED.fullmatch(_QUOTED.sub("", text)):
            return None
        return [re.sub(r"\\(.)", r"\1", a or b, flags=re.DOTALL) for a, b in _QUOTED.findall(text)]
