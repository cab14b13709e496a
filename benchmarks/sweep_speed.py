"""A sweep of 18 runs against 18 trainings and tests by the single scripts: the same bits, and how long each way takes.

    python benchmarks/sweep_speed.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval --work-dir speed

c 0.5, 1, 4 x seeds 1, 2, 3 x hyperbolic, cosine: 36 commands by hand, of which the cosine ones with another c
repeat each other; a sweep runs 12. Both ways find the embeddings in one cache, filled beforehand. Each time is of one
start to end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

from material import ROOT, machine, run_script

from hyperbolic_clap.plumbing.flags import Parser

C, SEEDS, SIMILARITIES = (0.5, 1.0, 4.0), (1, 2, 3), ("hyperbolic", "cosine")


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--train-dir", type=Path, required=True, help="parquet files to train on")
    add("--eval-dir", type=Path, required=True, help="parquet files to test on")
    add("--checkpoint", default=str(ROOT / "CLAP" / "tiny"), help="the CLAP model (default: CLAP/tiny)")
    add("--work-dir", type=Path, default=Path("sweep_speed"), help="default: ./sweep_speed")
    return parser


def single(args: argparse.Namespace, shared: list, c: float, seed: int, similarity: str) -> Path:
    """One training and its test by the single scripts -> their folder."""
    out = args.work_dir / "single" / f"{similarity}_{c:g}_{seed}"
    setting = ["--seed", seed, "--similarity", similarity, *(["--c", c] if similarity != "cosine" else [])]
    run_script("train_hyperbolic_clap.py", "--parquet-dir", args.train_dir, *shared, "--output-dir", out, *setting)
    kind = ["--use-hyperbolic"] if similarity != "cosine" else []
    run_script("test_clap_modelscope.py", "--parquet-dir", args.eval_dir, *shared, "--num-samples", 10**9, *kind,
               "--projection-checkpoint", out, "--output-json", out / "results.json", "--save-scores",
               out / "results.safetensors")  # fmt: skip
    return out


def same(single_run: Path, sweep: Path, name: str) -> bool:
    """Whether best checkpoint, similarities and metrics of a run are equal to the bit."""
    (best,) = single_run.glob("best_*.pth")
    result = sweep / "results" / f"{name}.json"
    return (
        best.read_bytes() == (sweep / "runs" / name.rpartition("_")[0] / best.name).read_bytes()
        and (single_run / "results.safetensors").read_bytes() == result.with_suffix(".safetensors").read_bytes()
        and json.loads((single_run / "results.json").read_text(encoding="utf-8"))["metrics"]
        == json.loads(result.read_text(encoding="utf-8"))["metrics"]
    )


def main(args: argparse.Namespace) -> None:
    shared = ["--checkpoint", args.checkpoint, "--device", "cpu", "--cache-dir", args.work_dir / "cache"]
    single(args, shared, 1.0, 99, "hyperbolic")  # fills the cache
    flags = ["--parquet-dir", args.train_dir, "--eval-dir", args.eval_dir, *shared, "--baseline", "similarity=cosine"]
    grid = ["--c", *C, "--seed", *SEEDS, "--similarity", *SIMILARITIES]
    times = {}
    started = time.monotonic()
    run_script("sweep.py", *flags, *grid, "--output-dir", args.work_dir / "sweep")
    times["sweep.py"] = time.monotonic() - started
    started = time.monotonic()
    folders = {way: single(args, shared, *way) for way in itertools.product(C, SEEDS, SIMILARITIES)}
    times["18 trainings and 18 tests"] = time.monotonic() - started
    print(machine())
    for name, seconds in times.items():
        print(f"{name}: {seconds:.0f} s")
    compared = {(0.5, 1, "hyperbolic"): "hyperbolic_c0.5_seed1", (4.0, 3, "hyperbolic"): "hyperbolic_c4_seed3",
                (1.0, 2, "cosine"): "cosine_seed2"}  # fmt: skip
    for way, name in compared.items():
        equal = same(folders[way], args.work_dir / "sweep", f"{name}_{args.eval_dir.name}")
        print(f"{name}: {'equal to the bit' if equal else 'NOT EQUAL'} to the single scripts")


if __name__ == "__main__":
    main(parser().parse_args())
