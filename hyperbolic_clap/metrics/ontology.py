"""AudioSet's ontology, or a taxonomy of one's own: which class lies below which, and how far two classes are apart.

AudioSet's has 7 top-level subtrees and no common root; one is added here, so that every two sounds are joined by a path
(without it two subtrees would be infinitely far apart). A class with several parents belongs to all of them.
"""

from __future__ import annotations

import csv
import json
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from hyperbolic_clap.plumbing.errors import UserError, warn
from hyperbolic_clap.reading.labels import ONTOLOGY, normalise

ROOT = 0  # the added root; the ontology's nodes follow in the order of the file


class Ontology:
    """A tree (a directed acyclic graph) over n nodes: the added root and the nodes of the file.

    parents: {name: the names of its parents}, [] for a top-level node; AudioSet's without. depth: of the same names, 0
    for a top-level node; else the shortest way up. UserError for a circle, an unknown parent or two equal names.
    """

    def __init__(self, parents: dict[str, list[str]] | None = None, depth: list[int] | None = None):
        self.is_audioset = parents is None
        if parents is None:
            nodes = json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]
            parents = {node["name"]: node["parents"] for node in nodes}
            depth = [node["depth"] for node in nodes]
        self.names = ["(all sounds)", *parents]
        self.position = {normalise(name): i for i, name in enumerate(self.names)}
        if len(self.position) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if self.position[normalise(name)] != i)
            raise UserError(f"the taxonomy names {twice!r} twice")
        self.parents: list[list[int]] = [[]]
        for name, above in parents.items():
            unknown = [parent for parent in above if normalise(parent) not in self.position]
            if unknown:
                raise UserError(f"the taxonomy has {unknown[0]!r} above {name!r}, but not among its classes")
            self.parents.append([self.position[normalise(parent)] for parent in above] or [ROOT])
        self._require_no_circle()
        self.depth = np.array([-1, *depth]) if depth else self.distances[ROOT].astype(int) - 1

    @classmethod
    def read(cls, path: Path) -> Ontology:
        """A taxonomy of one's own, as JSON or CSV; UserError in one sentence if it is none.

        JSON: {class: its parent, a list of its parents, or null}. CSV: lines of a class and its parent, empty for none;
        a class with several parents has several lines; a first line "class,parent" is a heading. A parent that has no
        line of its own is a top-level class.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"the taxonomy {path} cannot be read ({error.strerror})") from None
        except ValueError:
            raise UserError(f"the taxonomy {path} is no text in UTF-8") from None
        try:
            return cls.from_table(text) if Path(path).suffix.lower() == ".csv" else cls.from_json(json.loads(text))
        except UserError as error:
            raise UserError(f"{error} ({path})") from None
        except (ValueError, RecursionError):
            raise UserError(f"the taxonomy {path} is not JSON (a table ends in .csv)") from None

    @classmethod
    def above(cls, path: Path, names: list[str]) -> Ontology:
        """The taxonomy of a file, above a class list; UserError if it is none, or lacks one of the classes."""
        tree = cls.read(path)
        missing = [name for name in names if normalise(name) not in tree.position]
        if missing:
            raise UserError(f"the taxonomy {path} lacks {len(missing)} of the {len(names)} classes: {missing[0]!r}")
        known = {normalise(name) for name in names}
        inner = {parent for above in tree.parents for parent in above}
        strange = [name for i, name in enumerate(tree.names) if i not in inner and normalise(name) not in known]
        if strange:
            warn(f"{len(strange)} leaves of the taxonomy {path} are not in the class list, for example {strange[0]!r}")
        return tree

    @classmethod
    def from_json(cls, content: object) -> Ontology:
        """A taxonomy as `read` takes it, from JSON's content; UserError if it is none."""
        if not isinstance(content, dict) or not content:
            raise UserError("the taxonomy is no JSON object of the form {class: parent, list of parents or null}")
        parents = {}
        for name, above in content.items():
            above = [] if above in (None, "") else [above] if isinstance(above, str) else above
            if not isinstance(above, list) or not all(isinstance(parent, str) for parent in above):
                raise UserError(f"the taxonomy has no text or list of texts as the parent of {name!r}")
            parents[name] = list(dict.fromkeys(above))
        return cls._of(parents)

    @classmethod
    def from_table(cls, text: str) -> Ontology:
        """A taxonomy as `read` takes it, from the text of a CSV file; UserError if it is none."""
        parents: dict[str, list[str]] = {}
        spelling: dict[str, str] = {}
        for number, row in enumerate(csv.reader(text.splitlines()), 1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and [cell.casefold() for cell in cells] == ["class", "parent"]):
                continue
            if len(cells) > 2 or not cells[0]:
                raise UserError(f"line {number} of the taxonomy is no class and its parent")
            above = parents.setdefault(spelling.setdefault(normalise(cells[0]), cells[0]), [])
            above += [parent for parent in cells[1:] if parent and parent not in above]
        return cls._of(parents)

    @classmethod
    def _of(cls, parents: dict[str, list[str]]) -> Ontology:
        known = {normalise(name) for name in parents}
        for name in [parent for above in parents.values() for parent in above]:
            if normalise(name) not in known:
                known.add(normalise(name))
                parents[name] = []
        if not any(parents.values()):
            raise UserError(f"the taxonomy has no edge: none of its {len(parents)} classes has a parent")
        return cls(parents)

    def to_json(self) -> dict[str, list[str]] | None:
        """{class: its parents}, as the constructor takes it; None for AudioSet's."""
        if self.is_audioset:
            return None
        own = zip(self.names[1:], self.parents[1:], strict=True)
        return {name: [self.names[i] for i in above if i != ROOT] for name, above in own}

    def _require_no_circle(self) -> None:
        done: set[int] = set()
        for start in range(1, len(self.names)):
            way = [start]  # an ancestor above the other, down to where the search has come from
            waiting = [iter(self.parents[start])] if start not in done else []
            while waiting:
                node = next(waiting[-1], None)
                if node is None:
                    done.add(way.pop())
                    waiting.pop()
                elif node in way:
                    circle = [self.names[i] for i in [*way[way.index(node) :], node]]
                    raise UserError(f"the taxonomy has a circle: {' -> '.join(circle)}")
                elif node not in done and node != ROOT:
                    way.append(node)
                    waiting.append(iter(self.parents[node]))

    def find(self, names: list[str]) -> tuple[np.ndarray | None, str | None]:
        """Class names -> (their (M,) node positions, None), or (None, why the ontology's metrics are undefined)."""
        missing = [name for name in names if normalise(name) not in self.position]
        if missing:
            where = "AudioSet's" if self.is_audioset else "in the taxonomy"
            return None, f"{len(missing)} of {len(names)} classes are not {where}, for example {missing[0]!r}"
        return np.array([self.position[normalise(name)] for name in names]), None

    @cached_property
    def ancestors(self) -> np.ndarray:
        """(n, n) bool: row i marks node i and everything above it, without the added root, which all share."""
        closure = np.eye(len(self.names), dtype=bool)
        for i in np.argsort(self._height(), kind="stable"):  # parents before their children
            for parent in self.parents[i]:
                closure[i] |= closure[parent]
        closure[:, ROOT] = False
        return closure

    @cached_property
    def height(self) -> np.ndarray:
        """(n,) longest way down to a node without children: 0 for a leaf, the greatest for the added root."""
        height = np.zeros(len(self.names), int)
        for i in np.argsort(-self._height(), kind="stable"):  # children before their parents
            for parent in self.parents[i]:
                height[parent] = max(height[parent], height[i] + 1)
        return height

    def within(self, steps: int) -> np.ndarray:
        """(n, n) bool: row i marks the nodes at most so many steps above node i, itself included, the root excluded."""
        up = np.zeros((len(self.names),) * 2, np.float32)
        for child, above in enumerate(self.parents):
            up[child, above] = 1
        up[:, ROOT] = 0
        reached = np.eye(len(self.names), dtype=np.float32)
        for _ in range(steps):
            reached = np.minimum(reached + reached @ up, 1)
        reached[:, ROOT] = 0
        return reached > 0

    def _height(self) -> np.ndarray:
        """(n,) longest way up to the added root; a node is always higher than its parents."""
        height = np.zeros(len(self.names), int)
        while True:
            new = np.array([1 + max(height[p] for p in parents) if parents else 0 for parents in self.parents])
            if (new == height).all():
                return height
            height = new

    @cached_property
    def distances(self) -> np.ndarray:
        """(n, n) uint8: edges on the shortest path between two nodes, by a breadth-first search from all at once."""
        edges = np.eye(len(self.names), dtype=np.float32)
        for child, parents in enumerate(self.parents):
            edges[child, parents] = edges[parents, child] = 1
        distances = np.full(edges.shape, 255, np.uint8)
        reached, step = np.eye(len(edges), dtype=np.float32), 0
        while (distances == 255).any():
            distances[(reached > 0) & (distances == 255)] = step
            reached, step = np.minimum(reached @ edges, 1), step + 1
        return distances

    def top_level(self, node: int) -> int:
        """The top-level node above a node, by its first parents."""
        while self.parents[node] != [ROOT]:
            node = self.parents[node][0]
        return node


@cache
def audioset() -> Ontology:
    """AudioSet's tree, built once for all figures of a run."""
    return Ontology()
