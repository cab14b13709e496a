"""A recording's timeline: what is heard in each window -> labels with start, end, class and probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SILENT = -100.0  # dB below full scale, less than the last bit of 16 makes: nothing is there
FLOOR = 10  # percent of the windows that are no louder than the floor
OVER_FLOOR = 3.0  # dB that a window must be above it
EVEN = 10.0  # dB between the floor and the loudest window, below which nothing stands out of a floor
THRESHOLD = 0.5  # of a class that has none of its own


@dataclass(frozen=True)
class TimelineConfig:
    """How a recording is heard and labelled.

    window, hop: seconds. threshold: the least probability; None: the projector's own by class, THRESHOLD without.
    gate: whether windows no louder than the recording's own floor have no labels. min_duration: seconds of a label.
    """

    window: float = 2.0
    hop: float = 1.0
    threshold: float | None = None
    gate: bool = True
    min_duration: float = 0.0


@dataclass(frozen=True)
class Heard:
    """A recording as its W windows. level in dB below full scale; probability (W, M), NaN where it cannot be used.

    start, end: of what a window speaks for, in seconds: the hop in its middle, of the first and last their outer half
    too. competing (W, M) bool: whether the class is more similar than every background text.
    """

    start: np.ndarray
    end: np.ndarray
    level: np.ndarray
    probability: np.ndarray
    competing: np.ndarray


def level(waveform: np.ndarray) -> float:
    """(samples,) -> their mean power in dB, full scale being 0; what is silent is -120."""
    return float(10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12))  # the logarithm of silence


def gate(levels: np.ndarray, wanted: bool = True) -> tuple[np.ndarray, dict]:
    """(W,) levels -> ((W,) bool, windows without labels; what was chosen, for the JSON).

    A recording that is even has no floor that anything could stand out of, so only what is silent is left out there.
    """
    floor, loudest = (float(f(levels)) for f in (lambda x: np.percentile(x, FLOOR), np.max))
    reason = None
    if not wanted:
        reason = "--no-gate"
    elif loudest <= SILENT:
        reason = "the recording is silent"
    elif loudest - floor < EVEN:
        reason = f"the loudest window is {loudest - floor:.1f} dB above the floor, so that nothing stands out"
    closed = (levels <= SILENT) if wanted else np.zeros(len(levels), bool)
    if reason is None:
        closed |= levels < floor + OVER_FLOOR
    told = {"floor_db": floor, "loudest_db": loudest, "over_floor_db": None if reason else OVER_FLOOR, "reason": reason}
    return closed, told | {"windows": len(levels), "closed": int(closed.sum())}


def tell_gate(told: dict) -> str:
    """The gate's choice in one line of the log."""
    if told["reason"]:
        return f"no gate: {told['reason']}"
    return (f"floor {told['floor_db']:.1f} dB: {told['closed']} of {told['windows']} windows are less than "
            f"{told['over_floor_db']:g} dB above it and have no labels")  # fmt: skip


def labels(heard: Heard, names: list[str], thresholds: np.ndarray, config: TimelineConfig) -> tuple[list[dict], dict]:
    """{start, end, classname, probability} where a class is heard, by start; and what the gate chose.

    thresholds (M,). Adjacent windows of a class are joined, and so are those with a gap no longer than a hop between
    them; the probability is the greatest of theirs.
    """
    closed, told = gate(heard.level, config.gate)
    on = (heard.probability >= thresholds) & heard.competing & ~closed[:, None]
    found = []
    for column in np.flatnonzero(on.any(axis=0)):
        rows = np.flatnonzero(on[:, column])
        gaps = heard.start[rows[1:]] - heard.end[rows[:-1]]
        for part in np.split(rows, np.flatnonzero(gaps > config.hop + 1e-3) + 1):  # samples round a hop
            start, end = float(heard.start[part[0]]), float(heard.end[part[-1]])
            if end - start >= config.min_duration:
                best = float(heard.probability[part, column].max())
                found.append({"start": start, "end": end, "classname": names[column], "probability": best})
    return sorted(found, key=lambda label: (label["start"], label["classname"])), told
