"""Results JSON files as comparable numbers: what a file holds, and how it is read.

What a results JSON must hold to be read: `predictions`, or else `metrics` (values may be null or missing). Everything
that the predictions allow is recomputed from them. Whole rankings (map, map_samples, auc, d_prime, mean_rank, and acc@k
beyond the stored predictions) need the similarities, which the test scripts write with --save-scores:

    test_info.scores        path of a safetensors file, relative to the results JSON
    its tensor `scores`     (N, M) float32, a row for each entry of `predictions`, in that order
    its tensor `targets`    (N, M) uint8, 1 where the class is true of the clip
    `inner_own`, `inner_branch`, `inner_targets`   (N, I), if the classes are AudioSet's: see metrics/superclasses.py
    test_info.class_names   the M class names, in the order of the columns
    test_info.taxonomy      {class: list of its parents}, if the tree is not AudioSet's
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from hyperbolic_clap.metrics.classification import ACCURACY_RANKS
from hyperbolic_clap.metrics.hierarchy import RECALL, TREE_METRICS, TWO_LEVELS
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.superclasses import INNER
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.reading.labels import ClassList

AT_K = [f"{name}_{average}" for average in ("micro", "macro") for name in ("precision", "recall", "f1")]
RADII = ("text_radius_depth", "audio_radius_depth", "text_angle_depth", "audio_angle_depth")
OVER_CLASSES = (*RADII, "hubness_skewness", "hubness_largest")  # of these there is no interval over clips
ORDER = [*(f"acc@{k}" for k in ACCURACY_RANKS), "mrr", "mean_rank", *AT_K, "map", "map_samples", "auc", "d_prime"]
OF_THE_TREE = (*TREE_METRICS, *RECALL, *TWO_LEVELS, "inner_classes", *INNER, *RADII)
ORDER += ["wrong_top1", *TREE_METRICS, *RECALL, *TWO_LEVELS, "inner_classes", *INNER, *OVER_CLASSES]
ORDER += ["valid_samples", "total_samples"]
SAME = 1e-4  # a stored and a recomputed value that differ by less are the same value


def save_scores(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write scores, targets and the like as the module's docstring describes."""
    from safetensors.numpy import save

    kinds = {name: np.uint8 if name.endswith("targets") else np.float32 for name in tensors}
    content = save({name: tensors[name].astype(kinds[name]) for name in tensors}, {"format": "1"})
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


@dataclass
class Results:
    """One results file. N clips, M classes, K stored predictions for each clip (0: nothing to recompute from).

    ours: written by this project, so a stored metric means what its name says here. metrics: stored numbers.
    top: (N, K) class positions, best first, all M columns where scores are stored; -1 is a class of no name.
    targets: (N, M) bool. scores: (N, M) or None. inner: the tensors of metrics/superclasses.py, {} without them.
    taxonomy: the tree of test_info.taxonomy, None for AudioSet's. notes: sentences about what is wrong or missing.
    """

    path: Path
    label: str
    ours: bool
    metrics: dict
    info: dict
    names: list[str]
    keys: list[tuple]
    top: np.ndarray
    depth: int
    targets: np.ndarray
    scores: np.ndarray | None
    inner: dict[str, np.ndarray] = field(default_factory=dict)
    taxonomy: Ontology | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> dict:
        """The file's model_info."""
        return self.info["model"]

    @cached_property
    def valid(self) -> np.ndarray:
        """(N,) bool: clips with a true class, the ones that metrics are about."""
        return np.asarray(self.targets.any(axis=1))


def training_words(model: dict) -> str | None:
    """How a projector was trained, in words: seed, epoch, clips, and what is not at its default; None if not told.

    model: the model_info of a results file, which may be of another program.
    """
    training, defaults = _dictionary(model, "training"), asdict(TrainConfig())
    if not training:
        return None
    clips = _dictionary(training, "clips")
    known = {"seed": training.get("seed"), "epoch": training.get("epoch")}
    known |= {f"{part} clips": clips.get(part) for part in ("train", "validation")}
    known |= {name: training[name] for name in defaults if name != "seed" and training.get(name, defaults[name])
              != defaults[name]}  # fmt: skip
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items() if value is not None)


def load(path: Path):
    """The content of a JSON file; UserError if it is none."""
    try:
        # NaN and Infinity, which are no JSON, are no figures either.
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON (cut off, or another kind of file)") from None


def read(path: Path, label: str, class_labels: Path | None, default_labels: Path) -> Results:
    """A results file; UserError in one sentence if it is not one. class_labels: what --class-labels gave, or None."""
    content = load(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no results JSON: it is not an object with the keys 'metrics' and 'predictions'")
    info, model = _dictionary(content, "test_info"), _dictionary(content, "model_info")
    stored = _dictionary(content, "metrics") | _dictionary(content, "ontology")
    stored |= {name: stored[name].get("rho") for name in RADII if isinstance(stored.get(name), dict)}
    metrics = {k: v for k, v in stored.items() if type(v) in (int, float) and math.isfinite(v)}
    notes = [f"{label} has no metrics of its own"] if not metrics else []
    rows = content["predictions"] if isinstance(content.get("predictions"), list) else []
    entries = [entry for entry in rows if isinstance(entry, dict)]
    if not entries and not metrics:
        raise UserError(f"{path} is no results JSON: it has neither 'metrics' nor 'predictions'")
    if not entries:
        notes.append(f"{label} has no predictions, so its metrics are shown as stored")
    elif len(entries) < len(rows):
        notes.append(f"{len(rows) - len(entries)} of {len(rows)} predictions of {label} are no objects and left out")
    classes = _class_list(info, class_labels, default_labels)
    lists = [_predicted(entry) for entry in entries]
    depth = min(map(len, lists), default=0)
    top = np.array([[-1 if (p := classes.find(name)) is None else p for name in row[:depth]] for row in lists], int)
    unknown = [name for row in lists for name in row[:depth] if classes.find(name) is None]
    if unknown:
        depth = 0
        notes.append(f"{label} predicts {unknown[0]!r}, which is not in the list of {len(classes)} classes, so nothing "
                     "is recomputed from its predictions (give its list with --class-labels)")
    elif entries and not depth:
        notes.append(f"{label} holds no predictions for some clips, so nothing is recomputed from them")
    targets = np.zeros((len(entries), len(classes)), bool)
    for row, entry in zip(targets, entries, strict=True):
        named = classes.parse(entry.get("ground_truth_human_labels")) or classes.parse(entry.get("ground_truth_labels"))
        row[classes.match(named)] = True
    if entries and not targets.any():
        notes.append(f"no true label of {label} is in the list of {len(classes)} classes, so nothing is recomputed")
    anonymous = sum(not entry.get("video_id") for entry in entries)
    if anonymous:
        notes.append(f"{anonymous} clips of {label} have no video_id and so are not matched with other files")
    keys = [(str(entry.get("video_id") or ""), str(entry.get("sample_id", ""))) for entry in entries]
    results = Results(path, label, "c_meaning" in model, metrics, info | {"model": model}, classes.names, keys,
                      top.reshape(len(entries), -1 if entries else depth)[:, :depth], depth, targets, None, notes=notes)
    _add_scores(results)
    _add_taxonomy(results)
    return results


def _alike(scores: np.ndarray, *inner: np.ndarray) -> bool:
    shapes = {x.shape for x in inner}
    return len(shapes) == 1 and all(len(shape) == 2 and shape[0] == len(scores) for shape in shapes)


def _dictionary(content: dict, key: str) -> dict:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _class_list(info: dict, given: Path | None, default: Path) -> ClassList:
    names = info.get("class_names")
    if isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names):
        return ClassList(names)
    stored = _dictionary(info, "arguments").get("class_labels")
    if given is None and isinstance(stored, str) and Path(stored).is_file():
        given = Path(stored)
    return ClassList.read(given or default)


def _predicted(entry: dict) -> list[str]:
    best = entry.get("top_k_predictions")
    best = [b for b in best if isinstance(b, dict)] if isinstance(best, list) else []
    names = [b.get("classname") for b in sorted(best, key=lambda b: b.get("rank") if type(b.get("rank")) is int else 0)]
    names = names or [entry.get("predicted_top1")]
    return [name for name in names if isinstance(name, str)]


def _add_taxonomy(results: Results) -> None:
    content = results.info.get("taxonomy")
    if content is None:
        return
    try:
        results.taxonomy = Ontology.from_json(content)
    except UserError as error:
        results.notes.append(f"{results.label} holds a taxonomy that cannot be used: {error}")


def _add_scores(results: Results) -> None:
    """Read the file of test_info.scores, if there is one and it fits the predictions; otherwise a note says why not."""
    from safetensors import SafetensorError, safe_open

    name = results.info.get("scores")
    if not isinstance(name, str):
        return
    path = results.path.parent / name
    try:
        with safe_open(path, framework="numpy") as file:
            scores, targets = file.get_tensor("scores"), file.get_tensor("targets").astype(bool)
            inner = {name: file.get_tensor(name) for name in file.keys() if name.startswith("inner_")}
    except (OSError, SafetensorError):
        results.notes.append(f"{results.label} names the similarities {name}, which cannot be read")
        return
    fits = scores.shape == targets.shape == results.targets.shape and np.isfinite(scores).all()
    if fits:
        order = np.argsort(-scores, axis=1, kind="stable")
        fits = results.depth == 0 or (order[:, 0] == results.top[:, 0]).all()
    if not fits:
        results.notes.append(f"{results.label} names the similarities {name}, which belong to another run")
        return
    results.scores, results.targets, results.top = scores, targets, order
    if inner.keys() == {*INNER.values(), "inner_targets"} and _alike(scores, *inner.values()):
        results.inner = inner | {"inner_targets": inner["inner_targets"].astype(bool)}
