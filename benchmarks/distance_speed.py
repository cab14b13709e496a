"""python benchmarks/distance_speed.py [--threads N] [--rounds 5]

One Markdown table for 20000 x 527 distances in 512 dimensions: time as a multiple of a float32 cosine matrix
product of the same shape (A B A B in this run, medians) and extra peak memory as a multiple of one such
float32 matrix (each in a process of its own); then one training step of shape (16, 512) x (527, 512). geoopt
broadcasts an (N, M, D) tensor, so it runs on 64 rows and its figures are scaled up and marked so.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from hyperbolic import tangent_pairwise_distance  # noqa: E402

ROWS, COLUMNS, DIM = 20000, 527, 512
SUBSET = 64


def cosine(u, v):
    return u @ v.T


def ours(u, v):
    return tangent_pairwise_distance(u, v, 1.0)


def geoopt_broadcast(u, v):
    from geoopt.manifolds.stereographic import math as geoopt_math

    k = torch.tensor(-1.0)
    return geoopt_math.dist(geoopt_math.expmap0(u, k=k)[:, None], geoopt_math.expmap0(v, k=k), k=k)


METHODS = {"cosine": (cosine, ROWS), "ours": (ours, ROWS), "geoopt": (geoopt_broadcast, SUBSET)}


def inputs(rows):
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, DIM, generator=draw) for n in (rows, COLUMNS))
    # in place: a temporary would count as memory in use before the measurement
    return u.div_(u.norm(dim=1, keepdim=True)), v.div_(v.norm(dim=1, keepdim=True))


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def alternate(a, b, rounds):
    """Median seconds of a and of b, called in turn."""
    a(), b()
    times = [(seconds(a), seconds(b)) for _ in range(rounds)]
    return [statistics.median(t) for t in zip(*times, strict=True)]


def peak_bytes():
    # VmHWM and not ru_maxrss: the latter starts from the peak of the parent process
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory(name):
    """Run in a process of its own: bytes of peak memory beyond the inputs and the loaded libraries."""
    method, rows = METHODS[name]
    u, v = inputs(rows)
    method(u[:2], v[:2])
    before = peak_bytes()
    method(u, v)
    print(peak_bytes() - before)


def measure_memory(name, threads):
    command = [sys.executable, __file__, "--memory", name, "--threads", str(threads)]
    extra = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return extra * ROWS / METHODS[name][1] / (ROWS * COLUMNS * 4)


def training_step(function):
    u, v = (w.requires_grad_() for w in inputs(16))

    def step():
        u.grad = v.grad = None
        function(u, v).sum().backward()

    return step


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="torch threads (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="A B rounds, at least 5 (default: 5)")
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        return memory(arguments.memory)

    print(
        f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ",
        end="",
    )
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds\n")
    print(
        f"| {ROWS} x {COLUMNS} x {DIM}, float32 | seconds | time / cosine | extra peak memory / one matrix |"
    )
    print("|---|---|---|---|")
    u, v = inputs(ROWS)
    base, own = alternate(lambda: cosine(u, v), lambda: ours(u, v), arguments.rounds)
    base_again, other = alternate(
        lambda: cosine(u, v), lambda: geoopt_broadcast(u[:SUBSET], v), arguments.rounds
    )
    other *= ROWS / SUBSET
    scaled = f" (extrapolated from {SUBSET} rows)"
    rows = [
        ("float32 cosine", base, base, "cosine", ""),
        ("tangent_pairwise_distance", own, base, "ours", ""),
    ]
    for label, taken, reference, name, note in [*rows, (f"geoopt{scaled}", other, base_again, "geoopt", "~")]:
        extra = measure_memory(name, arguments.threads)
        print(
            f"| {label} | {note}{taken:.3f} | {note}{taken / reference:.1f} | {note}{extra:.1f} |", flush=True
        )

    base, own = alternate(training_step(cosine), training_step(ours), max(100, arguments.rounds))
    print("\n| forward and backward, (16, 512) x (527, 512) | ms | time / cosine |\n|---|---|---|")
    for label, taken in (("float32 cosine", base), ("tangent_pairwise_distance", own)):
        print(f"| {label} | {taken * 1e3:.2f} | {taken / base:.1f} |")


if __name__ == "__main__":
    main()
