"""Beside the search: is AudioSet's tree better learned by the texts, or used at ranking time?

    python benchmarks/tree_extras.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval \\
        --other-dir esc10 --work-dir geometry --workers 1

A regulariser asks that distances between class texts, times one free scale, be the path lengths of the tree. It is
added to the sigmoid loss at 64 dimensions. For every similarity and every weight of it, validation clips choose among
the first 4 trials of docs/protocol.md (--trials; by the mean of the four metrics, seed 0); that one trains with 5
seeds. Parts of the table:

    regulariser  weights 0, 10 and 100
    half         weight 100 on a random half of the classes, another one for each seed: what the other half gains
    ranking      the plain projector's best class, then the other classes by their path to it; against weight 100

Writes tree_extras.csv to --output-dir: values with their deviation over the seeds, and differences with their 95 %
intervals over clips (of the texts: over classes) and seeds. Every training is kept in --work-dir, so the command goes
on where it was. 87 trainings, about 5 minutes of one core.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import geometry_runs
from geometry_runs import SEEDS, best, command_line, four, open_data, pool, write_csv
from geometry_search import SIDES, flags, trials
from hierarchy_runs import Tree, drawn, head_of, ranked, scores_of
from hierarchy_table import HEADER, table

DIM = 64
WEIGHTS = (0.0, 10.0, 100.0)
CLASSES_A_STEP = 96  # whose distances to each other the regulariser sees
SCORE = ("validation", "score")
HALVES = (", seen half", ", other half")
HALF, BY_TREE = ", half of the classes", ", ranked by the tree"


def lengths(projector, text):
    """(M, E) class texts -> (M, M) distances between them in the projector's own space; of unit vectors for cosine."""
    vectors = projector.text(text)
    similarity = projector.compare(vectors, vectors)
    if projector.similarity == "cosine":
        return (2 - 2 * similarity).clamp(min=1e-6).sqrt()  # the root has no gradient at 0
    return -similarity


def relative(found, wanted):
    """(P,) distances over (P,) path lengths, times the one scale at which their mean squared error from 1 is least."""
    ratio = found / wanted
    return ratio * ratio.mean() / ratio.square().mean()


def regularise(trainer, weight: float, classes) -> None:
    """Add weight x the mean squared relative error of the path lengths among some classes (positions) to the loss."""
    import torch

    paths, plain, projector = path_lengths(), trainer.loss, trainer.projector
    draw = torch.Generator().manual_seed(trainer.config.seed)
    pairs = torch.triu_indices(CLASSES_A_STEP, CLASSES_A_STEP, 1)

    def loss(logits, targets):
        if not torch.is_grad_enabled():  # the validation chooses by the same loss as without
            return plain(logits, targets)
        some = classes[torch.randperm(len(classes), generator=draw)[:CLASSES_A_STEP]]
        first, second = some[pairs]
        found = lengths(projector, trainer.text[some])[tuple(pairs)]
        return plain(logits, targets) + weight * (relative(found, paths[first, second]) - 1).square().mean()

    trainer.loss = loss


def class_tree():
    from hyperbolic_clap.metrics.hierarchy import ClassTree
    from hyperbolic_clap.metrics.ontology import audioset

    tree = audioset()
    return ClassTree(tree.find(geometry_runs.DATA.names)[0], tree)


def path_lengths():
    import torch

    return torch.from_numpy(class_tree().distances).float()


def half_of(seed: int):
    """(M,) bool: a random half of the classes."""
    import numpy as np

    size = len(geometry_runs.DATA.names)
    return np.random.default_rng(seed).permutation(size) < size // 2


def train(settings, weight: float, half: bool):
    """(head, score of its validation clips) of one training; a loss that is not finite has no head and a score of 0."""
    import torch

    from hyperbolic_clap.plumbing.errors import UserError
    from hyperbolic_clap.training.split import split_by_video
    from hyperbolic_clap.training.trainer import Trainer

    data = geometry_runs.DATA
    split = split_by_video(data.train.sources, 0.8, settings.seed)
    trainer = Trainer(settings, data.train.audio, data.train.targets, data.text, *split)
    if weight:
        seen = torch.from_numpy(half_of(settings.seed)) if half else torch.ones(len(data.text), dtype=torch.bool)
        regularise(trainer, weight, seen.nonzero()[:, 0])
    try:
        head = head_of(*best(trainer))
    except UserError:
        return None, 0.0
    with torch.no_grad():
        seen = head.module(data.train.audio[split[1]], data.text).numpy()
    return head, float(four(seen, data.train.targets[split[1]].numpy()).mean())


def figures(settings, weight: float = 0.0, half: bool = False) -> dict:
    """{(measured on, metric): figure, as of hierarchy_runs.drawn} and SCORE of a training; settings None: untrained."""
    import numpy as np

    head, found = head_of(), {}
    if settings is not None:
        head, value = train(settings, weight, half)
        found[SCORE] = np.array(value)
    if head is None:
        return found
    found |= text_figures(head, half_of(settings.seed if settings else 0))
    for name, folder in geometry_runs.DATA.measured.items():
        scores, targets = scores_of(head, name), folder.targets.numpy()
        order = np.argsort(-scores, axis=1, kind="stable")
        by_tree = {f"{metric}{BY_TREE}": values for metric, values in recalls(by_path(order), targets).items()}
        metrics = ranked(scores, targets) | recalls(order, targets) | by_tree
        found |= {(name, metric): values for metric, values in metrics.items()}
    return found


def kept(folder: Path, settings, weight: float = 0.0, half: bool = False) -> dict:
    """`figures`, from the disk if this training was done before."""
    import numpy as np

    from hyperbolic_clap.plumbing.files import write_atomic

    path = folder / f"{hashlib.sha256(f'{settings} {weight} {half}'.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        found = figures(settings, weight, half)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **{"|".join(key): value for key, value in found.items()})

        write_atomic(path, write)
    with np.load(path) as content:
        return {(*key.split("|"),): content[key] for key in content.files}


def by_path(order):
    """(N, M) class positions, best first -> the same best class, then the others by their path to it."""
    import numpy as np

    paths = np.take_along_axis(class_tree().distances[order[:, 0]], order, axis=1)
    return np.take_along_axis(order, np.argsort(paths, axis=1, kind="stable"), axis=1)


def recalls(order, targets) -> dict:
    from hyperbolic_clap.metrics.hierarchy import neighbour_recall
    from hyperbolic_clap.metrics.weighted import ratio

    found = neighbour_recall(order, targets, class_tree())
    return {name: drawn(len(order), lambda weights, parts=parts: ratio(weights, *parts))
            for name, parts in found.items()}  # fmt: skip


def text_figures(head, half) -> dict:
    """The error of the path lengths, and the share of each class's 5 nearest other texts that are siblings and such.

    half (M,) bool: classes of which, and of the others, there is a share too.
    """
    import numpy as np
    import torch

    from hyperbolic_clap.metrics.hierarchy import NEIGHBOURS, RECALL
    from hyperbolic_clap.metrics.weighted import ratio

    classes, text = class_tree(), geometry_runs.DATA.text
    with torch.no_grad():
        away = lengths(head, text).double()
    pairs = tuple(torch.triu_indices(len(text), len(text), 1))
    error = float((relative(away[pairs], path_lengths().double()[pairs]) - 1).abs().mean())
    found = {("texts", "error of the path lengths"): np.full_like(drawn(2, lambda w: w.mean(1)), error)}
    nearest = np.argsort(away.fill_diagonal_(np.inf).numpy(), axis=1, kind="stable")[:, :NEIGHBOURS]
    parts = {"": np.ones(len(text), bool)} | dict(zip(HALVES, (half, ~half), strict=True))
    for name in RECALL:
        share = np.take_along_axis(classes.relatives[name], nearest, axis=1).mean(axis=1)
        for part, members in parts.items():
            value = drawn(len(text), lambda w, members=members, share=share: ratio(w, share * members, members))
            found["texts", f"{name.partition('_')[0]} share{part}"] = value
    return found


def all_runs(executor, folder: Path, count: int) -> tuple[dict[str, dict], dict]:
    """{part: {(variant, side): the figures of each seed}}, {(variant, side): its settings, the best of `count`}."""
    space = {side: [trial.settings(side, "sigmoid", DIM) for trial in trials()[:count]] for side in SIDES}
    first = {(side, weight): [executor.submit(kept, folder, settings, weight) for settings in space[side]]
             for side in SIDES for weight in WEIGHTS}  # fmt: skip
    chosen = {}
    for (side, weight), futures in first.items():
        scores = [float(future.result()[SCORE]) for future in futures]
        chosen[side, weight] = space[side][scores.index(max(scores))]

    def over_seeds(side: str, weight: float, *half: bool) -> list:
        settings = [replace(chosen[side, weight], seed=seed) for seed in range(SEEDS)]
        return [executor.submit(kept, folder, each, weight, *half) for each in settings]

    whole = {("weight 0", "untrained"): [executor.submit(kept, folder, None)]}
    whole |= {(f"weight {weight:g}", side): over_seeds(side, weight) for weight in WEIGHTS for side in SIDES}
    last = f"weight {WEIGHTS[-1]:g}"
    halves = {(f"{last}{HALF}", side): over_seeds(side, WEIGHTS[-1], True) for side in SIDES}
    whole, halves = ({key: [future.result() for future in some] for key, some in futures.items()}
                     for futures in (whole, halves))  # fmt: skip
    plain = {key: some for key, some in whole.items() if key[0] == "weight 0" and key[1] in SIDES}
    by_tree = {(f"weight 0{BY_TREE}", side): [_renamed(found) for found in some] for (_, side), some in plain.items()}
    told = {(f"weight {weight:g}{more}", side): flags(settings)
            for (side, weight), settings in chosen.items() for more in ("", HALF, BY_TREE)}  # fmt: skip
    return {
        "regulariser": {key: [_only(found, "") for found in some] for key, some in whole.items()},
        "half": {key: [_only(found, *HALVES) for found in some] for key, some in (plain | halves).items()},
        "ranking": {key: [_only(found, "") for found in whole[key]] for key in whole if key[0] == last} | by_tree,
    }, told


def _only(found: dict, *endings: str) -> dict:
    """The figures whose metric has one of the endings; "": none of them."""
    known = (*HALVES, BY_TREE)
    return {key: value for key, value in found.items() if key != SCORE
            and next((e for e in known if key[1].endswith(e)), "") in endings}  # fmt: skip


def _renamed(found: dict) -> dict:
    return {(on, metric.removesuffix(BY_TREE)): value for (on, metric), value in found.items() if BY_TREE in metric}


def done(found: dict) -> Future:
    future: Future = Future()
    future.set_result(found)
    return future


def rows_of(parts: dict[str, dict], told: dict) -> list[list]:
    """The table's rows; of weight 100 in the part "ranking", which stands in the first part, none again."""
    found = []
    for part, runs in parts.items():
        rows = table(part, {key: [done(figures) for figures in some] for key, some in runs.items()})
        found += [[*row, told.get((row[1], row[2]), "")] for row in rows if part != "ranking" or BY_TREE in row[1]]
    return found


def main(args) -> None:
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.reading.labels import ClassList

    data, name = open_data(args)
    data = Tree(data.train, data.measured, data.text, data.text, ClassList.read(CLASS_LABELS).names)
    folder = args.work_dir / "tree_extras" / hashlib.sha256(name.encode()).hexdigest()[:16]
    with pool(data, args.workers) as executor:
        rows = rows_of(*all_runs(executor, folder, args.trials))
    write_csv(args.output_dir / "tree_extras.csv", [*HEADER, "settings"], rows)


if __name__ == "__main__":
    main(command_line(__doc__, ("--trials", {"type": int, "default": 4, "help": "of each search (default: 4)"})))
