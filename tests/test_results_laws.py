"""Results a second time, by counting: metrics, intervals, pairing and class lists of random files, pair by pair.

Scores tie, one class is true of every clip and one of none, clips have no true class, no name, or another's name.
"""

import json
import math

import numpy as np
import pytest
from conftest import here
from safetensors.numpy import save_file

from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.classification import metrics, rank_classes
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.results.compare import common
from hyperbolic_clap.results.files import Results, read
from hyperbolic_clap.results.measures import Measures

NAMES = ["Ax", "Bell", "Cat", "Door", "Egg", "Fire", "Gong", "Horn"]
DEPTH, RESAMPLES = 3, 120


def case(seed, clips=26):
    """(scores, targets): class 0 is true of every clip but the last two, class 1 of none, all scores tie somewhere."""
    rng = np.random.default_rng(seed)
    targets = rng.random((clips, len(NAMES))) < 0.3
    targets[:, 0], targets[:, 1], targets[-2:] = True, False, False
    return np.round(rng.normal(size=targets.shape) + targets, 1).astype(np.float32), targets


def counted(scores, targets, k=DEPTH):
    """Every metric by its definition, of clips as they stand; a clip that was drawn twice stands there twice."""
    kept = targets.any(1)
    scores, targets, found = scores[kept], targets[kept], {}
    orders = [sorted(range(scores.shape[1]), key=lambda j: (-row[j], j)) for row in scores]
    ranks = [1 + min(map(order.index, np.flatnonzero(truth))) for order, truth in zip(orders, targets, strict=True)]
    for n in (1, 3, 5, 10):
        found[f"acc@{n}"] = np.mean([rank <= n for rank in ranks])
    found["mrr"] = np.mean([1 / rank if rank <= k else 0 for rank in ranks])
    found["mean_rank"] = np.mean(ranks)
    guessed = np.array([[j in order[:k] for j in range(scores.shape[1])] for order in orders])
    both = guessed & targets
    per_class = [(b.sum(), g.sum(), t.sum()) for b, g, t in zip(both.T, guessed.T, targets.T, strict=True)]
    for average, parts in (("micro", [tuple(map(sum, zip(*per_class, strict=True)))]), ("macro", per_class)):
        found[f"precision_{average}"] = np.mean([b / g if g else 0 for b, g, _ in parts])
        found[f"recall_{average}"] = np.mean([b / t if t else 0 for b, _, t in parts])
        found[f"f1_{average}"] = np.mean([2 * b / (g + t) if g + t else 0 for b, g, t in parts])
    found["map_samples"] = np.mean([precision(s, t) for s, t in zip(scores, targets, strict=True)])
    columns = [(s, t) for s, t in zip(scores.T, targets.T, strict=True) if t.any()]
    found["map"] = np.mean([precision(s, t) for s, t in columns])
    areas = [area(s, t) for s, t in columns if not t.all()]
    found["auc"] = np.mean(areas) if areas else math.nan
    return found


def precision(scores, truth):
    """Average precision; what ties shares a threshold."""
    return np.mean([truth[scores >= s].mean() for s in scores[truth]])


def area(scores, truth):
    """How often a positive is above a negative, a tie counting half."""
    above = scores[truth][:, None] - scores[~truth]
    return np.mean((above > 0) + (above == 0) / 2)


def write(path, scores, targets, keys, depth=DEPTH):
    """A results file as the test scripts write it, with scores."""
    entries = []
    for row, truth, (video, sample) in zip(scores, targets, keys, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))[:depth]
        best = [{"rank": r, "classname": NAMES[j], "similarity": float(row[j])} for r, j in enumerate(order, 1)]
        entries.append({"sample_id": sample, "video_id": video, "predicted_top1": NAMES[order[0]],
                        "top_k_predictions": best, "ground_truth_labels": [],
                        "ground_truth_human_labels": [NAMES[j] for j in np.flatnonzero(truth)]})  # fmt: skip
    save_file({"scores": scores, "targets": targets.astype(np.uint8)}, path.with_suffix(".safetensors"))
    info = {"scores": path.with_suffix(".safetensors").name, "class_names": NAMES}
    path.write_text(json.dumps({"test_info": info, "model_info": {"c_meaning": ""}, "predictions": entries}))
    return path


def compare(tmp_path, *flags):
    out = tmp_path / "comparison.json"
    here("compare_results.py", *flags, "--resamples", RESAMPLES, "--output-json", out)
    return json.loads(out.read_text())


def intervals(clips, before, after, seed):
    """{metric: (low, high)} of metrics of drawn clips; before and after: drawn rows -> {metric: value}."""
    drawn = np.random.default_rng(seed).integers(clips, size=(RESAMPLES, clips), dtype=np.int32)
    apart = [{n: b[n] - a[n] for n in a} for a, b in ((before(rows), after(rows)) for rows in drawn)]
    return {name: np.percentile([d[name] for d in apart if np.isfinite(d[name])], [2.5, 97.5]) for name in apart[0]}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["the same clips", "others, some without a name, some with two"])
def test_a_comparison_is_what_counting_gives(tmp_path, seed, kind):
    scores_a, targets = case(seed)
    scores_b = np.roll(case(seed + 9)[0], 1, axis=1)
    keys = [(f"v{i}", i) for i in range(26)]
    whole = kind == "the same clips"
    rows = np.arange(24)  # the last two have no true class
    order = np.random.default_rng(seed).permutation(26)  # the other file holds them in another order
    if not whole:
        keys[3], keys[4] = ("", 3), ("", 4)  # nobody's
        keys[6] = ("v5", 6)  # two clips of one video, known by their numbers
        keys[8] = keys[7]  # one clip twice: which is it?
        order = order[order > 1]  # two clips less
        rows = np.setdiff1d(rows, [0, 1, 3, 4, 7, 8])
    a = write(tmp_path / "a.json", scores_a, targets, keys)
    b = write(tmp_path / "b.json", scores_b[order], targets[order], [keys[i] for i in order])
    report = compare(tmp_path, a, b, "--seed", seed)
    every, *common = report["tables"]
    for cell, (scores, of) in zip(range(2), ((scores_a, np.arange(26)), (scores_b, order)), strict=True):
        wanted = counted(scores[of], targets[of])
        values = {row["metric"]: row["values"][cell]["value"] for row in every["rows"] if row["values"][cell]}
        assert {name: values[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
        assert (values["valid_samples"], values["total_samples"]) == (targets[of].any(1).sum(), len(of))
    assert len(common) == (not whole)
    table, of = (every if whole else common[0]), rows
    if not whole:
        assert all(not d["paired"] for row in every["rows"] for d in row["differences"] if d)
        assert table["title"] == "the 20 common clips"
    ends = intervals(len(of), lambda w: counted(scores_a[of[w]], targets[of[w]]),
                     lambda w: counted(scores_b[of[w]], targets[of[w]]), seed)  # fmt: skip
    plain = [counted(scores[of], targets[of]) for scores in (scores_a, scores_b)]
    for row in table["rows"]:
        if row["metric"] in ends:
            (found,) = row["differences"]
            assert found["paired"] and found["resamples"] == RESAMPLES
            assert found["difference"] == pytest.approx(plain[1][row["metric"]] - plain[0][row["metric"]], abs=1e-6)
            assert [found["low"], found["high"]] == pytest.approx(ends[row["metric"]], abs=2e-6), row["metric"]
    assert ends.keys() <= {row["metric"] for row in table["rows"]}


def test_the_seed_and_the_number_of_resamples_are_those_given(tmp_path):
    (scores, targets), keys = case(3), [(f"v{i}", i) for i in range(26)]
    files = write(tmp_path / "a.json", scores, targets, keys), write(tmp_path / "b.json", case(4)[0], targets, keys)
    lows = []
    for seed in (0, 0, 1):
        report = compare(tmp_path, *files, "--seed", seed)
        rows = {row["metric"]: row["differences"][0] for row in report["tables"][0]["rows"]}
        lows.append([rows[name]["low"] for name in ("map_samples", "map", "f1_micro")])
        assert {entry["resamples"] for entry in rows.values() if entry and entry["paired"]} == {RESAMPLES}
    assert lows[0] == lows[1] and all(x != y for x, y in zip(lows[0], lows[2], strict=True))
    for asked, cost in ((50, 1e30), (10_000, 1e30), (10_000, 1.0)):
        given = bootstrap.affordable(asked, cost)
        assert given == asked if cost == 1 else 0 < given <= min(asked, bootstrap.FEWER)
        assert sum(len(weights) for weights in bootstrap.draw(5, asked, 0)) == asked


def held(seed, keys):
    scores, targets = (values[: len(keys)] for values in case(seed))
    return Results(None, "x", True, {}, {"model": {}}, NAMES, keys, rank_classes(scores), 8, targets, scores)


def test_two_files_are_compared_as_wholes_only_if_neither_has_a_clip_more():
    keys = [(f"v{i}", str(i)) for i in range(12)]
    for a, b, whole in ((12, 12, True), (9, 12, False), (12, 9, False)):
        pair = common(held(0, keys[:a]), held(0, keys[:b]))
        assert (pair.clips, pair.other_truth, pair.whole) == (min(a, b), 0, whole)


def test_the_truth_of_a_clip_is_its_human_labels_and_only_without_them_its_machine_ids(tmp_path):
    told = [(["Bell"], ["Cat"], ["Bell"]), ([], ["Cat"], ["Cat"]), ("Bell, Egg", ["Cat"], ["Bell", "Egg"]),
            (None, None, []), (["of no class"], ["Cat"], [])]  # fmt: skip
    entries = [{"video_id": str(i), "predicted_top1": "Ax", "ground_truth_human_labels": human,
                "ground_truth_labels": machine} for i, (human, machine, _) in enumerate(told)]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"test_info": {"class_names": NAMES}, "predictions": entries}))
    found = read(tmp_path / "a.json", "a", None, tmp_path).targets
    assert [[NAMES[j] for j in np.flatnonzero(row)] for row in found] == [wanted for _, _, wanted in told]


def test_rankings_have_as_many_resamples_as_can_be_afforded_whatever_the_chunks(monkeypatch):
    measures = Measures(held(1, [(f"v{i}", "") for i in range(26)]), np.arange(24), 3, Ontology())
    whole = measures.resample(20, 0)
    monkeypatch.setattr(bootstrap, "affordable", lambda resamples, cost: 7)
    for rows in (100, 5, 7, 1):
        monkeypatch.setattr(bootstrap, "CHUNK_FLOATS", rows * 24)
        for name, values in measures.resample(20, 0).items():
            assert len(values) == (7 if name in ("map", "auc", "d_prime") else 20), name
            assert values == pytest.approx(whole[name][: len(values)], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("least", [1, 4, 5])
def test_classes_with_as_many_clips_as_asked_for_are_compared(tmp_path, least):
    scores, targets = case(5)
    targets[:, 2:] = False
    for column, count in ((2, 3), (3, 4), (4, 5)):
        targets[:count, column] = True
    keys = [(f"v{i}", i) for i in range(26)]
    a = write(tmp_path / "a.json", scores, targets, keys)
    b = write(tmp_path / "b.json", case(6)[0], targets, keys)
    (classes,) = compare(tmp_path, a, b, "--min-clips", least)["classes"]
    counts = targets.sum(0)
    assert classes["compared"] == ((counts >= least) & (counts > 0)).sum()
    before, after = (
        {n: precision(s[:24], t[:24]) for n, s, t in zip(NAMES, x.T, targets.T, strict=True) if t.any()}
        for x in (scores, case(6)[0])
    )
    for entry in classes["gained"] + classes["lost"]:
        assert entry["before"] == pytest.approx(before[entry["class"]], abs=1e-6)
        assert entry["after"] == pytest.approx(after[entry["class"]], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_what_counting_gives(seed):
    scores, targets = case(seed)
    found = metrics(scores, targets, DEPTH)
    wanted = {name: value for name, value in counted(scores, targets).items() if name in found}
    assert len(wanted) >= 13
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert (found["valid_samples"], found["total_samples"]) == (24, 26)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite_are_refused(wrong):
    scores, targets = case(0)
    scores[4, 2] = wrong
    with pytest.raises(UserError, match="clip 4 and class 2 is not finite"):
        metrics(scores, targets, DEPTH)


# Retrieval


def retrieved(rng, clips=15):
    """The entries of a retrieval results file: one to three captions of each clip, with ranks that tie."""
    entries = []
    for i in range(clips):
        n = rng.integers(1, 4)
        ranks = rng.integers(1, 25, n)
        entries.append({
            "sample_id": i, "video_id": f"v{i // 2}", "captions": [f"caption {i} {j}" for j in range(n)],
            "text_to_audio_rank": ranks.tolist(), "text_to_audio_AP@10": [1 / r if r <= 10 else 0.0 for r in ranks],
            "audio_to_text_rank": int(ranks[0]), "audio_to_text_AP@10": float(rng.random()),
        })  # fmt: skip
    return entries


def counted_retrieval(entries):
    found = {}
    for way in ("text_to_audio", "audio_to_text"):
        ranks = np.concatenate([np.atleast_1d(e[f"{way}_rank"]) for e in entries])
        found |= {f"{way} R@{k}": (ranks <= k).mean() for k in (1, 5, 10)}
        found[f"{way} mAP@10"] = np.concatenate([np.atleast_1d(e[f"{way}_AP@10"]) for e in entries]).mean()
        found[f"{way} median_rank"] = np.median(ranks)
    return found


def written(path, entries):
    values = counted_retrieval(entries)
    ways = {way: {k.split()[1]: v for k, v in values.items() if k.startswith(way)} for way in ("text_to_audio",
            "audio_to_text")}  # fmt: skip
    path.write_text(json.dumps({"metrics": ways, "predictions": entries, "model_info": {}}))
    return path


@pytest.mark.parametrize("seed", range(3))
def test_a_comparison_of_retrieval_is_what_counting_gives(tmp_path, seed):
    rng = np.random.default_rng(seed)
    before, after = retrieved(rng), retrieved(rng)
    for entry, other in zip(before, after, strict=True):  # one truth, other ranks
        n = len(entry["captions"])
        for name in ("text_to_audio_rank", "text_to_audio_AP@10"):
            other[name] = (other[name] * 3)[:n]
        other["captions"] = entry["captions"][::-1]
    a = written(tmp_path / "a.json", before)
    b = written(tmp_path / "b.json", [after[i] for i in rng.permutation(len(after))])
    report = compare(tmp_path, a, b, "--seed", seed)
    ends = intervals(len(before), lambda w: counted_retrieval([before[i] for i in w]),
                     lambda w: counted_retrieval([after[i] for i in w]), seed)  # fmt: skip
    values = [counted_retrieval(x) for x in (before, after)]
    (table,) = report["tables"]
    assert {row["metric"] for row in table["rows"]} == ends.keys()
    for row in table["rows"]:
        name, (found,) = row["metric"], row["differences"]
        assert [cell["value"] for cell in row["values"]] == pytest.approx([v[name] for v in values], abs=1e-6)
        assert found["paired"] and found["resamples"] == RESAMPLES
        assert [found["low"], found["high"]] == pytest.approx(ends[name], abs=1e-5), name
    after[3]["captions"] = ["of another clip"] * len(after[3]["captions"])
    report = compare(tmp_path, a, written(tmp_path / "b.json", after))
    assert not any(d["paired"] for row in report["tables"][0]["rows"] for d in row["differences"])


def test_a_retrieval_file_that_names_a_clip_twice_is_refused(tmp_path):
    entries = retrieved(np.random.default_rng(0))
    good = written(tmp_path / "a.json", entries)
    bad = written(tmp_path / "b.json", [*entries[:-1], entries[0]])
    done = here("compare_results.py", good, bad, check=False)
    assert done.returncode == 2 and "does not hold every clip's ranks" in done.stderr
