"""The Poincare disk of class texts and audio, for plot_results.py: where 512 dimensions put AudioSet's tree."""

from __future__ import annotations

import argparse

from common import UserError, choose_device

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
SHOWN_NAMES = ("Music", "Speech", "Animal", "Vehicle", "Water", "Silence", "Dog", "Piano", "Singing", "Bird", "Guitar",
               "Rain", "Engine", "Bell", "Drum", "Laughter", "Wind", "Telephone", "Applause", "Violin, fiddle")
NEAREST = 3  # class texts that give a clip its angle


def draw(args: argparse.Namespace, width: float) -> tuple:
    """The flags of `plot_results.py disk`, a width in inches -> (figure, caption)."""
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    from hyperbolic import tangent_pairwise_distance
    from ontology import Ontology

    classes, clips, projector, text, audio = tangent_vectors(args)
    tree = Ontology()
    nodes, reason = tree.find(classes.names)
    if nodes is None:
        raise UserError(f"the disk shows AudioSet's tree, but {reason}")
    class_branch = np.array([tree.names[tree.branch(node)] for node in nodes])
    labelled = [i for i, clip in enumerate(clips) if clip.positions]
    audio_branch = np.array([most_common(class_branch[clips[i].positions]) for i in labelled])
    audio, c = audio[labelled], float(projector.c)
    angle_text = leaf_angles(tangent_pairwise_distance(text, text, c).cpu().numpy())
    nearest = tangent_pairwise_distance(audio, text, c).cpu().numpy().argsort(axis=1)[:, :NEAREST]
    turn_audio = np.exp(1j * angle_text)[nearest].sum(axis=1)
    # Radii are true; shown as tanh(d / 2s), with the scale s at which differences between texts show most.
    radius_text, radius_audio = (2 * x.norm(dim=1).cpu().numpy() for x in (text, audio))
    scale = float(np.median(radius_text)) / (2 * np.arctanh(0.68))
    at_text = np.tanh(radius_text / (2 * scale)) * np.exp(1j * angle_text)
    at_audio = np.tanh(radius_audio / (2 * scale)) * turn_audio / np.abs(turn_audio)
    figure = Figure(figsize=(width, 8.0), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    axes.plot(circle.real, circle.imag, color="#444444", linewidth=1.2)
    edges = tree_edges(tree, nodes)
    lines = geodesics(at_text[edges[:, 0]], at_text[edges[:, 1]])
    colours = [COLOURS[class_branch[child]] for child in edges[:, 0]]
    lines = np.stack([lines.real, lines.imag], axis=-1)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.5, alpha=0.35))
    for name, colour in COLOURS.items():
        sounds, names = at_audio[audio_branch == name], at_text[class_branch == name]
        axes.scatter(names.real, names.imag, s=16, color=colour, edgecolor="white", linewidth=0.4, label=name, zorder=3)
        axes.scatter(sounds.real, sounds.imag, s=14, marker="x", color=colour, linewidth=0.7, alpha=0.7, zorder=4)
    farthest = max(radius_text.max(), radius_audio.max())
    step = nice_step(farthest / 5)
    for d in np.arange(step, farthest + step, step):
        ring = np.tanh(d / (2 * scale)) * circle
        axes.plot(ring.real, ring.imag, color=GREY, linewidth=0.7, linestyle=(0, (4, 4)), zorder=1)
        axes.text(0, -abs(ring[0]), f"{d:g}", fontsize=8.5, color="#444444", ha="center", va="center", zorder=5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9})
    taken: list[complex] = []
    for position in filter(lambda i: i is not None, map(classes.find, SHOWN_NAMES)):
        at = at_text[position]
        out = at / abs(at) * (abs(at) + 0.05)
        if any(abs(out.imag - other.imag) < 0.045 and abs(out.real - other.real) < 0.4 for other in taken):
            continue  # the names would cover each other
        taken.append(out)
        axes.plot([at.real, out.real], [at.imag, out.imag], color="#444444", linewidth=0.6)
        axes.text(out.real, out.imag, classes.names[position], fontsize=9, va="center",
                  ha="left" if at.real > 0 else "right", zorder=6)
    axes.scatter([], [], s=16, color=GREY, label="dot: class text")
    axes.scatter([], [], s=16, marker="x", color=GREY, linewidth=0.8, label="cross: audio clip")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, handletextpad=0.2, columnspacing=1.2)
    text_below = (
        f"{len(text)} class texts, {len(audio)} clips; lines join a class to its nearest parent class in the tree. "
        f"Dashed circles: hyperbolic distance d to the origin (c = {c:g}), true for every point, drawn at "
        f"tanh(d / {2 * scale:.2f}). Angle: {text.shape[1]} dimensions became the leaf order of a clustering of the "
        f"texts by distance, evenly spread; a clip is at the mean angle of its {NEAREST} nearest texts. So of the "
        "angles only neighbourhood means anything."
    )
    return figure, text_below


def tangent_vectors(args: argparse.Namespace) -> tuple:
    """(class list, clips, projector, text (M, D), audio (N, D)), embedded, cached and projected as in testing."""
    import checkpoints

    device = choose_device(args.device)
    content = checkpoints.load(args.projection_checkpoint)
    if content["similarity"] != "hyperbolic":
        raise UserError(f"{args.projection_checkpoint} was trained for cosine similarity, which has no Poincare disk")
    projector = checkpoints.rebuild(content, device)
    from CLAP.cache import open_cache
    from CLAP.embeddings import embed_classes, embed_folder
    from CLAP.encoder import Encoder
    from data import ParquetFolder
    from evaluation import require_matches, unlabelled
    from labels import ClassList

    classes = ClassList.read(args.class_labels)
    folder = ParquetFolder(args.parquet_dir, classes, args.skip_bad_files)
    encoder = Encoder(args.checkpoint, device, autocast=not args.no_autocast)
    checkpoints.require_model(args.projection_checkpoint, content, encoder)
    cache = open_cache(args, encoder)
    clips, audio, skipped = embed_folder(args, folder, encoder, cache, usable=unlabelled)
    require_matches(clips, skipped, classes)
    text = embed_classes(classes.names, encoder, cache)
    audio, text = projector.audio(audio.to(device)), projector.text(text.to(device))
    return classes, clips, projector, text, audio


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
