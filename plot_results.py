"""Pictures of a training and of its results, as PNG files (matplotlib: pip install -r requirements-plot.txt).

    python plot_results.py losses --setup checkpoints_hyperbolic/setup.json --output losses.png

    python plot_results.py disk --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic/best_projection_epoch_X.pth --output disk.png

    python plot_results.py gains results_original.json results_hyperbolic.json --output gains.png

    python plot_results.py similarities results_original.json results_hyperbolic.json --output similarities.png

gains and similarities read what the test scripts wrote with --save-scores.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from common import CLASS_LABELS, Parser, UserError, add_shared_flags, at_least, log, run, write_atomic

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's colours, which differ for every kind of colour vision
WIDTH = 8.8  # inches: 880 points of a README, in twice as many pixels
DPI = 200


def parser() -> Parser:
    """One sub-command for each picture."""
    parser = Parser(__doc__)
    kinds = parser.add_subparsers(dest="picture", required=True, parser_class=_sub_parser)
    losses = kinds.add_parser("losses", help="training and validation loss by epoch", doc=draw_losses.__doc__)
    losses.add_argument("--setup", type=Path, required=True, nargs="+", help="setup.json of one or more trainings")
    disk = kinds.add_parser("disk", help="the Poincare disk of class texts and audio", doc=draw_disk.__doc__)
    add_shared_flags(disk)
    disk.add_argument("--projection-checkpoint", type=Path, required=True, help="a hyperbolic .pth file")
    disk.add_argument("--num-samples", type=at_least(2), default=500, help="the first N usable clips (default: 500)")
    gains = kinds.add_parser("gains", help="classes that gained and lost most", doc=draw_gains.__doc__)
    gains.add_argument("results", type=Path, nargs=2, help="two results JSON files, the baseline first")
    gains.add_argument("--classes", type=at_least(1), default=12, help="shown on each side (default: 12)")
    gains.add_argument("--min-clips", type=at_least(1), default=3, help="leave out rarer classes (default: 3)")
    similar = kinds.add_parser("similarities", help="positives against negatives", doc=draw_similarities.__doc__)
    similar.add_argument("results", type=Path, nargs="+", help="results JSON files with stored scores")
    for kind in (gains, similar):
        kind.add_argument("--class-labels", type=Path, default=None, help="of files that do not name their classes")
    for kind in (losses, disk, gains, similar):
        kind.add_argument("--output", type=Path, required=True, help="the .png to write (.svg and .pdf work too)")
    return parser


def _sub_parser(doc: str, prog: str, **_) -> Parser:
    parser = Parser(doc)
    parser.prog = prog
    return parser


def main(args: argparse.Namespace) -> None:
    if args.output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--output {args.output} must end in .png, .svg or .pdf")
    try:
        import matplotlib
    except ImportError:
        raise UserError("matplotlib is missing: pip install -r requirements-plot.txt") from None
    matplotlib.use("Agg")
    matplotlib.rcParams |= {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "legend.frameon": False, "svg.hashsalt": "0",
    }
    pictures = {"losses": draw_losses, "disk": draw_disk, "gains": draw_gains, "similarities": draw_similarities}
    figure = pictures[args.picture](args)
    form = args.output.suffix[1:].lower()
    write_atomic(args.output, lambda temporary: figure.savefig(temporary, format=form, dpi=DPI, facecolor="white"))
    log.info("%s", args.output)


def caption(figure, text: str, lines: int) -> None:
    """Small print under the picture, in a strip of `lines` lines kept free by the layout."""
    height = figure.get_figheight()
    strip = (0.17 * lines + 0.08) / height
    figure.get_layout_engine().set(rect=(0, strip, 1, 1 - strip))
    figure.text(0.01, strip, textwrap.fill(text, 138), va="top", fontsize=8.5, color="#444444", linespacing=1.35)


def draw_losses(args: argparse.Namespace):
    """Training and validation loss by epoch, one panel for each --setup; the best epoch is marked.

    python plot_results.py losses --setup checkpoints_hyperbolic/setup.json --output losses.png
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    runs = [read_setup(path) for path in args.setup]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=same_loss(runs))[0]
    for panel, (path, setup) in zip(panels, zip(args.setup, runs, strict=True), strict=True):
        epochs = [entry["epoch"] for entry in setup["epochs"]]
        for name, key, colour, mark in (("training", "train_loss", ORANGE, "o"), ("validation", "val_loss", BLUE, "s")):
            values = [entry[key] for entry in setup["epochs"]]
            panel.plot(epochs, values, color=colour, marker=mark, markersize=5, label=name, linewidth=1.8)
        best = next((e for e in setup["epochs"] if e["epoch"] == setup.get("best_epoch")), None)
        if best:
            panel.plot(best["epoch"], best["val_loss"], "o", markersize=13, fillstyle="none", color="#444444",
                       label=f"best: epoch {best['epoch']}")
        arguments = setup.get("arguments", {})
        title = f"{arguments.get('similarity', path.parent.name)}, {arguments.get('loss', '')} loss"
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(axis="y", which="both", color="#dddddd", linewidth=0.6)
        panel.legend()
    values = [entry[key] for setup in runs for entry in setup["epochs"] for key in ("train_loss", "val_loss")]
    logarithmic = min(values) > 0 and max(values) > 2 * min(values)  # else a steep start flattens all that follows
    for panel in panels if logarithmic else []:
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.25, 1.5, 1.75)))
        panel.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("loss, mean over clips" + (" (log scale)" if logarithmic else ""))
    return figure


def read_setup(path: Path) -> dict:
    """A setup.json of a training with at least one epoch."""
    try:
        setup = json.loads(path.read_text(encoding="utf-8"))
        if not [(e["epoch"], e["train_loss"], e["val_loss"]) for e in setup["epochs"]]:
            raise UserError(f"--setup {path} holds no finished epoch yet")
    except OSError as error:
        raise UserError(f"--setup {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--setup {path} is no setup.json of train_hyperbolic_clap.py") from None
    return setup


def same_loss(runs: list[dict]) -> bool:
    return len({setup.get("arguments", {}).get("loss") for setup in runs}) == 1


def draw_disk(args: argparse.Namespace):
    """The Poincare disk of class texts and audio with the edges of AudioSet's tree, coloured by top-level branch.

    The distance of a point from the centre shows its true hyperbolic distance to the origin.

    python plot_results.py disk --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic/best_projection_epoch_X.pth --output disk.png
    """
    from poincare_disk import draw

    figure, text_below = draw(args, WIDTH)
    caption(figure, text_below, 3)
    return figure


def read_results(paths: list[Path], class_labels: Path | None) -> list:
    """Results files, labelled by their names."""
    from comparison import read

    files = [read(path, path.stem.removeprefix("results_"), class_labels, CLASS_LABELS) for path in paths]
    for file in files:
        for note in file.notes:
            log.info("%s", note)
    return files


def draw_gains(args: argparse.Namespace):
    """The classes whose average precision gained and lost most, from a baseline to another results file.

    Without stored scores: recall among the stored predictions.

    python plot_results.py gains results_original.json results_hyperbolic.json --output gains.png
    """
    from matplotlib.figure import Figure

    from comparison import Measures, match
    from differences import class_changes
    from ontology import Ontology

    base, other = read_results(args.results, args.class_labels)
    if base.names != other.names:
        raise UserError(f"{args.results[0]} and {args.results[1]} have other class lists, so no class can be compared")
    rows_base, rows_other, _ = match(base, other)
    valid = base.valid[rows_base]
    if not valid.any():
        raise UserError(f"{args.results[0]} and {args.results[1]} have no labelled clip in common")
    k, tree = min(base.depth, other.depth), Ontology()
    pair = [Measures(file, rows[valid], k, tree) for file, rows in ((base, rows_base), (other, rows_other))]
    if any(m.hits is None for m in pair):
        raise UserError(f"{args.results[0]} or {args.results[1]} holds no predictions to compare")
    changes = class_changes(base, other, pair, args)
    panels = [("gained most", changes["gained"]), ("lost most", changes["lost"])]
    rows = max(1, *(len(entries) for _, entries in panels))
    widest = max((max(e["before"], e["after"]) for _, entries in panels for e in entries), default=1)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.25 * rows), layout="constrained")
    for axes, (title, entries) in zip(figure.subplots(1, 2, sharex=True), panels, strict=True):
        places = range(len(entries))
        for y, entry in zip(places, entries, strict=True):
            colour = BLUE if entry["change"] > 0 else ORANGE
            axes.plot([entry["before"], entry["after"]], [y, y], color=colour, linewidth=2)
            axes.plot(entry["before"], y, "o", color="white", markeredgecolor=colour, markersize=6, zorder=3)
            axes.plot(entry["after"], y, "o", color=colour, markersize=6, zorder=4)
        names = [f"{textwrap.shorten(e['class'], 30, placeholder='...')} ({e['clips']})" for e in entries]
        axes.set_yticks(places, names, fontsize=9)
        axes.set(ylim=(rows - 0.5, -0.5), xlim=(-0.02 * widest, 1.04 * widest), title=title)
        axes.set_xlabel(changes["measure"])
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
    caption(figure, (
        f"From {base.label} (hollow) to {other.label} (filled). In brackets: its clips. {valid.sum()} in all, "
        f"{changes['compared']} classes of {args.min_clips} clips or more; a rare class swings by chance."), 2)
    return figure


def draw_similarities(args: argparse.Namespace):
    """How similarities of true clip-class pairs differ from those of all others, one panel for each results file.

    python plot_results.py similarities results_original.json results_hyperbolic.json --output similarities.png
    """
    import numpy as np
    from matplotlib.figure import Figure

    files = read_results(args.results, args.class_labels)
    for file in files:
        if file.scores is None:
            raise UserError(f"{file.path} has no stored similarities; run the test script with --save-scores")
        if not file.targets.any() or file.targets.all():
            raise UserError(f"{file.path} has no true or no false clip-class pair, so there is nothing to set apart")
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    for axes, file in zip(figure.subplots(1, len(files), squeeze=False)[0], files, strict=True):
        true, false = file.scores[file.targets], file.scores[~file.targets & file.valid[:, None]]
        low, high = np.percentile(false, 0.05), max(np.percentile(false, 99.95), true.max())
        bins = np.linspace(min(low, true.min()), high, 60)
        for name, values, colour, style in (("negatives", false, ORANGE, "--"), ("positives", true, BLUE, "-")):
            axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.25, color=colour)
            axes.hist(values, bins, density=True, histtype="step", color=colour, linestyle=style, linewidth=1.6,
                      label=f"{name} ({len(values):,})")
            axes.axvline(np.median(values), ymax=0.78, color=colour, linestyle=style, linewidth=1)
        kind = file.info["model"].get("similarity")
        axes.set_xlabel("cosine similarity" if kind == "cosine" else "similarity = -distance / temperature")
        axes.set_title(file.label, fontsize=11)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # room for the legend
        axes.legend(loc="upper left", fontsize=9, ncols=1)
    caption(figure, (
        "Densities of all clip-class pairs, each group with area 1; thin vertical lines: medians. The scales differ "
        "between panels: what can be compared is how far the two groups overlap."), 2)
    return figure


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
