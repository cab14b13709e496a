"""Retrieval results: evaluated, written clip by clip, read again and compared with paired intervals over clips."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperbolic_clap.embedding.pairs import EmbeddedPairs
from hyperbolic_clap.inference.search import project
from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.retrieval import RANKS, retrieve, summary
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector.projector import Projector

WAYS = ("text_to_audio", "audio_to_text")
ORDER = [*(f"R@{k}" for k in RANKS), "mAP@10", "median_rank"]


def evaluate_retrieval(material: EmbeddedPairs, projector: Projector) -> dict:
    """metrics of both directions, and every clip's captions, ranks and average precisions, for the results JSON."""
    audio, text = project(projector, material.audio), projector.text(material.text)
    found = retrieve(projector.compare, audio, text, material.pairs)
    starts = np.searchsorted(material.pairs[:, 0], np.arange(len(audio) + 1))
    ids = zip(material.rows.sample_ids.tolist(), material.rows.video_ids, strict=True)
    (rank_of_text, precision_of_text), (rank_of_clip, precision_of_clip) = (found[way] for way in WAYS)
    clips = [
        {
            "sample_id": sample_id,
            "video_id": video_id,
            "captions": [material.texts[i] for i in material.pairs[start:end, 1]],
            "text_to_audio_rank": rank_of_text[start:end].tolist(),
            "text_to_audio_AP@10": precision_of_text[start:end].tolist(),
            "audio_to_text_rank": int(rank_of_clip[i]),
            "audio_to_text_AP@10": float(precision_of_clip[i]),
        }
        for i, ((sample_id, video_id), start, end) in enumerate(zip(ids, starts, starts[1:], strict=False))
    ]
    return {"metrics": {way: summary(*found[way]) for way in WAYS}, "predictions": clips}


@dataclass
class Retrieval:
    """A retrieval results file. keys: (video_id, sample_id, captions) of each clip; clips: its entries."""

    path: Path
    label: str
    model: dict
    keys: list[tuple]
    clips: list[dict]


def is_retrieval(content) -> bool:
    """Whether a JSON file's content is what test_retrieval.py writes."""
    metrics = content.get("metrics") if isinstance(content, dict) else None
    return isinstance(metrics, dict) and all(isinstance(metrics.get(way), dict) for way in WAYS)


def read_retrieval(path: Path, label: str, content: dict) -> Retrieval:
    """A results file of test_retrieval.py; UserError if its clips are not in the form that it writes."""
    try:
        clips = content["predictions"]
        keys = [(clip["video_id"], clip["sample_id"], tuple(sorted(clip["captions"]))) for clip in clips]
        for clip in clips:
            counts = {len(clip["captions"]), len(clip["text_to_audio_rank"]), len(clip["text_to_audio_AP@10"])}
            float(clip["audio_to_text_rank"] + clip["audio_to_text_AP@10"] + sum(clip["text_to_audio_rank"]))
            if len(counts) > 1 or not all(counts):
                raise ValueError
        if not clips or len(set(keys)) < len(keys):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} does not hold every clip's ranks as test_retrieval.py writes them") from None
    model = content.get("model_info")
    return Retrieval(path, label, model if isinstance(model, dict) else {}, keys, clips)


class Queries:
    """The queries of some clips in one direction: their best ranks and average precisions, for any weights of clips."""

    def __init__(self, clips: list[dict], way: str):
        ranks = [np.atleast_1d(clip[f"{way}_rank"]) for clip in clips]
        self.clip = np.repeat(np.arange(len(clips)), [len(some) for some in ranks])
        self.count = np.bincount(self.clip, minlength=len(clips)).astype(float)
        self.rank = np.concatenate(ranks)
        self.precision = np.concatenate([np.atleast_1d(clip[f"{way}_AP@10"]) for clip in clips])
        self.order = np.argsort(self.rank, kind="stable")

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(B, N) weights of the clips -> {metric: (B,)}."""
        sums = {f"R@{k}": (self.rank <= k).astype(float) for k in RANKS} | {"mAP@10": self.precision}
        result = {
            name: bootstrap.ratio(weights, np.bincount(self.clip, x, len(self.count)), self.count)
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


def compare_retrieval(files: list[Retrieval], args: argparse.Namespace) -> dict:
    """Retrieval results, the baseline first -> a comparison in the form of results.compare.compare."""
    base, notes = files[0], []
    values, intervals = [_values(file.clips) for file in files], [None]
    for file in files[1:]:
        places = [{key: i for i, key in enumerate(f.keys)} for f in (base, file)]
        shared = [key for key in base.keys if key in places[1]]
        whole = len(shared) == len(base.keys) == len(file.keys)
        notes.append(f"{file.label} and {base.label} have {len(shared)} clips with the same captions in common, "
                     + ("all of both" if whole else f"of {len(file.keys)} and {len(base.keys)}"))
        pair = [[f.clips[place[key]] for key in shared] for f, place in zip((base, file), places, strict=True)]
        intervals.append(_intervals(*pair, args) if whole and len(shared) > 1 else None)
    rows = [
        {
            "metric": name,
            "values": [{"value": column[name], "source": "stored", "comparable": True} for column in values],
            "differences": [
                {"difference": column[name] - values[0][name], "paired": False, "note": "unpaired"}
                | ({"paired": True, "note": None, **found[name]} if found else {})
                for column, found in zip(values[1:], intervals[1:], strict=True)
            ],
        }
        for name in values[0]
    ]
    return {
        "files": [{"label": file.label, "path": str(file.path), "clips": len(file.keys)}
                  | {name: file.model.get(name) for name in ("similarity", "clap_model", "projection_checkpoint", "c")}
                  for file in files],
        "seed": args.seed,
        "resamples": args.resamples,
        "interval": "95 % percentile, paired over clips",
        "k": None,
        "tables": [{"title": "retrieval", "files": [file.label for file in files], "rows": rows}],
        "classes": [],
        "notes": notes,
    }  # fmt: skip


def _values(clips: list[dict]) -> dict[str, float]:
    once = np.ones((1, len(clips)), np.float32)
    found = {way: Queries(clips, way).values(once) for way in WAYS}
    return {f"{way} {name}": float(found[way][name][0]) for way in WAYS for name in ORDER}


def _intervals(a: list[dict], b: list[dict], args: argparse.Namespace) -> dict[str, dict]:
    found = {}
    for way in WAYS:
        of_a, of_b = Queries(a, way), Queries(b, way)
        parts: dict[str, list] = {name: [] for name in ORDER}
        for weights in bootstrap.draw(len(a), args.resamples, args.seed, max(len(of_a.rank), len(a))):
            before, after = of_a.values(weights), of_b.values(weights)
            for name in ORDER:
                parts[name].append(after[name] - before[name])
        for name in ORDER:
            ends = bootstrap.interval(np.concatenate(parts[name]))
            found[f"{way} {name}"] = {"low": ends[0], "high": ends[1], "resamples": args.resamples}
    return found
