"""What compares audio with text: plain cosine or a trained projector, loaded, checked and exported."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperbolic_clap.projector.notebook import load as load


def __getattr__(name: str):
    if name == "load":  # torch behind it is slow to import, and --help needs none of it
        from hyperbolic_clap.projector.notebook import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
