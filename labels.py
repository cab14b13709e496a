"""The class list, and the many spellings in which a parquet column may hold a clip's labels."""

from __future__ import annotations

import ast
import difflib
import json
import re
from pathlib import Path

from common import ROOT, UserError

ONTOLOGY = ROOT / "CLAP" / "class_labels" / "audioset_ontology.json"
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")


def normalise(name: str) -> str:
    """A label as it is compared: without regard to case and surrounding or repeated space."""
    return " ".join(name.split()).casefold()


class ClassList:
    """The classes of an evaluation, in the order of their indices.

    names: the display names. A JSON file of name -> index gives them (AudioSet's 527, ESC-50's 50, ...).
    """

    def __init__(self, names: list[str]):
        self.names = names
        self.position = {normalise(name): i for i, name in enumerate(names)}
        # AudioSet files sometimes hold machine ids (/m/09x0r) where the names should be.
        for node in json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]:
            if normalise(node["name"]) in self.position:
                self.position.setdefault(node["id"], self.position[normalise(node["name"])])

    @classmethod
    def read(cls, path: Path) -> ClassList:
        """The class list of a JSON file of name -> index; UserError if it is not one."""
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--class-labels {path} cannot be read ({error.strerror})") from None
        except ValueError:
            raise UserError(f"--class-labels {path} is not JSON; it must be an object of class name -> index") from None
        if not isinstance(table, dict) or len(table) < 2 or not all(type(i) is int for i in table.values()):
            raise UserError(f"--class-labels {path} must be an object of two or more class names -> whole-number index")
        names = sorted(table, key=table.get)
        if len(set(table.values())) < len(names) or len(set(map(normalise, names))) < len(names):
            raise UserError(f"--class-labels {path} holds an index or a name twice; each must occur once")
        return cls(names)

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
        close = difflib.get_close_matches(label, self.names, n=1, cutoff=0.0)
        return close[0] if close else None

    def parse(self, value) -> list[str]:
        """One cell of a label column -> label names, in order, each once.

        value: None, a string, or a list of them. A string may be one name, names joined by commas
        (AudioSet names contain commas themselves, so the longest known names are matched first),
        by semicolons or bars, or a JSON, Python or NumPy list written out as text.
        """
        if value is None:
            return []
        found: list[str] = []
        if isinstance(value, str):
            found = self._parse_text(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                found += self.parse(item)
        return list({normalise(name): name for name in reversed(found)}.values())[::-1]

    def _parse_text(self, text: str) -> list[str]:
        text = text.strip()
        if not text or self.find(text) is not None:
            return [text] if text else []
        if text[0] in "[(" and text[-1] in "])":
            return self.parse(_written_list(text))
        for separator in ";|\t\n":
            if separator in text:
                return [name for part in text.split(separator) for name in self._parse_text(part)]
        return self._split_commas(text)

    def _split_commas(self, text: str) -> list[str]:
        parts = [part.strip() for part in text.split(",")]
        names, start = [], 0
        while start < len(parts):
            for end in range(len(parts), start, -1):
                name = ", ".join(parts[start:end])
                if self.find(name) is not None or end == start + 1:
                    break
            if name:
                names.append(name)
            start = end
        return names


def _written_list(text: str) -> list:
    """A list written out as text: JSON, Python, or NumPy (which has no commas)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        quoted = [a or b for a, b in _QUOTED.findall(text)]
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return quoted or text[1:-1].split(",")
        # Python joins neighbouring strings, so a NumPy list evaluates to one long name.
        if len(quoted) > len(value if isinstance(value, (list, tuple)) else [value]):
            return quoted
    return list(value) if isinstance(value, (list, tuple)) else [text[1:-1]]
