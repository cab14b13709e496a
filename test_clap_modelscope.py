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

from common import (
    Parser,
    UserError,
    add_shared_flags,
    at_least,
    choose_device,
    log,
    plain_arguments,
    positive,
    require_writable,
    run,
    versions,
    warn,
    write_json,
)


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
        help="a .pth file of train_hyperbolic_clap.py (required when hyperbolic)",
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
    projector, content = None, None
    if args.use_hyperbolic and args.projection_checkpoint is None:
        raise UserError("--use-hyperbolic needs --projection-checkpoint, a .pth file of train_hyperbolic_clap.py")
    import checkpoints

    device = choose_device(args.device)
    if args.projection_checkpoint:
        content = checkpoints.load(args.projection_checkpoint)
        check_against(args, content)
        projector = checkpoints.rebuild(content, device)
    else:
        for flag in ("c", "temperature"):
            if getattr(args, flag) is not None:
                warn(f"--{flag} {getattr(args, flag):g} has no effect: plain cosine has no {flag}")

    import evaluation
    from CLAP.cache import open_cache
    from CLAP.embeddings import embed_classes, embed_folder
    from CLAP.encoder import PROMPT, Encoder
    from comparison import save_scores
    from data import ParquetFolder
    from hyperbolic import cosine_similarity
    from labels import ClassList
    from ontology import ontology_metrics
    from ranks import open_ranks
    from training import target_matrix

    ranks = open_ranks()
    classes = ClassList.read(args.class_labels)
    folder = ParquetFolder(args.parquet_dir, classes, args.skip_bad_files)
    encoder = ranks.in_turn(lambda: Encoder(args.checkpoint, device, autocast=not args.no_autocast))
    if content:
        checkpoints.require_model(args.projection_checkpoint, content, encoder)
    output = args.output_json or Path(time.strftime(f"results_{kind(args, content)}_%Y%m%d_%H%M%S.json"))
    if not ranks.rank:
        for path in filter(None, (output, args.save_scores)):
            require_writable(path)
    cache = open_cache(args, encoder)
    embedded = embed_folder(args, folder, encoder, cache, usable=evaluation.unlabelled, ranks=ranks)
    if ranks.rank:
        return ranks.close()
    clips, audio, skipped = embedded
    evaluation.require_matches(clips, skipped, classes)
    text = embed_classes(classes.names, encoder, cache)
    audio, text = audio.to(device), text.to(device)
    if projector:
        audio, text = projector.audio(audio), projector.text(text)
    scores = (projector.compare if projector else cosine_similarity)(audio, text).cpu().numpy()
    targets = target_matrix([clip.positions for clip in clips], len(classes)).numpy()
    evaluation.warn_if_alike(scores)
    results = {
        "test_info": {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "arguments": plain_arguments(args),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
            "device": str(device),
            "world_size": ranks.size,
            "versions": versions(),
            "classes": len(classes),
            "class_names": classes.names,
            "clips": {"used": len(clips), "skipped": skipped.report(), "skipped_files": folder.skipped},
        },
        "model_info": model_info(encoder, args, content, PROMPT),
        "similarity_stats": evaluation.similarity_stats(scores),
        "metrics": evaluation.metrics(scores, targets, args.top_k),
        "ontology": ontology_metrics(
            scores.argmax(axis=1), targets, classes.names, text.cpu().numpy(), audio.cpu().numpy()
        ),
        "predictions": evaluation.predictions(scores, clips, classes.names, args.top_k),
    }
    results["test_info"]["seconds"] = round(time.time() - started, 3)
    if args.save_scores:
        save_scores(args.save_scores, scores, targets)
        results["test_info"]["scores"] = os.path.relpath(args.save_scores, output.parent)
    write_json(output, results)
    for name, value in results["metrics"].items():
        log.info("%-16s %s", name, f"{value:.4f}" if isinstance(value, float) else value)
    ranks.close()
    log.info("results: %s", output)


def check_against(args: argparse.Namespace, content: dict) -> None:
    """UserError if a flag contradicts the projection checkpoint."""
    wanted = "hyperbolic" if args.use_hyperbolic else "cosine"
    if content["similarity"] != wanted:
        mend = "test it without --use-hyperbolic" if args.use_hyperbolic else "add --use-hyperbolic"
        raise UserError(f"{args.projection_checkpoint} was trained for {content['similarity']} similarity; {mend}")
    for flag in ("c", "temperature"):
        given = getattr(args, flag)
        if given is not None and not math.isclose(given, content[flag], rel_tol=1e-5):
            raise UserError(
                f"--{flag} {given:g} contradicts {args.projection_checkpoint}, which was trained with {flag} = "
                f"{content[flag]:g}; leave the flag out or give that value"
            )


def kind(args: argparse.Namespace, content: dict | None) -> str:
    """What was tested, for file names: original, cosine or hyperbolic."""
    return content["similarity"] if content else "original"


def model_info(encoder, args: argparse.Namespace, content: dict | None, prompt: str) -> dict:
    """The models behind the numbers. c, curvature and temperature are null for plain cosine."""
    return {
        "clap_model": encoder.name,
        "clap_sha256": encoder.sha256,
        "prompt": prompt,
        "use_hyperbolic": args.use_hyperbolic,
        "similarity": content["similarity"] if content else "cosine",
        "projection_checkpoint": str(args.projection_checkpoint) if content else None,
        "epoch": content["epoch"] if content else None,
        "output_dim": content["output_dim"] if content else encoder.embed_dim,
        "c": content["c"] if args.use_hyperbolic else None,
        "c_meaning": "squared radius of the ball, curvature = -1/c",
        "curvature": -1 / content["c"] if args.use_hyperbolic else None,
        "temperature": content["temperature"] if content else None,
    }


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
