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
import os
import sys
import time
from pathlib import Path

from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.files import require_outputs, write_json
from hyperbolic_clap.plumbing.flags import Parser, add_head_flags, add_shared_flags, at_least
from hyperbolic_clap.plumbing.run import describe_run, run


def parser(doc: str = __doc__, always_hyperbolic: bool = False) -> Parser:
    """The command line of the manual; always_hyperbolic makes --use-hyperbolic a fact instead of a flag."""
    parser = Parser(doc)
    add_shared_flags(parser)
    add_head_flags(parser, always_hyperbolic)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=100, help="the first N usable clips (default: 100)")
    add("--output-json", type=Path, default=None, help="default: results_<kind>_<time>.json in this folder")
    add("--save-scores", type=Path, default=None, help="also write all similarities, a .safetensors file for "
        "compare_results.py and plot_results.py")
    add("--top-k", type=at_least(1), default=5, help="predictions per clip, and the positives of f1 (default: 5)")
    return parser


def main(args: argparse.Namespace) -> None:
    started = time.time()
    from hyperbolic_clap.embedding.pipeline import EmbeddingPipeline, unlabelled
    from hyperbolic_clap.embedding.texts import read_prompts
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.projector import open_projector
    from hyperbolic_clap.results.evaluation import evaluate
    from hyperbolic_clap.results.files import save_scores

    device = choose_device(args.device)
    projector = open_projector(args, device)
    prompts = projector.prompts(read_prompts(args))
    ranks = open_ranks()
    sources = EmbeddingPipeline(args, device, ranks, prompts)
    projector.require_model(sources.encoder)
    output = args.output_json or default_output(projector)
    if not ranks.rank:
        require_outputs((output, args.save_scores), sources.inputs)
    material = sources.embed(unlabelled)
    if material is None:
        return ranks.close()
    tensors, evaluation = evaluate(material, projector, args.top_k)
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
    model = projector.describe(sources.encoder, sources.prompt)
    write_json(output, {"test_info": info, "model_info": model} | evaluation)
    for name, value in (evaluation["metrics"] or {}).items():
        log.info("%-16s %s", name, f"{value:.4f}" if isinstance(value, float) else value)
    ranks.close()
    log.info("results: %s", output)


def default_output(projector) -> Path:
    """A results file in this folder, named by what is tested and the time."""
    kind = projector.similarity if projector.trained else "original"
    return Path(time.strftime(f"results_{kind}_%Y%m%d_%H%M%S.json"))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
