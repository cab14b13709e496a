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


def load(train_dir: Path, measured: dict[str, Path], checkpoint: str, split_by: str = "video_id") -> Data:
    """Embed the folders (from the user's cache where they are already)."""
    import torch

    from data import ParquetFolder
    from hyperbolic_clap.embedding.pipeline import skip_untrainable
    from hyperbolic_clap.embedding.row_index import embed_rows
    from hyperbolic_clap.embedding.texts import embed_classes
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.plumbing.file_index import FileIndex
    from hyperbolic_clap.reading.labels import ClassList
    from hyperbolic_clap.training.groups import groups, require_column

    classes = ClassList.read(CLASS_LABELS)
    encoder, cache = open_encoder(checkpoint)

    def embed(folder: Path, column: str = "video_id") -> Folder:
        whole = ParquetFolder(folder, classes)
        require_column(whole, column)
        rows, audio, *_ = embed_rows(whole, FileIndex(None), (0, whole.num_rows), encoder, cache, skip_untrainable)
        return Folder(audio, torch.from_numpy(rows.targets), groups(whole, rows, column))

    return Data(
        embed(train_dir, split_by),
        {name: embed(folder) for name, folder in measured.items()},
        embed_classes(classes.names, encoder, cache),
    )


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
    """What the flags of command_line ask for, and the name by which finished work of it is known again."""
    with quiet():
        data = load(args.train_dir, args.folders, args.checkpoint, args.split_by)
    return data, data.fingerprint() + ("" if args.split_by == "video_id" else f" by {args.split_by}")


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
    """Average precision of each row that has a positive."""
    import numpy as np

    rows = targets.any(1)
    order = np.argsort(-scores[rows], axis=1, kind="stable")
    hits = np.take_along_axis(targets[rows], order, axis=1)
    ranks = np.arange(1, hits.shape[1] + 1)
    return (np.cumsum(hits, axis=1) * hits / ranks).sum(1) / hits.sum(1)


def four(scores, targets):
    """acc@1, acc@5, class-wise map and per-clip map of (N, M) arrays; scores without ties."""
    import numpy as np

    hits = np.take_along_axis(targets, np.argsort(-scores, axis=1), axis=1)
    return np.array([hits[:, :1].any(1).mean(), hits[:, :5].any(1).mean(), precision(scores.T, targets.T).mean(),
                     precision(scores, targets).mean()])  # fmt: skip


@dataclass
class Run:
    """The four metrics of a training run on its validation clips and on each folder, and the scores (N, M) there."""

    validation: object
    metrics: dict
    scores: dict


def best(trainer):
    """Train to the end -> (projector, logit scale) of the epoch that the script keeps: the lowest validation loss."""
    lowest, found = None, None
    with quiet():
        for record in trainer.epochs():
            if lowest is None or record["val_loss"] < lowest:
                lowest, found = record["val_loss"], copy.deepcopy((trainer.projector, trainer.logit_scale))
    return found


def fit(settings) -> Run:
    """One training run as the training script makes it. A run whose loss is not finite has metrics of 0."""
    import numpy as np
    import torch

    from hyperbolic_clap.plumbing.errors import UserError
    from hyperbolic_clap.training.split import split_by_video
    from hyperbolic_clap.training.trainer import Trainer

    train, validation = split_by_video(DATA.train.sources, 0.8, settings.seed)
    trainer = Trainer(settings, DATA.train.audio, DATA.train.targets, DATA.text, train, validation)
    try:
        projector, _ = best(trainer)
    except UserError:
        return Run(np.zeros(4), {name: np.zeros(4) for name in DATA.measured}, {})
    with torch.no_grad():
        seen = projector(DATA.train.audio[validation], DATA.text).numpy()
        scores = {name: projector(folder.audio, DATA.text).numpy() for name, folder in DATA.measured.items()}
    metrics = {name: four(scores[name], folder.targets.numpy()) for name, folder in DATA.measured.items()}
    return Run(four(seen, DATA.train.targets[validation].numpy()), metrics, scores)


def untrained(dim: int, name: str):
    """Cosine scores (N, M) on a folder without training: CLAP's own, or in the texts' principal directions."""
    import torch

    from hyperbolic import HyperbolicProjector

    projector = HyperbolicProjector(DATA.text.shape[1], dim, similarity="cosine")
    projector.start_at_principal_directions(DATA.text)
    with torch.no_grad():
        return projector(DATA.measured[name].audio, DATA.text).numpy()


def resampled(scores, name: str):
    """(RESAMPLES, 4) float32: the metrics of resampled clips of a folder, the same draws for every scores."""
    import numpy as np

    from hyperbolic_clap.metrics.bootstrap import draw
    from hyperbolic_clap.metrics.weighted import Ranking

    targets = DATA.measured[name].targets.numpy()
    hits = np.take_along_axis(targets, np.argsort(-scores, axis=1), axis=1)
    linear = np.stack([hits[:, :1].any(1), hits[:, :5].any(1), precision(scores, targets)], axis=1).astype(np.float32)
    ranking, parts = Ranking(scores, targets), []
    for weights in draw(len(targets), RESAMPLES, 0):
        means = weights @ linear / len(targets)
        parts.append(np.insert(means, 2, np.nanmean(ranking.precision(weights), axis=1), axis=1))
    return np.concatenate(parts).astype(np.float32)


def difference(first, second):
    """Draws (S, B, 4) of two sides -> (2, 4): the 95 % interval of second - first over clips and seeds."""
    import numpy as np

    drawn = second - first
    count, resamples = drawn.shape[:2]
    seeds = np.random.default_rng(1).integers(count, size=(resamples, count))
    mixed = np.stack([drawn[seeds[:, s], np.arange(resamples)] for s in range(count)]).mean(0)
    return np.percentile(mixed, [2.5, 97.5], axis=0)


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
