"""Time and memory of an exact search over known vectors, and its agreement with brute force.

    python benchmarks/search_speed.py --clips 1000000 --output-csv docs/results/search.csv

Vectors are drawn at random, so nothing is encoded: what is measured is the index (the projected vectors) and the
search by blocked products (results/search.py), for cosine and hyperbolic heads of 512 and 16 dimensions, the last one
over twice as many clips too. Each row is a process of its own; peak_MB is all that it ever held, Python and torch too.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from material import machine, peak_bytes

from hyperbolic import HyperbolicProjector
from hyperbolic_clap.inference.search import nearest
from hyperbolic_clap.plumbing.flags import Parser, at_least
from hyperbolic_clap.projector.projector import Projector

BLOCK = 1 << 14  # embeddings drawn and projected at a time; all of them never exist
CASES = (("plain cosine", 512, 1), ("cosine", 16, 1), ("hyperbolic", 512, 1), ("hyperbolic", 16, 1),
         ("hyperbolic", 16, 2))  # similarity, dimensions, times --clips


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--clips", type=at_least(1000), default=1_000_000, help="default: 1000000")
    add("--repeats", type=at_least(1), default=5, help="of each search; the median is shown (default: 5)")
    add("--output-csv", type=Path, default=None, help="also write the table")
    return parser


def make_head(similarity: str, dim: int) -> Projector:
    """CLAP's own cosine, or a projector of random weights."""
    head = Projector(None, torch.device("cpu"))
    if similarity != "plain cosine":
        torch.manual_seed(0)
        head.module = HyperbolicProjector(512, dim, similarity=similarity).requires_grad_(False)
        torch.nn.init.normal_(head.module.linear.weight, std=512**-0.5)
    return head


def make_index(head: Projector, dim: int, clips: int) -> tuple[torch.Tensor, float]:
    """The (clips, dim) vectors of random unit embeddings, and the seconds that the projector took for them."""
    generator, index, projecting = torch.Generator().manual_seed(0), torch.empty(clips, dim), 0.0
    for part in index.split(BLOCK):
        embeddings = torch.nn.functional.normalize(torch.randn(len(part), 512, generator=generator), dim=1)
        start = time.perf_counter()
        part.copy_(head.audio(embeddings))
        projecting += time.perf_counter() - start
    return index, projecting if head.trained else 0.0


def measure(similarity: str, dim: int, clips: int, repeats: int) -> dict:
    """A row of the table."""
    head = make_head(similarity, dim)
    audio, projecting = make_index(head, dim, clips)
    texts = torch.randn(10, 512, generator=torch.Generator().manual_seed(1))
    vectors = head.text(torch.nn.functional.normalize(texts, dim=1))
    seconds = {}
    for count in (1, 10):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            found = nearest(head, audio, list(vectors[:count].split(1)), 10)
            times.append(time.perf_counter() - start)
        seconds[count] = statistics.median(times)
    peak = peak_bytes()
    every = torch.cat([head.compare(part, vectors) for part in audio.split(1 << 14)])  # brute force: all at once
    best = every.topk(10, dim=0).indices.T
    agree = sum(set(a.tolist()) == set(b[0].tolist()) for a, b in zip(best, found, strict=True)) / len(found)
    return {
        "similarity": similarity, "dimensions": dim, "clips": clips, "index_MB": round(audio.nbytes / 1e6),
        "peak_MB": round(peak / 1e6), "projecting_s": round(projecting, 2), "one_query_s": round(seconds[1], 3),
        "ten_queries_s": round(seconds[10], 3), "top10_agreement": agree,
        "machine": f"{torch.get_num_threads()} threads; {machine()}",
    }  # fmt: skip


def main(args: argparse.Namespace) -> None:
    rows = []
    for similarity, dim, times in CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            rows.append(own.submit(measure, similarity, dim, times * args.clips, args.repeats).result())
        print(rows[-1], flush=True)
    if args.output_csv:
        with args.output_csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(parser().parse_args())
