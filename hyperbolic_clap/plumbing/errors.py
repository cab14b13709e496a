"""What goes wrong, said in one sentence: the two kinds of error, warnings, and text that is safe on a terminal."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("hyperbolic_clap")


class UserError(Exception):
    """Something the user can mend, told in one sentence; ends a script with exit code 2."""


class RowError(Exception):
    """Why one row cannot be used; the run goes on without it. `reason` is what rows are counted by.

    lasting: whether the same bytes fail again, wherever and whenever they are read.
    """

    def __init__(self, reason: str, detail: str = "", lasting: bool = True):
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason, self.lasting = reason, lasting


def warn(sentence: str) -> None:
    """A warning the user must see: one line, marked, in the log."""
    log.warning("warning: %s", sentence)


def first_line(error: object) -> str:
    """The first line of a foreign error's text, to be quoted in a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def printable(text: str) -> str:
    """One line in which control characters and the like are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Printable(logging.Formatter):
    """Log lines in which nothing from the data breaks the line or steers the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        record.args = tuple(printable(str(a)) if isinstance(a, (str, Path)) else a for a in record.args or ())
        return "\n".join(map(printable, super().format(record).split("\n")))
