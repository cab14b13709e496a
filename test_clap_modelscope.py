"""Zero-shot classification of the clips of a parquet folder: plain cosine, or a trained projector.

    python test_clap_modelscope.py --parquet-dir ./Datasets/AudioSet/eval --num-samples 100 \\
        --output-json results_original.json

    python test_clap_modelscope.py --parquet-dir ./Datasets/AudioSet/eval --num-samples 100 --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_hyperbolic --c 1.0 --temperature 1.0

Without --projection-checkpoint the similarity is CLAP's own cosine. A checkpoint trained with --similarity cosine is
tested without --use-hyperbolic. The results JSON holds the metrics and every clip's predictions.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.files import require_outputs
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_classes_flag,
    add_projector_flags,
    add_shared_flags,
    add_taxonomy_flag,
    arguments,
    at_least,
    data_config,
    encoder_config,
    files_read,
    projector_config,
)
from hyperbolic_clap.plumbing.run import describe_test, run


def parser(doc: str = __doc__, always_hyperbolic: bool = False) -> Parser:
    """The command line of the manual; always_hyperbolic makes --use-hyperbolic a fact instead of a flag."""
    parser = Parser(doc)
    add_shared_flags(parser)
    add_classes_flag(parser)
    add_taxonomy_flag(parser)
    add_projector_flags(parser, always_hyperbolic)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=100, help="the first N usable clips (default: 100)")
    add("--output-json", type=Path, default=None, help="default: results_<kind>_<time>.json in this folder")
    add("--save-scores", type=Path, default=None, help="also write all similarities, a .safetensors file for "
        "compare_results.py and plot_results.py")
    add("--top-k", type=at_least(1), default=5, help="predictions per clip, and the positives of f1 (default: 5)")
    return parser


def main(args: argparse.Namespace) -> None:
    started = time.time()
    from hyperbolic_clap.embedding.pipeline import skip_unlabelled
    from hyperbolic_clap.metrics.ontology import Ontology
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.opening import open_pipeline
    from hyperbolic_clap.results.evaluation import evaluate_to_files

    data, encoder, projector, ranks = data_config(args), encoder_config(args), projector_config(args), open_ranks()
    model, pipeline = open_pipeline(data, encoder, projector, ranks=ranks)
    taxonomy = Ontology.above(args.taxonomy, model.classes.names) if args.taxonomy else None
    output = args.output_json or default_output(model.projector)
    if not ranks.rank:
        require_outputs((output, args.save_scores), [*files_read(args), *pipeline.folder.files])
    clips = pipeline.embed(skip_unlabelled)
    if clips is None:  # a rank above 0, whose vectors rank 0 has now
        return ranks.close()
    evaluation = evaluate_to_files(clips, model, args.top_k, output, args.save_scores, lambda **facts: describe_test(
        arguments(args), model.device, ranks.size, started, **facts), taxonomy)  # fmt: skip
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
