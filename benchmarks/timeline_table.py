"""Timelines of made recordings: events hit, missed and false, by class, with and without what is meant to help.

    git worktree add before c1d307e
    python benchmarks/timeline_table.py --esc10 esc10 --before before

--esc10 holds audio/ and meta.csv. A projector is trained on folds 1 to 4 (all defaults but rate 1e-3). Fold 5's clips,
four of each class in turn, each cut to what lies within 40 dB of its peak, become three recordings: 15 s apart over
silence; the same over white noise 30 dB below the events' mean power; and each begun while the one before still sounds.
A label hits an event of its class that it overlaps, and is false without one. A hit's onset is good if a label of the
class begins within half a second of it. "before": what tag_sounds.py of --before, a checkout of an earlier commit, says
with the same projector at its own defaults. Writes timeline.csv; some minutes on 2 cores.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from daily_tables import Home, esc10
from geometry_runs import write_csv
from material import ROOT, parse

RATE, APART, OVERLAP, EACH, BELOW = 48_000, 15.0, 0.5, 4, 30.0
BACKGROUND = ("silence", "background noise", "white noise")
ONSET = 0.5
COUNTS = ("events", "hit", "onset_within_half_second", "missed", "labels", "false_labels")
SETTINGS = {  # gate, background, thresholds by class
    "none of them": (False, False, False),
    "gate": (True, False, False),
    "background": (False, True, False),
    "thresholds": (False, False, True),
    "gate and thresholds (the default)": (True, False, True),
    "all": (True, True, True),
}


def events_of(folder: Path) -> list[tuple[str, object]]:
    """(class, samples) of fold 5, the classes in turn, trimmed."""
    import librosa

    with (folder / "meta.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["category"], row["filename"]) for row in csv.DictReader(file) if row["fold"] == "5"]
    classes = sorted({category for category, _ in rows})
    found = []
    for number in range(EACH):
        for category in classes:
            name = sorted(name for other, name in rows if other == category)[number]
            samples, _ = librosa.load(folder / "audio" / name, sr=RATE)
            found.append((category, librosa.effects.trim(samples, top_db=40)[0]))
    return found


def recordings(events: list) -> dict[str, tuple]:
    """{name: (samples, (start, end, class) of its events)}."""
    import numpy as np

    power = np.mean([np.mean(np.square(samples)) for _, samples in events])
    silence = lay(events, [5 + APART * n for n in range(len(events))])
    noise = np.random.default_rng(0).normal(0, np.sqrt(power) * 10 ** (-BELOW / 20), len(silence[0]))
    starts, at = [], 5.0
    for _, samples in events:
        starts.append(at)
        at += len(samples) / RATE * (1 - OVERLAP)
    return {
        "over silence": silence,
        "over noise 30 dB below": (silence[0] + noise, silence[1]),
        "events that overlap": lay(events, starts),
    }


def lay(events: list, starts: list[float]) -> tuple:
    """The events at their starts, and five seconds more."""
    import numpy as np

    placed = [(round(start * RATE), *event) for start, event in zip(starts, events, strict=True)]
    sound = np.zeros(max(start + len(samples) for start, _, samples in placed) + 5 * RATE, np.float32)
    for start, _, samples in placed:
        sound[start : start + len(samples)] += samples
    return sound, [(start / RATE, (start + len(samples)) / RATE, category) for start, category, samples in placed]


def score(labels: list[dict], events: list[tuple[float, float, str]], category: str) -> list[int]:
    """COUNTS of one class."""
    own = [label for label in labels if label["classname"] == category]
    true = [(start, end) for start, end, other in events if other == category]
    hit = [(start, end) for start, end in true if any(x["start"] < end and x["end"] > start for x in own)]
    onset = sum(any(abs(x["start"] - start) <= ONSET for x in own) for start, _ in hit)
    false = sum(not any(x["start"] < end and x["end"] > start for start, end in true) for x in own)
    return [len(true), len(hit), onset, len(true) - len(hit), len(own), false]


def labels_before(checkout: Path, home: Home, path: Path, head: Path, classes: Path) -> list[dict]:
    """What an earlier commit hears in a recording."""
    output = home.folder / "before"
    flags = [*home.flags, "--class-labels", classes, "--use-hyperbolic", "--projection-checkpoint", head, "--timeline"]
    command = [sys.executable, checkout.resolve() / "tag_sounds.py", path, *flags, "--output-dir", output]
    subprocess.run([str(part) for part in command], check=True)
    with (output / f"{path.stem}.csv").open(encoding="utf-8", newline="") as file:
        return [{"start": float(row["start"]), "end": float(row["end"]), "classname": row["class"]}
                for row in csv.DictReader(file)]  # fmt: skip


def main(args) -> None:
    from hyperbolic_clap.plumbing.device import wait_gently

    wait_gently()  # before torch is loaded, as the scripts do
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        table = rows(Home(Path(name)), args)
    write_csv(args.output_dir / "timeline.csv", ["recording", "with", "class", *COUNTS], table)


def rows(home: Home, args) -> list[list]:
    """The table, the sum of the classes first."""
    import numpy as np
    import soundfile

    from hyperbolic_clap.inference.tagging import Tagger
    from hyperbolic_clap.inference.timeline import THRESHOLD, TimelineConfig, labels
    from hyperbolic_clap.plumbing.config import EncoderConfig, ProjectorConfig
    from hyperbolic_clap.projector.opening import open_model

    data, flag, classes = esc10(home, args, "esc10_train", "--where", "fold=1,2,3,4")
    head = home.train("esc10_head", data, flag, classes, "--learning-rate", 1e-3)
    encoder = EncoderConfig(str(ROOT / "CLAP" / "tiny"), "cpu", class_labels=classes, cache_dir=home.folder / "cache")
    tagger = Tagger(open_model(encoder, ProjectorConfig(head)), False, BACKGROUND)
    print(tagger.tell_thresholds(None), tagger.thresholds(None).round(3).tolist())
    found = []
    for recording, (sound, events) in recordings(events_of(args.esc10)).items():
        path = home.folder / "recording.wav"
        soundfile.write(path, sound / max(1.0, np.abs(sound).max()), RATE, subtype="FLOAT")
        heard, _ = tagger.hear(path, TimelineConfig.window, TimelineConfig.hop)
        alone = type(heard)(heard.start, heard.end, heard.level, heard.probability, np.isfinite(heard.probability))
        said = {"before": labels_before(args.before, home, path, head, classes)} if args.before else {}
        for setting, (gate, background, own) in SETTINGS.items():
            thresholds = tagger.thresholds(None if own else THRESHOLD)
            config = TimelineConfig(gate=gate)
            said[setting], _ = labels(heard if background else alone, tagger.names, thresholds, config)
        for setting, made in said.items():
            counts = {name: score(made, events, name) for name in tagger.names}
            total = np.sum([*counts.values()], axis=0).tolist()
            found += [[recording, setting, name, *row] for name, row in {"all classes": total, **counts}.items()]
    return found


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--esc10", {"type": Path, "required": True}),
            ("--before", {"type": Path, "help": "a checkout whose tag_sounds.py is run too"}),
            ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results", "help": "gets timeline.csv"}),
            ("--dir", {"type": Path, "help": "where to work (default: a temporary folder)"}),
        )
    )
