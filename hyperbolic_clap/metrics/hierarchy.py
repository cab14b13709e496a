"""How far in the tree a wrong answer lies, what a clip's next best classes are, and whether radius follows depth."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from hyperbolic_clap.metrics import weighted
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.weighted import Ratios

NEIGHBOURS = 5  # next best classes of a clip, and nearest texts of a text
RECALL = {"sibling_recall@5": 1, "cousin_recall@5": 2}  # steps up to a common node
TWO_LEVELS = ("hP", "hR", "hF")
SAME_PARENT = 0.75  # the weight of an answer that is right at the top level alone
BLOCK_CLIPS = 4096
CHANCE_DRAWS = 4096
TREE_METRICS = ("wrong_top1_distance", "tree_induced_error", "lca_height", "jaccard",
                *(f"hierarchical_{x}" for x in ("precision", "recall", "f1")))  # fmt: skip


class ClassTree:
    """What a tree says of M classes that are nodes of it; nodes (M,): of Ontology.find."""

    def __init__(self, nodes: np.ndarray, tree: Ontology):
        self.nodes, self.tree = nodes, tree

    @cached_property
    def distances(self) -> np.ndarray:
        """(M, M) uint8: edges on the shortest path."""
        return self.tree.distances[np.ix_(self.nodes, self.nodes)]

    @cached_property
    def ancestors(self) -> np.ndarray:
        """(M, n) float32: 1 for the class itself and everything above it, without the added root."""
        return self.tree.ancestors[self.nodes].astype(np.float32)

    @cached_property
    def above(self) -> np.ndarray:
        """(M, M) float32: 1 where the second class is a proper ancestor of the first."""
        above = self.ancestors[:, self.nodes].copy()
        np.fill_diagonal(above, 0)
        return above

    @cached_property
    def lca_height(self) -> np.ndarray:
        """(M, M) height of the lowest common ancestor, the longest way down from it; 0 for a class and itself."""
        found = np.full((len(self.nodes),) * 2, self.tree.height[0])
        for height in range(self.tree.height[0] - 1, -1, -1):
            at = self.ancestors[:, self.tree.height == height]
            found[at @ at.T > 0] = height
        np.fill_diagonal(found, 0)
        return found

    @cached_property
    def jaccard(self) -> np.ndarray:
        """(M, M) shared ancestors over all ancestors of two classes, themselves included."""
        both, size = self.ancestors @ self.ancestors.T, self.ancestors.sum(axis=1)
        return (both / (size[:, None] + size - both)).astype(float)

    @cached_property
    def relatives(self) -> dict[str, np.ndarray]:
        """{metric of RECALL: (M, M) float32}: 1 where two classes share a node at most so many steps up, themselves
        included. A metric for which no two classes do is left out: its recall would always be 0.
        """
        ups = {name: self.tree.within(steps)[self.nodes].astype(np.float32) for name, steps in RECALL.items()}
        near = {name: (up @ up.T > 0).astype(np.float32) for name, up in ups.items()}
        return {name: some for name, some in near.items() if some.sum() > len(some)}

    @cached_property
    def two_levels(self) -> bool:
        """Whether every class lies at the second level of a tree of two, below one parent."""
        parents = self.tree.parents
        second = all(len(parents[i]) == 1 and parents[i] != [0] and parents[parents[i][0]] == [0] for i in self.nodes)
        return second and self.tree.height[0] == 2


def class_tree(nodes: np.ndarray, tree: Ontology) -> ClassTree:
    """The ClassTree of these classes (M,), one for all evaluations of a class list."""
    return _class_tree(tuple(nodes.tolist()), tree)


@lru_cache(maxsize=2)
def _class_tree(nodes: tuple[int, ...], tree: Ontology) -> ClassTree:
    return ClassTree(np.array(nodes), tree)


def tree_ratios(top: np.ndarray, targets: np.ndarray, classes: ClassTree) -> Ratios:
    """The metrics of `ontology_metrics` that are ratios of sums over N clips.

    top (N, K): class positions, best first. targets (N, M) bool, each row with a true class. The recalls need the whole
    ranking, K = M.
    """
    rows = range(0, len(top), BLOCK_CLIPS)
    parts = [_clip_sums(top[i : i + BLOCK_CLIPS], targets[i : i + BLOCK_CLIPS], classes) for i in rows]
    sums = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    one = np.ones(len(top))
    ratios: Ratios = {
        "wrong_top1_distance": (sums["distance"], sums["wrong"]),
        "tree_induced_error": (sums["distance"], one),
        "lca_height": (sums["lca"], one),
        "jaccard": (sums["jaccard"], one),
        "hierarchical_precision": (sums["both"], sums["predicted"]),
        "hierarchical_recall": (sums["both"], sums["true"]),
        "hierarchical_f1": (2 * sums["both"], sums["predicted"] + sums["true"]),
    }
    if top.shape[1] == targets.shape[1]:
        ratios |= neighbour_recall(top, targets, classes)
    return ratios


def _clip_sums(top: np.ndarray, targets: np.ndarray, classes: ClassTree) -> dict[str, np.ndarray]:
    best = top[:, 0]
    predicted = classes.ancestors[best] > 0
    true = sums_over_labels(targets, classes.ancestors) > 0
    clip, label = labels_of(targets)
    pairs, first = (best[clip], label), np.searchsorted(clip, np.arange(len(top)))
    return {
        "wrong": (~targets[np.arange(len(top)), best]).astype(float),
        "distance": np.minimum.reduceat(classes.distances[pairs], first).astype(float),
        "lca": np.minimum.reduceat(classes.lca_height[pairs], first).astype(float),
        "jaccard": np.maximum.reduceat(classes.jaccard[pairs], first),
        "predicted": predicted.sum(axis=1).astype(float),
        "true": true.sum(axis=1).astype(float),
        "both": (predicted & true).sum(axis=1).astype(float),
    }


def neighbour_recall(order: np.ndarray, targets: np.ndarray, classes: ClassTree) -> Ratios:
    """The metrics of RECALL: of a clip's next best classes, outside all its labels, those that are near it.

    order (N, M): class positions, best first. Near is a class that shares a node with one of the clip's most specific
    labels, at most so many steps up, both themselves included, the added root excluded.
    """
    hits: dict[str, list] = {name: [] for name in classes.relatives}
    slots = []
    for start in range(0, len(order), BLOCK_CLIPS):
        some, labels = order[start : start + BLOCK_CLIPS], targets[start : start + BLOCK_CLIPS]
        some = some[:, : NEIGHBOURS + labels.sum(axis=1).max(initial=0)]
        outside = ~np.take_along_axis(labels, some, axis=1)
        chosen = outside & (outside.cumsum(axis=1) <= NEIGHBOURS)
        specific = most_specific(labels, classes)
        for name, near in classes.relatives.items():
            hits[name].append((np.take_along_axis(_near(specific, near), some, axis=1) & chosen).sum(axis=1))
        slots.append(chosen.sum(axis=1))
    return {name: (np.concatenate(parts), np.concatenate(slots)) for name, parts in hits.items()}


def most_specific(targets: np.ndarray, classes: ClassTree) -> np.ndarray:
    """(N, M) bool labels -> those of them that lie above no other label of the clip."""
    return targets & (sums_over_labels(targets, classes.above) == 0)


def labels_of(targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """(N, M) bool -> (clip, class) of each label, ascending; several times as fast as numpy's nonzero of two axes."""
    return np.divmod(np.flatnonzero(targets), max(targets.shape[1], 1))


def sums_over_labels(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N, M) bool, a row (K,) float32 of each class -> (N, K): the rows of each clip's few labels, added up."""
    from scipy.sparse import csr_array

    clip, label = labels_of(targets)
    return csr_array((np.ones(len(clip), np.float32), (clip, label)), targets.shape) @ rows


def recall_bounds(targets: np.ndarray, classes: ClassTree) -> dict[str, dict[str, float | None]]:
    """{metric of RECALL: {chance, ceiling}} for N clips; without those that no two classes are near for.

    chance: what is expected of any ranking in a tree of the same shape over which the classes are shuffled: of
    CHANCE_DRAWS clips with as many labels, and as many most specific ones, at random classes. ceiling: of a ranking
    that puts all near classes first. None where no clip has a class outside its labels.
    """
    specific, width = most_specific(targets, classes), targets.shape[1]
    counts = np.stack([specific.sum(axis=1), targets.sum(axis=1)])
    picked = np.lexsort(counts)[np.linspace(0, len(targets) - 1, CHANCE_DRAWS).round().astype(int)]
    places = _random_orders(width)
    shuffled = np.zeros((2, CHANCE_DRAWS, width), bool)  # most specific labels, and all
    for mask, count in zip(shuffled, counts[:, picked], strict=True):
        np.put_along_axis(mask, places, np.arange(width) < count[:, None], axis=1)
    result: dict[str, dict[str, float | None]] = {}
    for name, near in classes.relatives.items():
        held, slots = _relatives_outside(shuffled[0], shuffled[1], near)
        most, whole = _relatives_outside(specific, targets, near)
        share = (held * slots / np.maximum(width - shuffled[1].sum(axis=1), 1)).sum()
        result[name] = {"chance": float(share / slots.sum()) if slots.any() else None,
                        "ceiling": float(np.minimum(most, whole).sum() / whole.sum()) if whole.any() else None}
    return result  # fmt: skip


@lru_cache(maxsize=1)
def _random_orders(width: int) -> np.ndarray:
    """(CHANCE_DRAWS, width) int32: the classes in random orders, the same ones at every call."""
    return np.argsort(np.random.default_rng(0).random((CHANCE_DRAWS, width)), axis=1).astype(np.int32)


def _relatives_outside(specific: np.ndarray, targets: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) how many classes outside the labels are near the most specific ones, and (N,) how many places there are."""
    rows = range(0, len(targets), BLOCK_CLIPS)
    held = [(_near(specific[i : i + BLOCK_CLIPS], near) & ~targets[i : i + BLOCK_CLIPS]).sum(axis=1) for i in rows]
    return np.concatenate(held), np.minimum(NEIGHBOURS, targets.shape[1] - targets.sum(axis=1))


def _near(specific: np.ndarray, near: np.ndarray) -> np.ndarray:
    return sums_over_labels(specific, near) > 0


def two_level_averages(
    weights: np.ndarray, top1: np.ndarray, targets: np.ndarray, classes: ClassTree
) -> dict[str, np.ndarray]:
    """(B, N) weights -> {hP, hR, hF: (B,)} of the DCASE 2026 task on the Broad Sound Taxonomy.

    top1 (N,): class positions. targets (N, M) bool. {} unless the tree has two levels, all classes lie at the second,
    and every clip has one of them. An answer counts 1 if right, 0.75 x 1/2 if right at the top level alone, else 0.
    This is averaged over the clips with a class as answer (precision) and as truth (recall), then, with the F of each
    class, over the classes that are answer and truth of some clips, as the task's baseline does.
    """
    if not classes.two_levels or not (targets.sum(axis=1) == 1).all():
        return {}
    truth = targets.argmax(axis=1)
    credit = np.where(top1 == truth, 1.0, np.where(classes.distances[top1, truth] == 2, SAME_PARENT / 2, 0))
    shares = []
    for answer in (top1, truth):
        members = np.eye(targets.shape[1], dtype=weights.dtype)[answer]
        counted = weights @ members
        shares.append(np.divide(weights @ (members * credit[:, None].astype(weights.dtype)), counted,
                                out=np.full_like(counted, np.nan), where=counted > 0))  # fmt: skip
    precision, recall = shares
    both = precision + recall
    f = np.divide(2 * precision * recall, both, out=np.where(np.isnan(both), np.nan, 0), where=both > 0)
    known = np.isfinite(both)
    return {name: weighted.mean_of_classes(np.where(known, values, np.nan))
            for name, values in zip(TWO_LEVELS, (precision, recall, f), strict=True)}  # fmt: skip


def hubness(similarity: np.ndarray) -> dict:
    """{hubness_skewness, hubness_largest} of (M, M) similarities between class texts; None for fewer than three.

    Of N5, how many other texts have each text among their 5 nearest: its skewness, and its largest count (Radovanovic
    et al. 2010, "Hubs in Space", section 2).
    """
    size = len(similarity)
    if size < 3:
        return {"hubness_skewness": None, "hubness_largest": None}
    others = np.array(similarity, float)
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(NEIGHBOURS, size - 1)]
    counts = np.bincount(nearest.ravel(), minlength=size).astype(float)
    spread = counts.std()
    skewness = float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else None
    return {"hubness_skewness": skewness, "hubness_largest": int(counts.max())}


def ontology_metrics(
    top: np.ndarray,
    targets: np.ndarray,
    names: list[str],
    tree: Ontology,
    text: np.ndarray | None = None,
    audio: np.ndarray | None = None,
    text_similarity: np.ndarray | None = None,
) -> dict:
    """The tree's metrics of N clips against M classes; an undefined one is None, and `reason` says why.

    top (N, K): class positions, best first; K = M for the recalls. targets (N, M) bool. text (M, D) and audio (N, D):
    the vectors that are compared, tangent vectors after a hyperbolic projector, vectors before their normalisation for
    cosine. text_similarity (M, M): between the class texts.

    wrong_top1_distance: edges from a wrong top-1 to the nearest true class, averaged over the wrong ones.
    tree_induced_error: the same averaged over all clips, a right one 0 (Dekel et al. 2004, "Large Margin Hierarchical
    Classification"; TIE of Pal et al. 2025, "Compositional Entailment Learning", HyCoCLIP). lca_height: the height of
    the lowest common ancestor of top-1 and the true class where it is least (Deng et al. 2010, "What Does Classifying
    More Than 10,000 Image Categories Tell Us?"). jaccard: shared over all ancestors of top-1 and the true class where
    it is greatest (HyCoCLIP). hierarchical_precision, _recall, _f1: top-1 and the true classes each with all their
    ancestors, summed over clips (Kiritchenko et al. 2005, "Functional Annotation of Genes Using Hierarchical Text
    Categorization", section 5). sibling_recall@5, cousin_recall@5: of `neighbour_recall`, with `recall_bounds`. hP, hR,
    hF: of `two_level_averages`. hubness_*: of `hubness`.
    text_radius_depth, audio_radius_depth: Spearman's correlation of radius with depth, over the class texts and over
    the class means of audio. Unit vectors, as of plain CLAP's texts, have no radius: None.
    text_angle_depth, audio_angle_depth: the same with 1 - cosine to the mean direction (of all texts, of all clips;
    averaged over the clips of a class) in place of the radius, which every similarity has.
    """
    bounds = {f"{name}_bounds": {"chance": None, "ceiling": None} for name in RECALL}
    from_vectors = [f"{side}_{measure}_depth" for side in ("text", "audio") for measure in ("radius", "angle")]
    undefined = dict.fromkeys(("wrong_top1", *TREE_METRICS, *RECALL))
    last = dict.fromkeys((*TWO_LEVELS, "hubness_skewness", "hubness_largest", *from_vectors, "reason"))
    result: dict = undefined | bounds | last
    nodes, result["reason"] = tree.find(names)
    if nodes is None:
        return result
    classes, valid = class_tree(nodes, tree), targets.any(axis=1)
    if not valid.any():
        result["reason"] = "no clip has a true class"
    else:
        top, labels, once = top[valid], targets[valid], weighted.plain(int(valid.sum()))
        result["wrong_top1"] = int((~labels[np.arange(len(top)), top[:, 0]]).sum())
        values = {name: weighted.ratio(once, *parts) for name, parts in tree_ratios(top, labels, classes).items()}
        values |= two_level_averages(once, top[:, 0], labels, classes)
        result |= {name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])}
        result |= {f"{name}_bounds": found for name, found in recall_bounds(labels, classes).items()}
    if text_similarity is not None:
        result |= hubness(text_similarity)
    depth = tree.depth[nodes]
    if text is not None:
        result["text_radius_depth"] = radius_follows_depth(np.linalg.norm(text.astype(np.float64), axis=1), depth)
        result["text_angle_depth"] = radius_follows_depth(angle_from_mean(text), depth)
    if audio is not None:
        result["audio_radius_depth"] = radius_follows_depth(class_mean_radius(audio, targets), depth)
        with np.errstate(invalid="ignore"):
            angle = targets.T @ angle_from_mean(audio) / np.where(targets.sum(axis=0) > 1, targets.sum(axis=0), np.nan)
        result["audio_angle_depth"] = radius_follows_depth(angle, depth)
    return result


def class_mean_radius(audio: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, D) audio vectors, (N, M) bool -> (M,) length of each class's mean vector; NaN below two clips.

    The mean of n vectors is longer the smaller n is, and deep classes are rare, so the plain length would correlate
    with depth by itself. |mean|^2 without that bias is the mean inner product of two different clips of the class.
    """
    members, vectors = targets.T.astype(np.float64), audio.astype(np.float64)
    counts = members.sum(axis=1)
    squares = ((members @ vectors) ** 2).sum(axis=1) - members @ (vectors**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.sqrt(np.maximum(squares / (counts * (counts - 1)), 0))
    return np.where(counts > 1, radius, np.nan)


def angle_from_mean(vectors: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,) 1 - cosine between each vector and the mean direction of all."""
    unit = vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-30)
    mean = unit.mean(axis=0)
    return 1 - unit @ mean / np.maximum(np.linalg.norm(mean), 1e-30)


def radius_follows_depth(radius: np.ndarray, depth: np.ndarray) -> dict | None:
    """(M,) radii (NaN: left out), (M,) depths -> {rho, p, classes}; None where either does not vary."""
    from scipy.stats import spearmanr

    known = np.isfinite(radius)
    radius, depth = radius[known], depth[known]
    if len(radius) < 3 or np.ptp(radius) <= 1e-4 * np.abs(radius).max() or np.ptp(depth) == 0:
        return None
    found = spearmanr(radius, depth)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "classes": len(radius)}
