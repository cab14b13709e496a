"""Time and memory of an exact search over known vectors, and its agreement with brute force.

    python benchmarks/search_speed.py --clips 1000000 --output-csv docs/results/search.csv

Vectors are drawn at random, so nothing is encoded: what is measured is the index (the projected vectors) and the
search by blocked products (results/search.py), for plain cosine in 512 dimensions and heads of 512 and 16.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic import HyperbolicProjector  # noqa: E402
from plumbing.flags import Parser, at_least  # noqa: E402
from results.search import nearest, project  # noqa: E402
from training.heads import Head  # noqa: E402


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--clips", type=at_least(1000), default=1_000_000, help="default: 1000000")
    add("--repeats", type=at_least(1), default=5, help="of each search; the median is shown (default: 5)")
    add("--output-csv", type=Path, default=None, help="also write the table")
    return parser


def main(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.empty(args.clips, 512)
    for part in embeddings.split(1 << 16):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, generator=generator), dim=1))
    texts = torch.nn.functional.normalize(torch.randn(10, 512, generator=generator), dim=1)
    rows = []
    for similarity, dim in (("plain cosine", 512), ("cosine", 16), ("hyperbolic", 512), ("hyperbolic", 16)):
        head = Head(None, torch.device("cpu"))
        if similarity != "plain cosine":
            torch.manual_seed(0)
            head.projector = HyperbolicProjector(512, dim, similarity=similarity).requires_grad_(False)
            torch.nn.init.normal_(head.projector.linear.weight, std=512**-0.5)
        start = time.perf_counter()
        audio = project(head, embeddings)
        projecting = time.perf_counter() - start
        vectors = head.text(texts)
        seconds = {}
        for count in (1, 10):
            times = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                found = nearest(head, audio, list(vectors[:count].split(1)), 10)
                times.append(time.perf_counter() - start)
            seconds[count] = statistics.median(times)
        every = torch.cat([head.compare(part, vectors) for part in audio.split(1 << 14)])  # brute force: all at once
        best = every.topk(10, dim=0).indices.T
        agree = sum(set(a.tolist()) == set(b[0].tolist()) for a, b in zip(best, found, strict=True)) / len(found)
        rows.append({
            "similarity": similarity, "dimensions": dim, "clips": args.clips,
            "index_MB": round(audio.numel() * 4 / 1e6), "projecting_s": round(projecting, 2),
            "one_query_s": round(seconds[1], 3), "ten_queries_s": round(seconds[10], 3),
            "top10_agreement": agree, "machine": f"{torch.get_num_threads()} CPU threads",
        })  # fmt: skip
        print(rows[-1], flush=True)
    if args.output_csv:
        with args.output_csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(parser().parse_args())
