"""The same numbers in every corner of the supported versions: Python, torch, transformers and the rest.

    python benchmarks/versions.py --work-dir ~/corners --output docs/results/versions.csv

For each corner an environment is built (3 GB each to fetch), the tests run in it, and the demo's chain with the same
data: its acc@1 and map, and how far the vectors of 527 class texts and 24 sounds are from those of the pins. Needs
python3.10 to python3.13 on the PATH, or pyenv. An environment that is there already is used as it is.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PINS = ["-c", "constraints.txt"]
FLOOR = (
    "torch==2.4.1 transformers==4.46.3 numpy==1.26.4 pandas==2.0.3 pyarrow==16.1.0 scikit-learn==1.3.2 "
    "modelscope==1.20.0 librosa==0.10.2 soundfile==0.12.1 soxr==0.3.7 av==12.3.0 safetensors==0.4.5 "
    "tqdm==4.66.0 matplotlib==3.8.0"
).split()
CUDA118 = (  # the last torch with CUDA 11.8, and the last transformers 4 of its year
    "torch==2.7.1 transformers==4.57.3 numpy==2.2.6 pandas==2.3.3 pyarrow==20.0.0 scikit-learn==1.6.1"
).split()
CORNERS = {  # name: (Python, what pip installs besides the requirements)
    "pins, Python 3.11": ("3.11", PINS),
    "floor": ("3.10", FLOOR),
    "torch of CUDA 11.8": ("3.11", CUDA118),
    "pins, Python 3.12": ("3.12", PINS),
    "pins, Python 3.13": ("3.13", PINS),
}
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "mpmath<1.4", "geoopt"]
LIBRARIES = "torch transformers tokenizers numpy pandas pyarrow scikit-learn".split()
TESTS = "tokenizer encoder known_numbers geometry training scripts data compare sharing".split()
DEMO = ("--parquet-dir", "data/eval", "--num-samples", "1000", "--checkpoint", "CLAP/tiny", "--device", "cpu",
        "--cache-dir", "cache")  # fmt: skip
VECTORS = """
import sys
import numpy as np, torch
from benchmarks.material import class_names
from CLAP.encoder import Encoder
encoder, rng = Encoder("CLAP/tiny", torch.device("cpu")), np.random.default_rng(0)
time = np.arange(48_000 * 4) / 48_000
sounds = [np.sin(2 * np.pi * 110 * 1.2**i * time) * 0.3 + rng.normal(0, 0.02 * (i % 5), len(time)) for i in range(24)]
np.savez(sys.argv[1], audio=np.stack([encoder.encode_waveform(sound.astype(np.float32)) for sound in sounds]),
         text=encoder.encode_texts([f"This is a sound of {name}." for name in class_names()]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="gets the environments and a copy of the project")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "versions.csv")
    parser.add_argument("--corners", nargs="*", default=list(CORNERS), help="some of the corners; the pins come first")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # spinning threads make a busy machine slow
    home = args.work_dir.resolve()
    tree = checkout(home / "tree")
    rows = []
    for name in args.corners:
        python = environment(home / re.sub(r"\W+", "_", name), *CORNERS[name])
        row = {"corner": name} | installed(python) | demo(python, tree, home)
        row |= apart(python, tree, home) | tests(python, tree, home)
        rows.append(row)
        print(row, flush=True)
        with args.output.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def checkout(tree: Path) -> Path:
    """What git has committed of the project, as a clone of its own."""
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", ROOT, tree], check=True)
    return tree


def environment(folder: Path, version: str, extra: list[str]) -> Path:
    """The Python of a virtual environment, built if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        found = shutil.which(f"python{version}") or max(
            glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")), default=None
        )
        subprocess.run([found or sys.exit(f"there is no python{version}"), "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", "requirements-plot.txt", *TOOLS, *extra], cwd=ROOT,
                       check=True)  # fmt: skip
    return python


def installed(python: Path) -> dict:
    code = f"from importlib.metadata import version as v; print(*[v(x) for x in {LIBRARIES!r}])"
    done = subprocess.run([python, "-c", "import platform; print(platform.python_version()); " + code], check=True,
                          capture_output=True, text=True)  # fmt: skip
    return dict(zip(["python", *LIBRARIES], done.stdout.split(), strict=True))


def demo(python: Path, tree: Path, home: Path) -> dict:
    """acc@1 and map of the demo's chain, on data synthesised once, since a library may draw other random numbers."""

    def call(*command) -> None:
        subprocess.run([python, *map(str, command)], cwd=tree, check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"PYTHONPATH": str(tree)})  # fmt: skip

    if not (home / "data").is_dir():
        call("demo/synthesise.py", "--output-dir", home / "data", "--seed", "0")
    for old in ("out", "cache", "data"):
        shutil.rmtree(tree / old, ignore_errors=True)
    shutil.copytree(home / "data", tree / "data")
    call("train_hyperbolic_clap.py", "--parquet-dir", "data/train_balanced", *DEMO[4:], "--output-dir", "out")
    best = next((tree / "out").glob("best_projection_epoch_*.pth"))
    call("test_clap_modelscope.py", *DEMO, "--output-json", "out/original.json")
    call("test_hyperbolic_clap_modelscope.py", *DEMO, "--projection-checkpoint", best,
         "--output-json", "out/hyperbolic.json")
    call("compare_results.py", "out/original.json", "out/hyperbolic.json")
    found = {}
    for name in ("original", "hyperbolic"):
        metrics = json.loads((tree / "out" / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
        found |= {f"{metric} {name}": f"{metrics[metric]:.4f}" for metric in ("acc@1", "map")}
    return found


def apart(python: Path, tree: Path, home: Path) -> dict:
    """The largest difference of a vector's number to the first corner's."""
    file, first = home / "vectors.npz", home / "vectors of the pins.npz"
    subprocess.run([python, "-c", VECTORS, file], cwd=tree, check=True)
    if not first.exists():
        file.rename(first)
        file = first
    with np.load(first) as pins, np.load(file) as mine:
        return {f"{kind} vectors apart": f"{np.abs(mine[kind] - pins[kind]).max():.1e}" for kind in ("audio", "text")}


def tests(python: Path, tree: Path, home: Path) -> dict:
    """How many tests passed, failed and were skipped, and why."""
    report = home / "tests.xml"
    subprocess.run([python, "-m", "pytest", "-q", "-n", "2", "-p", "no:warnings", f"--junitxml={report}",
                    *(f"tests/test_{name}.py" for name in TESTS)], cwd=tree, stdout=subprocess.DEVNULL)  # fmt: skip
    cases = ElementTree.parse(report).findall(".//testcase")
    kinds = Counter(next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
                    for case in cases)  # fmt: skip
    reasons = Counter(re.sub(r"\s+", " ", case.find("skipped").get("message", "")) for case in cases
                      if case.find("skipped") is not None)  # fmt: skip
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    print(*failed, sep="\n", flush=True)
    return {"tests passed": kinds["passed"], "failed": kinds["failure"] + kinds["error"], "skipped": kinds["skipped"],
            "why": "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())}  # fmt: skip


if __name__ == "__main__":
    main()
