"""Results of trainings that differ in their seed alone: means over seeds, and intervals over clips and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from hyperbolic_clap.metrics.bootstrap import interval
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.results.files import OVER_CLASSES

BY_SEED = "means over seeds"  # the title of the table
SETTINGS = [field.name for field in fields(TrainConfig) if field.name != "seed"]


class Labelled(Protocol):
    """A results file of either kind. model: its model_info."""

    label: str

    @property
    def model(self) -> dict: ...


@dataclass(frozen=True)
class Group:
    """Results files of one setting. files: their positions. seeds: of their trainings, in the same order."""

    label: str
    files: list[int]
    seeds: list


def training_of(model: dict) -> dict | None:
    """Settings and seed of a training, flat or under `settings`; None where a file does not say."""
    training = model.get("training")
    if not isinstance(training, dict):
        return None
    inner = training.get("settings")
    found = training | inner if isinstance(inner, dict) else training
    return {name: found[name] for name in ("seed", *SETTINGS) if name in found}


def group_by_seed(files: Sequence[Labelled]) -> list[Group]:
    """Groups of files whose model_info.training is the same but for the seed, in the order of their first files.

    Plain cosine has no seed: each of its files is a group of its own. UserError for a trained projector that does not
    say how it was trained, and where two files of a group have the same seed.
    """
    members: dict[tuple, list[int]] = {}
    settings: dict[tuple, dict] = {}
    seeds = []
    for i, file in enumerate(files):
        training, model = training_of(file.model), file.model
        if not training and (model.get("projection_checkpoint") or "c_meaning" not in model):
            raise UserError(f"{file.label} does not say how it was trained (model_info.training), so --group-by seed "
                            "cannot group it; test it again with this version, or leave it out")
        own = {name: value for name, value in (training or {}).items() if name != "seed"}
        key = (str(model.get("clap_sha256")), str(model.get("prompt")), repr(sorted(own.items())), -1 if own else i)
        members.setdefault(key, []).append(i)
        settings[key] = own
        seeds.append(training.get("seed") if training else None)
    for some in members.values():
        if len({seeds[i] for i in some}) < len(some):
            raise UserError(f"{' and '.join(files[i].label for i in some)} have the same settings, and two of them the "
                            "same seed; name each training once")
    trained = [own for own in settings.values() if own]
    varying = [name for name in SETTINGS if name != "similarity" and len({repr(own.get(name)) for own in trained}) > 1]
    groups: list[Group] = []
    for key, some in members.items():
        own = settings[key]
        words = [str(own.get("similarity", ""))] + [f"{name}={own[name]}" for name in varying if name in own]
        label = " ".join(filter(None, words)) if own else files[some[0]].label
        if any(group.label == label for group in groups):
            label += f" ({files[some[0]].label})"
        some.sort(key=lambda i: str(seeds[i]))  # so that the same seeds of two groups stand side by side
        groups.append(Group(label, some, [seeds[i] for i in some]))
    return groups


def with_baseline(groups: list[Group], files: Sequence[Labelled], name: str | None) -> list[Group]:
    """The groups, the one of that label, or that holds the file of that label, first. UserError if there is none."""
    if name is None:
        return groups
    first = [group for group in groups if name == group.label or name in [files[i].label for i in group.files]]
    if not first:
        known = ", ".join(group.label for group in groups)
        raise UserError(f"--baseline {name} is neither a group nor a file of one; the groups are: {known}")
    return [first[0], *(group for group in groups if group is not first[0])]


def interval_over_seeds(a: list[np.ndarray], b: list[np.ndarray], paired: bool, seed: int) -> tuple | None:
    """The 95 % interval of the mean of b minus the mean of a, over clips and seeds.

    a and b: for each seed (B,) values of resampled clips. Each resample draws its seeds too, where paired the same ones
    of both sides, which have equal lengths then.
    """
    count = min(map(len, [*a, *b]))
    generator = np.random.default_rng([seed, 1])
    rows = np.arange(count)

    def mean(side: list[np.ndarray], picked: np.ndarray) -> np.ndarray:
        return np.stack([values[:count] for values in side])[picked, rows].mean(axis=0)

    picked_b = generator.integers(len(b), size=(len(b), count))
    picked_a = picked_b if paired else generator.integers(len(a), size=(len(a), count))
    with np.errstate(invalid="ignore"):
        return interval(mean(b, picked_b) - mean(a, picked_a))


def group_table(
    groups: list[Group], columns: list[dict], drawn: list[dict | None], names: list[str], seed: int
) -> dict:
    """Means over seeds, with differences to the first group.

    columns: for each file {metric: cell} as of compare.cells. drawn: for each file {metric: (B,)}, None unless it has
    the clips of the first file. names: the metrics, in their order.
    """
    rows = []
    for name in names:
        values = []
        for group in groups:
            found = [columns[i].get(name) for i in group.files]
            there = [cell["value"] for cell in found if cell is not None]
            values.append(there if len(there) == len(found) else None)
        cells: list[dict | None] = [
            None if one is None else
            {"value": float(np.mean(one)), "source": "mean", "comparable": True,
             "deviation": float(np.std(one, ddof=1)) if len(one) > 1 else None} for one in values
        ]  # fmt: skip
        row: dict = {"metric": name, "values": cells, "differences": []}
        for group, cell in zip(groups[1:], cells[1:], strict=True):
            if cell is None or cells[0] is None:
                row["differences"].append(None)
                continue
            entry: dict = {"difference": cell["value"] - cells[0]["value"], "paired": False, "note": "unpaired"}
            if name in OVER_CLASSES:
                row["differences"].append(entry | {"note": "over classes"})
                continue
            a, b = ([side for i in one.files if (side := drawn[i]) is not None] for one in (groups[0], group))
            if (len(a), len(b)) == (len(groups[0].files), len(group.files)):
                entry["note"] = "needs scores"
                if all(name in side for side in [*a, *b]):
                    paired = len(group.seeds) > 1 and group.seeds == groups[0].seeds
                    ends = interval_over_seeds([side[name] for side in a], [side[name] for side in b], paired, seed)
                    entry |= {"paired": True, "note": None if ends else "not finite"}
                    entry |= dict(zip(("low", "high"), ends, strict=True)) if ends else {}
            row["differences"].append(entry)
        rows.append(row)
    labels = [f"{group.label} ({len(group.files)})" for group in groups]
    return {"title": BY_SEED, "files": labels, "rows": rows}


def group_notes(groups: list[Group]) -> list[str]:
    """A sentence for each group without a spread."""
    return [f"{group.label} is one file, so it has no deviation over seeds and its interval is over clips alone"
            for group in groups if len(group.files) == 1]
