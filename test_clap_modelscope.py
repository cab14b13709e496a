"""Zero-shot classification of the clips of a parquet folder: plain cosine, or a trained projector.

    python test_clap_modelscope.py --parquet-dir ./Datasets/AudioSet/eval --num-samples 100 \\
        --output-json results_original.json

    python test_clap_modelscope.py --parquet-dir ./Datasets/AudioSet/eval --num-samples 100 --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_hyperbolic/best_projection_epoch_X.pth --c 1.0 --temperature 1.0

Without --projection-checkpoint the similarity is CLAP's own cosine. A checkpoint trained with --similarity cosine is
tested without --use-hyperbolic. The results JSON holds the metrics and every clip's predictions.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

from plumbing.device import choose_device
from plumbing.errors import UserError, log, warn
from plumbing.files import require_writable, write_json
from plumbing.flags import Parser, add_shared_flags, at_least, positive
from plumbing.run import describe_run, run


def parser(doc: str = __doc__, always_hyperbolic: bool = False) -> Parser:
    """The command line of the manual; always_hyperbolic makes --use-hyperbolic a fact instead of a flag."""
    parser = Parser(doc)
    add_shared_flags(parser)
    add = parser.add_argument
    if always_hyperbolic:
        parser.set_defaults(use_hyperbolic=True)
    else:
        add("--use-hyperbolic", action="store_true", help="use the hyperbolic projector of --projection-checkpoint")
    add(
        "--projection-checkpoint",
        type=Path,
        default=None,
        required=always_hyperbolic,
        help="a .pth file of train_hyperbolic_clap.py, an exported folder or its ModelScope id (for hyperbolic)",
    )
    add("--num-samples", type=at_least(2), default=100, help="the first N usable clips (default: 100)")
    add("--output-json", type=Path, default=None, help="default: results_<kind>_<time>.json in this folder")
    add("--save-scores", type=Path, default=None, help="also write all similarities, a .safetensors file for "
        "compare_results.py and plot_results.py")
    add("--top-k", type=at_least(1), default=5, help="predictions per clip, and the positives of f1 (default: 5)")
    add(
        "--c",
        type=positive,
        default=None,
        help="SQUARED RADIUS of the ball, curvature K = -1/c; only checked, the checkpoint's own is used",
    )
    add("--temperature", type=positive, default=None, help="only checked, the checkpoint's own is used")
    return parser


def main(args: argparse.Namespace) -> None:
    started = time.time()
    if args.use_hyperbolic and args.projection_checkpoint is None:
        raise UserError("--use-hyperbolic needs --projection-checkpoint, a .pth file of train_hyperbolic_clap.py")
    from embedding.folder import Sources, unlabelled
    from embedding.texts import read_prompts
    from plumbing.ranks import open_ranks
    from results.evaluation import evaluate
    from results.files import save_scores
    from training.heads import Head

    device = choose_device(args.device)
    head = Head(args.projection_checkpoint, device)
    check_against(args, head)
    prompts = head.prompts(read_prompts(args))
    ranks = open_ranks()
    sources = Sources(args, device, ranks, prompts)
    head.require_model(sources.encoder)
    output = args.output_json or default_output(head)
    if not ranks.rank:
        for path in filter(None, (output, args.save_scores)):
            require_writable(path)
    material = sources.embed(unlabelled)
    if material is None:
        return ranks.close()
    tensors, evaluation = evaluate(material, head, args.top_k)
    info = describe_run(args, device, ranks.size) | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "classes": len(material.classes),
        "class_names": material.classes.names,
        "clips": material.counts,
        "seconds": round(time.time() - started, 3),
    }
    if args.save_scores:
        save_scores(args.save_scores, tensors)
        info["scores"] = os.path.relpath(args.save_scores, output.parent)
    write_json(output, {"test_info": info, "model_info": head.describe(sources.encoder, sources.prompt)} | evaluation)
    for name, value in (evaluation["metrics"] or {}).items():
        log.info("%-16s %s", name, f"{value:.4f}" if isinstance(value, float) else value)
    ranks.close()
    log.info("results: %s", output)


def check_against(args: argparse.Namespace, head) -> None:
    """UserError if a flag contradicts the projection checkpoint; a warning if plain cosine has no use for it."""
    if not head.trained:
        for flag in ("c", "temperature"):
            if getattr(args, flag) is not None:
                warn(f"--{flag} {getattr(args, flag):g} has no effect: plain cosine has no {flag}")
        return
    if (head.similarity == "hyperbolic") != args.use_hyperbolic:
        mend = "test it without --use-hyperbolic" if args.use_hyperbolic else "add --use-hyperbolic"
        raise UserError(f"{args.projection_checkpoint} was trained for {head.similarity} similarity; {mend}")
    for flag in ("c", "temperature"):
        given, trained = getattr(args, flag), head.content[flag]
        if given is not None and not math.isclose(given, trained, rel_tol=1e-5):
            raise UserError(
                f"--{flag} {given:g} contradicts {args.projection_checkpoint}, which was trained with {flag} = "
                f"{trained:g}; leave the flag out or give that value"
            )


def default_output(head) -> Path:
    """A results file in this folder, named by what is tested and the time."""
    return Path(time.strftime(f"results_{head.similarity if head.trained else 'original'}_%Y%m%d_%H%M%S.json"))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
