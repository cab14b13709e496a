"""Train many settings over seeds, test each of them, and put what was found into one table with intervals.

    python sweep.py --parquet-dir ./Datasets/AudioSet/train_balanced --eval-dir ./Datasets/AudioSet/eval \\
        --c 0.5 1 4 --seed 1 2 3 --similarity hyperbolic cosine --output-dir sweep --baseline similarity=cosine

Every setting of the training takes one value or several, and all combinations are run; one that has no effect (c of
cosine) is run once. Clips are embedded once. Each run's checkpoints and results are, to the bit, those of
train_hyperbolic_clap.py and test_clap_modelscope.py, and every other script reads them. A sweep that was stopped, or is
given more values, goes on with what is there. A random search is a file of settings, a row for each (--settings), of
which the best few are trained with all seeds (--finalists).

Writes to --output-dir: sweep.csv (a row for each run and folder), sweep.md (a row for each setting: mean and deviation
over seeds, differences with intervals over clips and seeds), runs/ with the training folders, results/ with the results
files.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path

from hyperbolic_clap.plumbing.config import SELECT_BY, TrainConfig
from hyperbolic_clap.plumbing.errors import UserError, log, warn
from hyperbolic_clap.plumbing.files import require_writable
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    add_training_flags,
    arguments,
    at_least,
    data_config,
    encoder_config,
    settings_rows,
    train_config,
)
from hyperbolic_clap.plumbing.run import run

OTHERS = [field.name for field in fields(TrainConfig) if field.name not in ("similarity", "seed")]
SETTINGS = ["similarity", *OTHERS, "seed"]  # the last varies fastest
OF_SWEEP = {*SETTINGS, "eval_dir", "eval_num_samples", "output_dir", "keep", "jobs", "baseline", "settings",
            "choose_by", "choose_each", "finalists", "skip_bad", "resamples", "top_k"}  # fmt: skip
SHOWN = 5  # contradictions


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add_training_flags(parser, several=True)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=None, help="train on the first N usable clips (default: all)")
    add("--eval-dir", type=Path, nargs="+", required=True, help="one or more folders with parquet files to test on")
    add("--eval-num-samples", type=at_least(2), default=None, help="test on their first N usable clips (default: all)")
    add("--top-k", type=at_least(1), default=5, help="predictions per clip, and the positives of f1 (default: 5)")
    add("--output-dir", type=Path, default=Path("sweep"), help="default: ./sweep")
    add("--keep", choices=("all", "best"), default="best", help="checkpoints of all epochs of each run, or of the best "
        "and the last one (default: best)")
    add("--jobs", type=at_least(1), default=1, metavar="N", help="processes that train at a time; each uses as many "
        "threads as a single script, for the same bits (default: 1)")
    add("--baseline", nargs="+", default=None, metavar="NAME=VALUE", help="settings that the others are compared with, "
        "such as similarity=cosine, each with its like")
    add("--settings", type=Path, default=None, metavar="FILE", help="a CSV with a row for each setting, whose columns "
        "are named as the flags; each is run with all values of the other flags")
    add("--choose-by", choices=SELECT_BY, default=None, help="test only the best setting of each similarity, by the "
        "mean over seeds of this validation figure")
    add("--choose-each", nargs="+", default=["similarity"], metavar="NAME", help="settings of which each combination "
        "has a best one of its own (default: similarity)")
    add("--finalists", type=at_least(1), default=None, metavar="N", help="train all settings with the first seed, and "
        "only the N best of each with the other ones (default: all)")
    add("--skip-bad", action="store_true", help="leave out runs whose settings contradict each other, and say which")
    add("--resamples", type=at_least(100), default=2000, help="of the intervals (default: 2000)")
    return parser


def main(args: argparse.Namespace) -> None:
    configs, bad = combinations(args)
    from hyperbolic_clap.results.sweep import Plan, sweep
    from hyperbolic_clap.results.sweep_tables import parse_baseline, write_csv, write_markdown

    each = tuple(name.lstrip("-").replace("-", "_") for name in args.choose_each)
    if unknown := [name for name in each if name not in SETTINGS[:-1]]:
        raise UserError(f"--choose-each {unknown[0]} is no setting; they are {', '.join(SETTINGS[:-1])}")
    if args.choose_by is None and (args.finalists or each != ("similarity",)):
        raise UserError("--finalists and --choose-each say how --choose-by chooses; give that too")
    baseline, table, text = parse_baseline(args.baseline, configs), *(
        args.output_dir / f"sweep.{kind}" for kind in ("csv", "md"))  # fmt: skip
    for path in (table, text):
        require_writable(path)
    if args.jobs > 1 and args.no_cache:
        raise UserError("--jobs needs the cache, through which its processes share the embeddings; drop --no-cache")
    data = data_config(args)
    folders = {name: replace(data, parquet_dir=folder, num_samples=args.eval_num_samples)
               for name, folder in named(args.eval_dir).items()}  # fmt: skip
    shared = {name: value for name, value in arguments(args).items() if name not in OF_SWEEP}
    dim_given = args.output_dim is not None or any(config.output_dim != TrainConfig.output_dim for config in configs)
    plan = Plan(data, folders, encoder_config(args), args.output_dir, shared, args.keep, args.top_k, args.choose_by,
                each, args.finalists, dim_given)  # fmt: skip
    log.info("%d runs%s", len(configs), f", {len(bad)} left out" if bad else "")
    outcomes, _ = sweep(plan, configs, args.jobs, lambda some: write_csv(table, plan, some, bad))
    write_csv(table, plan, outcomes, bad)
    failed = [outcome for outcome in outcomes if outcome.reason]
    for outcome in failed:
        warn(f"{outcome.name} failed: {outcome.reason}")
    if len(failed) == len(outcomes):
        raise UserError(f"all {len(failed)} runs failed; the reasons are in {table}")
    write_markdown(text, plan, outcomes, baseline, args.resamples, 0, shlex.join(["python", "sweep.py", *sys.argv[1:]]))
    log.info("%d of %d runs done: %s, %s", len(outcomes) - len(failed), len(outcomes), table, text)


def combinations(args: argparse.Namespace) -> tuple[list[TrainConfig], list[tuple[dict, str]]]:
    """All runs, those that train alike once, and the settings of those that contradict themselves, with the reason.

    UserError names these unless --skip-bad.
    """
    from hyperbolic import SIMILARITIES
    from hyperbolic_clap.results.sweep import effective, name_of

    given = {name: value if isinstance(value := getattr(args, name), list) else [value] for name in SETTINGS}
    rows = settings_rows(args.settings) if args.settings else [{}]
    every = [dict(zip(given, values, strict=True)) for row in rows
             for values in itertools.product(*(given | {name: [value] for name, value in row.items()}).values())]
    configs: dict[str, TrainConfig] = {}
    bad: list[tuple[dict, str]] = []
    for settings in every:
        curved = settings["similarity"] not in SIMILARITIES or SIMILARITIES[settings["similarity"]].curved
        try:
            if settings["text"] == "captions":
                raise UserError("--text captions has no class list to test on; use the single scripts")
            config = effective(train_config(argparse.Namespace(**settings | ({} if curved else {"c": None}))))
            if configs.setdefault(name_of(config), config) != config:
                raise UserError(f"its files would have the name of another run, {name_of(config)}")
        except UserError as error:
            bad.append((settings, str(error)))
    varying = [name for name in given if len({str(settings[name]) for settings in every}) > 1]
    lines = [": ".join(filter(None, (" ".join(f"{name}={settings[name]}" for name in varying), why)))
             for settings, why in bad]  # fmt: skip
    if bad and (not configs or not args.skip_bad):
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        mend = "; add --skip-bad to run the others" if configs else ""
        total = len(bad) + len(configs)
        raise UserError(f"{len(bad)} of {total} runs contradict themselves: {'; '.join(lines[:SHOWN])}{more}{mend}")
    for line in lines:
        warn(f"left out: {line}")
    return list(configs.values()), bad


def named(folders: list[Path]) -> dict[str, Path]:
    """{name for files: folder}: its own name, or more of its path where two share it. UserError for one named twice."""
    for depth in range(1, 9):
        names = ["-".join(re.sub(r"[^\w.+-]", "-", part) for part in folder.resolve().parts[-depth:])
                 for folder in folders]  # fmt: skip
        if len({name.casefold() for name in names}) == len(names):
            return dict(zip(names, folders, strict=True))
    raise UserError(f"--eval-dir names {names[0]} twice; name each folder once")


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
