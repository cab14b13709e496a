"""Train a hyperbolic projector on top of the frozen CLAP, on the clips of a parquet folder.

    python train_hyperbolic_clap.py --parquet-dir ./Datasets/AudioSet/train_balanced --num-samples 10000 \\
        --device cuda:0 --output-dir ./checkpoints_hyperbolic --epochs 10 --batch-size 16 --learning-rate 1e-4 \\
        --c 1.0 --temperature 1.0 --train-ratio 0.8

    python train_hyperbolic_clap.py --parquet-dir demo/data/train_balanced --checkpoint CLAP/tiny --device cpu

Writes to --output-dir: projection_epoch_N.pth for each epoch, best_projection_epoch_N.pth for the lowest validation
loss, and setup.json with the arguments, versions, clip counts and the figures of every epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from common import (
    Parser,
    UserError,
    add_shared_flags,
    at_least,
    choose_device,
    fraction,
    log,
    plain_arguments,
    positive,
    run,
    seed,
    versions,
)


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
        "--loss",
        choices=("sigmoid", "contrastive", "softmax"),
        default="sigmoid",
        help="against the class list (sigmoid, softmax) or the batch's labels (contrastive); default: sigmoid",
    )
    add(
        "--similarity",
        choices=("hyperbolic", "cosine"),
        default="hyperbolic",
        help="cosine trains the fair control: the same projector, data, loss and budget (default: hyperbolic)",
    )
    add("--output-dim", type=at_least(2), default=512, help="dimensions after the projector (default: 512)")
    add("--audio-radius", type=positive, default=0.5, help="common tangent norm of audio (default: 0.5)")
    add("--resume", action="store_true", help="go on after the last finished epoch in --output-dir")
    add("--log-to", choices=("tensorboard", "swanlab"), default=None, help="also log every epoch to a local tracker")
    add("--learn-c", action="store_true", help="let the training change c, starting from --c")
    return parser


def main(args: argparse.Namespace) -> None:
    from CLAP.cache import open_cache
    from CLAP.embeddings import embed_classes, embed_folder
    from CLAP.encoder import PROMPT, Encoder
    from data import ParquetFolder
    from evaluation import reason_against, require_matches
    from labels import ClassList
    from ranks import open_ranks
    from runfolder import RunFolder
    from tracking import open_tracker, require
    from training import Settings, Trainer, fingerprint, split_by_video, target_matrix

    if args.learn_c and args.similarity == "cosine":
        raise UserError("--learn-c has no meaning with --similarity cosine, which has no c; leave one of them out")
    ranks = open_ranks()
    require(args.log_to)
    device = choose_device(args.device)
    classes = ClassList.read(args.class_labels)
    folder = ParquetFolder(args.parquet_dir, classes, args.skip_bad_files)
    encoder = ranks.in_turn(lambda: Encoder(args.checkpoint, device, autocast=not args.no_autocast))
    if args.output_dim > encoder.embed_dim:
        raise UserError(f"--output-dim {args.output_dim} is above the {encoder.embed_dim} dimensions of {encoder.name}")
    cache = open_cache(args, encoder)
    setup = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "arguments": plain_arguments(args),
        "device": str(device),
        "world_size": ranks.size,
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "convention": "c is the squared radius of the ball, curvature K = -1/c, d(0, expmap0(v)) = 2|v|",
        "clap_model": encoder.name,
        "clap_sha256": encoder.sha256,
        "clips": None,
        "epochs": [],
        "best_epoch": None,
    }
    if not ranks.rank:
        resume = args.resume or ranks.remembers("run folder")
        output = RunFolder(args.output_dir, setup, resume)
        ranks.remember("run folder")
        tracker = open_tracker(args.log_to, args.output_dir)

    embedded = embed_folder(args, folder, encoder, cache, usable=reason_against, ranks=ranks)
    if ranks.rank:
        return ranks.close()
    clips, audio, skipped = embedded
    require_matches(clips, skipped, classes)
    text = embed_classes(classes.names, encoder, cache)
    train, validation = split_by_video([clip.video_id for clip in clips], args.train_ratio, args.seed)
    counts = {"used": len(clips), "train": len(train), "validation": len(validation)}
    setup["clips"] = counts | {"skipped": skipped.report(), "skipped_files": folder.skipped}
    log.info("%d clips: %d train, %d validate, %d classes", len(clips), len(train), len(validation), len(classes))

    settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    targets = target_matrix([clip.positions for clip in clips], len(classes))
    trainer = Trainer(settings, audio.to(device), targets.to(device), text.to(device), train, validation)
    model = {"clap_model": encoder.name, "clap_sha256": encoder.sha256, "prompt": PROMPT}
    identity = settings.identity() | {"data": fingerprint(audio, targets, text, train)}
    done = output.resume(identity, trainer) if resume else 0
    output.write_setup()
    for figures in trainer.epochs(first=done + 1):
        output.keep(figures | trainer.state() | model | {"embed_dim": encoder.embed_dim, "identity": identity})
        tracker.log(figures["epoch"], figures)
        log.info(describe(figures))
    tracker.close()
    ranks.close()
    log.info("best: %s", output.best_path)


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
