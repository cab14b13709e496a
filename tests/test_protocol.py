"""The comparison of docs/protocol.md: one space, one number of trials for all sides, resumable, tables that add up."""

import csv
import json
import sys
from concurrent.futures import Future
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TINY, few_classes, script, tone_rows, write_rows
from test_training import AUDIO, TARGETS, TEXT

sys.path.insert(0, str(ROOT / "benchmarks"))
import geometry_again  # noqa: E402
import geometry_runs  # noqa: E402
import geometry_search  # noqa: E402
import geometry_table  # noqa: E402
import hierarchy_search  # noqa: E402
import recipe_table  # noqa: E402

from hyperbolic_clap.plumbing.config import EncoderConfig  # noqa: E402
from hyperbolic_clap.results.sweep import name_of  # noqa: E402


class Inline:
    """An executor that works at once, in this process; it counts what it did."""

    def __init__(self):
        self.calls = []

    def submit(self, work, *given, **named):
        self.calls.append((work.__name__, given))
        future = Future()
        future.set_result(work(*given, **named))
        return future


@pytest.fixture
def data(monkeypatch):
    """Two folders of 90 and 60 clips, 12 classes."""
    train, other = (geometry_runs.Folder(AUDIO[rows], TARGETS[rows], np.arange(90)[rows])
                    for rows in (slice(None), slice(0, 60)))  # fmt: skip
    monkeypatch.setattr(geometry_runs, "DATA", geometry_runs.Data(train, {"eval": train, "other": other}, TEXT))


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """The command line of the tables on folders of tones; three trials, two finalists, two seeds, few resamples."""
    folders = {"eval": write_rows(tmp_path / "eval", tone_rows(8)),
               "other": write_rows(tmp_path / "esc", tone_rows(10)[3:])}  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "geometry_table.py")])
    write_rows(tmp_path / "train", tone_rows(24))
    defaults = {field.name: field.default for field in fields(EncoderConfig)}  # the tables have no --class-labels
    defaults["class_labels"] = few_classes(tmp_path, slice(60))
    monkeypatch.setattr(EncoderConfig.__init__, "__defaults__", tuple(defaults.values()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = [replace(trial, epochs=2) for trial in geometry_search.trials()[:3]]
    for module in (geometry_runs, geometry_table, hierarchy_search):
        monkeypatch.setattr(module, "RESAMPLES", 50)
    monkeypatch.setattr(geometry_search, "FINALISTS", 2)
    monkeypatch.setattr(geometry_table, "DIMS", (8, 4))
    for module in (geometry_again, geometry_search, geometry_table, hierarchy_search):
        monkeypatch.setattr(module, "trials", lambda: few)
    for module in (geometry_again, geometry_search, geometry_table):
        monkeypatch.setattr(module, "SEEDS", 2)
    return SimpleNamespace(train_dir=tmp_path / "train", folders=folders, checkpoint=str(TINY), split_by="video_id",
                           work_dir=tmp_path / "work", output_dir=tmp_path / "tables", workers=1)  # fmt: skip


def test_every_side_gets_the_same_trials_in_the_same_units():
    space = geometry_search.trials()
    assert len(space) == 32 == len({repr(trial) for trial in space}) and space == geometry_search.trials()
    for trial in space:
        settings = {side: trial.settings(side, "sigmoid", 8) for side in geometry_search.SIDES}
        for name in ("learning_rate", "batch_size", "epochs", "audio_radius", "text_radius", "loss", "output_dim"):
            assert len({getattr(s, name) for s in settings.values()}) == 1, name
        if trial.scale:
            spans = [s.logit_scale * 2 * trial.audio_radius for s in (settings["hyperbolic"], settings["flat"])]
            assert spans == pytest.approx([settings["cosine"].logit_scale] * 2, rel=1e-5) and spans[0] < 40.01
            assert max(s.logit_scale for s in settings.values()) <= 100
    assert geometry_search.flags(space[0].settings("hyperbolic", "sigmoid", 512)) == ""


def test_a_cell_is_searched_kept_and_tabulated(searched, capsys):
    searched.loss, searched.dims = ["sigmoid"], [8]
    searched.output_dir.mkdir()
    geometry_table.main(searched)
    place = geometry_runs.open_place(searched)
    _, name = geometry_runs.load(place, "video_id")
    cell = geometry_table.cells(searched, name)["sigmoid", 8]
    with pytest.raises(SystemExit, match="other data"):
        geometry_table.cells(searched, "x")
    records = {path.parent.name: json.loads(path.read_text()) for path in searched.work_dir.glob("runs/*/run.json")}
    of_first = [name for name in records if name.endswith("seed0")]
    assert len(of_first) == 9 and 9 + 3 * 2 <= len(records) <= 9 + 3 * 3
    for side in geometry_search.SIDES:
        trials, chosen = cell.found["trials"][side], cell.found["chosen"][f"{side}/validation"]
        points = cell.points[f"{side}/validation/eval"]
        assert points.shape == (2, 4) and cell.draws[f"{side}/validation/eval"].shape == (2, 50, 4)
        assert 100 * points[0].mean() == pytest.approx(trials[chosen]["eval"], abs=1e-4)
        names = [geometry_search.trials()[i].settings(side, "sigmoid", 8) for i in range(3)]
        kept = [records[name_of(config)]["training"]["validation"]["val_mean"] for config in names]
        assert [trial["validation"] for trial in trials] == pytest.approx([100 * x for x in kept])
    tables = {path.name: list(csv.reader(path.read_text().splitlines()[1:]))
              for path in searched.output_dir.glob("*.csv")}  # fmt: skip
    assert {name: len(rows) - 1 for name, rows in tables.items()} == {
        "geometry.csv": 4 + 9, "geometry_differences.csv": 21, "geometry_robustness.csv": 12, "geometry_trials.csv": 9}
    by = {tuple(row[2:5]): [float(x) for x in row[5:]] for row in tables["geometry_differences.csv"][1:]}
    pairs = [by[f"{pair}", "validation", "eval"][0] for pair in ("hyperbolic - flat", "flat - cosine")]
    assert sum(pairs) == pytest.approx(by["hyperbolic - cosine", "validation", "eval"][0], abs=0.02)
    assert all(low <= high for row in by.values() for low, high in zip(row[1::3], row[2::3], strict=True))
    assert capsys.readouterr().out.count("| sigmoid | 8 | ") == 9
    again = SimpleNamespace(work_dir=searched.work_dir, published=searched.output_dir, output_dir=searched.output_dir,
                            eval="eval", other="other")  # fmt: skip
    geometry_again.main(again)
    rows = list(csv.reader((searched.output_dir / "geometry_again.csv").read_text().splitlines()[2:]))
    assert len(rows) == 6 and {tuple(row[3:5]) for row in rows} == {("3", "0.00")}
    path = searched.output_dir / "geometry_again_differences.csv"
    differences = list(csv.reader(path.read_text().splitlines()[2:]))
    assert len(differences) == 6
    for row in (row[first:] for first, some in ((6, rows), (4, differences)) for row in some):  # two digits
        assert [float(x) for x in row[::2]] == pytest.approx([float(x) for x in row[1::2]], abs=0.011)
    # The command of docs/protocol.md makes the same runs.
    geometry_runs.write_csv(searched.output_dir / "trials.csv", *geometry_search.settings_table())
    command = ["--parquet-dir", searched.train_dir, "--eval-dir", *searched.folders.values(), "--output-dir",
               searched.work_dir, "--settings", searched.output_dir / "trials.csv", "--seed", 0, 1, "--finalists", 2,
               "--choose-by", "val_mean", "--choose-each", "similarity", "c", "--output-dim", 8, "--resamples", 100,
               "--class-labels", searched.train_dir.parent / "classes.json"]
    before = {path: path.stat().st_mtime_ns for path in searched.work_dir.glob("runs/*/*.pth")}
    script("sweep.py", *command)
    assert {path: path.stat().st_mtime_ns for path in searched.work_dir.glob("runs/*/*.pth")} == before


def test_relatives_are_recalled_after_an_equal_search(searched):
    """The runs of the cell, chosen twice, and flat without its scale searched; a second start finds all of it."""
    searched.dims = [8]
    searched.output_dir.mkdir()
    for _ in range(2):
        hierarchy_search.main(searched)
    sides, differences = (
        list(csv.DictReader((searched.output_dir / f"hierarchy_search{kind}.csv").read_text().splitlines()[1:]))
        for kind in ("", "_differences")
    )
    assert len(sides) == 2 * 2 * 4 and len(differences) == 2 * 2 * 5
    value = {(r["chosen by"], r["measured on"], r["side"]): float(r["sibling_recall@5"]) for r in sides}
    for row in differences:
        second, first = row["difference"].split(" - ")
        by, on = row["chosen by"], row["measured on"]
        wanted = value[by, on, second] - value[by, on, first]
        assert float(row["sibling_recall@5"]) == pytest.approx(wanted, abs=0.02)
        assert float(row["sibling_recall@5 low"]) <= float(row["sibling_recall@5 high"])
    for row in sides:
        assert ("--text-radius" in row["flags"]) <= (row["side"] != hierarchy_search.PLAIN)
        assert 0 < float(row["sibling_recall@5 chance"]) < float(row["sibling_recall@5 ceiling"]) <= 100
    paths = list(searched.work_dir.glob("results/*_eval.json"))
    classes = hierarchy_search.class_tree(geometry_runs.open_place(searched))
    for path in paths[:2]:
        content = json.loads(path.read_text())
        drawn = dict(zip(hierarchy_search.DRAWN, hierarchy_search.drawn(path, classes)[0], strict=True))
        whole = {**content["metrics"], **content["ontology"]}
        assert drawn == pytest.approx({
            name: whole[name] * (1 if name in hierarchy_search.EDGES else 100) for name in drawn})


def test_shares_and_intervals():
    scores = np.array([[50.0, 40.0], [49.5, 30.0], [48.0, 20.0], [10.0, 10.0]])
    assert geometry_table.of_trials(scores).tolist() == [[50, 25], [50, 40], [48.75, 25]]
    draws = np.random.default_rng(0).normal(size=(5, geometry_runs.RESAMPLES, 4))
    assert geometry_runs.difference(draws, draws + 0.25) == pytest.approx(np.full((2, 4), 0.25))


def test_a_recipe_of_nothing_is_the_run_itself(data):
    from hyperbolic_clap.plumbing.config import TrainConfig
    from hyperbolic_clap.training.split import split_by_video
    from hyperbolic_clap.training.trainer import Trainer

    def scores(**given):
        of, config = geometry_runs.DATA.train, TrainConfig(epochs=4, learning_rate=1e-3, seed=1, **given)
        projector, _ = geometry_runs.best(Trainer(config, AUDIO, TARGETS, TEXT, *split_by_video(of.sources, 0.8, 1)))
        return projector(AUDIO, TEXT).detach().numpy()

    found = recipe_table.run(TrainConfig(epochs=4, learning_rate=1e-3, seed=1))
    for key in ((0.0, 0.0), (None, 0.0)):
        assert (found[key][1]["eval"] == scores()).all()
    gain = found[0.0, 0.4][1]["eval"] - found[0.0, 0.0][1]["eval"]
    assert np.allclose(gain, 4 * (found[0.0, 0.1][1]["eval"] - found[0.0, 0.0][1]["eval"]), atol=1e-4)
    assert (scores(average_with_start=0.5) == found[0.5, 0.0][1]["eval"]).all()


def test_a_table_says_what_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "geometry_table.py"), "--dims", "8"])
    geometry_runs.write_csv(tmp_path / "a.csv", ["x", "y"], [[1, "b, c"]])
    first, *rest = (tmp_path / "a.csv").read_text().splitlines()
    assert first.startswith("# python benchmarks/geometry_table.py --dims 8 (")
    assert list(csv.reader(rest)) == [["x", "y"], ["1", "b, c"]]
