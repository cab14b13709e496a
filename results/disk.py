"""The Poincare disk of class texts and audio, for plot_results.py: where 512 dimensions put AudioSet's tree."""

from __future__ import annotations

import argparse

from plumbing.device import choose_device
from plumbing.errors import UserError
from results.pictures import WIDTH, caption

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
NAMES = 15  # written on each side
NEAREST = 3  # class texts that give a clip its angle


def draw_disk(args: argparse.Namespace):
    """The Poincare disk of class texts and audio with the edges of AudioSet's tree, coloured by top-level branch.

    The distance of a point from the centre shows its true hyperbolic distance to the origin.

    python plot_results.py disk --parquet-dir ./Datasets/AudioSet/eval \\
        --projection-checkpoint checkpoints_hyperbolic/best_projection_epoch_X.pth --output disk.png
    """
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    from hyperbolic import tangent_pairwise_distance
    from results.ontology import Ontology

    material, projector, text, audio = tangent_vectors(args)
    classes, rows = material.classes, material.rows
    tree = Ontology()
    nodes, reason = tree.find(classes.names)
    if nodes is None:
        raise UserError(f"the disk shows AudioSet's tree, but {reason}")
    class_branch = np.array([tree.names[tree.branch(node)] for node in nodes])
    labelled = np.flatnonzero(rows.match_counts)
    audio_branch = np.array([most_common(class_branch[rows.positions(i)]) for i in labelled])
    audio, c = audio[labelled], float(projector.c)
    angle_text = leaf_angles(tangent_pairwise_distance(text, text, c).cpu().numpy())
    nearest = tangent_pairwise_distance(audio, text, c).cpu().numpy().argsort(axis=1)[:, :NEAREST]
    turn_audio = np.exp(1j * angle_text)[nearest].sum(axis=1)
    # Radii are true; shown as tanh(d / 2s), with a scale s that fills the disk. Differences between texts would show
    # most with their median at 0.65; at 0.78 they are 9 % smaller.
    radius_text, radius_audio = (2 * x.norm(dim=1).cpu().numpy() for x in (text, audio))
    scale = float(np.median(radius_text)) / (2 * np.arctanh(0.78))
    at_text = np.tanh(radius_text / (2 * scale)) * np.exp(1j * angle_text)
    at_audio = np.tanh(radius_audio / (2 * scale)) * turn_audio / np.abs(turn_audio)
    figure = Figure(figsize=(WIDTH, 7.5), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set(xlim=(-1.62, 1.62), ylim=(-1.02, 1.02))
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    axes.plot(circle.real, circle.imag, color="#444444", linewidth=1.2)
    edges = tree_edges(tree, nodes)
    lines = geodesics(at_text[edges[:, 0]], at_text[edges[:, 1]])
    # Pale colours instead of transparent ones: where hundreds of lines cross, those would add up to a dark knot.
    # Without smoothing, which showing a picture of twice the size does anyway, the file is half as large.
    colours = [tuple(0.5 + 0.5 * part for part in to_rgb(COLOURS[class_branch[child]])) for child in edges[:, 0]]
    lines = np.stack([lines.real, lines.imag], axis=-1)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.5, antialiaseds=False))
    for name, colour in COLOURS.items():
        sounds, names = at_audio[audio_branch == name], at_text[class_branch == name]
        axes.scatter(names.real, names.imag, s=20, color=colour, edgecolor="white", linewidth=0.4, label=name, zorder=3)
        axes.scatter(sounds.real, sounds.imag, s=18, marker="x", color=colour, linewidth=0.8, zorder=4)
    farthest = max(radius_text.max(), radius_audio.max())
    step = nice_step(farthest / 5)
    for d in np.arange(step, farthest + step, step):
        ring = np.tanh(d / (2 * scale)) * circle
        axes.plot(ring.real, ring.imag, color=GREY, linewidth=0.7, linestyle=(0, (4, 4)), zorder=2.5)
        axes.text(0, -abs(ring[0]), f"{d:g}", fontsize=9, color="#444444", ha="center", va="center", zorder=5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8})
    clip_count = np.bincount(rows.matches[1], minlength=len(classes))
    write_names(axes, at_text, classes.names, clip_count)
    axes.scatter([], [], s=20, color=GREY, label="dot: class text")
    axes.scatter([], [], s=18, marker="x", color=GREY, linewidth=0.9, label="cross: audio clip")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9.5, handletextpad=0.2, columnspacing=1.2,
                  markerscale=1.5)
    caption(figure, (
        f"{len(text)} class texts and {len(audio)} clips; lines join each class to its nearest parent class in "
        "AudioSet's tree. Distance from the centre: the true hyperbolic distance d to the origin of every point "
        f"(c = {c:g}; dashed circles), drawn at tanh(d / {2 * scale:.2f}); the outer circle is infinitely far. Angle: "
        f"the {text.shape[1]} dimensions became the order of the leaves in a clustering of the texts by hyperbolic "
        f"distance, evenly spread, and a clip is at the mean angle of its {NEAREST} nearest texts; so neighbours are "
        "alike, but the angle between two far points means nothing. Named: the class with the most clips in each "
        "direction."))
    return figure


def write_names(axes, at, names: list[str], clips) -> None:
    """Names of some of the points (M,) complex `at`, in a column on either side of the disk, joined by thin lines.

    In each direction the class with the most clips is named. clips: (M,) their numbers.
    """
    import textwrap

    import numpy as np

    for side in (-1, 1):
        up = np.angle(at * side)  # -pi / 2 to pi / 2 on this side, whichever it is
        slot = np.floor((up / np.pi + 0.5) * NAMES).astype(int)
        for number in range(NAMES):
            inside = np.flatnonzero(slot == number)
            if not len(inside):
                continue
            chosen = inside[np.argmax(clips[inside])]
            y = side * ((number + 0.5) / NAMES - 0.5) * 2 * 0.98
            start = at[chosen]
            axes.plot([start.real, side * 1.06, side * 1.09], [start.imag, y, y], color="#777777", linewidth=0.6)
            axes.text(side * 1.11, y, textwrap.shorten(names[chosen], 22, placeholder="..."), fontsize=9.5, va="center",
                      ha="left" if side > 0 else "right")


def tangent_vectors(args: argparse.Namespace) -> tuple:
    """(material, projector, text (M, D), audio (N, D)), embedded, cached and projected as in testing."""
    from embedding.folder import Sources, unlabelled
    from embedding.texts import read_prompts
    from training.heads import Head

    device = choose_device(args.device)
    head = Head(args.projection_checkpoint, device)
    if head.similarity != "hyperbolic":
        raise UserError(f"{args.projection_checkpoint} was trained for cosine similarity, which has no Poincare disk")
    sources = Sources(args, device, prompts=head.prompts(read_prompts(args)))
    head.require_model(sources.encoder)
    material = sources.embed(unlabelled)
    return material, head.projector, head.text(material.text), head.audio(material.audio)


def most_common(names) -> str:
    """The name that occurs most often, the first of them in a tie."""
    names = list(names)
    return max(names, key=names.count)


def leaf_angles(distances):
    """(M, M) distances -> (M,) evenly spread angles: leaves of an average-linkage clustering, the near side by side."""
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    condensed = squareform((distances + distances.T) / 2, checks=False)
    order = leaves_list(linkage(condensed, method="average", optimal_ordering=True))
    angles = np.empty(len(order))
    angles[order] = np.arange(len(order)) * (2 * np.pi / len(order))
    return angles


def tree_edges(tree, nodes):
    """(E, 2) class positions of child and parent; parents that are no class are passed over to the next one up."""
    import numpy as np

    position = {int(node): i for i, node in enumerate(nodes)}
    edges = set()
    for child, node in enumerate(nodes):
        waiting = list(tree.parents[node])
        while waiting:
            parent = waiting.pop()
            if parent in position:
                edges.add((child, position[parent]))
            else:
                waiting += tree.parents[parent]
    return np.array(sorted(edges))


def geodesics(start, end, points: int = 24):
    """Complex points of the unit disk (E,), (E,) -> (E, points): the hyperbolic lines between them, drawn as arcs."""
    import numpy as np

    start, end = start[:, None], end[:, None]
    moved = (end - start) / (1 - start.conj() * end)  # the isometry that takes start to the origin
    length = np.abs(moved).clip(1e-12, 1 - 1e-12)
    along = np.tanh(np.linspace(0, 1, points) * np.arctanh(length)) * moved / length
    return (along + start) / (1 + start.conj() * along)


def nice_step(value: float) -> float:
    """1, 2 or 5 times a power of ten, near the value."""
    import math

    power = 10 ** math.floor(math.log10(value))
    return min((power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(step - value))
