"""The frozen CLAP encoder: waveform -> windows -> log-mel -> vector, and the vectors that were computed before."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperbolic_clap.embedding.notebook import Encoder as Encoder

SAMPLE_RATE = 48_000  # of every published CLAP


def __getattr__(name: str):
    if name == "Encoder":  # for notebooks; files and the store of vectors lie in a room above, so only when asked for
        from hyperbolic_clap.embedding.notebook import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
