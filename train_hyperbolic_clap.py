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

from hyperbolic_clap.plumbing.config import SELECT_BY, ProjectorConfig
from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    arguments,
    at_least,
    data_config,
    encoder_config,
    fraction,
    not_negative,
    positive,
    positive_up_to_100,
    run_config,
    seed,
    share,
    train_config,
)
from hyperbolic_clap.plumbing.run import describe_run, run


def parser() -> Parser:
    """The command line of the manual."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add = parser.add_argument
    add("--num-samples", type=at_least(2), default=None, help="the first N usable clips (default: all)")
    add("--output-dir", type=Path, default=Path("checkpoints_hyperbolic"), help="default: ./checkpoints_hyperbolic")
    add("--epochs", type=at_least(1), default=10, help="default: 10")
    add("--batch-size", type=at_least(1), default=16, help="clips per training step (default: 16)")
    add("--learning-rate", type=positive, default=1e-4, help="of the projector (default: 1e-4)")
    add(
        "--c",
        type=positive,
        default=None,
        help="SQUARED RADIUS of the Poincare ball, curvature K = -1/c: smaller is more curved (default: 1.0)",
    )
    add("--temperature", type=positive, default=1.0, help="similarity = -distance / temperature (default: 1.0)")
    add("--train-ratio", type=fraction, default=0.8, help="share to train on, the rest validates (default: 0.8)")
    add("--seed", type=seed, default=42, help="of the split, the batches and the start (default: 42)")
    add(
        "--text",
        choices=("labels", "captions"),
        default="labels",
        help="train against the class list, or on the captions of a column caption or captions (default: labels)",
    )
    add(
        "--loss",
        metavar="NAME",
        default=None,
        help="against the class list (sigmoid, softmax) or the batch's labels or captions (contrastive); default: "
        "sigmoid, with captions contrastive",
    )
    add(
        "--similarity",
        metavar="NAME",
        default="hyperbolic",
        help="how audio and text are compared; cosine trains the fair control: the same projector, data, loss and "
        "budget (default: hyperbolic)",
    )
    add("--output-dim", type=at_least(2), default=512, help="dimensions after the projector (default: 512)")
    add("--audio-radius", type=positive, default=0.5, help="common tangent norm of audio (default: 0.5)")
    add(
        "--logit-scale",
        type=positive_up_to_100,
        default=None,
        help="of the similarity in the loss at the start, at most 100; it is learned (default: 1/0.07 = 14.29)",
    )
    add(
        "--text-radius",
        type=positive,
        default=None,
        help="mean tangent norm of the class texts at the start (default: as the projection leaves them, about the "
        "audio's at 512 dimensions)",
    )
    add(
        "--lr-schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="cosine lowers the learning rates to 0 over --epochs, by half a cosine (default: constant)",
    )
    add(
        "--average-with-start",
        type=share,
        default=0.0,
        metavar="A",
        help="validate and keep (1 - A) trained + A start of all that is trained, as WiSE-FT does (default: 0, off)",
    )
    add(
        "--prototypes",
        type=not_negative,
        default=0.0,
        metavar="B",
        help="testing adds B cosine(clip, mean training audio of the class); the means go into the checkpoint, classes "
        "without clips get none, and the loss knows nothing of it (default: 0, off)",
    )
    add(
        "--select-by",
        choices=SELECT_BY,
        default="val_loss",
        help="which epoch is best: the lowest validation loss, or the highest of a metric on the validation clips; "
        "with captions always the highest R@1 (default: val_loss)",
    )
    add("--patience", type=at_least(1), default=None, metavar="N", help="stop after N epochs without one that "
        "--select-by finds better (default: train all --epochs)")
    add(
        "--split-by",
        default="video_id",
        metavar="COLUMN",
        help="clips with one value in this parquet column stay on one side of the split (default: video_id)",
    )
    add("--resume", action="store_true", help="go on after the last finished epoch in --output-dir")
    add("--keep", choices=("all", "best"), default="all", help="checkpoints of all epochs, or of the best and the last "
        "one, which --resume goes on from (default: all)")
    add("--log-to", choices=("tensorboard", "swanlab"), default=None, help="also log every epoch to a local tracker")
    add("--learn-c", action="store_true", help="let the training change c, starting from --c")
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
    require_trainable(config, pipeline)
    if not ranks.rank:
        told = describe_run(arguments(args) | {"loss": config.loss, "c": config.c}, model.device, ranks.size)
        output, tracker = open_output(run_in, config, told, model), open_tracker(run_in.log_to, run_in.output_dir)
    clips = embed_pairs(pipeline) if config.captions else pipeline.embed(skip_untrainable)
    if clips is None:  # a rank above 0, whose vectors rank 0 has now
        return ranks.close()
    fit(config, clips, split_clips(config, pipeline, clips), model, output, tracker)
    ranks.close()
    log.info("best: %s", output.best_path)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
