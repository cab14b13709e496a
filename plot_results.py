"""Pictures of a training and of its results, as PNG files (matplotlib: pip install -r requirements-plot.txt).

    python plot_results.py losses --setup checkpoints_hyperbolic/setup.json --output losses.png

    python plot_results.py disk --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic --output disk.png

    python plot_results.py gains results_original.json results_hyperbolic.json --output gains.png

    python plot_results.py similarities results_original.json results_hyperbolic.json --output similarities.png

    python plot_results.py reliability results_hyperbolic.json --output reliability.png

gains, similarities and reliability read what the test scripts wrote with --save-scores.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.files import require_writable, write_atomic
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    add_taxonomy_flag,
    at_least,
    data_config,
    encoder_config,
)
from hyperbolic_clap.plumbing.run import run
from hyperbolic_clap.reporting.disk import draw_disk, draw_tree
from hyperbolic_clap.reporting.pictures import draw_gains, draw_losses, draw_reliability, draw_similarities

DPI = 200  # twice the 880 pixels of a README's width
COLOURS = 128  # of a PNG: with a palette it is a third as large
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # so that one command gives one file


def parser() -> Parser:
    """One sub-command for each picture."""
    parser = Parser(__doc__)
    kinds = parser.add_subparsers(dest="picture", required=True, parser_class=SubParser)
    losses = kinds.add_parser("losses", help="training and validation loss by epoch", doc=draw_losses.__doc__)
    losses.add_argument("--setup", type=Path, required=True, nargs="+", help="setup.json of one or more trainings")
    disk = kinds.add_parser("disk", help="the Poincare disk of class texts and audio", doc=draw_disk.__doc__)
    add_shared_flags(disk)
    disk.add_argument("--projection-checkpoint", type=Path, required=True, help="a hyperbolic .pth file")
    disk.add_argument("--num-samples", type=at_least(2), default=500, help="the first N usable clips (default: 500)")
    disk.add_argument("--layout", choices=["model", "tree"], default="model", help="by the model's own distances, or "
        "by the path lengths of the classes' tree, with clips at the mean of their five best classes (default: model)")
    add_taxonomy_flag(disk)
    gains = kinds.add_parser("gains", help="classes that gained and lost most", doc=draw_gains.__doc__)
    gains.add_argument("results", type=Path, nargs=2, help="two results JSON files, the baseline first")
    gains.add_argument("--classes", type=at_least(1), default=12, help="shown on each side (default: 12)")
    gains.add_argument("--min-clips", type=at_least(1), default=3, help="leave out rarer classes (default: 3)")
    similar = kinds.add_parser("similarities", help="positives against negatives", doc=draw_similarities.__doc__)
    similar.add_argument("results", type=Path, nargs="+", help="results JSON files with stored scores")
    reliable = kinds.add_parser("reliability", help="probabilities against what is true", doc=draw_reliability.__doc__)
    reliable.add_argument("results", type=Path, nargs="+", help="results JSON files of trained projectors, with scores")
    for kind in (gains, similar, reliable):
        kind.add_argument("--class-labels", type=Path, default=None, help="of files that do not name their classes")
    for kind in (losses, disk, gains, similar, reliable):
        kind.add_argument("--output", type=Path, required=True, help="the .png to write (.svg and .pdf work too)")
    return parser


class SubParser(Parser):
    """The parser of a picture, which argparse makes."""

    def __init__(self, doc: str, prog: str, **_):
        super().__init__(doc)
        self.prog = prog


def main(args: argparse.Namespace) -> None:
    if args.output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--output {args.output} must end in .png, .svg or .pdf")
    require_writable(args.output)
    try:
        import matplotlib
    except ImportError:
        raise UserError("matplotlib is missing: pip install -r requirements-plot.txt") from None
    matplotlib.use("Agg")
    matplotlib.rcParams |= {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "legend.frameon": False, "svg.hashsalt": "0", "text.parse_math": False,
    }
    figure = draw(args)
    write_atomic(args.output, lambda temporary: save(figure, temporary, args.output.suffix[1:].lower()))
    log.info("%s", args.output)


def draw(args: argparse.Namespace):
    """The figure of a sub-command."""
    if args.picture == "losses":
        return draw_losses(args.setup)
    if args.picture == "disk":
        if args.taxonomy and args.layout == "model":
            raise UserError(f"--taxonomy {args.taxonomy} has no effect on the model's own distances; add --layout tree")
        opened = data_config(args), encoder_config(args), args.projection_checkpoint
        return draw_tree(*opened, args.taxonomy) if args.layout == "tree" else draw_disk(*opened)
    if args.picture == "gains":
        return draw_gains(args.results, args.class_labels, args.classes, args.min_clips)
    picture = {"similarities": draw_similarities, "reliability": draw_reliability}[args.picture]
    return picture(args.results, args.class_labels)


def save(figure, path: Path, form: str) -> None:
    """Write a picture as png (with a palette), svg or pdf."""
    if form != "png":
        return figure.savefig(path, format=form, facecolor="white", metadata=UNDATED[form])
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    image = Image.open(buffer).convert("RGB")
    # k-means moves the palette to the colours that occur; without it pale neighbours become one.
    image = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True, dpi=(DPI, DPI))


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
