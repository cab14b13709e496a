"""compare_results.py: the bootstrap against known answers, weights against scikit-learn, clips that match or do not."""

import json
import math
from functools import cache

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from compare_results import main, parser
from hyperbolic_clap.metrics import bootstrap, weighted
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.results import files
from hyperbolic_clap.results.measures import Measures, paired_intervals

NAMES = ["Music", "Speech", "Dog", "Bark", "Piano", "Rain", "Siren", "Engine"]


def random_case(clips=60, classes=12, ties=False, seed=0):
    """(N, M) scores and targets, every class with a positive and a negative."""
    generator = np.random.default_rng(seed)
    targets = generator.random((clips, classes)) < np.linspace(0.05, 0.6, classes)
    targets[0], targets[1] = True, False
    scores = generator.normal(size=targets.shape).astype(np.float32) + targets
    return (np.round(scores) if ties else scores), targets


@cache
def weighted_case(ties: bool, kind: str):
    """Scores and targets, 7 rows of weights, and scikit-learn's average precision and ROC area of each class."""
    scores, targets = random_case(ties=ties)
    weights = np.concatenate([np.ones((1, 60), np.float32), *bootstrap.draw(60, 6, 1)])
    if kind != "float32":
        weights = weights.astype(float) * (np.random.default_rng(5).random(60) if kind == "fractions" else 1)
    wanted = [[[figure(t, s, sample_weight=w) for t, s in zip(targets.T, scores.T, strict=True)] for w in weights]
              for figure in (average_precision_score, roc_auc_score)]  # fmt: skip
    return scores, targets, weights, wanted


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64", "fractions"])
def test_ranking_equals_scikit_learn_for_any_weights(ties, small, kind, monkeypatch):
    if small:
        monkeypatch.setattr(weighted, "GROUP_POSITIVES", 40)
        monkeypatch.setattr(weighted, "BLOCK_FLOATS", 130)
        monkeypatch.setattr(weighted, "BLOCK_ROWS", 2)
    scores, targets, weights, wanted = weighted_case(ties, kind)
    ranking = weighted.Ranking(scores, targets)
    assert (len(ranking.groups) > 1) == small
    ap, auc = ranking(weights)
    assert ap.dtype == weights.dtype and (ranking.precision(weights) == ap).all()
    near = 1e-6 if kind == "float32" else 1e-12
    for found, expected in zip((ap, auc), wanted, strict=True):
        assert found.shape == (7, 12) and found == pytest.approx(np.array(expected), abs=near)


def test_a_class_without_positives_in_a_resample_drops_out():
    scores, targets = random_case()
    targets[:, 3] = False
    targets[7, 3] = True
    weights = np.ones((1, 60), np.float32)
    weights[0, 7] = 0
    ap, auc = weighted.Ranking(scores, targets)(weights)
    assert np.isnan(ap[0, 3]) and np.isnan(auc[0, 3])
    assert weighted.mean_of_classes(ap)[0] == pytest.approx(np.delete(ap[0], 3).mean())


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_precision_recall_f1_equal_scikit_learn(average):
    scores, targets = random_case(classes=8)
    scores[:, 2], targets[:, 2] = -9, False  # neither predicted nor true, but a class of the mean
    targets[0] = np.arange(8) == 0
    rows = np.flatnonzero(targets.any(axis=1))
    measures = Measures(results_of(scores, targets), rows, 3, Ontology())
    for weights in bootstrap.draw(len(rows), 4, 5):
        found = measures.of_sums(weights)
        for i, row in enumerate(weights.astype(int)):
            repeated = [np.repeat(x[rows], row, axis=0) for x in (targets, top_matrix(scores, 3))]
            wanted = precision_recall_fscore_support(*repeated, average=average, zero_division=0)
            for name, value in zip(("precision", "recall", "f1"), wanted, strict=False):
                assert found[f"{name}_{average}"][i] == pytest.approx(value, abs=1e-6)


def top_matrix(scores, k):
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, axis=1)
    return chosen


def results_of(scores, targets):
    keys = [(f"v{i}", str(i)) for i in range(len(scores))]
    top = np.argsort(-scores, axis=1, kind="stable")
    return files.Results(None, "x", True, {}, {"model": {}}, NAMES, keys, top, 5, targets, scores)


def test_draws_are_seeded_and_do_not_depend_on_the_chunks(monkeypatch):
    whole = np.concatenate(list(bootstrap.draw(37, 50, 3)))
    monkeypatch.setattr(bootstrap, "CHUNK_FLOATS", 7 * 37)
    parts = list(bootstrap.draw(37, 50, 3))
    assert len(parts) == 8 and (np.concatenate(parts) == whole).all()
    assert (whole.sum(axis=1) == 37).all()
    assert (np.concatenate(list(bootstrap.draw(37, 50, 4))) != whole).any()


def test_rankings_that_would_take_minutes_get_fewer_resamples():
    assert [bootstrap.affordable(10_000, cost) for cost in (1e5, 2e7, 2.1e7, 2e8, 1e12)] == [
        10_000, 10_000, 2000, 1000, 200]
    assert bootstrap.affordable(100, 1e12) == 100


def test_a_file_is_resampled_once_for_all_its_pairs(tmp_path, monkeypatch):
    paths = [write_results(tmp_path / f"{i}.json", seed=i) for i in range(4)]
    sizes, draw = [], bootstrap.draw

    def counted(clips, *rest):
        sizes.append(clips)
        return draw(clips, *rest)

    monkeypatch.setattr(bootstrap, "draw", counted)
    _, rows = compared(tmp_path, *paths)
    assert len(sizes) == 4 and all("low" in e for e in rows["map"]["differences"])


def test_interval_of_a_known_case():
    """acc@1 of 0.5 and 0.6 where b is right wherever a is: the difference of a clip is 1 with probability 0.1."""
    clips, generator = 1000, np.random.default_rng(0)
    targets = np.zeros((clips, 8), bool)
    targets[:, 0] = True
    right = np.arange(clips) < 500, np.arange(clips) < 600
    a, b = (
        results_of(np.where(r[:, None], np.eye(8)[0], np.eye(8)[1]) + generator.random((clips, 8)) / 10, targets)
        for r in right
    )
    rows = np.arange(clips)
    a.scores = b.scores = None  # acc@1 alone, quickly
    pair = [Measures(x, rows, 1, Ontology()).resample(10_000, 0) for x in (a, b)]
    found = paired_intervals(*pair)["acc@1"]
    half = 1.96 * math.sqrt(0.1 * 0.9 / clips)
    assert [found["low"], found["high"]] == pytest.approx([0.1 - half, 0.1 + half], abs=0.002)
    assert found["resamples"] == 10_000


# From here on: files, as a user has them.


def write_results(path, clips=range(40), seed=0, names=NAMES, save_scores=True, ours=True, metrics=None, k=3):
    """A results JSON of made-up scores; the truth of a clip depends on its number alone."""
    clips = list(clips)
    targets = np.stack([np.random.default_rng(1000 + i).random(len(names)) < 0.3 for i in clips])
    scores = np.random.default_rng(seed).normal(size=targets.shape).astype(np.float32) + targets
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    predictions = [
        {
            "sample_id": i,
            "video_id": f"v{i}",
            "predicted_top1": names[best[0]],
            "top_k_predictions": [
                {"rank": r, "classname": names[j], "similarity": float(row[j])} for r, j in enumerate(best, 1)
            ],
            "ground_truth_labels": [],
            "ground_truth_human_labels": [names[j] for j in np.flatnonzero(truth)],
        }
        for i, row, best, truth in zip(clips, scores, order, targets, strict=True)
    ]
    content = {"test_info": {}, "model_info": {}, "metrics": metrics or {}, "predictions": predictions}
    if ours:
        content["test_info"]["class_names"] = names
        content["model_info"]["c_meaning"] = "squared radius"
    if save_scores:
        files.save_scores(path.with_suffix(".safetensors"), {"scores": scores, "targets": targets})
        content["test_info"]["scores"] = path.with_suffix(".safetensors").name
    write_json(path, content)
    return path


def compared(tmp_path, *paths, flags=()):
    """Run the comparison; (its JSON, {metric: row} of the first table)."""
    target = tmp_path / "comparison.json"
    main(parser().parse_args([*map(str, paths), "--resamples", "200", "--output-json", str(target), *flags]))
    report = json.loads(target.read_text())
    return report, {row["metric"]: row for row in report["tables"][0]["rows"]}


def test_same_clips_are_paired_and_repeatable(tmp_path):
    a, b = write_results(tmp_path / "results_a.json"), write_results(tmp_path / "results_b.json", seed=1)
    report, rows = compared(tmp_path, a, b)
    assert "b and a have 40 clips in common, all of both" in report["notes"]
    assert rows["acc@10"]["values"][0]["value"] == 1  # there are 8 classes
    for name in ("acc@1", "f1_macro", "map", "map_samples", "auc", "mean_rank", "hierarchical_f1"):
        entry = rows[name]["differences"][0]
        assert entry["paired"] and entry["low"] <= entry["difference"] <= entry["high"], name
    assert compared(tmp_path, a, b)[0] == report


def test_a_file_against_itself_differs_in_nothing(tmp_path):
    a = write_results(tmp_path / "a.json")
    _, rows = compared(tmp_path, a, write_results(tmp_path / "b.json"))
    entries = [row["differences"][0] for row in rows.values() if row["differences"][0]]
    assert entries and all(e["difference"] == e["low"] == e["high"] == 0 for e in entries)


def test_files_of_other_depths_are_measured_at_the_less(tmp_path):
    a = write_results(tmp_path / "a.json", k=4)
    b = write_results(tmp_path / "b.json", seed=1, k=2)
    report, rows = compared(tmp_path, a, b)
    assert "the files hold 4 and 2 predictions for each clip; precision, recall, f1, mrr: at 2" in report["notes"]
    again = compared(tmp_path, write_results(tmp_path / "c.json", k=2), b)[1]
    assert [rows[name]["values"][0]["value"] for name in ("precision_micro", "recall_micro", "mrr")] == [
        again[name]["values"][0]["value"] for name in ("precision_micro", "recall_micro", "mrr")]  # fmt: skip


def test_other_clips_are_not_called_paired(tmp_path):
    a = write_results(tmp_path / "a.json")
    report, rows = compared(tmp_path, a, write_results(tmp_path / "b.json", range(30, 70), seed=1))
    assert "b and a have 10 clips in common, of 40 and 40" in report["notes"]
    assert not any(e and (e["paired"] or "low" in e) for row in rows.values() for e in row["differences"])
    common = {row["metric"]: row["differences"][0] for row in report["tables"][1]["rows"]}
    assert report["tables"][1]["title"] == "the 10 common clips" and common["acc@1"]["paired"]
    report, rows = compared(tmp_path, a, write_results(tmp_path / "c.json", range(100, 130), seed=1))
    assert len(report["tables"]) == 1 and rows["acc@1"]["differences"][0]["note"] == "unpaired"


def test_another_class_list_is_unpaired(tmp_path):
    a = write_results(tmp_path / "a.json")
    report, rows = compared(tmp_path, a, write_results(tmp_path / "b.json", names=NAMES[:6]))
    assert any("another class list (6 classes)" in note for note in report["notes"])
    assert rows["map"]["differences"][0]["note"] == "unpaired" and not report["classes"]


def test_clips_with_another_truth_are_not_common(tmp_path):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", save_scores=False)
    content = json.loads(b.read_text())
    content["predictions"][0]["ground_truth_human_labels"] = ["Engine", "Music", "Rain", "Siren"]
    write_json(b, content)
    report, _ = compared(tmp_path, a, b)
    assert "b and a have 39 clips in common, of 40 and 40" in report["notes"]
    assert any(note.startswith("1 clips have other true classes") for note in report["notes"])


def test_a_file_of_another_program_is_recomputed_where_it_can_be(tmp_path):
    flags = ("--class-labels", str(tmp_path / "classes.json"))
    write_json(tmp_path / "classes.json", {name: i for i, name in enumerate(NAMES)})
    a = write_results(tmp_path / "a.json", metrics={"acc@10": 1.0})
    metrics = {"acc@1": None, "acc@3": 0.01, "map": 0.9}
    b = write_results(tmp_path / "b.json", save_scores=False, ours=False, metrics=metrics)
    report, rows = compared(tmp_path, a, b, flags=flags)
    for name in ("acc@1", "acc@3", "f1_micro", "f1_macro"):
        assert rows[name]["values"][1]["source"] == "recomputed"
        assert rows[name]["differences"][0]["difference"] == pytest.approx(0, abs=1e-6)
    assert any("b stores acc@3 = 0.0100, but its predictions give" in note for note in report["notes"])
    assert rows["map"]["values"][1]["value"] == 0.9
    assert rows["map"]["differences"][0]["difference"] is None  # who knows what it was averaged over
    assert report["classes"][0]["measure"] == "recall at 3"


def changed(path, target, change):
    """Another results file: `path` after change(content)."""
    content = json.loads(path.read_text())
    change(content)
    write_json(target, content)
    return target


def test_clips_are_matched_by_video_where_sample_ids_are_counted_differently(tmp_path):
    a = write_results(tmp_path / "a.json")
    b = write_results(tmp_path / "b.json", seed=1, save_scores=False)

    def renumber(content):
        for number, entry in enumerate(content["predictions"]):
            entry["sample_id"] = f"sample_{number + 7}"

    report, rows = compared(tmp_path, a, changed(b, tmp_path / "c.json", renumber))
    assert "c and a have 40 clips in common, all of both" in report["notes"]
    assert rows["acc@1"]["differences"][0]["paired"]

    def one_video(content):
        for entry in content["predictions"][:4]:
            entry["video_id"] = "v0"

    # Four clips of one video in one file, one in the other: only the one with the same sample_id is the same clip.
    report, _ = compared(tmp_path, a, changed(b, tmp_path / "d.json", one_video))
    assert "d and a have 37 clips in common, of 40 and 40" in report["notes"]

    def twice(content):
        content["predictions"][5] = dict(content["predictions"][4])

    # Two clips of one name in one file: nobody knows which of them is the other file's.
    report, _ = compared(tmp_path, a, changed(b, tmp_path / "f.json", twice))
    assert "f and a have 38 clips in common, of 40 and 40" in report["notes"]

    def anonymous(content):
        for entry in content["predictions"]:
            del entry["video_id"]

    report, rows = compared(tmp_path, a, changed(b, tmp_path / "e.json", anonymous))
    assert "40 clips of e have no video_id and so are not matched with other files" in report["notes"]
    assert not rows["acc@1"]["differences"][0]["paired"]


def test_metrics_alone_are_shown_as_stored(tmp_path):
    a = write_results(tmp_path / "a.json")
    for name in ("b", "c"):
        write_json(tmp_path / f"{name}.json", {"metrics": {"acc@1": 0.25, "map": None, "valid_samples": 40}})
    report, rows = compared(tmp_path, a, tmp_path / "b.json", tmp_path / "c.json")
    assert "b has no predictions, so its metrics are shown as stored" in report["notes"]
    assert [cell and cell["source"] for cell in rows["acc@1"]["values"]] == ["recomputed", "stored", "stored"]
    assert rows["valid_samples"]["values"][1]["value"] == 40 and rows["map"]["values"][1] is None
    assert not rows["acc@1"]["differences"][0]["paired"]


def test_predictions_that_are_no_objects_are_left_out_and_counted(tmp_path):
    a = write_results(tmp_path / "a.json", save_scores=False)
    b = changed(a, tmp_path / "b.json", lambda content: content["predictions"].__setitem__(3, None))
    report, _ = compared(tmp_path, a, b)
    assert "1 of 40 predictions of b are no objects and left out" in report["notes"]
    assert report["tables"][1]["title"] == "the 39 common clips"


def test_truth_as_machine_ids_or_as_one_text(tmp_path):
    a = write_results(tmp_path / "a.json", save_scores=False)
    ids = {"Music": "/m/04rlf", "Speech": "/m/09x0r", "Dog": "/m/0bt9lr", "Bark": "/m/05tny_", "Piano": "/m/05r5c",
           "Rain": "/m/06mb1", "Siren": "/m/03kmc9", "Engine": "/m/02mk9"}

    def machine(content):
        for entry in content["predictions"]:
            entry["ground_truth_labels"] = [ids[name] for name in entry.pop("ground_truth_human_labels")]

    def text(content):
        for entry in content["predictions"]:
            entry["ground_truth_human_labels"] = ", ".join(entry["ground_truth_human_labels"])

    for change in (machine, text):
        report, rows = compared(tmp_path, a, changed(a, tmp_path / "b.json", change))
        assert "b and a have 40 clips in common, all of both" in report["notes"]
        assert rows["f1_micro"]["differences"][0]["difference"] == 0


def test_no_results_file_is_overwritten(tmp_path, monkeypatch):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    before = b.read_bytes()
    monkeypatch.chdir(tmp_path)
    for flag in ("--output-json", "--markdown"):
        for same in (b, "b.json", tmp_path / "x" / ".." / "b.json"):
            with pytest.raises(UserError, match="would be overwritten"):
                main(parser().parse_args([str(a), str(b), flag, str(same)]))
    with pytest.raises(UserError, match="would be overwritten"):
        main(parser().parse_args([str(a), str(b), "--output-json", "same", "--markdown", "same"]))
    assert b.read_bytes() == before and not (tmp_path / "same").exists()


def test_what_is_no_json_number_is_no_figure(tmp_path):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    content = json.loads(b.read_text())
    content.setdefault("model_info", {}).update(c=math.inf, temperature=math.nan)
    b.write_text(json.dumps(content))
    main(parser().parse_args([str(a), str(b), "--resamples", "100", "--output-json", str(tmp_path / "c.json")]))
    assert json.loads((tmp_path / "c.json").read_text())["files"][1]["c"] is None


def test_classes_that_changed_are_listed_with_their_clips(tmp_path):
    """Class by class against scikit-learn, and the counts against the files' truth."""
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    report, _ = compared(tmp_path, a, b, flags=("--classes", "8", "--min-clips", "1"))
    (changes,) = report["classes"]
    loaded = [files.read(path, "x", None, path) for path in (a, b)]
    valid = loaded[0].valid
    listed = changes["gained"] + changes["lost"]
    assert changes["measure"] == "average precision" and len(listed) == 8
    for entry in listed:
        column = NAMES.index(entry["class"])
        truth = loaded[0].targets[valid, column]
        assert entry["clips"] == truth.sum()
        for name, file in zip(("before", "after"), loaded, strict=True):
            assert entry[name] == pytest.approx(average_precision_score(truth, file.scores[valid, column]), abs=1e-5)
    for way, sign in (("gained", 1), ("lost", -1)):
        sizes = [sign * entry["change"] for entry in changes[way]]
        assert sizes == sorted(sizes, reverse=True) and min(sizes) > 0
    report, _ = compared(tmp_path, a, b, flags=("--classes", "8", "--min-clips", "13"))
    assert 0 < report["classes"][0]["compared"] < 8
    assert all(e["clips"] >= 13 for e in report["classes"][0]["gained"] + report["classes"][0]["lost"])


def test_without_scores_map_has_no_interval(tmp_path):
    paths = [
        write_results(tmp_path / f"{name}.json", seed=seed, save_scores=False, metrics={"map": 0.5 + seed / 10})
        for seed, name in enumerate("ab")
    ]
    _, rows = compared(tmp_path, *paths)
    assert rows["map"]["differences"][0]["difference"] == pytest.approx(0.1)
    assert rows["map"]["differences"][0]["note"] == "needs scores" and "low" in rows["acc@1"]["differences"][0]


def test_d_prime_of_a_perfect_area_is_not_finite(tmp_path):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    content = json.loads(b.read_text())
    targets = files.read(b, "b", None, b).targets
    files.save_scores(b.with_suffix(".safetensors"), {"scores": targets.astype(float), "targets": targets})
    content["metrics"] = {"d_prime": 6.0}
    for entry, row in zip(content["predictions"], targets, strict=True):
        order = np.argsort(-row.astype(float), kind="stable")[:3]
        entry["top_k_predictions"] = [{"rank": r, "classname": NAMES[j]} for r, j in enumerate(order, 1)]
    write_json(b, content)
    _, rows = compared(tmp_path, a, b)
    assert rows["auc"]["values"][1]["value"] == 1 and "low" in rows["auc"]["differences"][0]
    assert rows["d_prime"]["differences"][0]["note"] == "not finite"


def test_scores_of_another_run_are_not_used(tmp_path):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    a.with_suffix(".safetensors").write_bytes(b.with_suffix(".safetensors").read_bytes())
    report, rows = compared(tmp_path, a, b)
    assert "a names the similarities a.safetensors, which belong to another run" in report["notes"]
    assert rows["map"]["values"][0] is None


def test_markdown_is_a_table(tmp_path, caplog):
    a, b = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1)
    compared(tmp_path, a, b, flags=("--markdown", str(tmp_path / "c.md")))
    lines = (tmp_path / "c.md").read_text().splitlines()
    assert "| metric | a | b | b - a |" in lines and "| --- | ---: | ---: | ---: |" in lines


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object with the keys"),
        ('{"metrics": {}}', "has neither 'metrics' nor 'predictions'"),
        ('{"predictions": [3]}', "has neither 'metrics' nor 'predictions'"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_results_file_is_named(tmp_path, content, sentence):
    a, b = write_results(tmp_path / "a.json"), tmp_path / "b.json"
    if content is not None:
        b.write_text(content)
    with pytest.raises(UserError, match=sentence) as error:
        compared(tmp_path, a, b)
    assert str(b) in str(error.value)
