"""The metrics against definitions written out by hand, and the predictions of the results JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    label_ranking_average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from hyperbolic_clap.embedding.pipeline import require_matches
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.metrics.classification import metrics, rank_classes
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.results import evaluation

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(60, 17))
TARGETS = RNG.random((60, 17)) < 0.12
TARGETS[:, 16] = False  # a class that never occurs
TARGETS[5] = False  # a clip without a class


def average_precision(truth, score):
    order = np.argsort(-score)
    hits = truth[order]
    return float((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean())


def test_metrics_against_their_definitions():
    result = metrics(SCORES, TARGETS, top_k=4)
    valid = TARGETS.any(1)
    scores, targets = SCORES[valid], TARGETS[valid]
    assert (result["valid_samples"], result["total_samples"]) == (valid.sum(), 60)
    best = np.argsort(-scores, axis=1)
    for k in (1, 3, 5, 10):
        hit = [targets[i, best[i, :k]].any() for i in range(len(scores))]
        assert result[f"acc@{k}"] == pytest.approx(np.mean(hit))
    predicted = np.zeros_like(targets)
    for i in range(len(scores)):
        predicted[i, best[i, :4]] = True
    assert result["f1_micro"] == pytest.approx(f1_score(targets, predicted, average="micro"))
    assert result["f1_macro"] == pytest.approx(f1_score(targets, predicted, average="macro", zero_division=0))
    true_positives = (predicted & targets).sum()
    assert result["precision_micro"] == pytest.approx(true_positives / predicted.sum())
    assert result["recall_micro"] == pytest.approx(true_positives / targets.sum())
    classes = np.flatnonzero(targets.any(0))
    expected = np.mean([average_precision(targets[:, j], scores[:, j]) for j in classes])
    assert result["map"] == pytest.approx(expected)
    assert result["map_samples"] == pytest.approx(label_ranking_average_precision_score(targets, scores))
    areas = []
    for j in classes:
        positive, negative = scores[targets[:, j], j], scores[~targets[:, j], j]
        areas.append((positive[:, None] > negative).mean())
    assert result["auc"] == pytest.approx(np.mean(areas))
    # The quantile is checked through its inverse, the normal distribution function.
    assert 0.5 * (1 + math.erf(result["d_prime"] / 2)) == pytest.approx(result["auc"])


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 14), st.sampled_from([None, 0, 1]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_metrics_equal_scikit_learn(seed, clips, classes, decimals):
    """To 1e-9, ties included: rounded scores tie within clips and within classes."""
    generator = np.random.default_rng(seed)
    targets = generator.random((clips, classes)) < generator.uniform(0.05, 0.95)
    scores = (generator.normal(size=targets.shape) + targets).astype(np.float32)
    scores = scores if decimals is None else np.round(scores, decimals)
    result = metrics(scores, targets, top_k=3)
    valid = targets.any(axis=1)
    if not valid.any():
        assert result["map"] is None
        return
    scores, targets = scores[valid], targets[valid]
    predicted = np.zeros_like(targets)
    np.put_along_axis(predicted, np.argsort(-scores, axis=1, kind="stable")[:, :3], True, axis=1)
    wanted = {}
    for average in ("micro", "macro"):
        found = precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)
        wanted |= {f"{n}_{average}": v for n, v in zip(("precision", "recall", "f1"), found, strict=False)}
    occurs, mixed = targets.any(axis=0), targets.any(axis=0) & ~targets.all(axis=0)
    wanted["map"] = np.mean([average_precision_score(targets[:, j], scores[:, j]) for j in np.flatnonzero(occurs)])
    wanted["map_samples"] = np.mean([average_precision_score(t, s) for t, s in zip(targets, scores, strict=True)])
    areas = [roc_auc_score(targets[:, j], scores[:, j]) for j in np.flatnonzero(mixed)]
    assert (result["auc"] is None) == (not areas)
    wanted |= {"auc": np.mean(areas)} if areas else {}
    for name, value in wanted.items():
        assert result[name] == pytest.approx(value, abs=1e-9, rel=0), name


def test_all_four_accuracies_whatever_top_k():
    small = metrics(SCORES, TARGETS, top_k=1)
    large = metrics(SCORES, TARGETS, top_k=9)
    for k in (1, 3, 5, 10):
        assert small[f"acc@{k}"] == large[f"acc@{k}"]
    assert small["acc@10"] > small["acc@5"] > small["acc@1"]


def test_a_perfect_and_a_reversed_ranking():
    perfect = metrics(TARGETS * 1.0 + RNG.random(TARGETS.shape) * 0.1, TARGETS, top_k=1)
    assert perfect["acc@1"] == perfect["map"] == perfect["map_samples"] == perfect["auc"] == 1
    assert perfect["d_prime"] is None
    reversed_ = metrics(-(TARGETS * 1.0), TARGETS, top_k=1)
    assert reversed_["acc@1"] == 0 and reversed_["auc"] == 0


def test_an_undefined_metric_is_null_not_zero():
    result = metrics(SCORES, np.zeros_like(TARGETS), top_k=3)
    assert result.pop("valid_samples") == 0 and result.pop("total_samples") == 60
    assert set(result.values()) == {None}
    json.dumps(result, allow_nan=False)


def test_scores_that_are_not_finite_are_refused():
    scores = SCORES.copy()
    scores[3, 7] = np.nan
    with pytest.raises(UserError, match="clip 3 and class 7"):
        metrics(scores, TARGETS, top_k=3)


def test_predictions_and_ties():
    rows = Rows.of(ClassList(["A", "B", "C", "D"]), [4], ["vid"], [["A"]], [["/m/1"]])
    scores = np.array([[0.5, 0.9, 0.9, 0.1]])
    (entry,) = evaluation.predictions(scores, rank_classes(scores)[:, :3], rows, ["A", "B", "C", "D"])
    assert entry["predicted_top1"] == "B"
    assert [(b["rank"], b["classname"], b["similarity"]) for b in entry["top_k_predictions"]] == [
        (1, "B", 0.9),
        (2, "C", 0.9),
        (3, "A", 0.5),
    ]
    assert (entry["sample_id"], entry["video_id"]) == (4, "vid")
    assert (entry["ground_truth_labels"], entry["ground_truth_human_labels"]) == (["/m/1"], ["A"])


def test_alike_rows_are_a_warning(caplog):
    evaluation.warn_if_alike(np.tile(RNG.random(5), (4, 1)))
    assert "alike" in caplog.text
    caplog.clear()
    evaluation.warn_if_alike(SCORES)
    assert not caplog.text


def test_no_match_shows_near_names():
    rows = Rows.of(ClassList(["Speech", "Music"]), [0], ["a"], [["Speach"]], [[]])
    with pytest.raises(UserError, match=r"'Speach' \(near: 'Speech'\)"):
        require_matches(rows, Skipped())
