"""What the tables about similarities share: embedded folders, one training run, the four metrics, their intervals."""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from material import ROOT, machine, parse, quiet

METRICS = ("acc@1", "acc@5", "map", "map_samples")
FLAT = 1e6
RESAMPLES = 4000
SEEDS = 5

DATA = None  # of this process


@dataclass
class Folder:
    """A folder's embeddings (N, D), its targets (N, M) bool, and which source each clip is of."""

    audio: object
    targets: object
    sources: object


@dataclass
class Data:
    """The folder that trains, those that are measured on by their names, and the class texts (M, D)."""

    train: Folder
    measured: dict[str, Folder]
    text: object

    def fingerprint(self) -> str:
        """A name for the data, to know again what belongs to it."""
        from hyperbolic_clap.training.split import fingerprint

        folders = [self.train, *self.measured.values()]
        return fingerprint(self.text, *(x for folder in folders for x in (folder.audio, folder.targets)))[:16]


def open_encoder(checkpoint: str):
    """A CLAP on the CPU and its cache, the user's own."""
    import torch

    from CLAP.encoder import Encoder
    from hyperbolic_clap.embedding.store import EmbeddingCache, default_folder

    encoder = Encoder(checkpoint, torch.device("cpu"))
    return encoder, EmbeddingCache(default_folder(), encoder.audio_fingerprint)


def open_place(args: argparse.Namespace):
    """The product's Workplace on the folders of the command line; its runs and results are kept in --work-dir."""
    from hyperbolic_clap.plumbing.config import DataConfig, EncoderConfig
    from hyperbolic_clap.results.sweep import Plan, Workplace

    folders = {name: DataConfig(folder) for name, folder in args.folders.items()}
    encoder = EncoderConfig(checkpoint=args.checkpoint, device="cpu")
    with quiet():
        return Workplace(Plan(DataConfig(args.train_dir), folders, encoder, args.work_dir, {}, "best"))


def load(place, split_by: str) -> tuple[Data, str]:
    """What a Workplace has embedded, and the name by which finished work of it is known again."""
    from hyperbolic_clap.training.groups import groups, require_column

    require_column(place.pipeline.folder, split_by)
    sources = groups(place.pipeline.folder, place.clips.rows, split_by)
    measured = {name: Folder(clips.audio, clips.targets, None) for name, clips in place.tested.items()}
    data = Data(Folder(place.clips.audio, place.clips.targets, sources), measured, place.clips.text)
    return data, data.fingerprint() + ("" if split_by == "video_id" else f" by {split_by}")


def command_line(doc: str, *flags: tuple[str, dict]) -> argparse.Namespace:
    """The flags that all of these tables take, and some of their own."""
    args = parse(
        doc,
        ("--train-dir", {"type": Path, "required": True}),
        ("--eval-dir", {"type": Path, "required": True}),
        ("--other-dir", {"type": Path, "default": None, "help": "a folder of another origin"}),
        ("--checkpoint", {"default": str(ROOT / "CLAP" / "tiny")}),
        ("--split-by", {"default": "video_id", "help": "column whose values stay on one side of the training split"}),
        ("--work-dir", {"type": Path, "default": Path("geometry"), "help": "what is done is kept here"}),
        ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results", "help": "the tables"}),
        ("--workers", {"type": int, "default": os.cpu_count()}),
        *flags,
    )
    args.folders = {"eval": args.eval_dir} | ({"other": args.other_dir} if args.other_dir else {})
    return args


def open_data(args: argparse.Namespace) -> tuple[Data, str]:
    """What the flags of command_line ask for, and its name."""
    return load(open_place(args), args.split_by)


def rows_kept(path: Path, name: str, wanted: bool, work: Callable[[], list[list]]) -> list[list]:
    """Rows that lie in a file already, or else what `work` makes if it is wanted; sys.exit if made of other data."""
    from hyperbolic_clap.plumbing.files import write_json

    if not path.exists():
        if not wanted:
            return []
        write_json(path, {"data": name, "rows": work()})
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["data"] != name:
        sys.exit(f"{path} was made of other data; give another --work-dir")
    return content["rows"]


def initialise(data: Data) -> None:
    """Make a process ready for `fit`: one thread each, since a run is many small products and waiting threads spin."""
    global DATA
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy's products
    DATA = data


def pool(data: Data, workers: int) -> ProcessPoolExecutor:
    """Processes that `fit` can be submitted to; this one is made ready too."""
    initialise(data)
    return ProcessPoolExecutor(workers, initializer=initialise, initargs=(data,))


def precision(scores, targets):
    """Average precision of each clip that has a class."""
    from hyperbolic_clap.metrics.classification import clip_precision, rank_classes

    rows = targets.any(1)
    return clip_precision(scores[rows], rank_classes(scores[rows]), targets[rows])


def four(scores, targets):
    """METRICS of (N, M) arrays; clips that all have a class."""
    import numpy as np

    from hyperbolic_clap.metrics.classification import headline

    found = headline(scores, targets)
    return np.array([found[name] for name in METRICS])


def best(trainer):
    """Train to the end -> (projector, logit scale) of the epoch that the script keeps: the lowest validation loss."""
    lowest, found = None, None
    with quiet():
        for record in trainer.epochs():
            if lowest is None or record["val_loss"] < lowest:
                lowest, found = record["val_loss"], copy.deepcopy((trainer.projector, trainer.logit_scale))
    return found


def resampled(scores, name: str):
    """(RESAMPLES, 4): METRICS of resampled clips of a folder, the same draws for every scores."""
    from hyperbolic_clap.results.sweep_tables import resampled_metrics

    return drawn(resampled_metrics(scores, DATA.measured[name].targets.numpy(), RESAMPLES, 0))


def drawn(found: dict):
    """What sweep_tables draws of one run -> (B, 4)."""
    import numpy as np

    return np.stack([found[name][1:] for name in METRICS], axis=1)


def of_runs(folder: Path, names: list[str], on: str):
    """Draws (S, RESAMPLES, 4) and points (S, 4) of a sweep's runs on a folder."""
    import numpy as np

    from hyperbolic_clap.results.sweep_tables import resampled

    found = [resampled(folder / "results" / f"{name}_{on}.json", RESAMPLES, 0) for name in names]
    return np.stack([drawn(one) for one in found]), np.array([[one[m][0] for m in METRICS] for one in found])


def difference(first, second):
    """Draws (S, B, K) of two sides -> (2, K): the 95 % interval of second - first over clips and seeds."""
    import numpy as np

    from hyperbolic_clap.results.groups import interval_over_seeds

    return np.array([interval_over_seeds([*first[:, :, k]], [*second[:, :, k]], True, 0) or (np.nan, np.nan)
                     for k in range(first.shape[2])]).T  # fmt: skip


def difference_cells(first, second, points) -> list[str]:
    """Difference, low and high of each metric in points; points (S, 4) of both sides, draws (S, RESAMPLES, 4)."""
    import numpy as np

    low, high = difference(first, second)
    point = np.mean(points[1] - points[0], axis=0)
    return [f"{100 * value:.2f}" for triple in zip(point, low, high, strict=True) for value in triple]


DIFFERENCE_COLUMNS = [f"{metric}{end}" for metric in METRICS for end in ("", " low", " high")]


def write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    """A table whose first line says what wrote it, when and where; whole or not at all."""
    from hyperbolic_clap.plumbing.files import write_atomic

    text = io.StringIO()
    command = shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    text.write(f"# {command} ({machine()})\n")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomic(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))
