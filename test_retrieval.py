"""Retrieval between the clips of a parquet folder and their captions: plain cosine, or a trained projector.

    python test_retrieval.py --parquet-dir data/captioned/test --output-json results_retrieval_original.json

    python test_retrieval.py --parquet-dir data/captioned/test --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_captions/best_projection_epoch_X.pth

The folder has a column `caption` or `captions`: a text, or a list of them. Text -> audio: each caption is a query for
its clip. Audio -> text: any of a clip's captions counts. The results JSON holds R@1, R@5, R@10, mAP@10 and median_rank
of both directions, and every clip's ranks, from which compare_results.py makes paired intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.files import require_outputs, write_json
from hyperbolic_clap.plumbing.flags import Parser, add_head_flags, add_shared_flags, at_least
from hyperbolic_clap.plumbing.run import describe_run, run


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add_head_flags(parser)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=None, help="the first N usable clips (default: all)")
    add("--output-json", type=Path, default=None, help="default: results_retrieval_<kind>_<time>.json in this folder")
    return parser


def main(args: argparse.Namespace) -> None:
    started = time.time()
    from hyperbolic_clap.embedding.pairs import embed_captions
    from hyperbolic_clap.embedding.pipeline import EmbeddingPipeline
    from hyperbolic_clap.embedding.texts import read_prompts
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.projector import open_projector
    from hyperbolic_clap.results.retrieval import evaluate_retrieval

    device = choose_device(args.device)
    projector = open_projector(args, device)
    prompts = projector.prompts(read_prompts(args))
    ranks = open_ranks()
    sources = EmbeddingPipeline(args, device, ranks, prompts, labelled=False)
    projector.require_model(sources.encoder)
    output = args.output_json or default_output(projector)
    if not ranks.rank:
        require_outputs([output], sources.inputs)
    material = embed_captions(sources)
    if material is None:
        return ranks.close()
    evaluation = evaluate_retrieval(material, projector)
    info = describe_run(args, device, ranks.size) | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "clips": material.counts,
        "seconds": round(time.time() - started, 3),
    }
    model = projector.describe(sources.encoder, sources.prompt)
    write_json(output, {"test_info": info, "model_info": model} | evaluation)
    for way, values in evaluation["metrics"].items():
        log.info("%s: %s", way, ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    ranks.close()
    log.info("results: %s", output)


def default_output(projector) -> Path:
    """A results file in this folder, named by what is tested and the time."""
    kind = projector.similarity if projector.trained else "original"
    return Path(time.strftime(f"results_retrieval_{kind}_%Y%m%d_%H%M%S.json"))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
