"""A training step on one process, against the same batch shared out over 2 with DistributedDataParallel on gloo.

    python benchmarks/ddp_speed.py

Both take a global batch of 16 against 527 class texts, 512 dimensions, with the manual's loss; for the sigmoid and the
softmax loss the candidates are the class list, so no negatives need to be gathered. Each side has both cores: one
process with two threads, or two processes with one thread each. Timed in turns in one run. About 1 minute.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from material import ROOT, parse, print_table

STEPS, ROUNDS, BATCH = 100, 5, 16


def steps(projector, loss_of, rows: int) -> float:
    """Seconds of STEPS training steps with `rows` clips each."""
    import torch

    draw = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(rows, 512, generator=draw), dim=1)
    text = torch.nn.functional.normalize(torch.randn(527, 512, generator=draw), dim=1)
    targets = torch.rand(rows, 527, generator=draw) < 0.005
    optimizer = torch.optim.Adam(projector.parameters(), 1e-4, fused=True)
    started = time.perf_counter()
    for _ in range(STEPS):
        loss = loss_of(projector(audio, text), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def rank_main(rank: int, store: str, results) -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from hyperbolic import HyperbolicProjector, sigmoid_loss

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

    def shared():
        torch.set_num_threads(1)
        projector = HyperbolicProjector()
        dist.barrier()
        return steps(DistributedDataParallel(projector), sigmoid_loss, BATCH // 2)

    def alone():
        torch.set_num_threads(2)
        time_taken = steps(HyperbolicProjector(), sigmoid_loss, BATCH) if rank == 0 else 0.0
        dist.barrier()
        return time_taken

    shared(), alone()
    times = [(alone(), shared()) for _ in range(ROUNDS)]
    if rank == 0:
        results.put([statistics.median(column) / STEPS * 1e3 for column in zip(*times, strict=True)])
    dist.destroy_process_group()


def main() -> None:
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        results = mp.get_context("spawn").SimpleQueue()
        mp.spawn(rank_main, (str(Path(folder, "store")), results), nprocs=2)
        one, two = results.get()
    rows = [
        ["one process, batch 16", f"{one:.1f} ms", "1"],
        ["2 processes, DistributedDataParallel, 8 clips each", f"{two:.1f} ms", f"{two / one:.2f}"],
    ]
    print_table(["training step", "time", "takes, times one process"], rows)


if __name__ == "__main__":
    parse(__doc__)
    os.environ.pop("OMP_NUM_THREADS", None)
    main()
