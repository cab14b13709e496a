"""The pictures of plot_results.py: losses by epoch, changes by class, similarities, reliability; each a figure."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Literal

from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError, log, printable

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's colours, which differ for every kind of colour vision
WIDTH = 8.8  # inches: 880 points of a README, in twice as many pixels
METRICS = {"val_acc@1": "acc@1", "val_map": "map", "val_map_samples": "map_samples"}
CAPTION = 132  # characters of a caption's line


def caption(figure, text: str) -> None:
    """Small print under the picture, in lines of about one length, in a strip kept free by the layout."""
    lines = -(-len(text) // CAPTION)
    text = next(t for width in range(len(text) // lines, 999) if (t := textwrap.fill(text, width)).count("\n") < lines)
    height = figure.get_figheight()
    strip = (0.17 * lines + 0.12) / height
    figure.get_layout_engine().set(rect=(0, strip, 1, 1 - strip))
    figure.text(0.01, strip - 0.04 / height, text, va="top", fontsize=8.5, color="#444444", linespacing=1.35)


def draw_losses(setups: list[Path]):
    """Training and validation loss by epoch, one panel for each --setup; the best epoch is marked.

    Below, the metrics of the validation clips, where all trainings have them: losses of two similarities cannot be
    compared, these can.

    python plot_results.py losses --setup checkpoints_hyperbolic/setup.json --output losses.png
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    from hyperbolic import SIMILARITIES

    runs = [read_setup(path) for path in setups]
    measured = all(type(entry.get(name)) is float for setup in runs for entry in setup["epochs"] for name in METRICS)
    figure = Figure(figsize=(WIDTH, 5.6 if measured else 3.4), layout="constrained")
    sharing: Literal["row", "none"] = "row" if same_loss(runs) else "none"
    panels, *below = figure.subplots(1 + measured, len(runs), squeeze=False, sharey=sharing)
    for axes, setup in zip(below[0] if measured else (), runs, strict=measured):
        for (name, label), style in zip(METRICS.items(), ("-", "--", ":"), strict=True):
            values = [[entry[key] for entry in setup["epochs"]] for key in ("epoch", name)]
            axes.plot(*values, style, color=BLUE, marker="s", markersize=4, label=label, linewidth=1.8)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.legend()
    if measured:
        below[0][0].set_ylabel("metric, validation clips")
    for panel, (path, setup) in zip(panels, zip(setups, runs, strict=True), strict=True):
        epochs = [entry["epoch"] for entry in setup["epochs"]]
        for name, key, colour, mark in (("training", "train_loss", ORANGE, "o"), ("validation", "val_loss", BLUE, "s")):
            values = [entry[key] for entry in setup["epochs"]]
            panel.plot(epochs, values, color=colour, marker=mark, markersize=5, label=name, linewidth=1.8)
        best = next((e for e in setup["epochs"] if e["epoch"] == setup.get("best_epoch")), None)
        if best:
            panel.plot(best["epoch"], best["val_loss"], "o", markersize=13, fillstyle="none", color="#444444",
                       label=f"best: epoch {best['epoch']}")
        arguments = setup.get("arguments", {})
        kind = arguments.get("similarity", path.parent.name)
        ball = f" (c = {arguments['c']:g})" if kind in SIMILARITIES and SIMILARITIES[kind].curved else ""
        title = f"{kind}{ball}, {arguments.get('loss', '')} loss"
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(axis="y", which="both", color="#dddddd", linewidth=0.6)
        panel.legend()
    losses = [entry[key] for setup in runs for entry in setup["epochs"] for key in ("train_loss", "val_loss")]
    logarithmic = min(losses) > 0 and max(losses) > 2 * min(losses)  # else a steep start flattens all that follows
    for panel in panels if logarithmic else []:
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.25, 1.5, 1.75)))
        panel.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("loss, mean over clips" + (" (log scale)" if logarithmic else ""))
    told = {training_text(setup) for setup in runs}
    caption(figure, (
        f"{told.pop() if len(told) == 1 else ''}The training loss is averaged while an epoch changes the weights, the "
        "validation loss is taken after it, so training can start above validation. The best epoch has the "
        f"{' and the '.join(sorted({chosen_by(setup) for setup in runs}))}."))
    return figure


def chosen_by(setup: dict) -> str:
    """What the best epoch of a training has, by its --select-by and --text."""
    arguments = setup.get("arguments") or {}
    label = METRICS.get(str(arguments.get("select_by")))
    captions = arguments.get("text") == "captions"
    return f"highest validation {label}" if label else "highest R@1" if captions else "lowest validation loss"


def read_setup(path: Path) -> dict:
    """A setup.json of a training with at least one epoch."""
    try:
        setup = json.loads(path.read_text(encoding="utf-8"))
        figures = [e[name] for e in setup["epochs"] for name in ("epoch", "train_loss", "val_loss")]
        fits = all(type(figure) in (int, float) for figure in figures)
        if not fits or not isinstance(setup.get("arguments", {}), dict):
            raise TypeError
        if not figures:
            raise UserError(f"--setup {path} holds no finished epoch yet")
    except OSError as error:
        raise UserError(f"--setup {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--setup {path} is no setup.json of train_hyperbolic_clap.py") from None
    return setup


def training_text(setup: dict) -> str:
    """Clips, seed and learning rate of a training in one sentence, as far as its setup.json tells them."""
    arguments, clips = setup.get("arguments") or {}, setup.get("clips") or {}
    verbs = {"train": "train", "validation": "validate"}
    told = [f"{clips[part]} clips {verb}" for part, verb in verbs.items() if part in clips]
    told += [f"{key.replace('_', ' ')} {arguments[key]:g}" for key in ("seed", "learning_rate")
             if type(arguments.get(key)) in (int, float)]
    return ", ".join(told) + ". " if told else ""


def same_loss(runs: list[dict]) -> bool:
    return len({setup.get("arguments", {}).get("loss") for setup in runs}) == 1


def read_results(paths: list[Path], class_labels: Path | None) -> list:
    """Results files, labelled by their names."""
    from hyperbolic_clap.results.files import read

    files = [read(path, printable(path.stem.removeprefix("results_")), class_labels, CLASS_LABELS) for path in paths]
    for file in files:
        for note in file.notes:
            log.info("%s", note)
    return files


def draw_gains(results: list[Path], class_labels: Path | None, classes: int, min_clips: int):
    """The classes whose average precision gained and lost most, from a baseline to another results file.

    Without stored scores: recall among the stored predictions.

    python plot_results.py gains results_original.json results_hyperbolic.json --output gains.png
    """
    from matplotlib.figure import Figure

    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.results.compare import CompareConfig, class_changes
    from hyperbolic_clap.results.measures import Measures, match

    base, other = read_results(results, class_labels)
    if base.names != other.names:
        raise UserError(f"{results[0]} and {results[1]} have other class lists, so no class can be compared")
    rows_base, rows_other, _ = match(base, other)
    valid = base.valid[rows_base]
    if not valid.any():
        raise UserError(f"{results[0]} and {results[1]} have no labelled clip in common")
    k, tree = min(base.depth, other.depth), audioset()
    pair = [Measures(file, rows[valid], k, tree) for file, rows in ((base, rows_base), (other, rows_other))]
    if any(m.hits is None for m in pair):
        raise UserError(f"{results[0]} or {results[1]} holds no predictions to compare")
    config = CompareConfig(classes=classes, min_clips=min_clips)
    changes = class_changes(base, other, [m.per_class() for m in pair], config)
    panels = [(f"{way} most" if changes[way] else f"no class {way}", changes[way]) for way in ("gained", "lost")]
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
        f"Each class from {base.label} (hollow) to {other.label} (filled), with its number of clips in brackets, out "
        f"of {valid.sum()} clips and the {changes['compared']} classes that have {min_clips} clips or more. The "
        "fewer clips a class has, the more of its change is chance."))
    return figure


def draw_similarities(results: list[Path], class_labels: Path | None):
    """How similarities of true clip-class pairs differ from those of all others, one panel for each results file.

    python plot_results.py similarities results_original.json results_hyperbolic.json --output similarities.png
    """
    import numpy as np
    from matplotlib.figure import Figure

    from hyperbolic import SIMILARITIES
    from hyperbolic_clap.metrics.weighted import Ranking, plain

    files = read_results(results, class_labels)
    for file in files:
        if file.scores is None:
            raise UserError(f"{file.path} has no stored similarities; run the test script with --save-scores")
        if not file.targets.any() or file.targets[file.valid].all():
            raise UserError(f"{file.path} has no true or no false clip-class pair, so there is nothing to set apart")
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    for axes, file in zip(figure.subplots(1, len(files), squeeze=False)[0], files, strict=True):
        true, false = file.scores[file.targets], file.scores[~file.targets & file.valid[:, None]]
        low, high = np.percentile(false, 0.05), max(np.percentile(false, 99.95), true.max())
        low = min(low, true.min())
        bins = np.linspace(low, max(high, low + 1e-6 * max(1, abs(low))), 60)  # similarities may all be alike
        for name, values, colour, style in (("negatives", false, ORANGE, "--"), ("positives", true, BLUE, "-")):
            axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.25, color=colour)
            axes.hist(values, bins, density=True, histtype="step", color=colour, linestyle=style, linewidth=1.6,
                      label=f"{name} ({len(values):,})")
            axes.axvline(np.median(values), ymax=0.78, color=colour, linestyle=style, linewidth=1)
        kind = file.info["model"].get("similarity")
        axes.set_xlabel(SIMILARITIES[kind].label if kind in SIMILARITIES else f"{kind} similarity")
        scores, targets = (x[file.valid].reshape(-1, 1) for x in (file.scores, file.targets))
        area = Ranking(scores, targets)(plain(len(scores)))[1].item()
        axes.set_title(f"{file.label}: ROC area {area:.3f}", fontsize=11)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # room for the legend
        axes.legend(loc="upper left", fontsize=9, ncols=1)
    caption(figure, (
        "Densities of all clip-class pairs, each group with area 1; thin vertical lines are medians. The scales differ "
        "between panels. What can be compared is the overlap: the ROC area is the chance that a random positive pair "
        "is more similar than a random negative one."))
    return figure


def projector_of(file):
    """The trained projector that a results file names, on the CPU; UserError without one, or if it is now another."""
    import torch

    from hyperbolic_clap.projector.exported import sha256
    from hyperbolic_clap.projector.projector import Projector
    from hyperbolic_clap.reporting.rebuild import find

    model = file.info["model"]
    if not isinstance(model.get("projection_checkpoint"), str):
        raise UserError(f"{file.path} is not of a trained projector, and a plain cosine is no probability")
    projector = Projector(find(model["projection_checkpoint"], file.path), torch.device("cpu"))
    if model.get("projection_sha256") not in (None, sha256(projector.content)):
        raise UserError(f"{projector.path} is no longer the projector that {file.path} was tested with")
    return projector


def draw_reliability(results: list[Path], class_labels: Path | None):
    """How often the most probable class is true against its probability, before and after calibration.

    One panel for each results file of a trained projector, tested with --save-scores; the projector itself is read for
    its logit scale, bias and calibration.

    python plot_results.py reliability results_cosine.json results_hyperbolic.json --output reliability.png
    """
    from matplotlib.figure import Figure

    from hyperbolic_clap.metrics.calibration import expected_calibration_error, top1_reliability

    files = read_results(results, class_labels)
    for file in files:
        if file.scores is None:
            raise UserError(f"{file.path} has no stored similarities; run the test script with --save-scores")
        if not file.valid.any():
            raise UserError(f"{file.path} has no labelled clip")
    projectors = [projector_of(file) for file in files]
    figure = Figure(figsize=(min(WIDTH, 6.4 * len(files)), 4.8), layout="constrained")
    panels = figure.subplots(1, len(files), squeeze=False, sharey=True)[0]
    for axes, file, projector in zip(panels, files, projectors, strict=True):
        scores, targets = file.scores[file.valid], file.targets[file.valid]
        axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1.2)
        kinds = [("before", ORANGE, "--", "s"), ("after", BLUE, "-", "o")][: 2 if projector.calibration else 1]
        for name, colour, style, mark in kinds:
            bins = top1_reliability(projector.probability(scores, name == "after"), targets)
            x, y, low, high = ([b[key] for b in bins] for key in ("probability", "true", "low", "high"))
            axes.vlines(x, low, high, color=colour, linewidth=1)
            axes.plot(x, y, color=colour, linestyle=style, marker=mark, markersize=4.5, linewidth=1.6,
                      label=f"{name} calibration: error {expected_calibration_error(bins):.3f}")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability of the most probable class")
        axes.set_title(f"{file.label}: {len(scores)} clips", fontsize=11)
        axes.legend(loc="upper left", fontsize=9)
    panels[0].set_ylabel("share of clips where it is true")
    caption(figure, (
        "15 bins of equal width with 95 % intervals (Wilson); on the dotted line a probability means what it says. The "
        "error is the mean gap over the clips of these bins, as the results file has it (*_error_top1). Before: the "
        "sigmoid of the trained logits; after: scaled as the validation clips of the training asked."
        + ("" if all(each.calibration for each in projectors) else " One with one curve has none.")))  # fmt: skip
    return figure
