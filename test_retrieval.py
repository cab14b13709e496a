"""Retrieval between the clips of a parquet folder and their captions: plain cosine, or a trained projector.

    python test_retrieval.py --parquet-dir data/captioned/test --output-json results_retrieval_original.json

    python test_retrieval.py --parquet-dir data/captioned/test --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_captions

The folder has a column `caption` or `captions`: a text, or a list of them. Text -> audio: each caption is a query for
its clip. Audio -> text: any of a clip's captions counts. The results JSON holds R@1, R@5, R@10, mAP@10 and median_rank
of both directions, and every clip's ranks, from which compare_results.py makes paired intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.files import require_outputs, write_json
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_projector_flags,
    add_shared_flags,
    arguments,
    at_least,
    data_config,
    encoder_config,
    files_read,
    projector_config,
)
from hyperbolic_clap.plumbing.run import describe_test, run


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add_projector_flags(parser)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=None, help="the first N usable rows (default: all)")
    add("--output-json", type=Path, default=None, help="default: results_retrieval_<kind>_<time>.json in this folder")
    return parser


def main(args: argparse.Namespace) -> None:
    started = time.time()
    from hyperbolic_clap.embedding.pairs import embed_pairs
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.opening import open_pipeline
    from hyperbolic_clap.results.evaluation import evaluate_retrieval

    data, encoder, projector, ranks = data_config(args), encoder_config(args), projector_config(args), open_ranks()
    model, pipeline = open_pipeline(data, encoder, projector, labelled=False, ranks=ranks)
    output = args.output_json or default_output(model.projector)
    if not ranks.rank:
        require_outputs([output], [*files_read(args), *pipeline.folder.files])
    pairs = embed_pairs(pipeline)
    if pairs is None:  # a rank above 0, whose vectors rank 0 has now
        return ranks.close()
    evaluation = evaluate_retrieval(pairs, model.projector)
    info = describe_test(arguments(args), model.device, ranks.size, started, clips=pairs.counts)
    write_json(output, {"test_info": info, "model_info": model.describe()} | evaluation)
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
