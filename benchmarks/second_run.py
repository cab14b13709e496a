"""What the second run costs: start-up, a million known rows, a large cache, and busy neighbours.

    python benchmarks/second_run.py
    python benchmarks/second_run.py --rows 100000 --only start rows cache step

Everything is made here, in minutes: the million rows are synthetic (cells of 64 bytes that are no sound, vectors drawn
at random and put into the store under the cells' keys), since what is measured never looks at the audio. --only: start
(a known folder of tones with CLAP/tiny), rows (so many known rows, from process start to the first step), cache (100
clips beside a large cache), step (a training step alone, and beside one and three busy processes). Needs 3 KB of disk
for each row.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from material import ROOT, class_names, parse, print_table, seconds

PARTS = ("start", "rows", "cache", "step")
CHILD = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
from plumbing.device import wait_gently
wait_gently()
from material import peak_bytes
import training.loop
def first(self, epoch):
    print("FIRST", time.time(), peak_bytes(), flush=True)
    sys.exit()
training.loop.Trainer._train_epoch = first
import train_hyperbolic_clap as script
script.main(script.parser().parse_args(sys.argv[1:]))
"""
STEP = """
import hashlib, os, statistics, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
if {gently}:
    from plumbing.device import wait_gently
    wait_gently()
import torch
from training.loop import Settings, Trainer
draw = torch.Generator().manual_seed(0)
unit = lambda n: torch.nn.functional.normalize(torch.randn(n, 512, generator=draw), dim=1)
audio, text = unit(400), unit(527)
targets = torch.rand(400, 527, generator=draw) < 0.005
sys.stderr = open(os.devnull, "w")
trainer = Trainer(Settings(), audio, targets, text, torch.arange(320), torch.arange(320, 400))
def median(work, times):
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
epochs = iter(range(1, 1000))
step = median(lambda: trainer._train_epoch(next(epochs)), 7) / 20
weight, inputs, gradient = torch.eye(512), torch.randn(543, 512), torch.randn(543, 512)
products = median(lambda: (torch.nn.functional.linear(inputs, weight), gradient.T @ inputs), 50)
print(step, products, hashlib.sha256(trainer.projector.linear.weight.detach().numpy().tobytes()).hexdigest())
"""


def child(code: str, *flags: object) -> str:
    """What a Python process of its own prints; how threads wait is up to it."""
    command = [sys.executable, "-c", code, *map(str, flags)]
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def to_first_step(*flags: object) -> tuple[float, int]:
    """(seconds from process start to the first training step, peak bytes by then)."""
    started = time.time()
    said = child(CHILD.format(root=str(ROOT)), *flags)
    _, at, peak = next(line for line in said.splitlines() if line.startswith("FIRST")).split()
    return float(at) - started, int(peak)


def make_rows(folder: Path, cache_dir: Path, count: int, files: int = 20) -> None:
    """Parquet files of small cells, and a store and a table that know them."""
    import hashlib

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from CLAP.cache import SEGMENT_ROWS
    from CLAP.encoder import Encoder
    from CLAP.segments import write
    from embedding.table import KEYED, kind_of
    from plumbing.known import KnownFiles, look

    encoder = Encoder(str(ROOT / "CLAP" / "tiny"), torch.device("cpu"))
    store, names, rng = cache_dir / encoder.fingerprint[:32] / "store", class_names(), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(files):
        rows = range(number * count // files, (number + 1) * count // files)
        cells = [row.to_bytes(64, "little") for row in rows]
        keys = [hashlib.sha256(b"encoded\n" + cell).digest() for cell in cells]
        keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        chosen = rng.integers(0, len(names), (len(rows), 3))
        table = pa.table({
            "video_id": [f"row{row}" for row in rows],
            "audio": cells,
            "human_labels": [[names[j] for j in some] for some in chosen],
        })  # fmt: skip
        path = folder / f"{number:03}.parquet"
        pq.write_table(table, path, row_group_size=10_000)
        found.append((path, keys))
        for start in range(0, len(keys), SEGMENT_ROWS):
            part = keys[start : start + SEGMENT_ROWS]
            vectors = rng.standard_normal((len(part), encoder.embed_dim), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            write(store / f"{number}_{start}.safetensors", encoder.fingerprint, part, vectors)
    time.sleep(4)  # until no file is young
    known = KnownFiles(cache_dir)
    for path, keys in found:
        arrays = {"keys": keys, "state": np.full(len(keys), KEYED, np.uint8)}
        known.keep(path, kind_of(encoder), look(path), arrays, reasons=[])


def start(home: Path, rows: list) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import tone_rows, write_rows

    write_rows(home / "tones", tone_rows(600))
    flags = ["--parquet-dir", home / "tones", "--checkpoint", ROOT / "CLAP/tiny", "--device", "cpu"]
    flags += ["--cache-dir", home / "cache", "--output-dir", home / "out", "--epochs", 1]
    time.sleep(4)
    to_first_step(*flags)
    times = [to_first_step(*flags)[0] for _ in range(5)]
    rows.append(["600 known clips: process start to first step", f"{statistics.median(times):.2f} s", "2 s"])


def many_rows(home: Path, rows: list, count: int) -> None:
    flags = ["--parquet-dir", home / "many", "--checkpoint", ROOT / "CLAP/tiny", "--device", "cpu", "--cache-dir",
             home / "cache", "--output-dir", home / "out"]  # fmt: skip
    to_first_step(*flags)  # the class texts
    taken, peak = to_first_step(*flags)
    setup = json.loads((home / "out" / "setup.json").read_text())
    assert setup["clips"]["used"] == count and setup["clips"]["files"]["read"] == 0, setup["clips"]
    what = f"{count:,} known rows: process start to first step"
    rows.append([what, f"{taken:.1f} s, {peak / 2**30:.2f} GiB", f"{count / 1e5:.0f} s, {count * 3e-6:.1f} GB"])


def large_cache(home: Path, rows: list, count: int) -> None:
    def test(cache: Path) -> tuple[float, int]:
        code = CHILD.split("import training.loop")[0] + (
            "import test_clap_modelscope as script\nscript.main(script.parser().parse_args(sys.argv[1:]))\n"
            "print('PEAK', peak_bytes())"
        )
        flags = ["--parquet-dir", home / "few", "--checkpoint", ROOT / "CLAP/tiny", "--device", "cpu", "--num-samples",
                 100, "--cache-dir", cache, "--output-json", home / "results.json"]  # fmt: skip
        said = []
        taken = seconds(lambda: said.append(child(code.format(root=str(ROOT)), *flags)))
        return taken, int(said[0].split("PEAK ")[1])

    # Its cells are the first ones of the many, so both caches know them.
    make_rows(home / "few", home / "small", 1000, files=1)
    for cache in (home / "small", home / "cache"):
        test(cache)
    times = [[test(cache) for cache in (home / "small", home / "cache")] for _ in range(5)]
    (few, small), (many, large) = ([statistics.median(x) for x in zip(*column, strict=True)]
                                   for column in zip(*times, strict=True))  # fmt: skip
    what = f"test of 100 clips beside a cache of {count:,}, against one of 1,000"
    rows.append([what, f"{many / few:.3f}x, {(large - small) / 2**20:+.0f} MiB", "1.05x, +20 MB"])


def step(rows: list) -> None:
    """A step quiet and beside busy processes, A B A B; default: as the machine's OpenMP waits by itself."""
    times: dict = {}
    for _ in range(3):
        for neighbours in (0, 1, 3):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
            try:
                for gently in (True, False):
                    said = child(STEP.format(root=str(ROOT), gently=gently)).split()
                    times.setdefault((neighbours, gently), []).append((float(said[0]), float(said[1]), said[2]))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    assert len({weights for some in times.values() for *_, weights in some}) == 1, "bits differ"
    ms = {key: statistics.median(x for x, *_ in some) * 1e3 for key, some in times.items()}
    products = statistics.median(x for _, x, _ in times[0, True]) * 1e3
    rows.append(["quiet step, against the default waiting", f"{ms[0, True] / ms[0, False]:.2f}x", "1.0x"])
    rows.append(["quiet step, against its bare products", f"{ms[0, True] / products:.2f}x", "1.4x"])
    for neighbours, target in ((1, "1.7x"), (3, "3x")):
        ratios = [ms[neighbours, gently] / ms[0, gently] for gently in (True, False)]
        what = f"step beside {neighbours} busy, against quiet ({ms[0, True]:.1f} ms)"
        rows.append([what, f"{ratios[0]:.1f}x (default waiting: {ratios[1]:.1f}x)", target])


def main(args) -> None:
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        home = Path(name)
        if "step" in args.only:
            step(rows)
        if "start" in args.only:
            start(home / "start", rows)
        if {"rows", "cache"} & set(args.only):
            make_rows(home / "many", home / "cache", args.rows)
        if "rows" in args.only:
            many_rows(home, rows, args.rows)
        if "cache" in args.only:
            large_cache(home, rows, args.rows)
    print_table(["what", "measured", "target"], rows)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--rows", {"type": int, "default": 1_000_000}),
            ("--only", {"nargs": "+", "choices": PARTS, "default": list(PARTS)}),
            ("--dir", {"type": Path, "default": None, "help": "where to make the files (default: a temporary folder)"}),
        )
    )
