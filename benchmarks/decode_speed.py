"""Decoding speed of FLAC, MP3, Ogg and WAV: the product against libsndfile and soxr alone, as it was before.

    python benchmarks/decode_speed.py

A B A B on the same bytes, CPU time of one thread, medians of five rounds each; a ratio of 1.00 means as
fast, above it faster.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.reading.audio import decode  # noqa: E402

SECONDS, CLIPS, ROUNDS = 10, 20, 5
FORMS = {"FLAC": 44_100, "WAV": 44_100, "OGG": 44_100, "MP3": 44_100}


def plain(data: bytes) -> np.ndarray:
    """What the project did when it knew libsndfile alone."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, parts = file.samplerate, []
        while len(block := file.read(max(1, (1 << 20) // file.channels), dtype="float32", always_2d=True)):
            parts.append(block.mean(axis=1))
    mono = np.concatenate(parts)
    if not np.isfinite(mono).all():
        raise ValueError("NaN or infinity")
    peak = max(mono.max(), -mono.min())
    mono = (mono / peak if peak > 1 else mono).astype(np.float32, copy=False)
    return np.ascontiguousarray(soxr.resample(mono, rate, 48_000, quality="HQ"))


def seconds(function, clips: list[bytes]) -> float:
    start = time.thread_time()
    for data in clips:
        function(data)
    return time.thread_time() - start


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{CLIPS} stereo clips of {SECONDS} s, ms for each clip, medians of {ROUNDS}")
    for form, rate in FORMS.items():
        clips = []
        for _ in range(CLIPS):
            buffer = io.BytesIO()
            soundfile.write(buffer, rng.normal(0, 0.1, (rate * SECONDS, 2)), rate, format=form)
            clips.append(buffer.getvalue())
        np.testing.assert_array_equal(plain(clips[0]), decode(clips[0], 0))
        times = {plain: [], decode: []}
        for _ in range(ROUNDS):
            times[plain].append(seconds(plain, clips))
            times[decode].append(seconds(lambda data: decode(data, 0), clips))
        before, now = (1000 * statistics.median(some) / CLIPS for some in times.values())
        print(f"{form:5} before {before:7.2f}  now {now:7.2f}  ratio {before / now:.2f}")


if __name__ == "__main__":
    main()
