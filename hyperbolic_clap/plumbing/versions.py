"""Versions of Python and of the libraries that a number depends on, and the oldest that the project runs with."""

import functools
import platform
import re
from importlib import metadata

from hyperbolic_clap.plumbing.errors import UserError

LIBRARIES = ("torch", "transformers", "numpy", "pyarrow", "soundfile", "av", "soxr", "scikit-learn")
FLOORS = {"torch": "2.4", "transformers": "4.46", "numpy": "1.26", "pandas": "2.0", "pyarrow": "16",
          "scikit-learn": "1.3"}  # fmt: skip


@functools.cache  # each is looked up in a file of its own
def version(library: str) -> str:
    return metadata.version(library)


def versions() -> dict[str, str]:
    """{name: version} of Python and of each library."""
    return {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES}


def at_least(library: str, floor: str) -> bool:
    """Whether an installed library is of this version or a later one."""
    return _numbers(version(library)) >= _numbers(floor)


def require_versions() -> None:
    """UserError if a library is missing or older than the oldest that the project runs with."""
    for library, floor in FLOORS.items():
        try:
            if at_least(library, floor):
                continue
            found = f"{library} {version(library)} is installed"
        except metadata.PackageNotFoundError:
            found = f"{library} is not installed"
        raise UserError(f"{found}, and {library} {floor} is the oldest that is known to work: "
                        "python -m pip install -r requirements.txt")  # fmt: skip


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]*\d", text)
    return tuple(int(number) for number in found[0].split(".")) if found else ()
