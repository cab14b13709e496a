"""Retrieval between clips and captions: ranks, in blocks of similarities, and the figures that follow from them.

LAION's rule for several captions of a clip: each caption is a query for its clip, and of a clip's captions any counts.
A caption that several clips have is right for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

BLOCK_FLOATS = 1 << 24  # similarities in memory at a time
RANKS = (1, 5, 10)


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


def summary(best: np.ndarray, precision: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10, mAP@10 and median_rank of queries, by their best rank and average precision at 10."""
    recall = {f"R@{k}": float((best <= k).mean()) for k in RANKS}
    return recall | {"mAP@10": float(precision.mean()), "median_rank": float(np.median(best))}
