"""The Poincare disk of class texts and audio, for plot_results.py: a model's many dimensions as two."""

from __future__ import annotations

from pathlib import Path

from hyperbolic_clap.plumbing.config import DataConfig, EncoderConfig, ProjectorConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reporting.pictures import BLUE, ORANGE, WIDTH, caption

# Okabe and Ito's colours, which differ for every kind of colour vision; their yellow is too faint on white.
COLOURS = {
    "Human sounds": "#D55E00",
    "Animal": "#009E73",
    "Music": "#0072B2",
    "Sounds of things": "#E69F00",
    "Natural sounds": "#56B4E9",
    "Source-ambiguous sounds": "#CC79A7",
    "Channel, environment and background": "#000000",
}
GREY = "#999999"
NAMES = 45  # written at most


def draw_disk(data: DataConfig, encoder: EncoderConfig, checkpoint: Path):
    """The Poincare disk of class texts and audio, coloured by AudioSet's top-level subtrees, the commonest named.

    Of a projector with two dimensions its own points; else the two-dimensional fit to its distances, with the stress.

    python plot_results.py disk --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic --output disk.png
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.reporting.mds import hyperbolic_mds

    clips, projector = embed(data, encoder, checkpoint)
    text, audio, classes = projector.text(clips.text), projector.audio(clips.audio), clips.classes
    tree = audioset()
    nodes, reason = tree.find(classes.names)
    if nodes is None:
        raise UserError(f"the disk shows AudioSet's tree, but {reason}")
    targets = clips.targets.numpy()
    class_subtree = np.array([tree.names[tree.top_level(node)] for node in nodes])
    labelled = np.flatnonzero(targets.any(axis=1))
    audio_subtree = np.array([most_common(class_subtree[targets[i]]) for i in labelled])
    c = projector.c
    flat = hyperbolic_mds(text, audio[labelled], c)
    at_text, at_audio = disk_points(flat.text, c), disk_points(flat.audio, c)
    figure = Figure(figsize=(WIDTH, 8.3), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    edge = min(1, 1.04 * np.abs(np.concatenate([at_text, at_audio])).max())  # what lies farther out is empty
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#444444", linewidth=1.2))
    for name, colour in COLOURS.items():
        sounds, names = at_audio[audio_subtree == name], at_text[class_subtree == name]
        axes.scatter(sounds.real, sounds.imag, s=15, marker="x", color=colour, linewidth=0.7, alpha=0.5, zorder=2)
        axes.scatter(names.real, names.imag, s=22, color=colour, edgecolor="white", linewidth=0.4, label=name, zorder=3)
    farthest = 2 * np.sqrt(c) * np.arctanh(min(edge, 1 - 1e-9))
    step = nice_step(farthest / 4)
    for d in np.arange(step, farthest, step):
        ring = np.tanh(d / (2 * np.sqrt(c)))
        axes.add_patch(Circle((0, 0), ring, fill=False, color=GREY, linewidth=0.7, linestyle=(0, (4, 4)), zorder=1))
        axes.text(0, -ring, f"{d:g}", fontsize=9, color="#444444", ha="center", va="center", zorder=5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8})
    write_names(axes, at_text, classes.names, targets.sum(axis=0), edge)
    axes.scatter([], [], s=22, color=GREY, label="dot: class text")
    axes.scatter([], [], s=15, marker="x", color=GREY, linewidth=0.9, label="cross: audio clip")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9.5, handletextpad=0.2, columnspacing=1.2,
                  markerscale=1.5)
    what = "the model's own two dimensions" if flat.exact else (
        f"the {text.shape[1]} dimensions became two by a fit to all pairwise hyperbolic distances with stress "
        f"{flat.stress:.3f} (0 would be exact; the same fit in the flat plane: {flat.flat_stress:.3f}), so neighbours "
        "are alike only roughly")
    caption(figure, (
        f"{len(text)} class texts and {len(labelled)} clips in the Poincare disk (c = {c:g}); {what}. Dashed circles: "
        "hyperbolic distance from the model's origin. Named are classes with many clips, as far as there is room."))
    return figure


def draw_tree(data: DataConfig, encoder: EncoderConfig, checkpoint: Path, taxonomy: Path | None):
    """The classes' tree in the Poincare disk, by its path lengths, and clips at the mean of their five best classes.

    What the model decides is where the clips lie: blue dots where the best class is true, orange crosses where not.

    python plot_results.py disk --layout tree --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic --output tree.png
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    from hyperbolic_clap.metrics.classification import rank_classes
    from hyperbolic_clap.metrics.ontology import Ontology, audioset
    from hyperbolic_clap.reporting.tree_disk import BEST, fit_tree, means

    clips, projector = embed(data, encoder, checkpoint)
    tree = Ontology.above(taxonomy, clips.classes.names) if taxonomy else audioset()
    nodes, reason = tree.find(clips.classes.names)
    if nodes is None:
        raise UserError(f"the disk shows AudioSet's tree, but {reason}; give your own with --taxonomy")
    scores = projector.compare(projector.audio(clips.audio), projector.text(clips.text))
    scores = projector.with_prototypes(scores, clips.audio, clips.classes.names).cpu().numpy()
    best, targets = rank_classes(scores)[:, :BEST], clips.targets.numpy()
    found = fit_tree(tree, tuple(nodes.tolist()))
    row = {int(node): i for i, node in enumerate(found.nodes)}
    of_class = found.place[[row[int(node)] for node in nodes]]
    at = means(of_class[best], projector.probability(np.take_along_axis(scores, best, axis=1)))
    labelled = targets.any(axis=1)
    right = targets[np.arange(len(best)), best[:, 0]]
    figure = Figure(figsize=(WIDTH, 8.6), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03))
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#444444", linewidth=1.2))
    for place, above in zip(found.place, found.parent, strict=True):
        if above >= 0:
            path = geodesic(place, found.place[above])
            axes.plot(path.real, path.imag, color=GREY, linewidth=0.5, zorder=1)
    axes.scatter(found.place.real, found.place.imag, s=7, color="#444444", zorder=2)
    for chosen, colour, mark, label in ((labelled & right, BLUE, "o", "clip, best class true"),
                                        (labelled & ~right, ORANGE, "x", "clip, best class wrong")):
        z = at[chosen]
        axes.scatter(z.real, z.imag, s=16, marker=mark, color=colour, linewidth=0.8, alpha=0.7, label=label, zorder=3)
    depth = np.array([tree.depth[node] for node in found.nodes])
    names = [tree.names[node] if node else "" for node in found.nodes]
    write_names(axes, found.place, names, np.where(depth < 0, -100, -depth), 1.03)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9.5)
    which = "AudioSet's tree" if tree is audioset() else "The taxonomy"
    caption(figure, (
        f"{which}, {len(found.nodes)} nodes in the Poincare disk by path lengths alone: mean relative "
        f"error {found.error:.1%}, of the same fit in the flat plane {found.flat_error:.1%}. {int(labelled.sum())} "
        "clips lie at the hyperbolic mean of their five best classes, weighted by probability; of "
        f"{int((labelled & right).sum())} the best class is true."))
    return figure


def geodesic(z: complex, w: complex):
    """(24,) complex points of the geodesic from z to w in the unit disk."""
    import numpy as np

    there = (w - z) / (1 - np.conj(z) * w)
    far = min(abs(there), 1 - 1e-12)  # artanh(1) is infinite
    along = np.tanh(np.linspace(0, 1, 24) * np.arctanh(far)) * (there / far if far else 0)
    return (along + z) / (1 + np.conj(z) * along)


def disk_points(tangent, c: float):
    """(N, 2) tangent vectors at the origin of a ball of squared radius c -> (N,) complex points of the unit disk."""
    import numpy as np
    import torch

    from hyperbolic import expmap0

    x, y = expmap0(torch.from_numpy(tangent), c).numpy().T / np.sqrt(c)
    return x + 1j * y


def write_names(axes, at, names: list[str], clips, edge: float) -> None:
    """The names of points (M,) complex `at` beside them, the ones with most clips first, where no name stands yet.

    clips: (M,) their numbers. edge: half the width of the picture in the same unit.
    """
    import textwrap

    import numpy as np
    from matplotlib.patheffects import withStroke

    width, height = 0.0185 * edge, 0.042 * edge  # of a letter and a line, about
    taken: list[tuple[float, float, float, float]] = []
    for i in np.argsort(-clips, kind="stable")[: NAMES * 4]:
        name = textwrap.shorten(names[i], 24, placeholder="...")
        side = 1 if at[i].real + width * (len(name) + 2) < edge else -1
        x, y = at[i].real + side * 0.016 * edge, at[i].imag
        left, right = (x, x + width * len(name)) if side > 0 else (x - width * len(name), x)
        box = (left, right, y - height / 2, y + height / 2)
        if any(box[0] < b[1] and b[0] < box[1] and box[2] < b[3] and b[2] < box[3] for b in taken):
            continue
        taken.append(box)
        axes.text(x, y, name, fontsize=9, ha="left" if side > 0 else "right", va="center", zorder=6,
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])
        if len(taken) == NAMES:
            break


def embed(data: DataConfig, encoder: EncoderConfig, checkpoint: Path) -> tuple:
    """(EmbeddedClips, Projector), embedded, cached and projected as in testing; UserError without a curvature."""
    from hyperbolic_clap.embedding.pipeline import skip_unlabelled
    from hyperbolic_clap.projector.opening import open_pipeline

    model, pipeline = open_pipeline(data, encoder, ProjectorConfig(checkpoint))
    if model.projector.c is None:
        trained = f"{checkpoint} was trained for {model.projector.similarity} similarity"
        raise UserError(f"{trained}, which has no Poincare disk")
    return pipeline.embed(skip_unlabelled), model.projector


def most_common(names) -> str:
    """The name that occurs most often, the first of them in a tie."""
    names = list(names)
    return max(names, key=names.count)


def nice_step(value: float) -> float:
    """1, 2 or 5 times a power of ten, near the value."""
    import math

    power = 10 ** math.floor(math.log10(value))
    return min((power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(step - value))
