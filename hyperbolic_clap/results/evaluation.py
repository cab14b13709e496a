"""EmbeddedClips and a projector -> similarities, metrics and predictions. One evaluation for every script."""

from __future__ import annotations

import numpy as np

from hyperbolic_clap.embedding.pipeline import EmbeddedClips
from hyperbolic_clap.metrics.calibration import calibration_metrics
from hyperbolic_clap.metrics.classification import metrics, rank_classes
from hyperbolic_clap.metrics.ontology import ontology_metrics
from hyperbolic_clap.metrics.superclasses import inner_metrics, inner_similarities
from hyperbolic_clap.metrics.traversal import way_to_root
from hyperbolic_clap.metrics.undefined import grounded
from hyperbolic_clap.plumbing.errors import warn
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.rows import Rows


def evaluate(material: EmbeddedClips, projector: Projector, top_k: int) -> tuple[dict[str, np.ndarray], dict]:
    """What --save-scores keeps (results/files.py), and what the results JSON says of it."""
    audio, text = projector.audio(material.audio), projector.text(material.text)
    names, targets = material.classes.names, material.targets.numpy()
    scores = projector.with_prototypes(projector.compare(audio, text), material.audio, names).cpu().numpy()
    warn_if_alike(scores)
    best = scores.argmax(axis=1)
    found, failed = grounded({"inner": lambda: inner_similarities(material, projector, scores)})
    inner = found["inner"] or {}
    figures, reasons = grounded({
        "similarity_stats": lambda: similarity_stats(scores),
        "metrics": lambda: metrics(scores, targets, top_k),
        "ontology": lambda: ontology_metrics(best, targets, names, text.cpu().numpy(), audio.cpu().numpy())
        | inner_metrics(inner)
        | {"way_to_root": way_to_root(projector, audio, text, targets, names)},
    } | ({"calibration": lambda: calibration_metrics(projector, scores, targets)} if projector.trained else {}))
    listed = predictions(scores, material.rows, names, top_k)
    figures |= {"reasons": failed | reasons, "predictions": listed}
    return {"scores": scores, "targets": targets} | inner, figures


def similarity_stats(scores: np.ndarray) -> dict:
    """min, max, mean and std of all similarities."""
    return {name: float(getattr(scores, name)()) for name in ("min", "max", "mean", "std")}


def warn_if_alike(scores: np.ndarray) -> None:
    """A visible warning if every clip gets the same similarities, the sign of a broken encoder or checkpoint."""
    if len(scores) > 1 and np.ptp(scores, axis=0).max() < 1e-6:
        warn("all rows of the similarity are alike: every clip looks the same to this model; check the checkpoint")


def predictions(scores: np.ndarray, rows: Rows, names: list[str], top_k: int) -> list[dict]:
    """For each clip its best classes and its ground truth, for the results JSON."""
    entries = []
    human, machine = rows.human_labels.to_pylist(), rows.machine_labels.to_pylist()
    orders = rank_classes(scores)[:, :top_k]
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
