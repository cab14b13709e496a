"""Rows that were not used: how many, why, and which, for the log, the JSON and error messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from data import NAMED_PER_REASON, tell_skipped


@dataclass
class Skipped:
    """Rows that were not used, by reason, the first few of each by name."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)  # a few of the labels of skipped rows, for error messages

    def add(self, reason: str, count: int, names: list[str], labels: list[str] | tuple = ()) -> None:
        """Count rows; the names and labels of the first NAMED_PER_REASON of them suffice."""
        self.counts[reason] += count
        named = self.examples.setdefault(reason, [])
        named += names[: NAMED_PER_REASON - len(named)]
        self.labels.update(labels)

    def merge(self, other: Skipped) -> None:
        """Add the skipped rows that came after these."""
        self.counts += other.counts
        self.labels |= other.labels
        for reason, names in other.examples.items():
            named = self.examples.setdefault(reason, [])
            named += names[: NAMED_PER_REASON - len(named)]

    def report(self) -> dict:
        """{reason: {count, first}} for the JSON."""
        return {r: {"count": n, "first": self.examples[r]} for r, n in sorted(self.counts.items())}

    def tell(self) -> None:
        """One log line for each reason."""
        tell_skipped("rows", self.report())
