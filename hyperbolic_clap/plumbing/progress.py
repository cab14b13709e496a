"""One bar for each long step: drawn on a terminal, elsewhere a plain line every half minute."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from hyperbolic_clap.plumbing.errors import log

LINE_SECONDS = 30.0
BAR_AFTER = 3.0  # seconds; a step that is done sooner shows nothing


class Lines(tqdm):
    """A bar where nobody sees one move, as in a log file: a line when it begins and one every LINE_SECONDS."""

    disable: bool

    def __init__(self, **options):
        super().__init__(**options | {"mininterval": LINE_SECONDS, "miniters": 1})

    @staticmethod
    def status_printer(file):
        """What writes a line: without the carriage returns and blanks by which a bar overwrites itself."""

        def show(text: str) -> None:
            if text:
                file.write(text.rstrip() + "\n")
                file.flush()

        return show

    def close(self) -> None:
        """Nothing more is said."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)  # type: ignore[attr-defined]  # what tqdm's own close calls; no stubs name it


def bar(desc: str, unit: str, total: float | None = None, delay: float = BAR_AFTER, **options) -> tqdm:
    """A tqdm, to be closed; `total` steps of a `unit`, the first sight of it after `delay` seconds.

    Nothing is seen of it where the log only warns.
    """
    options.setdefault("disable", not log.isEnabledFor(logging.INFO))
    kind = tqdm if sys.stderr.isatty() else Lines
    return kind(desc=desc, unit=unit, total=total, delay=delay, mininterval=0.5, **options)
