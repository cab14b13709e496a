"""Known good numbers: an upgrade of torch or transformers that changes embeddings or results is noticed.

    python tests/test_known_numbers.py > tests/known_numbers.json    (only when a change is meant)

Thirty sounds of the demo's synthesiser, ten categories of ESC-50 in three folds: two train, one is tested. Tolerances
are about a hundred times the most that was seen between the environments that known_numbers.json names under
"seen_with"; of metrics, which were the same in all of them, what one clip of ten can change. Two versions of torch
and three of transformers are among them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, flac, script, write_rows

KNOWN = Path(__file__).with_suffix("").parent / "known_numbers.json"
TOLERANCE = {"embedding": 5e-6, "loss": 2e-4, "similarity": 2e-5, "acc": 0.1001, "map": 0.05, "map_samples": 0.05}
RATE, SECONDS = 22_050, 2
TEXTS = ["This is a sound of rain.", "x"]


def measure(home: Path) -> dict:
    """Every known number, measured here."""
    import torch

    from CLAP.encoder import Encoder

    sys.path.insert(0, str(ROOT / "demo"))
    import synthesise
    import wav_example

    rng, t, rows = np.random.default_rng(0), np.arange(RATE * SECONDS) / RATE, []
    for fold in range(3):
        for category, function in wav_example.SOUNDS.items():
            sound = getattr(synthesise, function)(rng, t)
            audio = flac(0.7 * sound / np.abs(sound).max(), RATE)
            rows.append({"video_id": f"{fold}-{category}", "audio": {"bytes": audio},
                         "human_labels": [category.replace("_", " ")]})  # fmt: skip
    write_rows(home / "train", rows[:20])
    write_rows(home / "test", rows[20:])
    names = sorted({row["human_labels"][0] for row in rows})
    (home / "labels.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    encoder = Encoder(str(TINY), torch.device("cpu"))
    clip = np.random.default_rng(1).normal(0, 0.1, 12 * 48_000).astype(np.float32)
    found = {"embedding noise": encoder.encode_waveform(clip)[:8].tolist()}
    for text, vector in zip(TEXTS, encoder.encode_texts(TEXTS), strict=True):
        found[f"embedding text {text}"] = vector[:8].tolist()
    shared = ("--class-labels", home / "labels.json", "--cache-dir", home / "cache")
    for similarity in ("hyperbolic", "cosine"):
        flags = ("--similarity", similarity, "--epochs", "3", "--learning-rate", "1e-3", "--output-dim", "16",
                 "--batch-size", "6")  # 16 clips: the last batch of each epoch is a short one
        script("train_hyperbolic_clap.py", "--parquet-dir", home / "train", *shared, *flags,
               "--output-dir", home / similarity)  # fmt: skip
        setup = json.loads((home / similarity / "setup.json").read_text())
        found[f"loss {similarity}"] = [e[kind] for e in setup["epochs"] for kind in ("train_loss", "val_loss")]
    tested = {"untrained": ()}
    tested |= {s: ("--projection-checkpoint", home / s / "projection_epoch_3.pth") for s in ("hyperbolic", "cosine")}
    tested["hyperbolic"] += ("--use-hyperbolic",)
    for name, flags in tested.items():
        output = home / f"{name}.json"
        script("test_clap_modelscope.py", "--parquet-dir", home / "test", *shared, *flags, "--output-json", output)
        result = json.loads(output.read_text())
        for metric in ("acc@1", "acc@5", "map", "map_samples"):
            found[f"{metric} {name}"] = [result["metrics"][metric]]
        found[f"similarity {name}"] = list(result["similarity_stats"].values())
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("known"))


KNOWN_NUMBERS = json.loads(KNOWN.read_text())["numbers"] if KNOWN.is_file() else {}


@pytest.mark.parametrize("name", KNOWN_NUMBERS)
def test_known_numbers(measured, name):
    tolerance = next(value for kind, value in TOLERANCE.items() if name.replace("@", " ").split()[0] == kind)
    apart = np.abs(np.subtract(measured[name], KNOWN_NUMBERS[name])).max()
    assert apart <= tolerance, f"{name} changed by {apart:.1e}, more than {tolerance:g}: {measured[name]}"


def test_every_number_is_known(measured):
    assert measured.keys() == KNOWN_NUMBERS.keys()


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"seen_with": [], "numbers": measure(Path(folder))}, indent=1))
