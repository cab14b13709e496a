"""Command lines, and the one place that knows them: the parser, its values, shared flags, and flags -> configs."""

from __future__ import annotations

import argparse
import csv
import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path

from hyperbolic_clap.plumbing.config import (
    DEFAULT_CHECKPOINT,
    SELECT_BY,
    Columns,
    DataConfig,
    EncoderConfig,
    ProjectorConfig,
    RunConfig,
    TrainConfig,
)
from hyperbolic_clap.plumbing.errors import UserError, warn


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, the script's docstring as help, and no abbreviated flags."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str):
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = unknown and difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
        self.exit(2, f"error: {message}{f'; did you mean {near[0]}?' if near else ''}\n")


def positive(text: str) -> float:
    """A finite float above 0."""
    value = _number(text, float)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite float of 0 or above."""
    value = _number(text, float)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 0 or above")
    return value


def fraction(text: str) -> float:
    """A float strictly between 0 and 1."""
    value = _number(text, float)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1 (both excluded)")
    return value


def share(text: str) -> float:
    """A float from 0 to below 1."""
    value = _number(text, float)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def positive_up_to_100(text: str) -> float:
    """A float above 0 and at most 100, the ceiling of the logit scale."""
    value = positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"{text} is above 100, the ceiling of the logit scale")
    return value


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of `minimum` or more."""

    def whole(text: str) -> int:
        value = _number(text, int)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}, the least accepted")
        return value

    return whole


def seed(text: str) -> int:
    """A whole number that every random generator takes."""
    value = _number(text, int)
    if not -(2**31) <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between {-(2**31)} and {2**32 - 1}")
    return value


def is_utf8(text: str) -> bool:
    """Whether a text of the command line was UTF-8; else it holds lone surrogates, which nothing can encode."""
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def class_name(text: str) -> str:
    """The name of a class, or another text that classes are compared with: UTF-8, and not empty."""
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8")
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; a class needs a name")
    return text.strip()


def template(text: str) -> str:
    """A prompt template: one line that holds {label}, where the class name goes."""
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8")
    if "{label}" not in text or len(text.splitlines()) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one line that holds {{label}}, where the class name goes")
    return text


def _number(text: str, kind: type):
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {noun}") from None


def add_projector_flags(parser: argparse.ArgumentParser, always_hyperbolic: bool = False) -> None:
    """The flags that choose what compares audio with text; always_hyperbolic: --use-hyperbolic is a fact, no flag."""
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
        help="the output folder of train_hyperbolic_clap.py (its best), a .pth file of it, an exported folder or its "
        "ModelScope id (for hyperbolic)",
    )
    add(
        "--c",
        type=positive,
        default=None,
        help="SQUARED RADIUS of the ball, curvature K = -1/c; only checked, the checkpoint's own is used",
    )
    add("--temperature", type=positive, default=None, help="only checked, the checkpoint's own is used")
    add("--prototypes", type=not_negative, default=None, metavar="B", help="only checked, as --c is")


def add_classes_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts to which a few classes can be named on the line, in the place of --class-labels."""
    parser.add_argument("--classes", type=class_name, nargs="+", default=None, metavar="NAME",
        help="the class list itself, a few names, instead of --class-labels")


def add_taxonomy_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of a tree over the classes in the place of AudioSet's."""
    parser.add_argument("--taxonomy", type=Path, default=None, help="JSON or CSV of class -> parent, a tree over the "
        "classes in the place of AudioSet's")


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that training and testing have in common: data, model, device, cache."""
    add = parser.add_argument
    add("--parquet-dir", type=Path, required=True, help="folder with the *.parquet files (top level, sorted)")
    add("--skip-bad-files", action="store_true", help="skip and count parquet files that are damaged or lack a column")
    for what, more in (("audio", "audio"), ("label", "labels"), ("id", "ids, by which --split-by video_id goes")):
        add(f"--{what}-column", default=None, help=f"parquet column of the {more} (default: the usual names)")
    add("--text-embeddings", type=Path, default=None, metavar="FILE", help=".npz or .safetensors with names and "
        "embeddings, the texts of vectors in a column embedding, in the place of --checkpoint")
    add_model_flags(parser)


def add_training_flags(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """The flags that TrainConfig is made of; several: each but --learn-c takes one value or more."""

    def add(name: str, **options) -> None:
        parser.add_argument(name, **options | ({"nargs": "+"} if several and "action" not in options else {}))

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
    add("--output-dim", type=at_least(2), default=None, help="dimensions after the projector (default: 512, or as many "
        "as the vectors have)")
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
    add("--learn-c", action="store_true", help="let the training change c, starting from --c")


def settings_rows(path: Path) -> list[dict]:
    """A CSV whose columns are named as the flags of the training -> {name: value} of each row, without empty cells.

    --learn-c, which takes no value, is no column. Lines that begin with # are comments. UserError for what is no such
    table.
    """
    told, one = f"--settings {path}", Parser("")
    one.exit_on_error = False
    add_training_flags(one)
    known = [name for name in vars(one.parse_args([])) if name != "learn_c"]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader([line for line in file if line.strip() and not line.startswith("#")])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{told} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except ValueError:  # nothing to unpack
        header, rows = [], []
    names = [name.strip().lstrip("-").replace("-", "_") for name in header]
    for name, column in zip(names, header, strict=True):
        if name not in known or names.count(name) > 1:
            raise UserError(f"{told}: {column!r} is not the name of one column among {', '.join(known)}")
    if not rows:
        raise UserError(f"{told} holds no settings; it needs a line with names of flags and a row for each setting")
    found = []
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(names):
            raise UserError(f"{told}: row {number} has {len(cells)} cells, and there are {len(names)} columns")
        given = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if cell.strip()}
        try:
            values = vars(one.parse_args([f"--{name.replace('_', '-')}={cell}" for name, cell in given.items()]))
        except argparse.ArgumentError as error:
            raise UserError(f"{told}: row {number}: {error}") from None
        found.append({name: values[name] for name in given})
    return found


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of scripts that embed sounds, whatever these come from."""
    add = parser.add_argument
    add("--device", default="cuda:0", help="cuda:0, cuda, cpu, ... (default: cuda:0; the CPU if there is no CUDA)")
    add(
        "--checkpoint",
        default=DEFAULT_CHECKPOINT,
        help=f"the CLAP model: a local folder or a ModelScope id (default: {DEFAULT_CHECKPOINT}, "
        "from the local ModelScope cache or else fetched)",
    )
    add(
        "--class-labels",
        type=Path,
        default=None,
        help="JSON of class name -> index (default: the 527 AudioSet classes)",
    )
    add("--prompt", type=template, action="append", default=None, metavar="TEMPLATE", help="text of a class, "
        "{label} being its name; several times: averaged (default: the checkpoint's, or This is a sound of {label}.)")
    add("--prompt-file", type=Path, default=None, help="text file with one prompt template a line, averaged")
    add("--encode-batch-size", type=at_least(1), default=32, help="windows per encoder batch on CUDA (default: 32)")
    add("--workers", type=at_least(1), default=None, help="decoding threads (default: one for each core)")
    add("--no-autocast", action="store_true", help="encode in float32 on CUDA instead of bfloat16 autocast")
    add("--cache-dir", type=Path, default=None, help="embedding cache (default: the user's cache folder)")
    add("--no-cache", action="store_true", help="neither read nor write the embedding cache")
    add(
        "--verify-cache",
        action="store_true",
        help="read and hash every file, also those that look unchanged, and say what of the cache was wrong",
    )


def arguments(args: argparse.Namespace) -> dict:
    """All flags and their values, for setup.json and the results JSON."""
    return {name: _as_json(value) for name, value in vars(args).items()}


def _as_json(value):
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def files_read(args: argparse.Namespace) -> list[Path | None]:
    """The single files that flags name to be read; None for those that were not given."""
    return [getattr(args, name, None) for name in ("projection_checkpoint", "class_labels", "prompt_file", "taxonomy",
                                                      "text_embeddings")]  # fmt: skip


def data_config(args: argparse.Namespace) -> DataConfig:
    """The flags of add_shared_flags that say which rows are read."""
    columns = Columns(args.audio_column, args.label_column, args.id_column, args.text_embeddings is not None)
    return DataConfig(args.parquet_dir, args.num_samples, args.skip_bad_files, columns)


def encoder_config(args: argparse.Namespace) -> EncoderConfig:
    """The flags of add_model_flags; UserError for prompts or classes that cannot be used."""
    classes = getattr(args, "classes", None)
    if classes and args.class_labels:
        raise UserError(f"--classes and --class-labels {args.class_labels} are two class lists; give one of them")
    texts = getattr(args, "text_embeddings", None)
    if texts and (args.prompt or args.prompt_file):
        raise UserError(f"--text-embeddings {texts} holds finished texts, which take no --prompt or --prompt-file; "
                        "leave one of them out")
    return EncoderConfig(
        checkpoint=args.checkpoint,
        device=args.device,
        class_labels=args.class_labels,
        classes=tuple(classes) if classes else None,
        prompts=_prompts(args.prompt, args.prompt_file),
        text_embeddings=texts,
        batch_size=args.encode_batch_size,
        workers=args.workers,
        autocast=not args.no_autocast,
        cache_dir=args.cache_dir,
        use_cache=not args.no_cache,
        verify_cache=args.verify_cache,
    )


def projector_config(args: argparse.Namespace) -> ProjectorConfig:
    """The flags of add_projector_flags; UserError if they contradict each other."""
    if args.use_hyperbolic and args.projection_checkpoint is None:
        raise UserError("--use-hyperbolic needs --projection-checkpoint, a .pth file of train_hyperbolic_clap.py")
    return ProjectorConfig(args.projection_checkpoint, args.use_hyperbolic, args.c, args.temperature, args.prototypes)


def train_config(args: argparse.Namespace) -> TrainConfig:
    """The flags of the training; UserError for those that contradict each other.

    The loss that goes with --text is taken where none was given.
    """
    captions = args.text == "captions"
    chosen = f"--select-by {args.select_by}", args.select_by != "val_loss"
    for flag, given in (("--loss softmax", args.loss == "softmax"), ("--prototypes", args.prototypes), chosen):
        if captions and given:
            raise UserError(f"{flag} needs a class list, which --text captions does not have; leave it out")
    from hyperbolic import LOSSES, SIMILARITIES  # here, since torch is slow to load and --help needs none of it

    loss = args.loss or ("contrastive" if captions else "sigmoid")
    for flag, name, known in (("--loss", loss, LOSSES), ("--similarity", args.similarity, SIMILARITIES)):
        if name not in known:
            raise UserError(f"{flag} {name} is unknown; known are {', '.join(known)}")
    if args.learn_c and not SIMILARITIES[args.similarity].curved:
        similarity = f"--similarity {args.similarity}"
        raise UserError(f"--learn-c has no meaning with {similarity}, which has no c; leave one of them out")
    if args.c is not None and not SIMILARITIES[args.similarity].curved:
        warn(f"--c {args.c:g} has no effect: --similarity {args.similarity} has no c")
    given = {name: getattr(args, name) for name in TrainConfig.__dataclass_fields__}
    defaults = {name: getattr(TrainConfig, name) for name in ("c", "output_dim") if given[name] is None}
    return TrainConfig(**given | {"loss": loss} | defaults)


def run_config(args: argparse.Namespace) -> RunConfig:
    """The flags that say where a training writes."""
    return RunConfig(args.output_dir, args.resume, args.log_to, args.keep)


def _prompts(given: list[str] | None, file: Path | None) -> tuple[str, ...] | None:
    """The templates of --prompt or --prompt-file, whose blank lines do not count; None without either."""
    if file is None:
        return tuple(given) if given else None
    if given:
        raise UserError("--prompt and --prompt-file exclude each other; give one of them")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        templates = [template(line.strip()) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"--prompt-file {file} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, argparse.ArgumentTypeError) as error:
        raise UserError(f"--prompt-file {file}: {error}") from None
    if not templates:
        raise UserError(f"--prompt-file {file} is empty; it must hold one template a line, with {{label}}")
    return tuple(templates)
