"""Train a hyperbolic projector on top of the frozen CLAP, on the clips of a parquet folder.

    python train_hyperbolic_clap.py --parquet-dir ./Datasets/AudioSet/train_balanced --num-samples 10000 \\
        --device cuda:0 --output-dir ./checkpoints_hyperbolic --epochs 10 --batch-size 16 --learning-rate 1e-4 \\
        --c 1.0 --temperature 1.0 --train-ratio 0.8

    python train_hyperbolic_clap.py --parquet-dir demo/data/train_balanced --checkpoint CLAP/tiny --device cpu

    python train_hyperbolic_clap.py --parquet-dir data/captioned/train --text captions

Writes to --output-dir: projection_epoch_N.pth for each epoch, best_projection_epoch_N.pth for the lowest validation
loss (with captions the highest R@1), and setup.json with the arguments, versions, clip counts and the figures of every
epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    at_least,
    fraction,
    not_negative,
    positive,
    scale,
    seed,
    share,
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
        default=1.0,
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
        choices=("sigmoid", "contrastive", "softmax"),
        default=None,
        help="against the class list (sigmoid, softmax) or the batch's labels or captions (contrastive); default: "
        "sigmoid, with captions contrastive",
    )
    add(
        "--similarity",
        choices=("hyperbolic", "cosine"),
        default="hyperbolic",
        help="cosine trains the fair control: the same projector, data, loss and budget (default: hyperbolic)",
    )
    add("--output-dim", type=at_least(2), default=512, help="dimensions after the projector (default: 512)")
    add("--audio-radius", type=positive, default=0.5, help="common tangent norm of audio (default: 0.5)")
    add(
        "--logit-scale",
        type=scale,
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
    add("--patience", type=at_least(1), default=None, metavar="N", help="stop after N epochs without a better "
        "one: a lower validation loss, with captions a higher R@1 (default: train all --epochs)")
    add(
        "--split-by",
        default="video_id",
        metavar="COLUMN",
        help="clips with one value in this parquet column stay on one side of the split (default: video_id)",
    )
    add("--resume", action="store_true", help="go on after the last finished epoch in --output-dir")
    add("--log-to", choices=("tensorboard", "swanlab"), default=None, help="also log every epoch to a local tracker")
    add("--learn-c", action="store_true", help="let the training change c, starting from --c")
    return parser


def main(args: argparse.Namespace) -> None:
    check(args)
    captions = args.text == "captions"
    from hyperbolic_clap.embedding.pairs import embed_captions
    from hyperbolic_clap.embedding.pipeline import EmbeddingPipeline, reason_against
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.training.calibration import calibration
    from hyperbolic_clap.training.caption_trainer import CaptionTrainer
    from hyperbolic_clap.training.groups import groups, require_column
    from hyperbolic_clap.training.split import fingerprint, split_by_video
    from hyperbolic_clap.training.trackers import open_tracker, require
    from hyperbolic_clap.training.trainer import Settings, Trainer

    ranks = open_ranks()
    require(args.log_to)
    device = choose_device(args.device)
    sources = EmbeddingPipeline(args, device, ranks, labelled=not captions)
    encoder = sources.encoder
    require_column(sources.folder, args.split_by)
    if args.output_dim > encoder.embed_dim:
        raise UserError(f"--output-dim {args.output_dim} is above the {encoder.embed_dim} dimensions of {encoder.name}")
    output = None if ranks.rank else open_output(args, device, ranks, encoder)
    tracker = None if ranks.rank else open_tracker(args.log_to, args.output_dir)
    material = embed_captions(sources) if captions else sources.embed(reason_against)
    if material is None:
        return ranks.close()

    together = groups(sources.folder, material.rows, args.split_by)
    train, validation = split_by_video(together, args.train_ratio, args.seed)
    output.count(material, train, validation)
    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    audio, truth, text = (tensor.to(device) for tensor in material.tensors())
    data = ThreadPoolExecutor(1).submit(fingerprint, *material.tensors(), train)
    trainer = (CaptionTrainer if captions else Trainer)(settings, audio, truth, text, train, validation)
    model = cache(partial(about, args, sources, material, train, settings, data))
    calibrated = not captions and not args.prototypes  # what prototypes add is no part of the logits
    done = output.resume(model, trainer)
    for figures in () if output.stalled(args.patience) else trainer.epochs(first=done + 1):
        output.keep(figures | trainer.state() | model() | (calibration(trainer) if calibrated else {}))
        tracker.log(figures["epoch"], figures)
        log.info(describe(figures))
        if output.stalled(args.patience):
            log.info("no better epoch in %d epochs: stopped", args.patience)
            break
    tracker.close()
    ranks.close()
    log.info("best: %s", output.best_path)


def check(args: argparse.Namespace) -> None:
    """UserError for flags that contradict each other; sets the loss that goes with --text if none was given."""
    if args.learn_c and args.similarity != "hyperbolic":
        similarity = f"--similarity {args.similarity}"
        raise UserError(f"--learn-c has no meaning with {similarity}, which has no c; leave one of them out")
    captions = args.text == "captions"
    for flag, given in (("--loss softmax", args.loss == "softmax"), ("--prototypes", args.prototypes)):
        if captions and given:
            raise UserError(f"{flag} needs a class list, which --text captions does not have; leave it out")
    args.loss = args.loss or ("contrastive" if captions else "sigmoid")


def about(args: argparse.Namespace, sources, material, train, settings, data) -> dict:
    """What a checkpoint says of the models, the prompt and the data behind it, and its prototypes.

    data: a future of the data's fingerprint, since hashing a million vectors takes seconds, beside the first steps.
    """
    from hyperbolic_clap.projector.prototypes import prototypes

    identity = {"prompt": sources.prompt} | settings.identity()
    identity |= {"split_by": args.split_by} if args.split_by != "video_id" else {}
    identity |= {"prototypes": args.prototypes} if args.prototypes else {}
    kept = {"text": args.text}
    if args.prototypes and args.text == "labels":
        kept |= prototypes(args.prototypes, material.audio[train], material.targets[train], material.classes.names)
    encoder = sources.encoder
    model = {"clap_model": encoder.name, "clap_sha256": encoder.sha256, "prompt": sources.prompt}
    return model | {"embed_dim": encoder.embed_dim, "identity": identity | {"data": data.result()}} | kept


def open_output(args: argparse.Namespace, device, ranks, encoder):
    """The RunFolder of this run; under torchrun it is resumed when the ranks were restarted."""
    from hyperbolic_clap.training.run_folder import RunFolder

    setup = describe_run(args, device, ranks.size) | {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "convention": "c is the squared radius of the ball, curvature K = -1/c, d(0, expmap0(v)) = 2|v|",
        "clap_model": encoder.name,
        "clap_sha256": encoder.sha256,
        "clips": None,
        "epochs": [],
        "best_epoch": None,
    }
    output = RunFolder(args.output_dir, setup, args.resume or ranks.remembers("run folder"))
    ranks.remember("run folder")
    return output


def describe(result: dict) -> str:
    """One log line of an epoch; a figure without ground shows as nan."""
    return (
        "epoch {epoch}: train loss {train_loss:.4f}, validation loss {val_loss:.4f}, similarity of positives "
        "{similarity_positives:.3f} and negatives {similarity_negatives:.3f}, logit scale {logit_scale:.2f} and bias "
        "{logit_bias:.2f}, radius of audio {audio_radius_mean:.2f} +- {audio_radius_std:.2f} and text "
        "{text_radius_mean:.2f} +- {text_radius_std:.2f}, near the boundary "
        "{audio_near_boundary:.1%} and {text_near_boundary:.1%}, c {c:g}"
    ).format(**{name: float("nan") if value is None else value for name, value in result.items()})


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
