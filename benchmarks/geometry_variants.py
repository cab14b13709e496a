"""Single settings varied, everything else at the defaults: losses, radii, a learned c, a depth term, unseen classes.

    python benchmarks/geometry_variants.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval --losses

Percent: mean +- standard deviation over the seeds. These tables say nothing about which similarity is better: nothing
is searched. That is benchmarks/geometry_table.py. Also --baselines: the label prior, and the first public form of the
idea.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from geometry_runs import FLAT, METRICS, fit, four, load, pool, precision, untrained
from material import ROOT, class_names, parse, print_table, quiet

PRIOR_WEIGHTS = (0.01, 0.02, 0.05, 0.1)
PULLS = (0.0, 10.0, 100.0, 1000.0)


def cells(points) -> list[str]:
    """(S, 4) metrics -> mean +- deviation of each."""
    import numpy as np

    values = 100 * np.asarray(points)
    spread = [f" +- {s:.1f}" if len(values) > 1 else "" for s in values.std(0)]
    return [f"{m:.1f}{s}" for m, s in zip(values.mean(0), spread, strict=True)]


def over_seeds(executor, settings, seeds: int, change=None) -> list:
    """Futures of the runs with each seed."""
    return [executor.submit(fit, replace(settings, seed=seed), change) for seed in range(seeds)]


def variants(executor, seeds, base, name, values, similarities=("hyperbolic", "cosine")) -> None:
    """One setting varied, everything else at the defaults."""
    sides = [replace(base, similarity=s, **{name: v}) for v in values for s in similarities]
    futures = [over_seeds(executor, side, seeds) for side in sides]
    rows = [
        [str(getattr(side, name)), side.similarity, *cells([future.result().metrics["eval"] for future in some])]
        for side, some in zip(sides, futures, strict=True)
    ]
    print_table([name, "similarity", *METRICS], rows)


def depths():
    """The depth of each AudioSet class in the tree."""
    from results.ontology import audioset

    tree = audioset()
    return tree.depth[tree.find(class_names())[0]]


def add_depth_term(pull: float, trainer) -> None:
    """Let a class text of the least depth lie at half the audio's radius, of the greatest at one and a half."""
    import torch

    depth = torch.tensor(depths(), dtype=torch.float32)
    wanted = trainer.settings.audio_radius * (0.5 + depth / depth.max())
    plain = trainer.loss

    def loss(logits, targets):
        if not torch.is_grad_enabled():  # the validation chooses by the same loss as without the term
            return plain(logits, targets)
        radius = trainer.projector.text(trainer.text).norm(dim=1)
        return plain(logits, targets) + pull * (radius - wanted).square().mean()

    trainer.loss = loss


def ontology_term(executor, seeds, base) -> None:
    """Does it help to tell the radius what the tree knows?"""
    futures = [over_seeds(executor, base, seeds, partial(add_depth_term, pull)) for pull in PULLS]
    rows = [
        [f"{pull:g}", *cells([future.result().metrics["eval"] for future in some])]
        for pull, some in zip(PULLS, futures, strict=True)
    ]
    print_table(["weight of the depth term", *METRICS], rows)


def baselines(data, seeds) -> None:
    """The log frequency of each label in training added to untrained cosine, and the original recipe."""
    import numpy as np
    import torch

    from hyperbolic import cosine_similarity
    from training.split import split_by_video

    targets, eval_targets = data.train.targets.numpy(), data.measured["eval"].targets.numpy()
    scores, of_training = untrained(512, "eval"), cosine_similarity(data.train.audio, data.text).numpy()
    splits = [split_by_video(data.train.sources, 0.8, seed) for seed in range(seeds)]
    priors = [np.log(targets[train.numpy()].sum(0) + 1.0) for train, _ in splits]

    def on_validation(weight: float):
        parts = zip(splits, priors, strict=True)
        return np.mean([four(of_training[v.numpy()] + weight * p, targets[v.numpy()]) for (_, v), p in parts])

    weight = max(PRIOR_WEIGHTS, key=on_validation)
    with torch.no_grad():
        rows = [
            ["untrained cosine", *cells([four(scores, eval_targets)])],
            [f"untrained cosine + label prior ({weight:g})",
             *cells([four(scores + weight * prior, eval_targets) for prior in priors])],
        ]  # fmt: skip
    recipe = [four(original_recipe(data, splits[seed][0], seed), eval_targets) for seed in range(seeds)]
    print_table(["row", *METRICS], [*rows, ["original recipe", *cells(recipe)]])


def original_recipe(data, train, seed: int):
    """The first public form of this idea: first label only, unit-ball distance, clip at 0.9, 1/sqrt(c), c = 0.006."""
    import torch

    c, audio = 0.006, data.train.audio
    torch.manual_seed(seed)
    linear = torch.nn.Linear(512, 512)
    optimizer = torch.optim.Adam(linear.parameters(), 1e-4)
    first = data.train.targets.float().argmax(1)

    def ball(x):
        v = linear(x)
        norm = v.norm(dim=1, keepdim=True).clamp(min=1e-8)
        y = torch.tanh(norm * c**0.5) / c**0.5 * v / norm
        return y * (0.9 / y.norm(dim=1, keepdim=True).clamp(min=1e-8)).clamp(max=1)

    def dist(x, y):
        squared = torch.cdist(x, y).square()
        room = (1 - x.square().sum(1))[:, None] * (1 - y.square().sum(1))
        return torch.acosh(1 + 2 * squared / room + 1e-7) / c**0.5

    for epoch in range(10):
        draw = torch.Generator().manual_seed(seed * 100 + epoch)
        for rows in train[torch.randperm(len(train), generator=draw)].split(16):
            logits = -dist(ball(audio[rows]), ball(data.text[first[rows]]))
            loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(rows)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return -dist(ball(data.measured["eval"].audio), ball(data.text)).numpy()


def unseen(data, base, seeds) -> None:
    """Class-wise map of 40 classes held out of the training labels and texts, and of the others."""
    import numpy as np
    import torch

    from training.loop import Trainer
    from training.split import split_by_video

    train, measured = data.train, data.measured["eval"]
    truth, targets = train.targets.numpy(), measured.targets.numpy()
    both = np.flatnonzero(targets.any(0) & truth.any(0))
    sides = {"trained cosine": {"similarity": "cosine"}, "trained flat": {"c": FLAT}, "trained hyperbolic": {}}
    results = {name: [] for name in ("untrained cosine", *sides)}
    for seed in range(seeds):
        held = np.random.default_rng(seed).choice(both, 40, replace=False)
        kept = np.setdiff1d(np.arange(targets.shape[1]), held)
        usable = np.flatnonzero(truth[:, kept].any(1))
        parts = split_by_video(train.sources[usable], 0.8, seed)
        scores = {"untrained cosine": untrained(512, "eval")}
        for name, change in sides.items():
            settings = replace(base, seed=seed, **change)
            trainer = Trainer(settings, train.audio[usable], train.targets[usable][:, kept], data.text[kept], *parts)
            with quiet():
                list(trainer.epochs())
            with torch.no_grad():
                scores[name] = trainer.projector(measured.audio, data.text).numpy()
        for name, s in scores.items():
            results[name].append([precision(s.T[c], targets.T[c]).mean() for c in (held, kept)])
    rows = [[name, *cells(values)] for name, values in results.items()]
    print_table(["row", "map of 40 classes never trained on", "map of the other classes"], rows)


def main(args) -> None:
    from training.loop import Settings

    with quiet():
        data = load(args.train_dir, {"eval": args.eval_dir}, args.checkpoint)
    base = Settings(loss=args.loss)
    with pool(data, os.cpu_count()) as executor:
        if args.baselines:
            baselines(data, args.seeds)
        if args.losses:
            variants(executor, args.seeds, base, "loss", ["sigmoid", "softmax", "contrastive"])
        if args.radii:
            for c in (base.c, FLAT):
                radii = [0.25, 0.5, 1.0, 2.0, 4.0]
                variants(executor, args.seeds, replace(base, c=c), "audio_radius", radii, ["hyperbolic"])
        if args.learn_c:
            variants(executor, args.seeds, base, "learn_c", [False, True], ["hyperbolic"])
        if args.ontology:
            ontology_term(executor, args.seeds, base)
        if args.unseen:
            unseen(data, base, args.seeds)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--train-dir", {"type": Path, "required": True}),
            ("--eval-dir", {"type": Path, "required": True}),
            ("--checkpoint", {"default": str(ROOT / "CLAP" / "tiny")}),
            ("--seeds", {"type": int, "default": 3}),
            ("--loss", {"default": "sigmoid"}),
            ("--baselines", {"action": "store_true", "help": "the label prior and the original recipe"}),
            ("--losses", {"action": "store_true"}),
            ("--radii", {"action": "store_true", "help": "common audio radii"}),
            ("--learn-c", {"action": "store_true", "help": "a learned c against a given one"}),
            ("--ontology", {"action": "store_true", "help": "tie the text radius to the depth"}),
            ("--unseen", {"action": "store_true", "help": "hold 40 classes out of the training"}),
        )
    )
