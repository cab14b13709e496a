"""python benchmarks/distance_speed.py [--threads N] [--rounds 5]

One Markdown table for 20000 x 527 distances in 512 dimensions: time as a multiple of a float32 cosine matrix
product of the same shape (A B A B in this run, medians) and extra peak memory as a multiple of one such
float32 matrix (each in a process of its own); then one training step of shape (16, 512) x (527, 512). geoopt
broadcasts an (N, M, D) tensor, so it runs on 64 rows and its figures are scaled up and marked so.
"""

import subprocess
import sys

import torch
from material import alternate, parse, peak_bytes, print_table

from hyperbolic import tangent_pairwise_distance

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


def main(arguments):
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        return memory(arguments.memory)
    u, v = inputs(ROWS)
    base, own = alternate(lambda: cosine(u, v), lambda: ours(u, v), rounds=arguments.rounds)
    base_again, other = alternate(
        lambda: cosine(u, v), lambda: geoopt_broadcast(u[:SUBSET], v), rounds=arguments.rounds
    )
    other *= ROWS / SUBSET
    rows = []
    for label, taken, reference, name, note in (
        ("float32 cosine", base, base, "cosine", ""),
        ("tangent_pairwise_distance", own, base, "ours", ""),
        (f"geoopt (extrapolated from {SUBSET} rows)", other, base_again, "geoopt", "~"),
    ):
        extra = measure_memory(name, arguments.threads)
        rows.append([label, f"{note}{taken:.3f}", f"{note}{taken / reference:.1f}", f"{note}{extra:.1f}"])
    caption = f"{ROWS} x {COLUMNS} x {DIM}, float32, {arguments.threads} threads"
    print_table([caption, "seconds", "time / cosine", "extra peak memory / one matrix"], rows)

    base, own = alternate(training_step(cosine), training_step(ours), rounds=100)
    rows = [["float32 cosine", f"{base * 1e3:.2f}", "1"]]
    rows.append(["tangent_pairwise_distance", f"{own * 1e3:.2f}", f"{own / base:.1f}"])
    print_table(["forward and backward, (16, 512) x (527, 512)", "ms", "time / cosine"], rows)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--threads", {"type": int, "default": torch.get_num_threads(), "help": "torch threads (default: all)"}),
            ("--rounds", {"type": int, "default": 5, "help": "A B rounds (default: 5)"}),
            ("--memory", {"choices": METHODS, "help": "print the extra peak bytes of one method, and end"}),
        )
    )
