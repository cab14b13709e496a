"""Rows that were not used, or not as they were meant: how many, why, and which, for log, JSON and error messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data import NAMED_PER_REASON, tell_skipped
from hyperbolic_clap.plumbing.errors import warn

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11


@dataclass
class Counted:
    """Rows by what is said of them, the first few of each by name."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, count: int, names: list[str]) -> None:
        """Count rows; the names of the first NAMED_PER_REASON of them suffice."""
        self.counts[reason] += count
        named = self.examples.setdefault(reason, [])
        named += names[: NAMED_PER_REASON - len(named)]

    def merge(self, other: Self) -> None:
        """Add the rows that came after these."""
        self.counts += other.counts
        for reason, names in other.examples.items():
            named = self.examples.setdefault(reason, [])
            named += names[: NAMED_PER_REASON - len(named)]

    def report(self) -> dict:
        """{reason: {count, first}} for the JSON."""
        return {r: {"count": n, "first": self.examples[r]} for r, n in sorted(self.counts.items())}


@dataclass
class Skipped(Counted):
    """Rows that were not used, by reason. noted: rows that were used, by what must be said of their sound."""

    labels: set[str] = field(default_factory=set)  # a few of the labels of skipped rows, for error messages
    noted: Counted = field(default_factory=Counted)

    def add(self, reason: str, count: int, names: list[str], labels: list[str] | tuple = ()) -> None:
        """Count rows; the names and labels of the first NAMED_PER_REASON of them suffice."""
        super().add(reason, count, names)
        self.labels.update(labels)

    def merge(self, other: Skipped) -> None:
        """Add the rows that came after these."""
        super().merge(other)
        self.labels |= other.labels
        self.noted.merge(other.noted)

    def tell(self) -> None:
        """One log line for each reason, one warning for each note."""
        tell_skipped("rows", self.report())
        for note, entry in self.noted.report().items():
            count = entry["count"]
            warn(f"{count} {'clip is' if count == 1 else 'clips are'} {note} ({', '.join(entry['first'])})")
