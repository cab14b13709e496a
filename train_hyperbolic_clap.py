"""Train a hyperbolic projector on top of the frozen CLAP, on the clips of a parquet folder.

    python train_hyperbolic_clap.py --parquet-dir ./Datasets/AudioSet/train_balanced --num-samples 10000 \\
        --device cuda:0 --output-dir ./checkpoints_hyperbolic --epochs 10 --batch-size 16 --learning-rate 1e-4 \\
        --c 1.0 --temperature 1.0 --train-ratio 0.8

    python train_hyperbolic_clap.py --parquet-dir demo/data/train_balanced --checkpoint CLAP/tiny --device cpu

    python train_hyperbolic_clap.py --parquet-dir data/captioned/train --text captions

Writes to --output-dir: projection_epoch_N.pth for each epoch, best_projection_epoch_N.pth for the best one by
--select-by (the lowest validation loss; with captions the highest R@1), and setup.json with the arguments, versions,
clip counts and the figures of every epoch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperbolic_clap.plumbing.config import ProjectorConfig
from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    add_training_flags,
    arguments,
    at_least,
    data_config,
    encoder_config,
    run_config,
    train_config,
)
from hyperbolic_clap.plumbing.run import describe_run, run


def parser() -> Parser:
    """The command line of the manual."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=None, help="the first N usable rows (default: all)")
    add("--output-dir", type=Path, default=Path("checkpoints_hyperbolic"), help="default: ./checkpoints_hyperbolic")
    add_training_flags(parser)
    add("--resume", action="store_true", help="go on after the last finished epoch in --output-dir")
    add("--keep", choices=("all", "best"), default="all", help="checkpoints of all epochs, or of the best and the last "
        "one, which --resume goes on from (default: all)")
    add("--log-to", choices=("tensorboard", "swanlab"), default=None, help="also log every epoch to a local tracker")
    return parser


def main(args: argparse.Namespace) -> None:
    from hyperbolic_clap.embedding.pairs import embed_pairs
    from hyperbolic_clap.embedding.pipeline import skip_untrainable
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.opening import open_pipeline
    from hyperbolic_clap.training.fit import fit, open_output, require_trainable, split_clips
    from hyperbolic_clap.training.trackers import open_tracker, require

    config, data, run_in = train_config(args), data_config(args), run_config(args)
    require(run_in.log_to)
    ranks, encoder = open_ranks(), encoder_config(args)
    model, pipeline = open_pipeline(data, encoder, ProjectorConfig(), labelled=not config.captions, ranks=ranks)
    config = require_trainable(config, pipeline, args.output_dim is not None)
    if not ranks.rank:
        chosen = {"loss": config.loss, "c": config.c, "output_dim": config.output_dim}
        told = describe_run(arguments(args) | chosen, model.device, ranks.size)
        output, tracker = open_output(run_in, config, told, model), open_tracker(run_in.log_to, run_in.output_dir)
    clips = embed_pairs(pipeline) if config.captions else pipeline.embed(skip_untrainable)
    if clips is None:  # a rank above 0, whose vectors rank 0 has now
        return ranks.close()
    fit(config, clips, split_clips(config, pipeline, clips), model, output, tracker)
    ranks.close()
    log.info("best: %s", output.best_path)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
