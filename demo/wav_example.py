"""A folder of WAV files and a CSV in the form of ESC-50, from the demo's synthesiser: something to try the recipe on.

    python demo/wav_example.py --output-dir demo/out/sounds

writes OUTPUT_DIR/audio/*.wav (10 classes, 5 folds, 4 clips of 2 seconds for each) and OUTPUT_DIR/meta.csv with the
columns filename, fold, target and category.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.plumbing.errors import log  # noqa: E402
from hyperbolic_clap.plumbing.flags import Parser, at_least  # noqa: E402
from hyperbolic_clap.plumbing.run import run  # noqa: E402

# Categories of ESC-50 and the functions of synthesise.py that sound like them.
SOUNDS = {
    "car_horn": "car_horn", "chirping_birds": "bird", "church_bells": "church_bell", "clock_tick": "tick",
    "crickets": "cricket", "helicopter": "helicopter", "rain": "rain", "siren": "wail", "thunderstorm": "thunder",
    "wind": "wind",
}
FOLDS, RATE, SECONDS = 5, 22_050, 2


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="gets audio/*.wav and meta.csv")
    parser.add_argument("--clips", type=at_least(1), default=4, help="of each class in each fold (default: 4)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    return parser


def main(args: argparse.Namespace) -> None:
    import numpy as np
    import soundfile
    import synthesise

    rng = np.random.default_rng(args.seed)
    t = np.arange(RATE * SECONDS) / RATE
    (args.output_dir / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for fold in range(1, FOLDS + 1):
        for target, (category, function) in enumerate(SOUNDS.items()):
            for take in range(args.clips):
                sound = getattr(synthesise, function)(rng, t)
                name = f"{fold}-{take}-{target}.wav"
                soundfile.write(args.output_dir / "audio" / name, 0.7 * sound / np.abs(sound).max(), RATE)
                rows.append((name, fold, target, category))
    with (args.output_dir / "meta.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("filename", "fold", "target", "category"), *rows])
    log.info("%d WAV files of %d classes: %s", len(rows), len(SOUNDS), args.output_dir)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
