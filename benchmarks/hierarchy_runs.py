"""What benchmarks/hierarchy_table.py trains and measures: AudioSet's tree in labels, cones, held-out and few clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import geometry_runs
from geometry_runs import FLAT, SEEDS, Data, best, four

RESAMPLES = 1000
CONE_WIDTH = 0.3
HELD, SUBTREE = 40, (8, 60)  # classes held out; the least and the most of a subtree
PROTOTYPES = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass
class Tree(Data):
    """The data, and the texts of all nodes of the tree (n, D), without the added root."""

    nodes: object
    names: list[str]  # of the classes


def with_tree(data: Data, checkpoint: str) -> Tree:
    from hyperbolic_clap.embedding.texts import embed_classes
    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.reading.labels import ClassList

    nodes = embed_classes(audioset().names[1:], *geometry_runs.open_encoder(checkpoint))
    return Tree(data.train, data.measured, data.text, nodes, ClassList.read(CLASS_LABELS).names)


# Figures are arrays (1 + RESAMPLES,): the value, and the value for each resample of the clips.


def drawn(clips: int, work):
    """work: (B, clips) weights -> (B,)."""
    import numpy as np

    from hyperbolic_clap.metrics.bootstrap import draw

    as_it_is = np.ones((1, clips), np.float32)
    return np.concatenate([work(as_it_is), *(work(weights) for weights in draw(clips, RESAMPLES, 0))])


def mean_precision(scores, targets):
    """Average precision of each class that occurs, averaged over them."""
    from hyperbolic_clap.metrics.weighted import Ranking, mean_of_classes

    ranking = Ranking(scores, targets)
    return drawn(len(targets), lambda weights: mean_of_classes(ranking.precision(weights)))


def mean(values):
    return drawn(len(values), lambda weights: weights @ values.astype("float32") / len(values))


def ranked(scores, targets) -> dict:
    """acc@1, map and map_samples."""
    import numpy as np

    first = targets[np.arange(len(scores)), scores.argmax(1)]
    return {"acc@1": mean(first), "map": mean_precision(scores, targets),
            "map_samples": mean(geometry_runs.precision(scores, targets))}  # fmt: skip


def head_of(projector=None, scale=None):
    """The product's head around a projector; without one, CLAP's own cosine."""
    import torch

    from hyperbolic_clap.projector.projector import Projector

    head = Projector(None, torch.device("cpu"))
    if projector is not None:
        head.module, head.logit_scale, head.content = projector, scale, {"similarity": projector.similarity}
    return head


def scores_of(head, name: str):
    import torch

    data = geometry_runs.DATA
    with torch.no_grad():
        return head.compare(head.audio(data.measured[name].audio), head.text(data.text)).numpy()


def tree_figures(head=None) -> dict:
    """{(folder, metric): figure} of what a head knows of the tree; without a head, CLAP's own cosine."""
    import numpy as np
    import torch

    from hyperbolic_clap.metrics import traversal as walks
    from hyperbolic_clap.metrics.hierarchy import radius_follows_depth
    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.metrics.weighted import ratio
    from hyperbolic_clap.results.evaluation import of_superclasses

    data, tree, found, head = geometry_runs.DATA, audioset(), {}, head or head_of()
    nodes, place = tree.find(data.names)[0], {name: i for i, name in enumerate(tree.names[1:])}
    for name, folder in data.measured.items():
        material = SimpleNamespace(
            audio=folder.audio, targets=folder.targets, classes=SimpleNamespace(names=data.names),
            texts_of=lambda names: data.nodes[[place[n] for n in names]],
        )  # fmt: skip
        scores, targets = scores_of(head, name), folder.targets.numpy()
        with torch.no_grad():
            inner = of_superclasses(material, head, scores, tree)
            text = head.text(data.text)
            met = walks.traverse(head.compare, head.kind.towards_root, head.audio(folder.audio), text)
        own, branch = (mean_precision(inner[kind], inner["inner_targets"]) for kind in ("inner_own", "inner_branch"))
        inside, whole = walks.ancestors_in_order(met, targets, nodes, tree).T
        share = drawn(len(met), partial(ratio, numerator=inside, denominator=whole))
        figures = {"map_inner": own, "map_inner_descendants": branch, "descendants - own text": branch - own}
        figures |= {"way to the root": share} | ranked(scores, targets)
        follows = radius_follows_depth(text.norm(dim=1).numpy(), tree.depth[nodes])
        if head.similarity == "hyperbolic" and follows:
            figures["radius follows depth"] = np.full(1 + RESAMPLES, follows["rho"])
        found |= {(name, metric): figure for metric, figure in figures.items()}
    return found


def trained(settings, targets=None, text=None, shots: int = 0, cones: float = 0.0):
    """The head of one training; targets and text: others than the folder's and the classes'."""
    from hyperbolic_clap.training.split import split_by_video
    from hyperbolic_clap.training.trainer import Trainer

    data = geometry_runs.DATA
    targets = data.train.targets if targets is None else targets
    usable = targets.any(1).nonzero()[:, 0]
    train, validation = (usable[p] for p in split_by_video(data.train.sources[usable.numpy()], 0.8, settings.seed))
    if shots:
        train = few(targets, train, shots, settings.seed)
    text = data.text if text is None else text
    trainer = Trainer(settings, data.train.audio, targets, text, train, validation)
    if cones:
        add_cones(trainer, cones)
    return head_of(*best(trainer))


def few(targets, train, shots: int, seed: int):
    """Of the training clips in a random order the first few of each class."""
    import torch

    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]
    return train[torch.cat([c.nonzero()[:shots, 0] for c in targets[train].T]).unique()]


def plain_run(settings, **given) -> dict:
    return tree_figures(trained(settings, **given))


def closed_run(settings) -> dict:
    """A training on all nodes of the tree, each clip labelled with the ancestors of its classes too."""
    import torch

    from hyperbolic_clap.metrics.ontology import audioset

    data, tree = geometry_runs.DATA, audioset()
    above = torch.from_numpy(tree.ancestors[tree.find(data.names)[0]][:, 1:]).float()
    return tree_figures(trained(settings, data.train.targets.float() @ above > 0, data.nodes))


def outside(x, y, c: float, width: float = CONE_WIDTH):
    """How far (N,) the points y lie outside the entailment cones of x, in radians; tangent vectors (N, D).

    Ganea et al. 2018, "Hyperbolic Entailment Cones", eq. 26 and 28, by the hyperbolic law of cosines; for FLAT their
    Euclidean cones (the appendix), the limit of small vectors.
    """
    x, y = x.double(), y.double()
    a, b = (v.norm(dim=1).clamp(min=1e-6) for v in (x, y))  # 0/0 at the origin
    if c == FLAT:
        away = (y - x).norm(dim=1).clamp(min=1e-6)
        turn, sine = ((y - x) * x).sum(1) / away / a, width / a
    else:
        cos = (x * y).sum(1) / a / b
        a, b = 2 * a / c**0.5, 2 * b / c**0.5
        cosh = (a.cosh() * b.cosh() - a.sinh() * b.sinh() * cos).clamp(min=1 + 1e-9)
        turn = (b.cosh() - a.cosh() * cosh) / (a.sinh() * (cosh.square() - 1).sqrt())
        sine = 2 * width / a.sinh()
    edge = 1 - 1e-7  # acos and asin have infinite slopes at 1
    return (turn.clamp(-edge, edge).acos() - sine.clamp(max=edge).asin()).relu()


def add_cones(trainer, weight: float) -> None:
    """Ask that children's texts lie in the cones of their parents', and training clips in those of their classes'."""
    import torch

    from hyperbolic_clap.metrics.ontology import audioset

    data, tree, projector, plain = geometry_runs.DATA, audioset(), trainer.projector, trainer.loss
    child, parent = zip(*((i, p) for i, some in enumerate(tree.parents) for p in some if p), strict=True)
    child, parent = (torch.tensor(part) - 1 for part in (child, parent))
    clip, label = trainer.targets[trainer.train].nonzero().T
    c = trainer.config.c

    def loss(logits, targets):
        if not torch.is_grad_enabled():  # the validation chooses by the same loss as without the cones
            return plain(logits, targets)
        nodes, texts = projector.text(data.nodes), projector.text(trainer.text)
        audio = projector.audio(trainer.audio[trainer.train])
        pairs = outside(nodes[parent], nodes[child], c).mean() + outside(texts[label], audio[clip], c).mean()
        return plain(logits, targets) + weight * pairs

    trainer.loss = loss


def held_out(subtree: bool) -> list:
    """For each seed the classes that are held out, all of which occur in training and evaluation."""
    import numpy as np

    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.metrics.superclasses import superclasses

    data, tree = geometry_runs.DATA, audioset()
    occurs = data.measured["eval"].targets.numpy().any(0) & data.train.targets.numpy().any(0)
    if not subtree:
        both = np.flatnonzero(occurs)
        return [np.random.default_rng(seed).choice(both, min(HELD, len(both) // 2), False) for seed in range(SEEDS)]
    below = tree.ancestors[tree.find(data.names)[0]] & occurs[:, None]
    fit = [node for node in superclasses(tree) if SUBTREE[0] <= below[:, node].sum() <= SUBTREE[1]]
    return [np.flatnonzero(below[:, node]) for node in np.random.default_rng(0).permutation(fit)[:SEEDS]]


def unseen_run(settings, held) -> dict:
    """settings None: untrained."""
    import numpy as np

    data = geometry_runs.DATA
    others = np.setdiff1d(np.arange(len(data.text)), held)
    head = head_of() if settings is None else trained(settings, data.train.targets[:, others], data.text[others])
    scores, targets = scores_of(head, "eval"), data.measured["eval"].targets.numpy()
    kinds = {"map of the classes held out": held, "map of the other classes": others}
    return {("eval", name): mean_precision(scores[:, some], targets[:, some]) for name, some in kinds.items()}


def few_run(settings, shots: int) -> dict:
    head = trained(settings, shots=shots) if settings else head_of()
    folders = geometry_runs.DATA.measured
    return {(name, metric): figure for name, folder in folders.items()
            for metric, figure in ranked(scores_of(head, name), folder.targets.numpy()).items()}  # fmt: skip


def prototype_run(shots: int, seed: int) -> dict:
    """Untrained cosine and the prototypes of the few clips, their weight chosen on the validation clips."""
    from hyperbolic import cosine_similarity
    from hyperbolic_clap.projector.prototypes import added, prototypes
    from hyperbolic_clap.training.split import split_by_video

    data = geometry_runs.DATA
    train, validation = split_by_video(data.train.sources, 0.8, seed)
    some = few(data.train.targets, train, shots, seed)

    def scores(weight: float, audio):
        content = prototypes(weight, data.train.audio[some], data.train.targets[some], data.names)
        return (cosine_similarity(audio, data.text) + added(content, audio, data.names)).numpy()

    truth = data.train.targets[validation].numpy()
    weight = max(PROTOTYPES, key=lambda w: four(scores(w, data.train.audio[validation]), truth).mean())
    return {(name, metric): figure for name, folder in data.measured.items()
            for metric, figure in ranked(scores(weight, folder.audio), folder.targets.numpy()).items()}  # fmt: skip
