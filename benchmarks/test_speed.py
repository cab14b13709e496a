"""Testing 100 clips, against pipeline("zero-shot-audio-classification").

    python benchmarks/test_speed.py

The pipeline encodes all 527 texts again for every clip; it is timed on 3 clips and extrapolated. Both use one
random-weight checkpoint of larger_clap_general's architecture. About 3 minutes.
"""

import tempfile
from pathlib import Path

from material import class_names, make_checkpoint, make_clips, parse, print_table, run_main, run_script, seconds

CLIPS, TIMED = 100, 3


def pipeline_seconds(checkpoint: Path, folder: Path) -> float:
    """Seconds of the transformers pipeline for each clip, audio already decoded."""
    from transformers import pipeline

    from data import ParquetFolder, decode
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.reading.labels import ClassList

    clips = [c for c, _ in zip(ParquetFolder(folder, ClassList.read(CLASS_LABELS)), range(TIMED), strict=False)]
    waveforms = [decode(clip) for clip in clips]
    classify = pipeline("zero-shot-audio-classification", model=str(checkpoint), device="cpu")
    names = class_names()
    template = "This is a sound of {}."
    options = {"candidate_labels": names, "hypothesis_template": template}
    return seconds(lambda: [classify(waveform, **options) for waveform in waveforms]) / TIMED


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        checkpoint = make_checkpoint(home / "model")
        folder = make_clips(home / "clips", CLIPS)
        other = pipeline_seconds(checkpoint, folder) * CLIPS
        flags = ["--parquet-dir", folder, "--checkpoint", checkpoint, "--device", "cpu", "--num-samples", CLIPS]
        flags += ["--output-json", home / "results.json"]
        first = run_main("test_clap_modelscope", *flags, "--cache-dir", home / "cache")
        second = run_main("test_clap_modelscope", *flags, "--cache-dir", home / "cache")
        cold = run_script("test_clap_modelscope.py", *flags, "--cache-dir", home / "cache2")
        warm = run_script("test_clap_modelscope.py", *flags, "--cache-dir", home / "cache2")
    rows = [["transformers pipeline (extrapolated)", f"{other:.0f} s", "1"]]
    for what, time in (
        ("first run", first),
        ("second run", second),
        ("first run, process start included", cold),
        ("second run, process start included", warm),
    ):
        rows.append([what, f"{time:.2f} s", f"{other / time:.0f}x"])
    print_table([f"testing {CLIPS} clips over 527 classes", "time", "faster by"], rows)


if __name__ == "__main__":
    parse(__doc__)
    main()
