"""Results files of retrieval: read, and compared with paired intervals over clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.retrieval import METRICS, Queries
from hyperbolic_clap.metrics.weighted import plain
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.results.compare import CompareConfig, resample_bar, table_by_seed
from hyperbolic_clap.results.measures import paired_intervals

WAYS = ("text_to_audio", "audio_to_text")


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


def queries(clips: list[dict], way: str) -> Queries:
    """The queries of some clips' entries in one direction."""
    ranks, precisions = ([np.atleast_1d(clip[f"{way}_{what}"]) for clip in clips] for what in ("rank", "AP@10"))
    clip = np.repeat(np.arange(len(clips)), [len(some) for some in ranks])
    return Queries(clip, np.concatenate(ranks), np.concatenate(precisions), len(clips))


def compare_retrieval(files: list[Retrieval], config: CompareConfig) -> dict:
    """Retrieval results, the baseline first -> a comparison in the form of results.compare.compare."""
    base = files[0]
    notes: list[str] = []
    values = [_values(file.clips) for file in files]
    shared_with = [_shared(base, file, notes) for file in files[1:]]
    intervals: list[dict | None] = [None]
    with resample_bar(config.resamples * (1 + len(shared_with))) as done:
        of_base = _resample(base.clips, config, done) if any(shared_with) else {}
        drawn = [of_base, *(_resample(shared, config, done) if shared else None for shared in shared_with)]
    intervals += [found and paired_intervals(of_base, found) for found in drawn[1:]]
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
    tables = [{"title": "retrieval", "files": [file.label for file in files], "rows": rows}]
    if config.by_seed:
        columns = [{name: {"value": value} for name, value in column.items()} for column in values]
        tables.insert(0, table_by_seed(files, columns, drawn, config, notes))
    return {
        "files": [{"label": file.label, "path": str(file.path), "clips": len(file.keys)}
                  | {name: file.model.get(name) for name in ("similarity", "clap_model", "projection_checkpoint", "c")}
                  for file in files],
        "seed": config.seed,
        "resamples": config.resamples,
        "interval": "95 % percentile, paired over clips",
        "k": None,
        "tables": tables,
        "classes": [],
        "notes": notes,
    }  # fmt: skip


def _shared(base: Retrieval, file: Retrieval, notes: list[str]) -> list[dict] | None:
    """The entries of a file in the order of the baseline's; None unless both have the same clips, two or more."""
    place = {key: i for i, key in enumerate(file.keys)}
    shared = [file.clips[place[key]] for key in base.keys if key in place]
    whole = len(shared) == len(base.keys) == len(file.keys)
    notes.append(f"{file.label} and {base.label} have {len(shared)} clips with the same captions in common, "
                 + ("all of both" if whole else f"of {len(file.keys)} and {len(base.keys)}"))
    return shared if whole and len(shared) > 1 else None


def _values(clips: list[dict]) -> dict[str, float]:
    found = {way: queries(clips, way).values(plain(len(clips))) for way in WAYS}
    return {f"{way} {name}": float(found[way][name][0]) for way in WAYS for name in METRICS}


def _resample(clips: list[dict], config: CompareConfig, done: Callable[[int], object]) -> dict[str, np.ndarray]:
    """{metric of a direction: (resamples,)}; done: called with how many more resamples are finished."""
    both = {way: queries(clips, way) for way in WAYS}
    drawn: dict[str, list] = {}
    width = max(len(found.rank) for found in both.values())
    for weights in bootstrap.draw(len(clips), config.resamples, config.seed, width):
        for way, found in both.items():
            for name, values in found.values(weights).items():
                drawn.setdefault(f"{way} {name}", []).append(values)
        done(len(weights))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}
