"""Sound files in folders: links to folders are entered, loops are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ENDINGS = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .m4a .mp4 .mov .3gp .mka .webm .aac .wma .aif .aiff .aifc .au .w64 .caf"
    .split()
)


def sounds_below(folder: Path) -> Iterator[Path]:
    """All sound files in a folder and below it; one that several links lead to comes by each of them."""

    def below(here: Path, above: tuple[str, ...]) -> Iterator[Path]:
        real = os.path.realpath(here)
        if real in above:  # a link to a folder that holds it
            return
        try:
            inside = sorted(here.iterdir())
        except OSError:  # as a folder of somebody else, which is passed over
            return
        for path in inside:
            if path.is_dir():
                yield from below(path, (*above, real))
            elif path.suffix.lower() in ENDINGS and path.is_file():
                yield path

    yield from below(folder, ())


def once_each(paths: Iterator[Path]) -> list[Path]:
    """The paths, sorted; of several that lead to one file, the file itself or else the first."""
    found: dict[str, Path] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real not in found or (path.absolute() == Path(real)):
            found[real] = path
    return sorted(found.values())
