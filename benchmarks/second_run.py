"""What the second run costs: another c, start-up, a million known rows, a large cache, busy neighbours, the step.

    python benchmarks/second_run.py --parts another_c start bytes step stores
    python benchmarks/second_run.py --parts neighbours
    python benchmarks/second_run.py --parts rows cache
    python benchmarks/second_run.py --rows 20000 --parts rows cache stores

Everything is made here, in minutes. The million rows are synthetic: cells of 64 bytes that are no sound, vectors drawn
at random and put into the store under the cells' keys, since what is measured never looks at the audio; they need 3 KB
of disk each. Parts:

another_c   10 epochs on 200 clips with another c, against processor + model on every batch, as train_speed.py does it
start       process start to the first step of a known folder: that of --sounds, or 602 tones
bytes       bytes of audio that a second run reads of it
rows        --rows known rows: process start to the first step, and peak memory by then
cache       testing 100 clips beside a cache of --rows entries, against beside one of 1,000, A B A B
neighbours  a training step alone, beside one and beside three busy processes, as the scripts let threads wait and as
            they wait by default, in turn
step        10 epochs over 8,000 clips at batch 16, against the two bare products of each step
stores      100 and all vectors of --rows out of CLAP/segments.py and out of SQLite

--output-csv keeps the rows of parts that are not measured now; --docs writes the CSV's table between the markers.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kept_table import HEADER, Table, write_csv, write_docs
from known_rows import TINY, make_rows, stores, trainer
from material import (
    ROOT,
    alternate,
    as_users,
    make_checkpoint,
    make_clips,
    parse,
    print_table,
    quiet,
    run_main,
    run_script,
    seconds,
)

HOW_THREADS_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SETUP = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
from hyperbolic_clap.plumbing.device import wait_gently
wait_gently()
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""
TO_FIRST_STEP = SETUP + """
from hyperbolic_clap.training import trainer
def first(self, epoch):
    print("FIRST", time.time(), peak(), flush=True)
    sys.exit()
trainer.Trainer._train_epoch = first
import train_hyperbolic_clap as script
script.main(script.parser().parse_args(sys.argv[1:]))
"""
TEST = SETUP + """
import test_clap_modelscope as script
script.main(script.parser().parse_args(sys.argv[1:]))
print("PEAK", peak())
"""
BYTES = SETUP + """
import second_run
with second_run.counted_reads() as read:
    import train_hyperbolic_clap as script
    script.main(script.parser().parse_args(sys.argv[1:]))
print("READ", sum(read), len(read))
"""
STEP = """
import hashlib, os, sys
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
if {gently}:
    from hyperbolic_clap.plumbing.device import wait_gently
    wait_gently()
import known_rows, material
trainer = known_rows.trainer(160)
epochs = iter(range(1, 1000))
with material.quiet():
    (taken,) = material.alternate(lambda: trainer._train_epoch(next(epochs)))
print(taken / 10, hashlib.sha256(trainer.projector.linear.weight.detach().numpy().tobytes()).hexdigest())
"""


def child(code: str, *flags: object) -> str:
    """What a Python process of its own prints; how its threads wait is up to it."""
    command = [sys.executable, "-c", code, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=as_users(*HOW_THREADS_WAIT))
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def to_first_step(*flags: object) -> tuple[float, int]:
    """(seconds from process start to the first training step, peak bytes by then)."""
    started = time.time()
    said = child(TO_FIRST_STEP.format(root=str(ROOT)), *flags)
    _, at, peak = next(line for line in said.splitlines() if line.startswith("FIRST")).split()
    return float(at) - started, int(peak)


def train_flags(home: Path, data: Path, checkpoint: Path = TINY) -> list:
    return ["--parquet-dir", data, "--checkpoint", checkpoint, "--device", "cpu", "--cache-dir", home / "cache",
            "--output-dir", home / "out"]  # fmt: skip


def another_c(home: Path, table: Table, args) -> None:
    """The second run of train_speed.py."""
    from train_speed import EPOCHS, TIMED, straightforward

    count = args.clips
    checkpoint, clips = make_checkpoint(home / "model"), make_clips(home / "clips", max(count, TIMED))
    epoch, texts = straightforward(checkpoint, clips)
    other = epoch * count / TIMED * EPOCHS + texts
    flags = [*train_flags(home, clips, checkpoint), "--epochs", EPOCHS, "--num-samples", count]
    run_main("train_hyperbolic_clap", *flags)
    time.sleep(4)  # until no file is young
    again = [run_main("train_hyperbolic_clap", *flags, "--c", c) for c in (0.5, 2, 0.3, 4, 0.1, 3)]
    second = statistics.median(again[1:])  # the first one hashes what was young
    fresh = statistics.median(run_script("train_hyperbolic_clap.py", *flags, "--c", c) for c in (0.25, 5, 0.6))
    what = f"{EPOCHS} epochs on {count} clips with another c, against processor + model on every batch ({other:.0f} s)"
    table.add("another_c", what, f"{other / second:.0f}x ({second:.2f} s)", "1000x", other / second >= 1000)
    what = "the same, process start included"
    table.add("another_c", what, f"{other / fresh:.0f}x ({fresh:.2f} s)", "200x", other / fresh >= 200)


def known_folder(home: Path, args) -> list:
    """Flags of a training on --sounds or on tones, of which everything is known."""
    data = args.sounds
    if data is None:
        sys.path.insert(0, str(ROOT / "tests"))
        from conftest import tone_rows, write_rows

        data = home / "tones"
        if not data.is_dir():
            write_rows(data, tone_rows(602))
            time.sleep(4)
    flags = [*train_flags(home, data), "--epochs", 1]
    to_first_step(*flags)
    return flags


def start(home: Path, table: Table, args) -> None:
    flags = known_folder(home, args)
    rounds = [(to_first_step(*flags)[0], seconds(lambda: child("import torch"))) for _ in range(5)]
    taken, torch = map(statistics.median, zip(*rounds, strict=True))
    used = json.loads((home / "out" / "setup.json").read_text())["clips"]
    assert used["files"]["read"] == 0, used
    what = f"process start to the first step, {used['used']} known clips"
    table.add("start", what, f"{taken:.2f} s (import torch alone: {torch:.2f} s)", "2 s", taken <= 2)


def counted_reads():
    """Within it, the list of how many bytes each read of a parquet file takes from within its audio columns."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reads import counted_reads

    return counted_reads()


def audio_bytes(home: Path, table: Table, args) -> None:
    said = child(BYTES.format(root=str(ROOT)), *known_folder(home, args))
    count, reads = map(int, said.split("READ ")[1].split())
    assert reads, "no read was seen at all"
    table.add("bytes", "bytes of audio read in a second run", f"{count} (in {reads} reads of other columns)", "0",
              count == 0)  # fmt: skip


def many_rows(home: Path, table: Table, args) -> None:
    flags = train_flags(home, home / "many")
    to_first_step(*flags)  # the class texts
    touch = f"import numpy; numpy.empty(({args.rows}, 512), numpy.float32)[:] = 1"
    rounds = [(*to_first_step(*flags), seconds(lambda: child(touch))) for _ in range(5)]
    taken, peaks, touched = zip(*rounds, strict=True)
    setup = json.loads((home / "out" / "setup.json").read_text())
    assert setup["clips"]["used"] == args.rows and setup["clips"]["files"]["read"] == 0, setup["clips"]
    middle, peak = statistics.median(taken), max(peaks)
    what = f"{args.rows:,} known rows: process start to the first step"
    told = f"{middle:.1f} s (a process that only fills memory of the vectors' size: {statistics.median(touched):.1f} s)"
    table.add("rows", what, told, "10 s", middle <= 10)
    table.add("rows", "the same, peak memory", f"{peak / 1e9:.2f} GB", "3 GB", peak <= 3e9)


def large_cache(home: Path, table: Table, args) -> None:
    def test(cache: Path) -> tuple[float, int]:
        flags = ["--parquet-dir", home / "few", "--checkpoint", TINY, "--device", "cpu", "--num-samples", 100,
                 "--cache-dir", cache, "--output-json", home / "results.json"]  # fmt: skip
        said: list[str] = []
        taken = seconds(lambda: said.append(child(TEST.format(root=str(ROOT)), *flags)))
        return taken, int(said[0].split("PEAK ")[1])

    # Its cells are the first ones of the many, so both caches know their vectors.
    make_rows(home / "few", home / "small", 1000, files=1)
    caches = home / "small", home / "cache"
    for cache in caches:
        test(cache)  # the large one indexes the few
        test(cache)
    times = [[test(cache) for cache in caches] for _ in range(7)]
    (few, small), (many, large) = ([statistics.median(x) for x in zip(*column, strict=True)]
                                   for column in zip(*times, strict=True))  # fmt: skip
    what = f"testing 100 clips beside a cache of {args.rows:,}, against beside one of 1,000"
    more = (large - small) / 1e6
    table.add("cache", what, f"{many / few:.3f}x ({many:.2f} s)", "1.05x", many / few <= 1.05)
    table.add("cache", "the same, peak memory", f"{more:+.0f} MB", "+20 MB", more <= 20)


def neighbours(home: Path, table: Table, args) -> None:
    """A step quiet and beside busy processes; default: as the machine's OpenMP waits by itself."""
    times: dict = {}
    for _ in range(args.rounds):
        for busy in (0, 1, 3):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for gently in (True, False):
                    taken, weights = child(STEP.format(root=str(ROOT), gently=gently)).split()
                    times.setdefault((busy, gently), []).append((float(taken), weights))
            finally:
                for process in others:
                    process.kill()
                    process.wait()
    assert len({weights for some in times.values() for _, weights in some}) == 1, "bits differ"
    ms = {key: statistics.median(taken for taken, _ in some) * 1e3 for key, some in times.items()}
    ratio = ms[0, True] / ms[0, False]
    table.add("neighbours", "quiet step, against the default waiting", f"{ratio:.2f}x", "1.0x", ratio <= 1)
    for busy, target in ((1, 1.7), (3, 3)):
        ours, default = (ms[busy, gently] / ms[0, gently] for gently in (True, False))
        what = f"step beside {busy} busy, against quiet ({ms[0, True]:.1f} ms)"
        table.add("neighbours", what, f"{ours:.1f}x (default waiting: {default:.1f}x)", f"{target}x", ours <= target)


def step(home: Path, table: Table, args) -> None:
    import torch

    count = args.step_clips // 16
    training = trainer(args.step_clips)
    weight, inputs, gradient = torch.eye(512), torch.randn(543, 512), torch.randn(543, 512)
    epochs = iter(range(1, 1000))

    def products() -> None:
        for _ in range(count):
            torch.nn.functional.linear(inputs, weight)
            gradient.T @ inputs

    def epoch() -> None:
        number = next(epochs)
        training._train_epoch(number)
        training.validate(number)

    with quiet():
        taken, bare = alternate(epoch, products, rounds=10)
    what = f"10 epochs of {args.step_clips:,} clips at batch 16, against the bare products ({10 * bare:.1f} s)"
    table.add("step", what, f"{taken / bare:.2f}x ({10 * taken:.1f} s)", "1.4x", taken / bare <= 1.4)


PARTS = {
    "another_c": another_c,
    "start": start,
    "bytes": audio_bytes,
    "rows": many_rows,
    "cache": large_cache,
    "neighbours": neighbours,
    "step": step,
    "stores": stores,
}


def main(args) -> None:
    from hyperbolic_clap.plumbing.device import wait_gently

    wait_gently()  # before torch is loaded, as the scripts do
    table = Table()
    rows = table.rows
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        home = Path(name)
        if {"rows", "cache", "stores"} & set(args.parts):
            make_rows(home / "many", home / "cache", args.rows)
        for part, measure in PARTS.items():
            if part in args.parts:
                # The start and its bytes look at one folder; the million rows' cache is shared as well.
                own = home if part in ("rows", "cache", "stores") else home / ("start" if part == "bytes" else part)
                own.mkdir(exist_ok=True)
                measure(own, table, args)
                if args.output_csv:  # after each part, so that what is done outlives an end in between
                    rows = write_csv(args.output_csv, table.rows, [*PARTS])
    print_table(HEADER[1:5], [row[1:5] for row in table.rows])
    if args.docs:
        write_docs(args.docs, rows)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--parts", {"nargs": "+", "choices": [*PARTS], "default": [*PARTS], "help": "default: all"}),
            ("--rows", {"type": int, "default": 1_000_000, "help": "default: 1000000"}),
            ("--sounds", {"type": Path, "help": "a parquet folder for start and bytes (default: 602 tones)"}),
            ("--clips", {"type": int, "default": 200, "help": "of another_c (default: 200)"}),
            ("--step-clips", {"type": int, "default": 8000, "help": "of step (default: 8000)"}),
            ("--rounds", {"type": int, "default": 5, "help": "of neighbours (default: 5)"}),
            ("--output-csv", {"type": Path, "help": "also keep the table here"}),
            ("--docs", {"type": Path, "help": "and write it between the markers of this document"}),
            ("--dir", {"type": Path, "help": "where to make the files (default: a temporary folder)"}),
        )
    )
