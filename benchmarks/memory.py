"""Peak resident memory of encoding 4000 ten-second clips against 400, with CLAP/tiny.

    python benchmarks/memory.py

Each run is a process of its own; the clips are 16 kHz mono FLAC. About 4 minutes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from material import ROOT, make_clips, parse, print_table

CHILD = """
import sys
sys.path[:0] = ["", "benchmarks"]
from hyperbolic_clap.embedding import pipeline
import test_clap_modelscope as script
from material import peak_bytes

def embed_folder(*arguments, plain=pipeline.embed_folder, **options):
    embedded = plain(*arguments, **options)
    print("PEAK", peak_bytes())
    return embedded

pipeline.embed_folder = embed_folder
script.main(script.parser().parse_args(sys.argv[1:]))
print("PEAK", peak_bytes())
"""


def peaks(folder: Path, home: Path, count: int) -> list[int]:
    """Peak resident bytes of testing `count` clips with an empty cache: after encoding, and after everything."""
    flags = ["--parquet-dir", folder, "--checkpoint", ROOT / "CLAP/tiny", "--device", "cpu", "--num-samples", count]
    flags += ["--cache-dir", home / f"cache{count}", "--output-json", home / "results.json"]
    command = [sys.executable, "-c", CHILD, *map(str, flags)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK")]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for part in range(8):
            make_clips(home / f"part{part}", 500, rate=16_000, channels=1, seed=part)
            (home / "clips").mkdir(exist_ok=True)
            (home / f"part{part}" / "00.parquet").rename(home / "clips" / f"{part:02}.parquet")
        few, many = (peaks(home / "clips", home, count) for count in (400, 4000))
    rows = [
        [what, f"{a / 2**20:.0f} MiB", f"{b / 2**20:.0f} MiB", f"{b / a:.3f}"]
        for what, a, b in zip(("encoding", "the whole test, with metrics and predictions"), few, many, strict=True)
    ]
    print_table(["peak resident memory", "400 clips", "4000 clips", "ratio"], rows)


if __name__ == "__main__":
    parse(__doc__)
    main()
