"""Versions of Python and of the libraries that a number depends on."""

import functools
import platform
from importlib import metadata

LIBRARIES = ("torch", "transformers", "numpy", "pyarrow", "soundfile", "av", "soxr", "scikit-learn")


@functools.cache  # each is looked up in a file of its own
def version(library: str) -> str:
    return metadata.version(library)


def versions() -> dict[str, str]:
    """{name: version} of Python and of each library."""
    return {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES}
