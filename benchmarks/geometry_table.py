"""Does curvature help? Untrained and trained cosine, the flat limit and hyperbolic, side by side on real sounds.

    python benchmarks/geometry_table.py --train-dir realsounds/train_balanced --eval-dir realsounds/eval
    python benchmarks/geometry_table.py --train-dir ... --eval-dir ... --losses --radii --learn-c --ontology --unseen

Every trained row is the same projector, data, split, seeds and budget; only the similarity differs. The epoch is
the one with the lowest validation loss, as the training script keeps it. Learning rate and c are chosen on the
validation split, by the mean of the four metrics over the seeds, by the same search for every side; the evaluation
clips choose nothing. Percent: mean +- standard deviation over the seeds; differences with the 95 % interval of a
bootstrap over clips and seeds. About 10 minutes on 2 cores.
"""

import copy
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from material import ROOT, class_names, parse, print_table, quiet

METRICS = ("acc@1", "acc@5", "map", "map_samples")
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
CURVATURES = (0.1, 0.3, 1.0, 3.0)
FLAT = 1e6
PRIOR_WEIGHTS = (0.01, 0.02, 0.05, 0.1)
RESAMPLES = 4000

DATA = None
DRAWN = {}


@dataclass
class Data:
    """Embeddings and targets of both folders, and the class texts."""

    videos: list
    audio: object
    targets: object
    eval_audio: object
    eval_targets: object
    text: object


def load(train_dir: Path, eval_dir: Path, checkpoint: str) -> Data:
    import torch

    from CLAP.cache import EmbeddingCache, default_folder
    from CLAP.encoder import Encoder
    from data import ParquetFolder
    from embedding.clips import embed_clips
    from embedding.folder import columns, reason_against
    from embedding.texts import embed_classes
    from plumbing.flags import CLASS_LABELS
    from reading.labels import ClassList

    classes = ClassList.read(CLASS_LABELS)
    encoder = Encoder(checkpoint, torch.device("cpu"))
    cache = EmbeddingCache(default_folder(), encoder.fingerprint)

    def embed(folder):
        whole = ParquetFolder(folder, classes)
        clips, audio, _ = embed_clips(whole, encoder, cache, whole.num_rows, reason_against)
        rows = columns(clips, classes)
        return rows.videos, audio, torch.from_numpy(rows.targets)

    videos, audio, targets = embed(train_dir)
    _, eval_audio, eval_targets = embed(eval_dir)
    return Data(videos, audio, targets, eval_audio, eval_targets, embed_classes(classes.names, encoder, cache))


def four(scores, targets):
    """acc@1, acc@5, class-wise map and per-clip map of (N, M) arrays; scores without ties."""
    import numpy as np

    hits = np.take_along_axis(targets, np.argsort(-scores, axis=1), axis=1)
    return np.array([hits[:, :1].any(1).mean(), hits[:, :5].any(1).mean(), precision(scores.T, targets.T).mean(),
                     precision(scores, targets).mean()])  # fmt: skip


def precision(scores, targets):
    """Average precision of each row that has a positive."""
    import numpy as np

    rows = targets.any(1)
    order = np.argsort(-scores[rows], axis=1, kind="stable")
    hits = np.take_along_axis(targets[rows], order, axis=1)
    ranks = np.arange(1, hits.shape[1] + 1)
    return (np.cumsum(hits, axis=1) * hits / ranks).sum(1) / hits.sum(1)


def initialise(data):
    global DATA
    import torch

    torch.set_num_threads(1)
    DATA = data


def fit(settings, pull=0.0):
    """One training run -> (its validation metrics, its scores of the evaluation clips, its class texts).

    pull: weight of a term that draws the radius of each class text to its depth in AudioSet's tree.
    """
    import torch

    from training.loop import Trainer
    from training.split import split_by_video

    data = DATA
    train, validation = split_by_video(data.videos, 0.8, settings.seed)
    trainer = Trainer(settings, data.audio, data.targets, data.text, train, validation)
    if pull:
        add_depth_term(trainer, pull)
    best, kept = None, None
    with quiet():
        for record in trainer.epochs():
            if best is None or record["val_loss"] < best["val_loss"]:
                best, kept = record, copy.deepcopy(trainer.projector)
    with torch.no_grad():
        chosen = kept(data.audio[validation], data.text).numpy()
        scores = kept(data.eval_audio, data.text).numpy()
        texts = kept.text(data.text).numpy()
    return four(chosen, data.targets[validation].numpy()), scores, texts


def add_depth_term(trainer, pull):
    """Let a class text of the least depth lie at half the audio's radius, of the greatest at one and a half."""
    import torch

    depth = torch.tensor(depths(), dtype=torch.float32)
    wanted = trainer.settings.audio_radius * (0.5 + depth / depth.max())
    plain = trainer.loss

    def loss(logits, targets):
        if not torch.is_grad_enabled():  # the validation chooses by the same loss as without the term
            return plain(logits, targets)
        radius = trainer.projector.text(trainer.text).norm(dim=1)
        return plain(logits, targets) + pull * (radius - wanted).square().mean()

    trainer.loss = loss


def depths():
    """The depth of each AudioSet class in the tree."""
    from results.ontology import Ontology

    tree = Ontology()
    return tree.depth[tree.find(class_names())[0]]


class Runs:
    """Training runs on all cores, each only once."""

    def __init__(self, data, seeds):
        self.pool = ProcessPoolExecutor(initializer=initialise, initargs=(data,))
        self.seeds, self.done = seeds, {}

    def __call__(self, settings):
        """(validation metrics (S, 4), list of S score matrices) over the seeds."""
        key = repr(settings)
        if key not in self.done:
            self.start(settings)
        results = [future.result() for future in self.done[key]]
        return [r[0] for r in results], [r[1] for r in results]

    def start(self, settings):
        key = repr(settings)
        if key not in self.done:
            self.done[key] = [self.pool.submit(fit, replace(settings, seed=seed)) for seed in range(self.seeds)]

    def best(self, candidates):
        """The candidate with the highest validation metrics, averaged over metrics and seeds."""
        import numpy as np

        for settings in candidates:
            self.start(settings)
        return max(candidates, key=lambda settings: np.mean(self(settings)[0]))


def difference(first, second, targets):
    """second - first in the four metrics, each with the interval of a bootstrap over clips and seeds."""
    import numpy as np

    drawn = np.stack([resampled(b, targets) - resampled(a, targets) for a, b in zip(first, second, strict=True)])
    seeds = np.random.default_rng(1).integers(len(first), size=(RESAMPLES, len(first)))
    mixed = np.stack([drawn[seeds[:, s], np.arange(RESAMPLES)] for s in range(len(first))]).mean(0)
    point = np.mean([four(b, targets) - four(a, targets) for a, b in zip(first, second, strict=True)], axis=0)
    low, high = np.percentile(mixed, [2.5, 97.5], axis=0)
    return [f"{100 * p:+.1f} [{100 * a:+.1f}, {100 * b:+.1f}]" for p, a, b in zip(point, low, high, strict=True)]


def resampled(scores, targets):
    """(RESAMPLES, 4): the metrics of resampled clips, the same draws for every scores; remembered."""
    import numpy as np

    from results.bootstrap import Ranking, draw

    if id(scores) not in DRAWN:
        ranking, linear, parts = Ranking(scores, targets), per_clip(scores, targets), []
        for weights in draw(len(targets), RESAMPLES, 0, ranking.width):
            means = weights @ linear / len(targets)
            parts.append(np.insert(means, 2, np.nanmean(ranking(weights)[0], axis=1), axis=1))
        DRAWN[id(scores)] = np.concatenate(parts)
    return DRAWN[id(scores)]


def per_clip(scores, targets):
    """(N, 3) float32: hit at 1, hit at 5, average precision of each clip."""
    import numpy as np

    hits = np.take_along_axis(targets, np.argsort(-scores, axis=1), axis=1)
    columns = [hits[:, :1].any(1), hits[:, :5].any(1), precision(scores, targets)]
    return np.stack(columns, axis=1).astype(np.float32)


def cells(scores, targets):
    import numpy as np

    values = 100 * np.array([four(s, targets) for s in scores])
    spread = [f" +- {s:.1f}" if len(values) > 1 else "" for s in values.std(0)]
    return [f"{m:.1f}{s}" for m, s in zip(values.mean(0), spread, strict=True)]


def untrained(data, dim, seeds):
    """Cosine scores without training: CLAP's own, or in the principal directions of the class texts."""
    import torch

    from hyperbolic import HyperbolicProjector

    projector = HyperbolicProjector(output_dim=dim, similarity="cosine")
    projector.start_at_principal_directions(data.text)
    with torch.no_grad():
        return projector(data.eval_audio, data.text).numpy(), projector(data.audio, data.text).numpy()


def with_prior(data, seeds):
    """Untrained cosine plus the log frequency of each label in the training split, weight chosen on validation."""
    import numpy as np

    from training.split import split_by_video

    scores, train_scores = untrained(data, 512, seeds)
    targets = data.targets.numpy()
    splits = [split_by_video(data.videos, 0.8, seed) for seed in range(seeds)]
    priors = [np.log(targets[train].sum(0) + 1.0) for train, _ in splits]
    chosen = max(
        PRIOR_WEIGHTS,
        key=lambda w: np.mean([four(train_scores[v.numpy()] + w * p, targets[v.numpy()])
                               for (_, v), p in zip(splits, priors, strict=True)]),
    )  # fmt: skip
    return chosen, [scores + chosen * prior for prior in priors]


def original_recipe(seed):
    """The first public form of this idea: first label only, unit-ball distance, clip at 0.9, 1/sqrt(c), c = 0.006."""
    import torch

    from training.split import split_by_video

    data, c = DATA, 0.006
    torch.manual_seed(seed)
    linear = torch.nn.Linear(512, 512)
    optimizer = torch.optim.Adam(linear.parameters(), 1e-4)
    first = data.targets.float().argmax(1)
    train, _ = split_by_video(data.videos, 0.8, seed)

    def ball(x):
        v = linear(x)
        norm = v.norm(dim=1, keepdim=True).clamp(min=1e-8)
        y = torch.tanh(norm * c**0.5) / c**0.5 * v / norm
        return y * (0.9 / y.norm(dim=1, keepdim=True).clamp(min=1e-8)).clamp(max=1)

    def dist(x, y):
        squared = torch.cdist(x, y).square()
        room = (1 - x.square().sum(1))[:, None] * (1 - y.square().sum(1))
        return torch.acosh(1 + 2 * squared / room + 1e-7) / c**0.5

    for epoch in range(10):
        draw = torch.Generator().manual_seed(seed * 100 + epoch)
        for rows in train[torch.randperm(len(train), generator=draw)].split(16):
            logits = -dist(ball(data.audio[rows]), ball(data.text[first[rows]]))
            loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(rows)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return -dist(ball(data.eval_audio), ball(data.text)).numpy()


def grid(side, rates, curvatures=(1.0,)):
    return [replace(side, learning_rate=rate, c=c) for rate, c in itertools.product(rates, curvatures)]


def main_table(data, runs, base, dims, targets):
    """The experiment: for each number of dimensions the sides at the default learning rate and at the best one."""
    cosine = replace(base, similarity="cosine")
    flat = replace(base, c=FLAT)
    for dim in dims:  # everything into the queue first, so that no core waits
        for side, curvatures in ((cosine, (1.0,)), (flat, (FLAT,)), (base, CURVATURES)):
            for settings in grid(replace(side, output_dim=dim), RATES, curvatures):
                runs.start(settings)
    rows, differences = [], []
    plain = untrained(data, 512, runs.seeds)[0]
    rows.append(["untrained cosine", "512", "", "", *cells([plain], targets)])
    weight, prior = with_prior(data, runs.seeds)
    rows.append([f"untrained cosine + label prior ({weight:g})", "512", "", "", *cells(prior, targets)])
    recipe = list(runs.pool.map(original_recipe, range(runs.seeds)))
    rows.append(["original recipe", "512", "0.006", "1e-4", *cells(recipe, targets)])
    for dim in dims:
        if dim < 512:
            rows.append(["untrained cosine", str(dim), "", "", *cells([untrained(data, dim, runs.seeds)[0]], targets)])
        for rates in (RATES[:1], RATES):
            chosen = {
                "trained cosine": runs.best(grid(replace(cosine, output_dim=dim), rates)),
                "trained flat": runs.best(grid(replace(flat, output_dim=dim), rates, (FLAT,))),
                "trained hyperbolic": runs.best(grid(replace(base, output_dim=dim), rates)),
                "trained hyperbolic, best c": runs.best(grid(replace(base, output_dim=dim), rates, CURVATURES)),
            }
            scores = {name: runs(settings)[1] for name, settings in chosen.items()}
            for name, settings in chosen.items():
                c = "" if "cosine" in name else f"{settings.c:g}"
                rows.append([name, str(dim), c, f"{settings.learning_rate:g}", *cells(scores[name], targets)])
            which = "default" if rates == RATES[:1] else "best"
            for name in ("trained hyperbolic", "trained hyperbolic, best c"):
                for other in ("trained cosine", "trained flat"):
                    values = difference(scores[other], scores[name], targets)
                    differences.append([f"{name} - {other}", str(dim), which, *values])
                values = difference([plain] * runs.seeds, scores[name], targets)
                differences.append([f"{name} - untrained cosine at 512", str(dim), which, *values])
    print_table(["row", "dim", "c", "learning rate", *METRICS], rows)
    print_table(["paired difference", "dim", "learning rate", *METRICS], differences)


def variants(runs, base, targets, name, values, similarities=("hyperbolic", "cosine")):
    """One setting varied, everything else at the defaults, with the validation metrics' mean."""
    sides = [replace(base, similarity=s, **{name: v}) for v in values for s in similarities]
    for settings in sides:
        runs.start(settings)
    rows = [[str(getattr(s, name)), s.similarity, *cells(runs(s)[1], targets)] for s in sides]
    print_table([name, "similarity", *METRICS], rows)


def ontology_term(runs, base, targets):
    """Does it help to tell the radius what the tree knows? A term that ties the text radius to the depth."""
    import numpy as np
    from scipy.stats import spearmanr

    rows = []
    for pull in (0.0, 10.0, 100.0, 1000.0):
        results = [runs.pool.submit(fit, replace(base, seed=seed), pull) for seed in range(runs.seeds)]
        results = [future.result() for future in results]
        rho = [spearmanr(np.linalg.norm(texts, axis=1), depths()).statistic for _, _, texts in results]
        rows.append([f"{pull:g}", *cells([scores for _, scores, _ in results], targets), f"{np.mean(rho):+.2f}"])
    print_table(["weight of the depth term", *METRICS, "Spearman of radius and depth"], rows)


def unseen(data, base, targets, seeds):
    """Class-wise map of 40 classes held out of the training labels and texts, and of the others."""
    import numpy as np
    import torch

    from training.loop import Trainer
    from training.split import split_by_video

    both = np.flatnonzero(targets.any(0) & data.targets.numpy().any(0))
    rows, plain = [], untrained(data, 512, seeds)[0]
    results = {"untrained cosine": [], "trained cosine": [], "trained flat": [], "trained hyperbolic": []}
    for seed in range(seeds):
        held = np.random.default_rng(seed).choice(both, 40, replace=False)
        kept = np.setdiff1d(np.arange(targets.shape[1]), held)
        usable = torch.from_numpy(np.flatnonzero(data.targets.numpy()[:, kept].any(1)))
        parts = split_by_video([data.videos[i] for i in usable], 0.8, seed)
        scores = {"untrained cosine": plain}
        for name, change in (
            ("trained cosine", {"similarity": "cosine"}),
            ("trained flat", {"c": FLAT}),
            ("trained hyperbolic", {}),
        ):
            settings = replace(base, seed=seed, **change)
            with quiet():
                trainer = Trainer(settings, data.audio[usable], data.targets[usable][:, kept], data.text[kept], *parts)
                list(trainer.epochs())
            with torch.no_grad():
                scores[name] = trainer.projector(data.eval_audio, data.text).numpy()
        for name, s in scores.items():
            ap = [precision(s.T[c], targets.T[c]).mean() for c in (held, kept)]
            results[name].append(ap)
    for name, values in results.items():
        mean, std = 100 * np.mean(values, axis=0), 100 * np.std(values, axis=0)
        rows.append([name, *(f"{m:.1f} +- {s:.1f}" for m, s in zip(mean, std, strict=True))])
    print_table(["row", "map of 40 classes never trained on", "map of the other classes"], rows)


def main(args) -> None:
    from training.loop import Settings

    with quiet():
        data = load(args.train_dir, args.eval_dir, args.checkpoint)
    initialise(data)
    targets = data.eval_targets.numpy()
    base = Settings(loss=args.loss, audio_radius=args.audio_radius)
    runs = Runs(data, args.seeds)
    clips = f"{len(data.audio)} training and {len(data.eval_audio)} evaluation clips"
    print(f"{clips}, {args.seeds} seeds, {args.loss} loss\n")
    if args.losses:
        variants(runs, base, targets, "loss", ["sigmoid", "softmax", "contrastive"])
    if args.radii:
        for c in (base.c, FLAT):
            variants(runs, replace(base, c=c), targets, "audio_radius", [0.25, 0.5, 1.0, 2.0, 4.0], ["hyperbolic"])
    if args.learn_c:
        variants(runs, base, targets, "learn_c", [False, True], ["hyperbolic"])
    if args.ontology:
        ontology_term(runs, base, targets)
    if args.unseen:
        unseen(data, base, targets, args.seeds)
    if not (args.losses or args.radii or args.learn_c or args.ontology or args.unseen):
        main_table(data, runs, base, args.dims, targets)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--train-dir", {"type": Path, "required": True}),
            ("--eval-dir", {"type": Path, "required": True}),
            ("--checkpoint", {"default": str(ROOT / "CLAP" / "tiny")}),
            ("--seeds", {"type": int, "default": 5}),
            ("--dims", {"type": int, "nargs": "+", "default": [512, 64, 16, 8]}),
            ("--loss", {"default": "sigmoid"}),
            ("--audio-radius", {"type": float, "default": 0.5}),
            ("--losses", {"action": "store_true", "help": "compare the losses instead"}),
            ("--radii", {"action": "store_true", "help": "compare common audio radii instead"}),
            ("--learn-c", {"action": "store_true", "help": "compare a learned c with a given one instead"}),
            ("--ontology", {"action": "store_true", "help": "tie the text radius to the depth instead"}),
            ("--unseen", {"action": "store_true", "help": "hold 40 classes out of the training instead"}),
        )
    )
