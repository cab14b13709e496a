"""Tag sound files: the most probable classes of each file, or of each moment of a long recording.

    python tag_sounds.py recording.wav sounds/ --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_hyperbolic --output-json tags.json

    python tag_sounds.py recording.wav --timeline --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_hyperbolic --output-dir labels

    python tag_sounds.py recording.wav sounds/ --classes "dog barking" "glass breaking" "rain"

WAV, FLAC, OGG, MP3, M4A and the like; folders with their sub-folders. The last command needs no training: plain CLAP
ranks the classes by cosine, and there are no probabilities. Those of a projector are the sigmoid of the trained logits,
scaled on the validation clips when it was trained. Of each file the first 10 minutes count; --timeline reads all of it,
window by window, and writes NAME.csv and NAME.txt, the labels that Audacity imports.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbolic_clap.plumbing.errors import RowError, UserError, log, warn
from hyperbolic_clap.plumbing.files import distinct, require_outputs, require_writable, write_atomic, write_json
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_classes_flag,
    add_model_flags,
    add_projector_flags,
    arguments,
    at_least,
    class_name,
    encoder_config,
    files_read,
    fraction,
    not_negative,
    positive,
    projector_config,
)
from hyperbolic_clap.plumbing.run import describe_run, run

if TYPE_CHECKING:  # data.py, behind it, is slow to load
    from hyperbolic_clap.embedding.skipped import Skipped

LONGEST = 10.0  # seconds of a window, the model's own length
HEADER = ("start", "end", "class", "probability")


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("sounds", type=Path, nargs="+", help="sound files, or folders with them")
    add_model_flags(parser)
    add_classes_flag(parser)
    add_projector_flags(parser)
    add = parser.add_argument
    add("--top-k", type=at_least(1), default=5, help="classes shown of each file (default: 5)")
    add("--branches", action=argparse.BooleanOptionalAction, default=False,
        help="answer the superclasses of AudioSet's tree by the texts of their subtrees (default: off)")
    add("--output-json", type=Path, default=None, help="also write the tags as JSON")
    add("--timeline", action="store_true", help="tag the moments of each file instead of the whole")
    add("--window", type=positive, default=2.0, help="seconds heard at a time, up to 10 (default: 2.0)")
    add("--hop", type=positive, default=1.0, help="seconds from one window to the next (default: 1.0)")
    add("--threshold", type=fraction, default=None, help="the least probability of a timeline's label (default: of "
        "each class what gave a precision of 0.8 on the projector's validation clips; of all where these are too few)")
    add("--background", type=class_name, action="append", default=[], metavar="TEXT", help="a text that competes with "
        "a timeline's classes and is not reported, as 'a quiet room'; several times")
    add("--no-gate", action="store_true", help="label also what is no louder than the recording's own floor")
    add("--min-duration", type=not_negative, default=0.0, help="seconds of a timeline's label, at least (default: 0)")
    add("--output-dir", type=Path, default=Path("."), help="gets the timelines' files (default: this folder)")
    return parser


def main(args: argparse.Namespace) -> None:
    check_flags(args)
    from hyperbolic_clap.embedding.files import find_sounds
    from hyperbolic_clap.inference.tagging import Tagger
    from hyperbolic_clap.projector.opening import open_model

    files = find_sounds(args.sounds)
    model = open_model(encoder_config(args), projector_config(args))
    check_background(args.background, model.classes)
    calibration = model.projector.calibration or None
    if model.projector.trained and not calibration:
        warn(f"{args.projection_checkpoint} has no calibration, so the probabilities are the bare sigmoid")
    require_outputs([args.output_json], [*files_read(args), *files])
    if args.timeline:
        check_targets(args.output_dir, targets(files))
    tagger = Tagger(model, args.branches, args.background)
    if tagger.reason:
        log.info("ranked by cosine, since %s", tagger.reason)
    found, skipped = (timelines if args.timeline else tags)(args, files, tagger)
    if args.output_json:
        info = describe_run(arguments(args), model.device, 1)
        info |= {"skipped": skipped.report(), "notes": skipped.noted.report()}
        about = model.describe() | {"calibration": calibration}
        if args.timeline:
            about["thresholds"] = dict(zip(tagger.names, tagger.thresholds(args.threshold).tolist(), strict=True))
        content = {"test_info": info, "model_info": about, "reasons": tagger.reasons, "files": found}
        write_json(args.output_json, content)


def check_flags(args: argparse.Namespace) -> None:
    """UserError for flags that contradict each other, before anything is loaded."""
    if args.timeline and args.projection_checkpoint is None:
        raise UserError("--timeline needs the probabilities of a trained projector; give --projection-checkpoint")
    if args.timeline and (args.hop > args.window or args.window > LONGEST):
        raise UserError(f"--window {args.window:g} must be {LONGEST:g} at most, and --hop {args.hop:g} at most that")
    if args.background and not args.timeline:
        raise UserError(f"--background {args.background[0]!r} competes in a timeline; add --timeline, or leave it out")


def check_background(texts: list[str], classes) -> None:
    """UserError for a background text that is a class, which would compete with itself."""
    for text in texts:
        if (place := classes.find(text)) is not None:
            raise UserError(f"--background {text!r} is the class {classes.names[place]!r}; give a text that is none")


def targets(files: dict[Path, Path]) -> dict[Path, str]:
    """{file: the name of its timeline in --output-dir, without ending}; files: as of find_sounds.

    As the file lies below the folder that was given. Where two would be one, as below what holds both; and of two that
    differ in their ending alone it is kept.
    """
    plain = Counter(where.with_suffix("") for where in files.values())
    twice = [path for path, where in files.items() if plain[where.with_suffix("")] > 1]
    above = os.path.commonpath([path.absolute().parent for path in twice]) if twice else ""
    names = files | {path: path.absolute().relative_to(above) for path in twice}
    stems = Counter(name.with_suffix("") for name in names.values())
    return {p: (n if stems[n.with_suffix("")] > 1 else n.with_suffix("")).as_posix() for p, n in names.items()}


def check_targets(folder: Path, names: dict[Path, str]) -> None:
    """UserError if a timeline would take the place of another, or of a file that is none."""
    require_writable(folder / "any.csv")
    first: dict[str, Path] = {}
    for path, name in names.items():
        if (other := first.setdefault(distinct(str(name)), path)) is not path:
            raise UserError(f"{other} and {path} would both become {folder / name}.csv; tag them in two calls "
                            "with an --output-dir for each")  # fmt: skip
        table, labels = (folder / f"{name}{ending}" for ending in (".csv", ".txt"))
        if labels.exists() or table.exists():
            with contextlib.suppress(OSError, UnicodeDecodeError), table.open(encoding="utf-8") as file:
                if file.readline().strip() == ",".join(HEADER):
                    continue
            raise UserError(f"{labels if labels.exists() else table} is there already and no timeline; name another "
                            "--output-dir")  # fmt: skip


def tags(args: argparse.Namespace, files: dict[Path, Path], tagger) -> tuple[list[dict], Skipped]:
    """The best classes of each file, on the terminal and for the JSON, and the files skipped by reason.

    UserError if no file can be used.
    """
    from hyperbolic_clap.embedding.files import embed_files

    used, audio, skipped = embed_files(list(files), tagger.embedder.clap, args.workers, args.encode_batch_size)
    skipped.tell()
    if not used:
        raise UserError(f"none of the {len(files)} files can be used; the reasons stand above")
    found = []
    shown = "similarity" if tagger.reason else "probability"
    for path, similarity in zip(used, tagger.similarities(audio), strict=True):
        best = tagger.best(similarity, args.top_k)
        log.info("%s: %s", path, ", ".join(f"{tag['classname']} {tag[shown]:.3f}" for tag in best))
        found.append({"file": str(path), "tags": best})
    return found, skipped


def timelines(args: argparse.Namespace, files: dict[Path, Path], tagger) -> tuple[list[dict], Skipped]:
    """NAME.csv and NAME.txt of each file; -> what they hold for the JSON, and the files skipped by reason.

    UserError if no file can be used.
    """
    from hyperbolic_clap.embedding.skipped import Skipped
    from hyperbolic_clap.inference.timeline import TimelineConfig, tell_gate

    config = TimelineConfig(args.window, args.hop, args.threshold, not args.no_gate, args.min_duration)
    log.info("thresholds: %s", tagger.tell_thresholds(args.threshold))
    found, skipped = [], Skipped()
    for path, name in targets(files).items():
        try:
            labels, gate, notes = tagger.timeline(path, config)
        except RowError as error:
            warn(f"{path} is skipped: {error}")
            skipped.add(error.reason, 1, [str(path)])
            continue
        for note in notes:
            skipped.noted.add(note, 1, [str(path)])
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(HEADER)
        for x in labels:
            writer.writerow((f"{x['start']:.3f}", f"{x['end']:.3f}", x["classname"], f"{x['probability']:.4f}"))
        audacity = "".join(f"{x['start']:.6f}\t{x['end']:.6f}\t{x['classname']}\n" for x in labels)
        for ending, text in ((".csv", table.getvalue()), (".txt", audacity)):
            target = args.output_dir / f"{name}{ending}"
            write_atomic(target, partial(Path.write_text, data=text, encoding="utf-8"))
        log.info("%s: %d labels: %s", path, len(labels), args.output_dir / f"{name}.txt")
        log.info("%s: %s", path, tell_gate(gate))
        found.append({"file": str(path), "timeline": labels, "gate": gate})
    if not found:
        raise UserError(f"none of the {len(files)} files can be used; the reasons stand above")
    return found, skipped


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
