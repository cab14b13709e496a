"""Metrics of probabilities, intervals over seeds, sweeps, timelines and label columns a second time, by counting."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from safetensors.numpy import save_file
from test_results_laws import case, counted

from data import Span
from hyperbolic_clap.embedding.pipeline import NO_CLASS, EmbeddedClips, skip_untrainable
from hyperbolic_clap.embedding.row_index import KEYED, REASON, UNKNOWN, Part, used_rows
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.inference import tagging
from hyperbolic_clap.inference.tagging import Tagger
from hyperbolic_clap.inference.timeline import Heard, TimelineConfig, gate, labels, level
from hyperbolic_clap.inference.windows import Windows
from hyperbolic_clap.metrics import bootstrap
from hyperbolic_clap.metrics.calibration import calibration_metrics
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.metrics.retrieval import retrieve
from hyperbolic_clap.metrics.traversal import share
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.columns import parse_column
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.rows import Rows
from hyperbolic_clap.results import sweep
from hyperbolic_clap.results.compare import CompareConfig, class_changes
from hyperbolic_clap.results.evaluation import evaluate
from hyperbolic_clap.results.groups import Group, group_by_seed, group_table
from hyperbolic_clap.results.measures import PerClass
from hyperbolic_clap.results.sweep_tables import METRICS, by_setting, of_folder, resampled, spread

# Probabilities


def counted_error(probabilities, truth):
    """The mean gap of the 15 parts of (n,) pairs, each weighing as many as it holds."""
    part = [min(int(p * 15), 14) for p in probabilities]
    gaps = [abs(sum(p - t for p, t, q in zip(probabilities, truth, part, strict=True) if q == own)) for own in {*part}]
    return sum(gaps) / len(part)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_errors_are_what_counting_gives(seed):
    rng = np.random.default_rng(seed)
    targets, bare, scaled = rng.random((20, 6)) < 0.3, rng.random((20, 6)), rng.random((20, 6)) ** 2
    targets[3], bare[5] = False, 1.0
    found = calibration_metrics(bare, scaled, targets)
    kept = targets.any(1)
    for kind, values in (("uncalibrated", bare[kept]), ("calibrated", scaled[kept])):
        assert found[f"{kind}_error"] == pytest.approx(counted_error(values.ravel(), targets[kept].ravel()))
        best = [(row.max(), truth[row.argmax()]) for row, truth in zip(values, targets[kept], strict=True)]
        assert found[f"{kind}_error_top1"] == pytest.approx(counted_error(*zip(*best, strict=True)))
    bins = found["reliability"]
    assert [sum(b["pairs"] for b in bins[of]) for of in ("pairs", "top1")] == [kept.sum() * 6, kept.sum()]
    for part in bins["top1"]:  # Wilson's interval
        n, p, z = part["pairs"], part["true"], 1.959964
        middle, half = (p + z * z / 2 / n) / (1 + z * z / n), (p * (1 - p) / n + (z / n / 2) ** 2) ** 0.5
        ends = [max(middle - z * half / (1 + z * z / n), 0), min(middle + z * half / (1 + z * z / n), 1)]
        assert [part["low"], part["high"]] == pytest.approx(ends, abs=1e-6)


def test_why_there_is_no_calibration_error():
    values, none, some = np.full((2, 3), 0.5), np.zeros((2, 3), bool), np.eye(2, 3) > 0
    found = calibration_metrics(values, values, none)
    assert found["reason"] == "no clip has a true class" and found["calibrated_error"] is None
    found = calibration_metrics(values, None, some)
    assert found["reason"] == "the projector has no calibrated probabilities" and found["uncalibrated_error"] > 0


def evaluated(content, scale=4.0):
    """What evaluate gives 30 clips of four classes for a projector that is none but for its content."""
    tree = Ontology({"dog": ["pets"], "cat": ["pets"], "rain": ["weather"], "wind": ["weather"], "pets": [],
                     "weather": []})  # fmt: skip
    classes, rng = ClassList(["rain", "dog", "wind", "cat"]), torch.Generator().manual_seed(0)
    audio, text, inner = (torch.randn(n, 8, generator=rng) for n in (30, 4, 2))
    rows = Rows.of(classes, range(30), [f"v{i}" for i in range(30)], [[classes.names[i % 4]] for i in range(30)],
                   [[]] * 30)  # fmt: skip
    projector = Projector(None, torch.device("cpu"))
    projector.logit_scale.log_scale.data.fill_(np.log(scale))
    projector.content, projector.module = (
        content,
        SimpleNamespace(
            audio=lambda x: x.roll(1, 1),
            text=lambda x: x.roll(1, 1),
            compare=lambda a, t: projector.kind.compare(a, t, None, 1.0),
        ),
    )
    tensors, figures = evaluate(EmbeddedClips(classes, rows, audio, text, {}, lambda names: inner), projector, 3, tree)
    return projector, tensors, figures, (audio, text, inner)


def test_an_evaluation_tells_bare_from_scaled_probabilities_and_superclasses_have_the_scale():
    content = {"calibration": {"slope": 0.3, "shift": -0.2}}
    projector, tensors, figures, (audio, text, inner) = evaluated(content)
    scores, targets = tensors["scores"], tensors["targets"]
    wanted = calibration_metrics(projector.probability(scores, False), projector.probability(scores), targets)
    assert figures["calibration"] == wanted and wanted["calibrated_error"] != wanted["uncalibrated_error"]
    unit = torch.nn.functional.normalize
    every = unit(audio) @ unit(torch.cat([text, inner])).T
    for column, members in ((0, [1, 3, 4]), (1, [0, 2, 5])):
        subtree = (4.0 * every[:, members].double()).exp().sum(1).log() / 4.0
        assert torch.allclose(torch.from_numpy(tensors["inner_branch"][:, column]).double(), subtree, atol=1e-5)
        assert tensors["inner_targets"][:, column].tolist() == [i % 4 in members for i in range(30)]
    proto = {"prototype_weight": 0.5, "prototype_classes": ["cat"], "prototype_means": torch.arange(8.0)[None]}
    gain = evaluated(content | proto)[1]["scores"] - scores
    assert np.allclose(gain[:, 3], 0.5 * unit(audio) @ unit(torch.arange(8.0), dim=0), atol=1e-6)
    assert (np.delete(gain, 3, axis=1) == 0).all()


# Intervals


def test_drawn_clips_do_not_depend_on_the_chunks_and_are_as_many(monkeypatch):
    whole = np.concatenate([*bootstrap.draw(7, 50, 3)])
    drawn = np.random.default_rng(3).integers(7, size=(50, 7), dtype=np.int32)
    assert (whole == [np.bincount(row, minlength=7) for row in drawn]).all()
    for width in (1, 10, 10**9):
        monkeypatch.setattr(bootstrap, "CHUNK_FLOATS", 30)
        parts = [*bootstrap.draw(7, 50, 3, width)]
        assert len(parts) > 10 and (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_is_of_the_defined_half_or_more(seed):
    values = np.random.default_rng(seed).normal(size=40)
    for undefined, bad in ((0, np.nan), (20, np.nan), (20, np.inf), (21, np.nan), (39, -np.inf)):
        some = np.where(np.arange(40) < undefined, bad, values)
        found, known = bootstrap.interval(some), values[undefined:]
        assert found == (None if undefined > 20 else pytest.approx(tuple(np.percentile(known, [2.5, 97.5]))))


def test_by_chance_is_by_the_classes_of_another_clip():
    """Two clips of two trees, each meeting its own ancestor, so that never another's."""
    tree = Ontology({"dog": ["pets"], "pets": [], "rain": ["weather"], "weather": []})
    nodes = tree.find(["dog", "pets", "rain", "weather"])[0]
    found = share(np.array([[0, 1], [2, 3], [3, 3]]), np.eye(4, dtype=bool)[[0, 2, 3]], nodes, tree)
    assert (found["share"], found["shuffled"], found["clips"]) == (1.0, 0.0, 2)


def test_a_share_of_ancestors_and_its_interval_are_sums_over_the_clips():
    """A clip with three ancestors weighs three times as much as one with one; one without any counts nowhere."""
    tree = Ontology({"puppy": ["dog"], "dog": ["mammal"], "mammal": ["animal"], "animal": [], "rain": []})
    nodes = tree.find(["puppy", "dog", "mammal", "animal", "rain"])[0]
    met = np.array([[0, 1, 4], [2, 3, 3], [0, 4, 4], [4, 4, 4], [1, 2, 3]])
    found = share(met, np.eye(5, dtype=bool)[[0, 2, 1, 4, 1]], nodes, tree)
    inside, whole = np.array([1, 1, 0, 2]), np.array([3, 1, 2, 2])
    drawn = np.random.default_rng(0).integers(4, size=(2000, 4), dtype=np.int32)
    ends = np.percentile(inside[drawn].sum(1) / whole[drawn].sum(1), [2.5, 97.5])
    assert (found["share"], found["clips"]) == (4 / 8, 4)
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=1e-6)


SEEDED = [("a", [2, 0, 1]), ("b", [1, 2, 0]), ("c", [3, 4, 5]), ("d", [0])]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_table_over_seeds_is_what_counting_gives(seed):
    """The same seeds of both sides are drawn together; other seeds, or another number of them, by themselves."""
    rng, files, columns, drawn = np.random.default_rng(seed), [], [], []
    for name, seeds in SEEDED:
        for own in seeds:
            training = {"seed": own, "similarity": name, "loss": "softmax"}
            files.append(SimpleNamespace(label=f"{name}{own}", model={"training": training, "clap_sha256": "x"}))
            drawn.append({"map": rng.normal(ord(name) + own, 0.1, 300)})
            columns.append({"map": {"value": drawn[-1]["map"].mean()}})
    groups = group_by_seed(files)
    assert [group.seeds for group in groups] == [sorted(seeds) for _, seeds in SEEDED]
    row = group_table(groups, columns, drawn, ["map"], seed)["rows"][0]
    by_seed = [[drawn[i]["map"] for i in group.files] for group in groups]
    for group, values, cell in zip(groups, by_seed, row["values"], strict=True):
        means = [v.mean() for v in values]
        assert cell["value"] == pytest.approx(np.mean(means))
        off = sum((m - np.mean(means)) ** 2 for m in means)
        assert cell["deviation"] == (pytest.approx((off / (len(means) - 1)) ** 0.5) if len(means) > 1 else None), group
    for (name, seeds), b, entry in zip(SEEDED[1:], by_seed[1:], row["differences"], strict=True):
        generator = np.random.default_rng([seed, 1])
        of_b = generator.integers(len(b), size=(len(b), 300))
        of_a = of_b if name == "b" else generator.integers(3, size=(3, 300))
        apart = [np.mean([b[k][t] for k in of_b[:, t]]) - np.mean([by_seed[0][k][t] for k in of_a[:, t]])
                 for t in range(300)]  # fmt: skip
        assert [entry["low"], entry["high"]] == pytest.approx([*np.percentile(apart, [2.5, 97.5])]), seeds
    assert isinstance(groups[0], Group)


def test_a_metric_that_one_seed_lacks_has_no_mean():
    groups = [Group("a", [0, 1], [1, 2]), Group("b", [2, 3], [1, 2])]
    columns = [{"map": {"value": 0.5}, "auc": {"value": 0.1 * i}} for i in range(4)]
    del columns[3]["map"]
    of_map, of_auc = group_table(groups, columns, [None] * 4, ["map", "auc"], 0)["rows"]
    assert [cell and cell["value"] for cell in of_map["values"]] == [0.5, None] and of_map["differences"] == [None]
    assert [cell["value"] for cell in of_auc["values"]] == pytest.approx([0.05, 0.25])


def test_trainings_of_other_models_or_prompts_are_other_groups():
    base = {"training": {"seed": 1, "loss": "softmax"}, "clap_sha256": "x", "prompt": "p"}
    others = [
        base,
        {**base, "clap_sha256": "y"},
        {**base, "prompt": "q"},
        {**base, "training": {"seed": 1, "loss": "sigmoid"}},
        {**base, "training": {"seed": 2, "loss": "softmax"}},
    ]
    files = [SimpleNamespace(label=str(i), model=model) for i, model in enumerate(others)]
    assert [group.files for group in group_by_seed(files)] == [[0, 4], [1], [2], [3]]


@pytest.mark.parametrize("count", [1, 2, 10])
def test_as_many_classes_are_listed_as_asked_for(count):
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(30)]
    sides = [PerClass(rng.integers(0, 9, 30), rng.random(30), None, 5) for _ in range(2)]
    files = [SimpleNamespace(label=label, names=names) for label in "ab"]
    found = class_changes(*files, sides, CompareConfig(classes=count, min_clips=3))
    change = {n: b - a for n, a, b, c in zip(names, sides[0].recall, sides[1].recall, sides[0].clips, strict=True)
              if c >= 3}  # fmt: skip
    best = sorted(change, key=lambda n: -change[n])
    assert [e["class"] for e in found["gained"]] == [n for n in best if change[n] > 0][:count]
    assert [e["class"] for e in found["lost"]] == [n for n in best[::-1] if change[n] < 0][:count]
    assert found["compared"] == len(change)


@pytest.mark.parametrize("floats", [1, 100, 10**6])
def test_retrieval_is_what_sorting_gives_whatever_is_compared(floats):
    """Of a similarity that is not symmetric; clips with up to 14 captions, of which 10 are counted, and ties."""
    rng = np.random.default_rng(0)
    said = [sorted(rng.choice(40, size, replace=False)) for size in (14, 11, 10, 1, 2, 3, 12, 1)]
    pairs = np.array([(clip, text) for clip, texts in enumerate(said) for text in texts])
    scores = torch.from_numpy(rng.integers(0, 12, (8, 40)) / 4)
    found = retrieve(lambda a, t: scores[a[:, 0]][:, t[:, 0]], torch.arange(8)[:, None], torch.arange(40)[:, None],
                     pairs, floats)  # fmt: skip
    for way, table, queries in (("audio_to_text", scores.numpy(), range(8)), ("text_to_audio", scores.numpy().T,
                                                                              pairs[:, 1])):  # fmt: skip
        for query, best, precision in zip(queries, *found[way], strict=True):
            right = [b for a, b in (pairs if way == "audio_to_text" else pairs[:, ::-1]) if a == query]
            order = sorted(range(table.shape[1]), key=lambda j: (-table[query, j], j))  # noqa: B023
            ranks = sorted(1 + order.index(j) for j in right)
            hits = [(k + 1) / rank for k, rank in enumerate(ranks) if rank <= 10]
            assert (best, precision) == (ranks[0], pytest.approx(sum(hits) / min(len(right), 10)))


# Sweeps


@pytest.mark.parametrize("seed", [0, 5])
def test_resampled_figures_of_a_sweep_are_what_counting_gives(tmp_path, seed):
    scores, targets = case(seed)
    save_file({"scores": scores, "targets": targets.astype(np.uint8)}, tmp_path / "r.safetensors")
    found, kept = resampled(tmp_path / "r.json", 40, seed), targets.any(1)
    scores, targets = scores[kept], targets[kept]
    rows = [np.arange(24), *np.random.default_rng(seed).integers(24, size=(40, 24), dtype=np.int32)]
    wanted = [counted(scores[some], targets[some], 5) for some in rows]
    for name in METRICS:
        assert found[name] == pytest.approx([one[name] for one in wanted], abs=1e-6), name


def test_runs_of_a_setting_stand_in_the_order_of_their_seeds():
    runs = [sweep.Outcome("", TrainConfig(seed=s, c=c), {}, {"eval": {"map": 1.0}}) for s in (3, 1, 2)
            for c in (1.0, 2.0)]  # fmt: skip
    assert [[one.config.seed for one in some] for some in by_setting(runs).values()] == [[1, 2, 3]] * 2
    assert spread([1.0, 3.0]) == f"2.0000 +- {2**0.5:.4f}" and spread([2.0]) == "2.0000"
    assert sweep.effective(TrainConfig(similarity="cosine", c=2.0)) == TrainConfig(similarity="cosine")
    assert sweep.effective(TrainConfig(c=2.0)).c == 2.0


def test_tables_of_a_sweep_are_what_counting_gives():
    """Differences of means over all seeds, with seeds drawn too: the same ones of a setting and its baseline."""
    rng, groups, draws = np.random.default_rng(0), {}, {}
    for label, seeds, of in (("hyperbolic", (1, 2, 3), 0.5), ("cosine", (1, 2, 3), 0.45)):
        groups[label] = [sweep.Outcome("", TrainConfig(similarity=label, seed=seed), {}, {}) for seed in seeds]
        draws[label] = [{name: rng.normal(of + seed / 50, 0.01, 81) for name in METRICS} for seed in seeds]
    plain = {name: rng.normal(0.5, 0.01, 81) for name in METRICS}
    text = "\n".join(of_folder("eval", groups, draws, plain, {"similarity": "cosine"}, 4))

    def told(a, b, name, together):
        generator = np.random.default_rng([4, 1])
        of_b = generator.integers(len(b), size=(len(b), 80))
        of_a = of_b if together else np.zeros((1, 80), int)
        apart = [np.mean([b[k][name][t + 1] for k in of_b[:, t]]) - np.mean([a[k][name][t + 1] for k in of_a[:, t]])
                 for t in range(80)]  # fmt: skip
        low, high = np.percentile(apart, [2.5, 97.5])
        value = np.mean([one[name][0] for one in b]) - np.mean([one[name][0] for one in a])
        return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]{'*' if low > 0 or high < 0 else ''}"

    for label, drawn in draws.items():
        values = [[one[name][0] for one in drawn] for name in METRICS]
        means = [f"{np.mean(some):.4f} +- {np.std(some, ddof=1):.4f}" for some in values]
        assert f"| {label} | 3 | {' | '.join(means)} |" in text
        assert f"| {label} | {' | '.join(told([plain], drawn, name, False) for name in METRICS)} |" in text
    both = [told(draws["cosine"], draws["hyperbolic"], name, True) for name in METRICS]
    assert f"| hyperbolic - cosine | {' | '.join(both)} |" in text and "*" in both[0] and text.count(" - ") == 1


def workplace(folder, **changes):
    """A place of work whose data, model and settings are names; what it would train or test is told instead."""
    said = {"sha256": "m", "prompt": "p", "names": ["a"], "data": "d", "tested": "t", "top_k": 5} | changes
    place = object.__new__(sweep.Workplace)
    place.plan = SimpleNamespace(output_dir=folder, top_k=said["top_k"], dim_given=True, arguments={},
                                 train=SimpleNamespace(parquet_dir=None),
                                 results=lambda name, eval: folder / f"{name}_{eval}.json")  # fmt: skip
    embedder = SimpleNamespace(origin=SimpleNamespace(sha256=said["sha256"]), prompt=said["prompt"])
    place.model, place.pipeline = SimpleNamespace(embedder=embedder, device=None), None
    place.clips = SimpleNamespace(classes=SimpleNamespace(names=said["names"]))
    place.data, place.tested, place.tested_data = said["data"], {"eval": None}, {"eval": said["tested"]}

    def _test(clips, path, name, output):
        output.write_text("")
        output.with_suffix(".safetensors").write_text("")
        return {"tested": True}

    place._test = _test
    return place


def test_a_run_is_trained_and_tested_again_whenever_what_it_depends_on_is_another(tmp_path, monkeypatch):
    def trains(*_):
        raise UserError("trained anew")

    monkeypatch.setattr(sweep, "require_trainable", lambda config, *_: config)
    monkeypatch.setattr(sweep, "describe_run", trains)
    monkeypatch.setattr(sweep, "name_of", lambda config: "run")
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "best_projection_epoch_1.pth").write_text("")
    first, config = workplace(tmp_path), TrainConfig()
    record = {"key": first._key(first.data, dataclasses.asdict(config)), "projection_sha256": "s", "tests": {},
              "checkpoint": "best_projection_epoch_1.pth"}  # fmt: skip
    file = tmp_path / "runs" / "run" / "run.json"
    write_json(file, record)
    assert first.train(config) == record
    others = {"sha256": "n", "prompt": "q", "names": ["a", "b"], "data": "e"}
    for name, value in others.items():
        with pytest.raises(UserError, match="anew"):
            workplace(tmp_path, **{name: value}).train(config)
    for field in dataclasses.fields(config):
        with pytest.raises(UserError, match="anew"):
            first.train(dataclasses.replace(config, **{field.name: "another"}))
    assert first.test(config) == {"eval": {"tested": True}}

    def again(place):
        known = json.loads(file.read_text())
        known["tests"]["eval"]["metrics"] = {"tested": False}
        file.write_text(json.dumps(known))
        return place.test(config)["eval"]["tested"]

    assert not again(workplace(tmp_path)) and not again(workplace(tmp_path, data="e"))
    for name, value in ({"sha256": "n", "prompt": "q", "names": ["a", "b"], "tested": "u", "top_k": 6}).items():
        first.test(config)
        assert not again(first) and again(workplace(tmp_path, **{name: value})), name
    first.test(config)
    record = json.loads(file.read_text()) | {"projection_sha256": "other"}
    write_json(file, record)
    assert again(workplace(tmp_path))


def test_a_run_goes_on_is_begun_anew_where_it_cannot_and_fails_for_any_other_reason(tmp_path, monkeypatch):
    place, config, folder, tried = workplace(tmp_path), TrainConfig(), tmp_path / "runs" / "run", []
    about = {"projection_sha256": "s", "training": {"epoch": 1}}
    monkeypatch.setattr(sweep, "require_trainable", lambda config, *_: config)
    monkeypatch.setattr(sweep, "describe_run", lambda *_: {})
    monkeypatch.setattr(sweep, "name_of", lambda config: "run")
    monkeypatch.setattr(sweep, "Projector", lambda *_: SimpleNamespace(describe=lambda *_: about))

    def trained(*errors):
        tried.clear()
        wrong = [*errors]

        def fit(config, folder, told, resume):
            tried.append(resume)
            if wrong:
                raise UserError(wrong.pop(0))
            (folder / "best_projection_epoch_1.pth").write_text("")

        place._fit = fit
        return place.train(config)

    folder.mkdir(parents=True)
    first = trained()
    assert tried == [False] and first["projection_sha256"] == "s" and json.loads((folder / "run.json").read_text())
    (folder / "projection_epoch_1.pth").write_text("")
    assert trained() == first and tried == []
    for error, begun in ((None, [True]), ("--resume: another c", [True, False])):
        (folder / "run.json").unlink()
        assert trained(*filter(None, [error])) == first and tried == begun
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="--learning-rate"):
        trained("--learning-rate 9 is too much")
    assert tried == [True] and not (folder / "run.json").exists()


@pytest.mark.parametrize("finalists", [None, 1, 2])
def test_what_a_sweep_trains_and_tests_is_what_sorting_gives(tmp_path, monkeypatch, finalists):
    """Of each loss by itself: the best settings by their first seed, then the best by the mean; of equal ones the
    first that was named. One run fails, and its setting is out."""
    rng, seeds, rates = np.random.default_rng(finalists or 0), (3, 1, 2), (9, 4, 7, 2, 5)
    losses = "softmax", "sigmoid"
    configs = [TrainConfig(loss=loss, epochs=rate, seed=seed) for rate in rates for seed in seeds for loss in losses]
    figure, trained, tested = {config: rng.integers(4) / 4 for config in configs}, [], []
    broken = TrainConfig(loss="softmax", epochs=9, seed=3)
    figure[broken] = 5.0

    class Place:
        def __init__(self, plan):
            self.untrained = dict

        def train(self, config):
            trained.append(config)
            if config == broken:
                raise UserError("broke")
            return {"training": {"validation": {"val_map": figure[config]}}}

        def test(self, config):
            tested.append(config)
            return {"eval": {"map": figure[config]}}

    monkeypatch.setattr(sweep, "Workplace", Place)
    plan = sweep.Plan(None, {}, None, tmp_path, {}, choose_by="val_map", choose_each=("loss",), finalists=finalists)
    found, _ = sweep.sweep(plan, configs, 1, lambda _: None)
    wanted_trained, wanted_tested = {*configs} if finalists is None else set(), set()
    for loss in losses:
        sides = [[TrainConfig(loss=loss, epochs=rate, seed=seed) for seed in seeds] for rate in rates]
        wanted_trained |= {side[0] for side in sides}
        sides = [side for side in sides if broken not in side]
        if finalists:
            sides = sorted(sides, key=lambda side: -figure[side[0]])[:finalists]
        wanted_trained |= {config for side in sides for config in side}
        wanted_tested |= {*sorted(sides, key=lambda side: -sum(figure[config] for config in side))[0]}
    assert {*trained} == wanted_trained and sorted(tested, key=configs.index) == sorted(wanted_tested,
                                                                                        key=configs.index)  # fmt: skip
    assert [one.config for one in found] == [config for config in configs if config in wanted_trained]
    assert [one.reason for one in found if one.reason] == ["broke"]


# Timelines


def counted_labels(heard, names, thresholds, config):
    """Label by label, window by window."""
    levels, found = heard.level, []
    closed = [config.gate and x <= -100 for x in levels]
    if config.gate and max(levels) > -100 and max(levels) - np.percentile(levels, 10) >= 10:
        closed = [c or x < np.percentile(levels, 10) + 3 for c, x in zip(closed, levels, strict=True)]
    for column, name in enumerate(names):
        spans: list = []
        for w in range(len(levels)):
            p = heard.probability[w, column]
            if closed[w] or not heard.competing[w, column] or not p >= thresholds[column]:
                continue
            if spans and heard.start[w] - spans[-1][1] <= config.hop + 1e-3:
                spans[-1] = (spans[-1][0], heard.end[w], max(p, spans[-1][2]))
            else:
                spans.append((heard.start[w], heard.end[w], p))
        found += [{"start": a, "end": b, "classname": name, "probability": p} for a, b, p in spans
                  if b - a >= config.min_duration]  # fmt: skip
    return sorted(found, key=lambda label: (label["start"], label["classname"]))


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_what_going_through_the_windows_gives(seed):
    rng = np.random.default_rng(seed)
    count, hop = 30, [1.0, 0.5, 2.0][seed % 3]
    start = hop * np.arange(count)
    levels = rng.choice([[-22.0, -20], [-60, -57, -20], [-120, -60, -20], [-60, -58.5, -57]][seed % 4], count)
    probability = np.where(rng.random((count, 3)) < 0.1, np.nan, rng.random((count, 3)))
    heard = Heard(start, start + hop, levels, probability, rng.random((count, 3)) < 0.8)
    config = TimelineConfig(hop=hop, gate=seed % 5 > 0, min_duration=[0, hop, 2.5 * hop][seed % 3])
    found, told = labels(heard, ["b", "a", "c"], np.array([0.2, 0.5, 0.8]), config)
    assert found == counted_labels(heard, ["b", "a", "c"], [0.2, 0.5, 0.8], config) and len(found) > 3
    assert told["windows"] == count


def test_a_recording_is_heard_window_by_window(monkeypatch):
    """A window speaks for the hop in its middle, goes against the most similar background, and costs only itself."""
    tagger = object.__new__(Tagger)
    tagger.projector, tagger.names = Projector(None, torch.device("cpu")), ["a", "b"]
    tagger.projector.content = {"thresholds": {"by_class": {"b": 0.3}}}
    tagger.embedder = SimpleNamespace(clap=SimpleNamespace(encoder=None))
    tagger.similarities = lambda x: x[:, :2].numpy()
    tagger.backgrounds = lambda x: x[:, 2:].numpy()
    parts = [(0, 2, [0.1, 0.6, 0.2, 0.5]), (1, 3, tagging.RowError("no")), (2, 4, [0.9, -0.2, 0.0, -0.3]),
             (3, 4.5, [0.3, 0.3, 0.1, 0.2])]  # fmt: skip
    parts = [(a, b, x if isinstance(x, tagging.RowError) else np.array(x)) for a, b, x in parts]
    class Parts(list):
        notes: list[str] = []

    monkeypatch.setattr(tagging, "Windows", lambda path, window, hop: Parts(parts))
    monkeypatch.setattr(tagging, "embed_window", lambda waveform, encoder: torch.from_numpy(waveform))
    heard, notes = tagger.hear(SimpleNamespace(name="x"), 2.5, 1.0)
    assert notes == ["heard without some windows: no"]
    assert heard.start.tolist() == [0, 1.75, 2.75, 3.75] and heard.end.tolist() == [1.75, 2.75, 3.75, 4.5]
    assert heard.competing.tolist() == [[False, True], [False] * 2, [True, False], [True, True]]
    assert np.isnan(heard.probability[1]).all() and heard.level[1] == -100
    used = [0, 2, 3]
    assert np.array_equal(heard.probability[used], tagger.projector.probability(
        np.stack([parts[i][2][:2] for i in used])))  # fmt: skip
    assert heard.level[used].tolist() == pytest.approx([level(parts[i][2]) for i in used])
    assert tagger.thresholds(None).tolist() == [0.5, 0.3] and tagger.thresholds(0.7).tolist() == [0.7, 0.7]


def test_the_floor_of_a_recording_is_its_quietest_tenth():
    levels = np.random.default_rng(0).permutation(np.arange(-80.0, 21.0))
    closed, told = gate(levels)
    assert (told["floor_db"], told["loudest_db"], told["reason"]) == (-70, 20, None)
    assert sorted(levels[closed]) == [*range(-80, -67)] and told["closed"] == 13


def test_a_level_is_mean_power_below_full_scale():
    waves = [np.ones(50), np.full(50, -0.1), np.tile([0.1, 0.0], 25), np.zeros(50)]
    wanted = [0, -20, -20 - 10 * np.log10(2), -120]
    assert [level(wave.astype(np.float32)) for wave in waves] == pytest.approx(wanted, abs=1e-6)


def test_a_loud_recording_has_one_gain(tmp_path):
    """Its faint windows stay as faint beside the loud ones as they were."""
    samples = np.float32(np.concatenate([0.1 * np.sin(np.arange(48_000)), 4 * np.sin(np.arange(48_000))]))
    soundfile.write(tmp_path / "a.wav", samples, 48_000, subtype="FLOAT")
    (_, _, faint), (_, _, loud) = Windows(tmp_path / "a.wav", 1.0, 1.0)
    peak = np.abs(samples).max()
    assert np.allclose(faint, samples[:48_000] / peak, atol=1e-6) and np.allclose(loud, samples[48_000:] / peak)


def test_a_superclass_is_answered_by_its_members_at_the_trained_scale():
    tagger = object.__new__(Tagger)
    tagger.projector, tagger.names = Projector(None, torch.device("cpu")), ["Dog", "Rain"]
    tagger.projector.logit_scale.log_scale.data.fill_(np.log(3.0))
    tagger.text, tagger.subtrees = torch.eye(4)[:2], {0: (torch.eye(4)[[0, 2, 3]], ["Dog", "Bark", "Howl"])}
    cosines = torch.tensor([[0.5, 0.5, 0.1, 0.7]])
    below = np.log(sum(np.exp(3.0 * c) for c in (0.5, 0.1, 0.7))) / 3.0
    assert tagger.similarities(cosines)[0].tolist() == pytest.approx([below, 0.5], abs=1e-6)
    tagger.projector.content = {"prototype_weight": 0.3, "prototype_classes": ["Bark"],
                                "prototype_means": torch.tensor([[0.0, 0.0, 1.0, 0.0]])}  # fmt: skip
    below = np.log(sum(np.exp(3.0 * c) for c in (0.5, 0.1 + 0.3 * 0.1, 0.7))) / 3.0
    assert tagger.similarities(cosines)[0].tolist() == pytest.approx([below, 0.5], abs=1e-6)


# Labels and rows


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_used_skipped_and_noted_as_going_through_them_gives(seed):
    """A row's labels come before an exclusion, and that before its audio; lost rows are none, and unread ones have no
    audio to speak of. Of the used ones alone it is said what is odd about their sound."""
    rng, classes, parts, first = np.random.default_rng(seed), ClassList(["Dog", "Rain"]), [], 0
    excluded, kinds = rng.random(60) < 0.2, ("no label", NO_CLASS, "excluded", "silent", "cut")
    wanted, used, masks = {kind: [] for kind in kinds}, [], []
    noted: dict = {"odd": [], "loud": []}
    for count in (25, 0, 35):
        keys = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        part = Part(Span(None, first, 0, count), None, keys, np.zeros(count, np.uint8), ["cut", "silent"])
        part.present = rng.random(count) < 0.9
        human = [[["Dog"], ["dog", "Rain"], ["new"], []][rng.choice(4, p=[0.4, 0.4, 0.1, 0.1])] for _ in range(count)]
        for i in np.flatnonzero(part.present):
            labels = skip_untrainable(len(human[i]), len(classes.match(human[i])))
            why = labels or ("excluded" if excluded[first + i] else None)
            part.state[i] = rng.choice([KEYED, REASON, REASON + 1] if why is None else [UNKNOWN, KEYED, REASON])
            why = why or (None if part.state[i] == KEYED else part.reasons[part.state[i] - REASON])
            masks.append(why is None)
            (used if why is None else wanted[why]).append(first + int(i))
            if why is None:
                noted["odd"] += [first + int(i)] * int(keys[i, 0] % 2)
                noted["loud"] += [first + int(i)] * int(keys[i, 1] > 200)
        there = np.flatnonzero(part.present)
        part.rows = Rows.of(classes, first + there, [f"v{first + i}" for i in there], [human[i] for i in there],
                            [[]] * len(there))  # fmt: skip
        parts.append(part)
        first += count
    present = [part.present for part in parts]

    def notes_of(keys):
        found = {"odd": np.flatnonzero(keys[:, 0] % 2), "loud": np.flatnonzero(keys[:, 1] > 200)}
        return {note: positions for note, positions in found.items() if len(positions)}

    rows, mine, skipped = used_rows(parts, skip_untrainable, ("excluded", excluded), notes_of)
    assert np.concatenate([some.sample_ids for some in rows]).tolist() == used
    assert [mask for one, where in zip(mine, present, strict=True) for mask in one[where]] == masks
    for report, some in ((skipped.report(), wanted), (skipped.noted.report(), noted)):
        assert report == {kind: {"count": len(ids), "first": [f"v{i}" for i in ids[:5]]}
                          for kind, ids in some.items() if ids}  # fmt: skip


def test_rows_that_were_skipped_in_parts_are_those_of_the_whole():
    """Counts add up, of what was used with a note too; the first five of each reason are named, in their order."""
    rng = np.random.default_rng(0)
    said = [(str(rng.choice(["no label", "silent"])), f"v{i}", f"label {i}") for i in range(40)]
    whole, parts = Skipped(), []
    for start, stop in ((0, 3), (3, 4), (4, 40)):
        parts.append(Skipped())
        for reason, name, label in said[start:stop]:
            parts[-1].add(reason, 1, [name], [label])
            parts[-1].noted.add(f"cut {reason}", 2, [name])
    for part in parts:
        whole.merge(part)
    for found, before in ((whole, ""), (whole.noted, "cut ")):
        names = {kind: [name for reason, name, _ in said if reason == kind] for kind in ("no label", "silent")}
        assert found.report() == {f"{before}{kind}": {"count": len(some) * (2 if before else 1), "first": some[:5]}
                                  for kind, some in names.items()}  # fmt: skip
    assert whole.labels == {label for _, _, label in said}


@pytest.mark.parametrize("seed", range(4))
def test_a_label_column_is_what_its_cells_are(seed):
    """Lists and texts with spellings of one name, names the list lacks, empty ones and cells of nothing."""
    rng = np.random.default_rng(seed)
    classes = ClassList([f"Class {i}, part" for i in range(40)])
    spellings = ["class 7,  PART", "Class 7, part", "Class 39, part", "Class 8, part;Class 0, part", "new", " New", ""]
    lists = [None if rng.random() < 0.1 else [None if rng.random() < 0.1 else str(rng.choice(spellings))
             for _ in range(rng.integers(0, 6))] for _ in range(60)]  # fmt: skip
    texts = [some[0] if some else None for some in lists]
    wide = pa.large_list(pa.large_string())
    for cells, kind in ((lists, pa.list_(pa.string())), (texts, pa.string()), (lists, wide)):
        column = pa.chunked_array([pa.array(cells[:25], kind), pa.array(cells[25:], kind)])
        names = parse_column(column, classes).to_pylist()
        assert names == [classes.parse(cell) for cell in cells]
        rows = Rows.of(classes, range(60), ["v"] * 60, names, [[]] * 60)
        for i, some in enumerate(names):
            wanted = sorted({j for name in some for j, own in enumerate(classes.names) if own.casefold() == " ".join(
                name.casefold().split())})  # fmt: skip
            assert rows.positions(i).tolist() == classes.match(some[::-1] + some) == wanted
