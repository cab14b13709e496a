"""Embedded clips and a projector -> similarities, metrics and predictions. One evaluation for every script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hyperbolic_clap.embedding.pairs import EmbeddedPairs
from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics.calibration import calibration_metrics
from hyperbolic_clap.metrics.classification import metrics, rank_classes
from hyperbolic_clap.metrics.hierarchy import ontology_metrics
from hyperbolic_clap.metrics.ontology import Ontology, audioset
from hyperbolic_clap.metrics.retrieval import retrieve, summary
from hyperbolic_clap.metrics.superclasses import INNER, superclass_metrics, superclass_similarities
from hyperbolic_clap.metrics.traversal import traversal_metrics
from hyperbolic_clap.metrics.undefined import defined_or_null
from hyperbolic_clap.plumbing.errors import warn
from hyperbolic_clap.plumbing.files import stored_path, write_json
from hyperbolic_clap.projector.blocks import project
from hyperbolic_clap.projector.opening import Model
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.reading.vectors import MissingText
from hyperbolic_clap.results.files import save_scores
from hyperbolic_clap.results.retrieval import WAYS


def evaluate(
    clips: EmbeddedClips, projector: Projector, top_k: int, taxonomy: Ontology | None = None
) -> tuple[dict[str, np.ndarray], dict]:
    """What --save-scores keeps (results/files.py), and what the results JSON says of it.

    taxonomy: the tree of the hierarchical metrics, AudioSet's without. To be found again by compare_results.py it
    belongs into the results JSON, as test_info.taxonomy = taxonomy.to_json().
    """
    audio, text, tree = projector.audio(clips.audio), projector.text(clips.text), taxonomy or audioset()
    names, targets = clips.classes.names, clips.targets.numpy()
    scores = projector.with_prototypes(projector.compare(audio, text), clips.audio, names).cpu().numpy()
    warn_if_alike(scores)
    order = rank_classes(scores)

    def of_tree() -> dict:
        between_texts = projector.compare(text, text).cpu().numpy()
        vectors = text.cpu().numpy(), audio.cpu().numpy()
        found = ontology_metrics(order, targets, names, tree, *vectors, between_texts)
        way = traversal_metrics(projector.compare, projector.kind, audio, text, targets, names, tree)
        return found | superclass_metrics(inner) | {"way_to_root": way}

    def of_probabilities() -> dict:
        scaled = projector.probability(scores) if projector.calibration else None
        return calibration_metrics(projector.probability(scores, False), scaled, targets)

    found, failed = defined_or_null({"inner": lambda: of_superclasses(clips, projector, scores, tree)})
    inner = found["inner"] or {}
    figures, reasons = defined_or_null({
        "similarity_stats": lambda: similarity_stats(scores),
        "metrics": lambda: metrics(scores, targets, top_k),
        "ontology": of_tree,
    } | ({"calibration": of_probabilities} if projector.trained else {}))
    if "inner" in failed:
        reasons |= dict.fromkeys((f"ontology.{name}" for name in ("inner_classes", *INNER)), failed["inner"])
    listed = predictions(scores, order[:, :top_k], clips.rows, names)
    figures |= {"reasons": failed | reasons, "predictions": listed}
    return {"scores": scores, "targets": targets} | inner, figures


def evaluate_to_files(
    clips: EmbeddedClips, model: Model, top_k: int, output: Path, scores: Path | None, describe: Callable[..., dict],
    taxonomy: Ontology | None = None,
) -> dict:  # fmt: skip
    """Evaluate the model's projector and write the results JSON, and the similarities if `scores` names a file.

    describe: facts of the clips, by keyword -> the test_info. taxonomy: the tree, AudioSet's without. -> the evaluation
    as the JSON holds it.
    """
    tensors, evaluation = evaluate(clips, model.projector, top_k, taxonomy)
    info = describe(classes=len(clips.classes), class_names=clips.classes.names, clips=clips.counts)
    if taxonomy:
        info["taxonomy"] = taxonomy.to_json()
    if scores:
        save_scores(scores, tensors)
        info["scores"] = stored_path(scores, output.parent)
    about = model.describe() | {"mean_cosine": clips.mean_cosine}
    write_json(output, {"test_info": info, "model_info": about} | evaluation)
    return evaluation


def of_superclasses(
    clips: EmbeddedClips, projector: Projector, scores: np.ndarray, tree: Ontology
) -> dict[str, np.ndarray]:
    """The tensors of `superclass_similarities`; {} where a class of the list is not in the tree.

    scores: the (N, M) similarities to the class list.
    """
    nodes, _ = tree.find(clips.classes.names)
    if nodes is None:
        return {}
    others = np.setdiff1d(np.arange(1, len(tree.names)), nodes)
    every = torch.empty(len(scores), len(tree.names), dtype=torch.float64)
    every[:, nodes] = torch.from_numpy(scores).double()
    if len(others):
        try:
            text = projector.text(clips.texts_of([tree.names[i] for i in others]))
        except MissingText as error:  # which leaves these metrics undefined, and no other
            raise LookupError(str(error)) from None
        every[:, others] = projector.compare(projector.audio(clips.audio), text).cpu().double()
    return superclass_similarities(every, clips.targets.numpy(), nodes, tree, projector.logit_scale_value)


def evaluate_retrieval(pairs: EmbeddedPairs, projector: Projector) -> dict:
    """metrics of both directions, and every clip's captions, ranks and average precisions, for the results JSON."""
    audio, text = project(projector, pairs.audio), projector.text(pairs.text)
    found = retrieve(projector.compare, audio, text, pairs.pairs)
    starts = np.searchsorted(pairs.pairs[:, 0], np.arange(len(audio) + 1))
    ids = zip(pairs.rows.sample_ids.tolist(), pairs.rows.video_ids, strict=True)
    (rank_of_text, precision_of_text), (rank_of_clip, precision_of_clip) = (found[way] for way in WAYS)
    clips = [
        {
            "sample_id": sample_id,
            "video_id": video_id,
            "captions": [pairs.texts[i] for i in pairs.pairs[start:end, 1]],
            "text_to_audio_rank": rank_of_text[start:end].tolist(),
            "text_to_audio_AP@10": precision_of_text[start:end].tolist(),
            "audio_to_text_rank": int(rank_of_clip[i]),
            "audio_to_text_AP@10": float(precision_of_clip[i]),
        }
        for i, ((sample_id, video_id), start, end) in enumerate(zip(ids, starts, starts[1:], strict=False))
    ]
    return {"metrics": {way: summary(*found[way]) for way in WAYS}, "predictions": clips}


def similarity_stats(scores: np.ndarray) -> dict:
    """min, max, mean and std of all similarities."""
    return {name: float(getattr(scores, name)()) for name in ("min", "max", "mean", "std")}


def warn_if_alike(scores: np.ndarray) -> None:
    """A visible warning if every clip gets the same similarities, the sign of a broken encoder or checkpoint."""
    if len(scores) > 1 and np.ptp(scores, axis=0).max() < 1e-6:
        warn("all rows of the similarity are alike: every clip looks the same to this model; check the checkpoint")


def predictions(scores: np.ndarray, orders: np.ndarray, rows: Rows, names: list[str]) -> list[dict]:
    """For each clip its best classes, orders (N, top_k), and its ground truth, for the results JSON."""
    entries = []
    human, machine = rows.human_labels.to_pylist(), rows.machine_labels.to_pylist()
    ids = zip(rows.sample_ids.tolist(), rows.video_ids, human, machine, strict=True)
    for (sample_id, video_id, human_labels, machine_labels), row, order in zip(ids, scores, orders, strict=True):
        best = [
            {"rank": rank, "classname": names[column], "similarity": float(row[column])}
            for rank, column in enumerate(order, 1)
        ]
        entries.append(
            {
                "sample_id": sample_id,
                "video_id": video_id,
                "predicted_top1": best[0]["classname"],
                "top_k_predictions": best,
                "ground_truth_labels": machine_labels,
                "ground_truth_human_labels": human_labels,
            }
        )
    return entries
