"""Training 10 epochs on 200 clips, against processor + model on every batch of every epoch.

    python benchmarks/train_speed.py

The other side is what one writes with transformers alone: all audio decoded into RAM, then ClapProcessor and
ClapModel on every batch of every epoch. It is timed on 24 clips for one epoch and scaled; its 527 class texts
are encoded once. Both use one random-weight checkpoint of larger_clap_general's architecture. About 4 minutes.
"""

import statistics
import tempfile
from pathlib import Path

from material import class_names, make_checkpoint, make_clips, parse, print_table, run_main, run_script, seconds

CLIPS, EPOCHS, TIMED, BATCH = 200, 10, 24, 16


def straightforward(checkpoint: Path, folder: Path) -> tuple[float, float]:
    """(seconds of decoding and one epoch over TIMED clips, seconds of the class texts)."""
    import torch
    from transformers import ClapModel, ClapProcessor

    from CLAP.encoder import FLOAT32, tensor
    from data import ParquetFolder, decode
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.reading.labels import ClassList

    classes = ClassList.read(CLASS_LABELS)
    model = ClapModel.from_pretrained(checkpoint, **FLOAT32).eval().requires_grad_(False)
    processor = ClapProcessor.from_pretrained(checkpoint)
    projector = torch.nn.Linear(512, 512)
    optimizer = torch.optim.Adam(projector.parameters(), 1e-4)
    clips = [clip for clip, _ in zip(ParquetFolder(folder, classes), range(TIMED), strict=False)]
    text = None

    def encode_texts():
        nonlocal text
        prompts = [f"This is a sound of {name}." for name in class_names()]
        inputs = [processor(text=prompts[i : i + 64], return_tensors="pt", padding=True) for i in range(0, 527, 64)]
        text = torch.cat([tensor(model.get_text_features(**batch)) for batch in inputs])

    def epoch():
        waveforms = [decode(clip) for clip in clips]
        for start in range(0, TIMED, BATCH):
            inputs = processor(audio=waveforms[start : start + BATCH], sampling_rate=48_000, return_tensors="pt")
            audio = projector(tensor(model.get_audio_features(**inputs)))
            loss = (audio @ projector(text).T).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    texts = seconds(encode_texts)
    return seconds(epoch), texts


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        checkpoint = make_checkpoint(home / "model")
        folder = make_clips(home / "clips", CLIPS)
        flags = ["--parquet-dir", folder, "--checkpoint", checkpoint, "--device", "cpu", "--epochs", EPOCHS]
        flags += ["--cache-dir", home / "cache", "--output-dir", home / "out"]
        epoch, texts = straightforward(checkpoint, folder)
        other = epoch * CLIPS / TIMED * EPOCHS + texts
        first = run_main("train_hyperbolic_clap", *flags)
        second = statistics.median(run_main("train_hyperbolic_clap", *flags, "--c", c) for c in (0.5, 2, 0.3, 4, 0.1))
        fresh = run_script("train_hyperbolic_clap.py", *flags, "--c", 0.25)
        cold = run_script("train_hyperbolic_clap.py", *flags, "--cache-dir", home / "cache2")
    rows = [["processor + model on every batch (scaled)", f"{other:.0f} s", "1"]]
    for what, time in (
        ("first run", first),
        ("second run, another c (median of 5)", second),
        ("first run, process start included", cold),
        ("second run, process start included", fresh),
    ):
        rows.append([what, f"{time:.2f} s", f"{other / time:.0f}x"])
    print_table([f"{EPOCHS} epochs on {CLIPS} clips", "time", "faster by"], rows)


if __name__ == "__main__":
    parse(__doc__)
    main()
