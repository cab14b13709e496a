"""Retrieval between clips and captions: ranks, in blocks of similarities, and the metrics that follow from them.

LAION's rule for several captions of a clip: each caption is a query for its clip, and of a clip's captions any counts.
A caption that several clips have is right for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hyperbolic_clap.metrics import weighted

if TYPE_CHECKING:
    import torch

BLOCK_FLOATS = 1 << 24  # similarities in memory at a time
RANKS = (1, 5, 10)
METRICS = [*(f"R@{k}" for k in RANKS), "mAP@10", "median_rank"]


def ranks_of_pairs(compare: Callable, queries: torch.Tensor, items: torch.Tensor, pairs: np.ndarray,
                   floats: int = BLOCK_FLOATS) -> np.ndarray:  # fmt: skip
    """(P,) the rank, from 1, of each pair's item among all items for its query; ties in the order of the items.

    compare: (B, D) queries, (M, D) items -> (B, M). pairs (P, 2): (query, item), ascending by query.
    """
    ranks, before = np.empty(len(pairs), np.int64), np.arange(len(items))
    rows = max(1, floats // len(items))
    for start in range(0, len(queries), rows):
        first, last = np.searchsorted(pairs[:, 0], (start, start + rows))
        if first == last:
            continue
        similarity = compare(queries[start : start + rows], items).cpu().numpy()
        for some in np.array_split(np.arange(first, last), -(-(last - first) // rows)):
            query, item = pairs[some, 0] - start, pairs[some, 1]
            row, own = similarity[query], similarity[query, item][:, None]
            ranks[some] = 1 + (row > own).sum(axis=1) + ((row == own) & (before < item[:, None])).sum(axis=1)
    return ranks


def best_and_precision(ranks: np.ndarray, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (P,) of the right items of queries (P,) -> (count,) best rank and (count,) average precision at 10.

    Average precision at 10: the precision at each right item among the first 10, summed, over how many there could be.
    """
    order = np.lexsort((ranks, query))
    ranks, query = ranks[order], query[order]
    first = np.searchsorted(query, np.arange(count))
    number = np.arange(len(query)) - first[query] + 1  # which of its query's right items, best first
    precision = np.where(ranks <= 10, number / ranks, 0)
    right = np.bincount(query, minlength=count)
    # A query without a right item, which has no figure, would divide 0 by 0.
    return ranks[first], np.bincount(query, precision, count) / np.clip(right, 1, 10)


def retrieve(compare: Callable, audio: torch.Tensor, text: torch.Tensor, pairs: np.ndarray,
             floats: int = BLOCK_FLOATS) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """`text_to_audio`: (best rank, average precision at 10) of each pair's caption; `audio_to_text`: of each clip.

    audio (N, D), text (M, D): the vectors that are compared. pairs (P, 2): (clip, text), ascending. compare:
    (audio, text) -> similarity.
    """
    by_text = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))][:, ::-1]
    ranks = ranks_of_pairs(lambda texts, clips: compare(clips, texts).T, text, audio, by_text, floats)
    best, precision = best_and_precision(ranks, by_text[:, 0], len(text))
    ranks = ranks_of_pairs(compare, audio, text, pairs, floats)
    return {
        "text_to_audio": (best[pairs[:, 1]], precision[pairs[:, 1]]),
        "audio_to_text": best_and_precision(ranks, pairs[:, 0], len(audio)),
    }


class Queries:
    """The queries of N clips in one direction: METRICS for any weights of the clips.

    clip (Q,): whose query it is, ascending. rank (Q,): of its best right item, from 1. precision (Q,): average
    precision at 10. A clip without a query counts nowhere.
    """

    def __init__(self, clip: np.ndarray, rank: np.ndarray, precision: np.ndarray, clips: int):
        self.clip, self.rank, self.precision = clip, rank, precision
        self.count = np.bincount(clip, minlength=clips).astype(float)
        self.order = np.argsort(rank, kind="stable")

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, N) weights of the clips -> {metric: (B,)}; the median asks for whole ones."""
        sums = {f"R@{k}": (self.rank <= k).astype(float) for k in RANKS} | {"mAP@10": self.precision}
        result = {
            name: weighted.ratio(weights, np.bincount(self.clip, x, len(self.count)), self.count)
            for name, x in sums.items()
        }
        return result | {"median_rank": self._median(weights)}

    def _median(self, weights: np.ndarray) -> np.ndarray:
        # As numpy's: the mean of the two in the middle. Weights are whole, so the total of queries is too.
        reached = np.cumsum(weights[:, self.clip[self.order]], axis=1, dtype=np.float64)
        total, ranks = reached[:, -1], self.rank[self.order].astype(float)
        middle = [np.floor((total - 1) / 2), np.ceil((total - 1) / 2)]
        places = [(reached <= at[:, None]).sum(axis=1) for at in middle]
        return (ranks[places[0]] + ranks[places[1]]) / 2


def summary(best: np.ndarray, precision: np.ndarray) -> dict[str, float]:
    """METRICS of (Q,) queries that count alike, by their best rank and average precision at 10."""
    found = Queries(np.arange(len(best)), best, precision, len(best)).values(weighted.plain(len(best)))
    return {name: float(value[0]) for name, value in found.items()}
