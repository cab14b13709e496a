"""Ranks under torchrun: each encodes its share of the rows, then rank 0 has all of it and goes on alone.

    torchrun --nproc-per-node=2 train_hyperbolic_clap.py --parquet-dir ./Datasets/AudioSet/train_balanced

The frozen encoder's pass is the cost and it splits perfectly. The projector is trained on rank 0, which is faster than
DistributedDataParallel for a layer this small (benchmarks/ddp_speed.py), so no gradient crosses ranks: what does are
finished vectors and counts, from host to host over gloo. Plain `python` never imports torch.distributed.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

# A rank that dies is noticed by torchrun, which ends the others; no wait for one that is only slow may end by itself.
PATIENCE = timedelta(days=30)
POLL_SECONDS = 0.2


def rank() -> int:
    """This process's rank: 0 without torchrun."""
    return int(os.environ.get("RANK", 0)) if under_torchrun() else 0


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def use_all_cores() -> None:
    """Undo torchrun's OMP_NUM_THREADS=1 before torch is loaded: rank 0 then trains to the bit as one process does."""
    if under_torchrun() and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]


class Alone:
    """One process, all rows."""

    rank, size, local, local_size = 0, 1, 0, 1
    rows_done = 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This rank's part of the rows from start to stop; the parts differ by one row at most."""
        rows = stop - start
        return start + rows * self.rank // self.size, start + rows * (self.rank + 1) // self.size

    def in_turn(self, make: Callable):
        """make(), on each machine by its first rank before the others, so that a model is fetched once."""
        return make()

    def count(self, rows: int) -> int:
        """Add to the rows that all ranks have done; the new sum."""
        self.rows_done += rows
        return self.rows_done

    def total(self, number: int) -> int:
        """The sum over all ranks."""
        return number

    def gather(self, content) -> list | None:
        """Every rank's content, in order of ranks, on rank 0; None on the others."""
        return [content]

    def remembers(self, name: str) -> bool:
        """Whether `remember` was called with this name, also before torchrun restarted the ranks."""
        return False

    def remember(self, name: str) -> None:
        """Leave a note for the ranks that torchrun may start after these."""

    def close(self) -> None:
        """The last call of every rank: the others stay until rank 0 is done.

        If they left earlier, torchrun would end on their machines, and after five minutes take rank 0 with it.
        """


class Ranks(Alone):
    """One of several processes that torchrun started."""

    def __init__(self):
        import torch.distributed as dist

        self.dist = dist
        if os.name == "nt":  # whose builds of torch have no libuv
            os.environ.setdefault("USE_LIBUV", "0")
        self.notes, self.rank, self.size = next(dist.rendezvous("env://", timeout=PATIENCE))
        self.store = dist.PrefixStore(self._attempt(), self.notes)
        dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        self.local, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])

    def _attempt(self) -> str:
        """A name for these ranks that all of them know and no earlier ones had.

        torchrun's store outlives a restart, and with it the addresses of ranks that are gone; and its own count of
        restarts differs between machines. So rank 0 makes a name and answers everybody who asks with a fresh word.
        """
        if self.rank:
            word = uuid.uuid4().hex
            self.notes.set(f"ask {self.rank}", word)
            name = self.notes.get(f"answer {word}").decode()
            self.notes.set(f"{name} {self.rank}", "")
            return name
        name, others = uuid.uuid4().hex, set(range(1, self.size))
        while others:
            for other in sorted(others):
                if self.notes.check([f"ask {other}"]):  # by one that is gone, perhaps, and then nobody confirms
                    self.notes.set(f"answer {self.notes.get(f'ask {other}').decode()}", name)
                if self.notes.check([f"{name} {other}"]):
                    others.discard(other)
            time.sleep(0.02)
        return name

    def remembers(self, name: str) -> bool:
        return self.notes.check([name])

    def remember(self, name: str) -> None:
        self.notes.set(name, "")

    def in_turn(self, make: Callable):
        made = make() if self.local == 0 else None
        self.dist.barrier()
        return made if self.local == 0 else make()

    def count(self, rows: int) -> int:
        return self.store.add("rows", rows)

    def total(self, number: int) -> int:
        import torch

        sum_of_all = torch.tensor(number)
        self.dist.all_reduce(sum_of_all)
        return int(sum_of_all)

    def gather(self, content) -> list | None:
        everyone = [None] * self.size if self.rank == 0 else None
        self.dist.gather_object(content, everyone)
        return everyone

    def close(self) -> None:
        self.dist.barrier()
        self.dist.destroy_process_group()


def open_ranks() -> Alone:
    """The Ranks of a torchrun start, or Alone."""
    return Ranks() if under_torchrun() else Alone()


class Progress:
    """One bar on rank 0 over the rows of all ranks, `all_rows` of them as far as is known at the start."""

    def __init__(self, ranks: Alone, all_rows: int):
        from hyperbolic_clap.plumbing.progress import bar

        self.ranks, self.told = ranks, time.monotonic()
        self.all_rows, self.left, self.new = all_rows, 0, 0
        self.watcher: threading.Thread | None = None
        self.bar = bar("embedding", "clip", all_rows, delay=0, disable=ranks.rank > 0)

    def begin(self, all_rows: int, share: int) -> None:
        """Now the ranks go up to row `all_rows`, this one with a share of rows."""
        self.all_rows = self.bar.total = all_rows
        self.left = share

    def update(self) -> None:
        """One more row is done here; what the others did is looked up now and then."""
        self.left -= 1
        self.new += 1
        if time.monotonic() - self.told > POLL_SECONDS:
            self._tell()

    def finish(self) -> None:
        """The share is done, rows lost in a skipped file included; on rank 0 the bar moves on with the others."""
        self.new += self.left
        if self._tell() < self.all_rows and self.ranks.rank == 0:
            # In a thread: the rank itself waits for the others' vectors, and so learns at once if one of them is lost.
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()

    def _watch(self) -> None:
        while self._tell() < self.all_rows:
            time.sleep(POLL_SECONDS)

    def join(self) -> None:
        """All ranks are done: let the bar come to its end."""
        if self.watcher:
            self.watcher.join()

    def _tell(self) -> int:
        done = self.ranks.count(self.new)
        self.new, self.told = 0, time.monotonic()
        self.bar.update(done - self.bar.n)
        if not self.bar.disable and not self.bar.initial:  # loading the model belongs to no clip's time
            self.bar.initial = self.bar.n
            self.bar.unpause()
        return done

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()  # its line ends before an error is reported
