"""What the page shows, as one JSON-able dict: verdict, clips, classes, tree, disk, traversal, confidence."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from hyperbolic_clap.metrics.calibration import expected_calibration_error, top1_reliability
from hyperbolic_clap.metrics.ontology import ROOT, Ontology, audioset
from hyperbolic_clap.metrics.traversal import share, traverse
from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.projector.checkpoints import training
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.labels import normalise
from hyperbolic_clap.reporting.confidence import risk_coverage
from hyperbolic_clap.reporting.disk import disk_points
from hyperbolic_clap.reporting.mds import evenly, hyperbolic_mds
from hyperbolic_clap.reporting.rebuild import Rebuilt, find, rebuild
from hyperbolic_clap.reporting.sound import choose, played
from hyperbolic_clap.reporting.tree_disk import BEST, TreeDisk, fit_tree, means
from hyperbolic_clap.results.compare import describe
from hyperbolic_clap.results.files import Results, training_words
from hyperbolic_clap.results.measures import Measures, match
from hyperbolic_clap.results.tables import LESS_IS_BETTER

TOP = 5  # predictions shown of each clip
NEAREST = 5  # clips shown beside each clip
DISK_CLIPS = 2000  # on a disk
GROUPS = 20  # classes that have a colour, where they lie in no tree
PAIRS_AT_ONCE = 1 << 24


@dataclass
class Page:
    """What the parts of a page are made of. rows[f] (N,): the row of file f for each clip of the first, -1 without."""

    files: list[Results]
    comparison: dict
    rows: list[np.ndarray]
    names: list[str]
    place: list[np.ndarray]  # of each file's classes in the page's names
    made_of: list[Rebuilt | None]
    tree: Ontology | None  # None: the classes lie in no tree
    notes: list[str] = field(default_factory=list)
    in_disk: tuple[TreeDisk, np.ndarray] | None = None  # of `fitted`


def content(files: list[Results], comparison: dict, audio_clips: int) -> dict:
    """The page of results files, the baseline first. audio_clips: how many clips get their sound, 0 for none.

    What cannot be had is left out, with a sentence in `notes`.
    """
    names = list(dict.fromkeys(name for file in files if file.keys for name in file.names))
    position = {name: i for i, name in enumerate(names)}
    place = [np.array([position.get(name, -1) for name in file.names]) for file in files]
    notes: list[str] = []
    page = Page(files, comparison, matched(files, notes), names, place, [], tree_of(files), notes)
    page.made_of = rebuild_all(files, notes)
    page.in_disk = fitted(page)
    traversals = [traversal(page, f) for f in range(len(files))]
    return {
        "files": [about_file(file, of.projector if of else None) for file, of in zip(files, page.made_of, strict=True)],
        "less": LESS_IS_BETTER,
        "tree_name": tree_name(page.tree),
        "groups": groups(page),
        "comparison": comparison,
        "names": names,
        "group_of": group_of(page),
        "ancestors": ancestors(names, page.tree),
        "clips": clips(page),
        "nearest": [nearest(page, f) for f in range(len(files))],
        "sounds": heard(page, audio_clips),
        "classes": [classes(page, f) for f in range(len(files))],
        "tree": outline(names, page.tree),
        "tree_disk": tree_disk(page),
        "tree_clips": [tree_clips(page, f) for f in range(len(files))],
        "disks": [disk(page, f) for f in range(len(files))],
        "traversals": traversals,
        "confidence": [confidence(page, f) for f in range(len(files))],
        "notes": notes,
    }


def tree_of(files: list[Results]) -> Ontology | None:
    """The taxonomy that was tested with, else AudioSet's tree where all classes of a file are in it, else None."""
    own = [file.taxonomy for file in files if file.taxonomy]
    with_clips = [file for file in files if file.keys]
    if own or not with_clips:
        return own[0] if own else audioset()
    return audioset() if any(audioset().find(file.names)[0] is not None for file in with_clips) else None


def tree_name(tree: Ontology | None) -> str | None:
    """What the page calls it; None without one."""
    return None if tree is None else "AudioSet's tree" if tree is audioset() else "the taxonomy"


def matched(files: list[Results], notes: list[str]) -> list[np.ndarray]:
    """For each clip of the first file its row in each file, -1 where that file does not hold it."""
    count = len(files[0].keys)
    if not count:
        notes.append(f"{files[0].label} holds no predictions, so there are no clips to show")
    rows = [np.arange(count)]
    for file in files[1:]:
        found = np.full(count, -1)
        here, there, _ = match(files[0], file)
        found[here] = there
        rows.append(found)
    return rows


def rebuild_all(files: list[Results], notes: list[str]) -> list[Rebuilt | None]:
    """The projector and vectors of each file, None where they are gone, with the reason in `notes`."""
    known: dict = {}
    made_of: list[Rebuilt | None] = []
    for file in files:
        made_of.append(None)
        if not file.keys:
            continue
        try:
            made_of[-1] = rebuild(file, known)
        except (UserError, OSError, TypeError, ValueError) as error:  # of a file that another program wrote
            notes.append(f"{file.label} is shown without nearest clips, disk and traversal to the root: {error}")
    return made_of


def about_file(file: Results, projector: Projector | None) -> dict:
    """What was run, as the results file tells it, or else the checkpoint of its projector, if that is there."""
    info, model = file.info, file.info["model"]
    trained = training_words(model)
    if trained is None and projector is not None:
        trained = training_words({"training": training(projector.content)})
    counts, command = info.get("clips"), info.get("command")
    counts, command = counts if isinstance(counts, dict) else {}, command if isinstance(command, list) else []
    return describe(file) | {
        "command": " ".join(map(str, command)),
        "time": info.get("time"),
        "training": trained,
        "curves": curves(file),
        "device": info.get("device"),
        "prompt": model.get("prompt"),
        "epoch": model.get("epoch"),
        "skipped": counts.get("skipped") or {},
        "skipped_files": counts.get("skipped_files") or {},
    }


def curves(file: Results) -> dict | None:
    """The losses by epoch of the setup.json beside the file's checkpoint; None where there is none to be read."""
    path = file.info["model"].get("projection_checkpoint")
    if not isinstance(path, str):
        return None
    beside = find(path, file.path).parent / "setup.json"
    try:
        setup = json.loads(beside.read_text(encoding="utf-8"))
        rows = [[float(epoch[name]) for name in ("epoch", "train_loss", "val_loss")] for epoch in setup["epochs"]]
        epoch, train, validation = (list(column) for column in zip(*rows, strict=True))
        known = np.isfinite(rows).all()
    except (OSError, ValueError, KeyError, TypeError):  # none, of another program, or no epoch yet
        return None
    best = setup.get("best_epoch")
    return {"epoch": epoch, "train_loss": train, "val_loss": validation, "best": best} if known else None


def groups(page: Page) -> list[str]:
    """What has a colour: the tree's top-level subtrees, or without a tree the commonest GROUPS of the classes."""
    if page.tree is not None:
        return sorted({group for group in group_of(page) if group})
    carried = sum(file.targets.sum(axis=0) for file in page.files[:1] if file.keys)
    commonest = np.argsort(-carried, kind="stable")[:GROUPS].tolist() if len(page.names) else []
    return [page.names[page.place[0][i]] for i in sorted(commonest)]


def group_of(page: Page) -> list[str]:
    """The top-level subtree of each class, or without a tree the class; empty for one that has no colour of its own."""
    names, tree = page.names, page.tree
    if tree is None:
        kept = {*groups(page)}
        return [name if name in kept else "" for name in names]
    nodes = [tree.find([name])[0] for name in names]
    return ["" if node is None else tree.names[tree.top_level(int(node[0]))] for node in nodes]


def ancestors(names: list[str], tree: Ontology | None) -> list[list[int]]:
    """For each class the classes above it in the tree."""
    if tree is None:
        return [[] for _ in names]
    nodes = [tree.find([name])[0] for name in names]
    class_at = {int(node[0]): i for i, node in enumerate(nodes) if node is not None}
    found = []
    for node in nodes:
        above = {int(a) for a in np.flatnonzero(tree.ancestors[node[0]]) if a != node[0]} if node is not None else set()
        found.append([class_at[a] for a in sorted(above) if a in class_at])
    return found


def outline(names: list[str], tree: Ontology | None) -> list[list]:
    """The tree as [name, position of the first parent here or -1, class or -1], parents before children."""
    if tree is None:
        return []
    class_at = {tree.position[key]: i for i, key in enumerate(map(normalise, names)) if key in tree.position}
    kept = set()
    for node in class_at:
        while node != ROOT:
            kept.add(node)
            node = tree.parents[node][0]
    children: dict[int, list[int]] = {}
    for node in sorted(kept, reverse=True):  # a stack: the first in the file comes off first
        children.setdefault(tree.parents[node][0], []).append(node)
    place: dict[int, int] = {}
    rows: list[list] = []
    waiting = children.get(ROOT, [])
    while waiting:
        node = waiting.pop()
        place[node] = len(rows)
        rows.append([tree.names[node], place.get(tree.parents[node][0], -1), class_at.get(node, -1)])
        waiting += children.get(node, [])
    return rows


def clips(page: Page) -> dict:
    """By column: id, sample number, true classes, and for each file the best classes (null: not in that file)."""
    base = page.files[0]
    best = []
    for file, rows, place in zip(page.files, page.rows, page.place, strict=True):
        depth = min(TOP, file.depth or 0)
        found = place[file.top[:, :depth]] if depth else None
        best.append([found[i].tolist() if found is not None and i >= 0 else None for i in rows])
    return {
        "id": [readable(video) for video, _ in base.keys],
        "sample": [sample for _, sample in base.keys],
        "truth": [np.flatnonzero(row).tolist() for row in base.targets],
        "best": best,
    }


def readable(name: str) -> str:
    """A name without lone surrogates, which no page can hold."""
    return name.encode("utf-8", "replace").decode("utf-8")


def heard(page: Page, most: int) -> dict:
    """The sounds of at most `most` clips: those whose top-1 became right or wrong first, then evenly."""
    base = page.files[0]
    if not most or not base.keys:
        return {}
    right = [file.targets[np.arange(len(file.keys)), file.top[:, 0]] if file.depth else None for file in page.files]
    changed = np.zeros(len(base.keys), bool)
    for file_right, rows in zip(right[1:], page.rows[1:], strict=True):
        if file_right is not None and right[0] is not None and len(file_right):
            changed |= (rows >= 0) & (file_right[rows] != right[0])
    chosen = choose(len(base.keys), most, changed)
    return played(base, chosen, page.notes)


def classes(page: Page, f: int) -> dict | None:
    """The figures of each class in a file, in the order of the page's names; null without predictions."""
    file, place = page.files[f], page.place[f]
    here = np.flatnonzero(file.valid)
    measures = Measures(file, here, min(TOP, file.depth), page.tree or audioset()) if file.depth and len(here) else None
    if measures is None or measures.hits is None:
        page.notes.append(f"{file.label} has no figures by class, as it holds no predictions of labelled clips")
        return None
    found = measures.per_class()
    ranked, figures = found.precision is not None, found.recall if found.precision is None else found.precision
    if not ranked:
        page.notes.append(f"{file.label} was tested without --save-scores, so classes show recall at {measures.k}")
    size = len(page.names)
    value: list[float | None] = [None] * size
    confused: list[list[int] | None] = [None] * size
    support = [0] * size
    wrong = ~measures.hits[:, 0]
    for i, figure in enumerate(figures):
        true = measures.targets[:, i]
        support[place[i]] = int(true.sum())
        value[place[i]] = float(figure) if np.isfinite(figure) else None
        mistakes = Counter(measures.top[true & wrong, 0].tolist()).most_common(1)
        if mistakes:
            confused[place[i]] = [int(place[mistakes[0][0]]), mistakes[0][1]]
    measure = "average precision" if ranked else f"recall at {measures.k}"
    return {"measure": measure, "value": value, "support": support, "confused": confused}


def nearest(page: Page, f: int) -> list | None:
    """For each clip of the page its nearest other clips, by the file's own similarity."""
    made, rows = page.made_of[f], page.rows[f]
    if made is None or not (rows >= 0).any():
        return None
    rows_here = np.flatnonzero(rows >= 0)
    vectors = made.audio[rows[rows_here].tolist()]
    found: list = [None] * len(rows)
    size = max(1, PAIRS_AT_ONCE // len(vectors))
    for start in range(0, len(vectors), size):
        alike = made.projector.compare(vectors[start : start + size], vectors)
        own = np.arange(len(alike))
        alike[own, start + own] = -np.inf
        best = alike.topk(min(NEAREST, len(vectors) - 1), dim=1).indices.cpu().numpy()
        for i, row in enumerate(best):
            found[rows_here[start + i]] = rows_here[row].tolist()
    return found


def traversal(page: Page, f: int) -> dict | None:
    """The texts that clips and class texts meet towards the root, and the share of ancestors met in order."""
    made, file, place = page.made_of[f], page.files[f], page.place[f]
    if made is None or page.tree is None:
        return None
    compare, kind = made.projector.compare, made.projector.kind
    met = traverse(compare, kind.towards_root, made.audio, made.text)
    nodes, reason = page.tree.find(file.names)
    figure = {"share": None, "reason": reason} if nodes is None else share(met, file.targets, nodes, page.tree)
    of_classes: list = [None] * len(page.names)
    for i, row in zip(place, distinct(place, traverse(compare, kind.towards_root, made.text, made.text)), strict=True):
        of_classes[i] = row
    texts = distinct(place, met)
    return figure | {
        "kind": kind.root,
        "clips_met": [texts[i] if i >= 0 else None for i in page.rows[f]],
        "classes_met": of_classes,
    }


def distinct(place: np.ndarray, met: np.ndarray) -> list[list[int]]:
    """(N, STEPS) -> for each row what is met, in the page's classes, each once."""
    return [place[list(dict.fromkeys(row))].tolist() for row in met.tolist()]


def disk(page: Page, f: int) -> dict | None:
    """The points of a projector with a curvature in the Poincare disk: [x, y] of every class, [clip, x, y] of clips."""
    made, place = page.made_of[f], page.place[f]
    if made is None or made.projector.c is None:
        return None
    c = made.projector.c
    here = np.flatnonzero(page.rows[f] >= 0)
    here = here[evenly(len(here), DISK_CLIPS)]
    log.info("fitting the disk of %s", page.files[f].label)
    flat = hyperbolic_mds(made.text, made.audio[page.rows[f][here].tolist()], c)
    texts: list = [None] * len(page.names)
    for i, z in zip(place, disk_points(flat.text, c), strict=True):
        texts[i] = [round(z.real, 6), round(z.imag, 6)]
    points = [[int(i), round(z.real, 6), round(z.imag, 6)] for i, z in zip(here, disk_points(flat.audio, c),
                                                                          strict=True)]
    figures = {name: getattr(flat, name) for name in ("stress", "flat_stress", "rank", "exact")}
    return figures | {"c": c, "dimensions": made.text.shape[1], "texts": texts, "clips": points}


def fitted(page: Page) -> tuple[TreeDisk, np.ndarray] | None:
    """The tree of the page in the disk, and for each class its row in it, -1 for one that is not in the tree."""
    if page.tree is None:
        return None
    at = [page.tree.position.get(normalise(name), -1) for name in page.names]
    classes = tuple(node for node in at if node >= 0)
    if len(classes) < 2:
        return None
    log.info("fitting %s to the disk", tree_name(page.tree))
    found = fit_tree(page.tree, classes)
    row = {int(node): i for i, node in enumerate(found.nodes)}
    return found, np.array([row.get(node, -1) for node in at])


def tree_disk(page: Page) -> dict | None:
    """[name, class or -1, parent or -1, x, y] of each node, the root first, and how well the distances hold."""
    if page.in_disk is None or page.tree is None:
        return None
    found, rows = page.in_disk
    of_class = {int(row): j for j, row in enumerate(rows) if row >= 0}
    nodes = [[page.tree.names[node], of_class.get(i, -1), int(found.parent[i]), *rounded(found.place[i])]
             for i, node in enumerate(found.nodes)]  # fmt: skip
    return {"nodes": nodes, "error": found.error, "flat_error": found.flat_error}


def tree_clips(page: Page, f: int) -> list | None:
    """[clip, x, y] of clips in the tree: the hyperbolic mean of their best classes by probability.

    Where there is no probability, of plain cosine or without stored similarities, the best classes count alike.
    """
    file, made, known = page.files[f], page.made_of[f], page.in_disk
    if known is None or not file.depth:
        return None
    rows = known[1][page.place[f]]
    here = np.flatnonzero(page.rows[f] >= 0)
    here = here[evenly(len(here), DISK_CLIPS)]
    own = page.rows[f][here]
    top = file.top[own][:, : min(BEST, file.depth)]
    weights = np.ones(top.shape)
    if file.scores is not None and made is not None and made.projector.trained:
        weights = made.projector.probability(np.take_along_axis(file.scores[own], top, axis=1))
    weights = np.where(rows[top] >= 0, weights, 0)
    inside = weights.sum(axis=1) > 0
    places = means(known[0].place[rows[top[inside]]], weights[inside])
    return [[int(i), *rounded(z)] for i, z in zip(here[inside], places, strict=True)]


def rounded(z: complex) -> list[float]:
    """A point of the disk as [x, y]."""
    return [round(float(z.real), 6), round(float(z.imag), 6)]


def confidence(page: Page, f: int) -> dict | None:
    """Risk against coverage, and reliability of a trained projector; None without stored similarities."""
    file, made = page.files[f], page.made_of[f]
    if file.scores is None or not file.valid.any():
        page.notes.append(f"{file.label} was tested without --save-scores, so its confidence cannot be drawn")
        return None
    scores, targets = file.scores[file.valid], file.targets[file.valid]
    found: dict = {"risk": risk_coverage(scores, targets), "reliability": None}
    if made is not None and made.projector.trained:
        bins = top1_reliability(made.projector.probability(scores), targets)
        meaning = "calibrated" if made.projector.calibration else "the projector holds no calibration"
        found["reliability"] = {"bins": bins, "error": expected_calibration_error(bins), "meaning": meaning}
    elif made is not None:
        page.notes.append(f"{file.label} has no reliability: a plain cosine is no probability")
    return found
