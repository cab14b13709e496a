"""The comparison of docs/protocol.md: one space, one number of trials for all sides, resumable, tables that add up."""

import csv
import sys
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from test_training import AUDIO, TARGETS, TEXT

sys.path.insert(0, str(ROOT / "benchmarks"))
import geometry_runs  # noqa: E402
import geometry_search  # noqa: E402
import geometry_table  # noqa: E402
import recipe_table  # noqa: E402


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
    """Two folders of 90 and 60 clips, 12 classes; few trials, few resamples."""
    train, other = (geometry_runs.Folder(AUDIO[rows], TARGETS[rows], np.arange(90)[rows])
                    for rows in (slice(None), slice(0, 60)))  # fmt: skip
    found = geometry_runs.Data(train, {"eval": train, "other": other}, TEXT)
    monkeypatch.setattr(geometry_runs, "DATA", found)
    for module in (geometry_runs, geometry_table):
        monkeypatch.setattr(module, "RESAMPLES", 50, raising=False)
    few = geometry_search.trials()[:3]
    for trial in few:
        trial.epochs = 2
    for module in (geometry_search, geometry_table):
        monkeypatch.setattr(module, "trials", lambda: few)
    monkeypatch.setattr(geometry_search, "FINALISTS", 1)
    monkeypatch.setattr(geometry_table, "DIMS", (8, 4))
    return found


def test_every_side_gets_the_same_trials_in_the_same_units():
    space = geometry_search.trials()
    assert len(space) == 32 == len({repr(trial) for trial in space}) and space == geometry_search.trials()
    for trial in space:
        settings = {side: trial.settings(side, "sigmoid", 8) for side in geometry_search.SIDES}
        for name in ("learning_rate", "batch_size", "epochs", "audio_radius", "text_radius", "loss", "output_dim"):
            assert len({getattr(s, name) for s in settings.values()}) == 1, name
        if trial.scale:
            spans = [s.logit_scale * 2 * trial.audio_radius for s in (settings["hyperbolic"], settings["flat"])]
            assert spans == pytest.approx([settings["cosine"].logit_scale] * 2) and spans[0] <= 40
            assert max(s.logit_scale for s in settings.values()) <= 100
    assert geometry_search.flags(space[0].settings("hyperbolic", "sigmoid", 512)) == ""


def test_a_cell_is_searched_kept_and_tabulated(data, tmp_path, capsys):
    executor, path = Inline(), geometry_search.cell_path(tmp_path, "sigmoid", 8)
    geometry_search.search(executor, "sigmoid", 8, ["eval", "other"], data.fingerprint(), path)
    fits = [given[0] for name, given in executor.calls if name == "fit"]
    first = [(s.similarity, s.c) for s in fits if s.seed == 0]
    assert {first.count(side) for side in (("hyperbolic", 1.0), ("hyperbolic", 1e6), ("cosine", 1.0))} == {3}
    cell = geometry_search.Cell(path)
    for side in geometry_search.SIDES:
        trials = cell.found["trials"][side]
        assert cell.found["chosen"][f"{side}/validation"] == int(np.argmax([t["validation"] for t in trials]))
        points = cell.points[f"{side}/validation/eval"]
        assert points.shape == (5, 4) and cell.draws[f"{side}/validation/eval"].shape == (5, 50, 4)
        chosen = trials[cell.found["chosen"][f"{side}/validation"]]
        assert 100 * points[0].mean() == pytest.approx(chosen["eval"])
    found = geometry_table.cells(SimpleNamespace(work_dir=tmp_path), data.fingerprint())
    assert list(found) == [("sigmoid", 8)]
    with pytest.raises(SystemExit, match="other data"):
        geometry_table.cells(SimpleNamespace(work_dir=tmp_path), "x")
    rows, plain = geometry_table.untrained_rows(executor, ["eval", "other"])
    assert len(rows) == 4 and len(geometry_table.figures(found)) == 9
    differences = geometry_table.differences(found, plain)
    assert len(differences) == 21 and {len(row) for row in differences} == {5 + 12}
    by = {tuple(row[2:5]): [float(x) for x in row[5:]] for row in differences}
    pairs = [by[f"{pair}", "validation", "eval"][0] for pair in ("hyperbolic - flat", "flat - cosine")]
    assert sum(pairs) == pytest.approx(by["hyperbolic - cosine", "validation", "eval"][0], abs=0.02)
    assert all(low <= high for row in by.values() for low, high in zip(row[1::3], row[2::3], strict=True))
    geometry_table.digest(differences)
    assert capsys.readouterr().out.count("| sigmoid | 8 | ") == 9
    assert len(geometry_table.robustness(found, "eval")) == 6
    assert len(geometry_table.trial_rows(found, ["eval", "other"])) == 9


def test_shares_and_intervals():
    scores = np.array([[50.0, 40.0], [49.5, 30.0], [48.0, 20.0], [10.0, 10.0]])
    assert geometry_table.of_trials(scores).tolist() == [[50, 25], [50, 40], [48.75, 25]]
    draws = np.random.default_rng(0).normal(size=(5, geometry_runs.RESAMPLES, 4))
    assert geometry_runs.difference(draws, draws + 0.25) == pytest.approx(np.full((2, 4), 0.25))


def test_a_recipe_of_nothing_is_the_run_itself(data):
    from hyperbolic_clap.plumbing.config import TrainConfig

    settings = TrainConfig(epochs=4, learning_rate=1e-3, seed=1)
    found, plain = recipe_table.run(settings), geometry_runs.fit(settings)
    for key in ((0.0, 0.0), (None, 0.0)):
        assert (found[key][0] == plain.validation).all() and (found[key][1]["eval"] == plain.scores["eval"]).all()
    gain = found[0.0, 0.4][1]["eval"] - found[0.0, 0.0][1]["eval"]
    assert np.allclose(gain, 4 * (found[0.0, 0.1][1]["eval"] - found[0.0, 0.0][1]["eval"]), atol=1e-4)
    averaged = geometry_runs.fit(TrainConfig(epochs=4, learning_rate=1e-3, seed=1, average_with_start=0.5))
    assert (averaged.scores["eval"] == found[0.5, 0.0][1]["eval"]).all()


def test_a_table_says_what_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "geometry_table.py"), "--dims", "8"])
    geometry_runs.write_csv(tmp_path / "a.csv", ["x", "y"], [[1, "b, c"]])
    first, *rest = (tmp_path / "a.csv").read_text().splitlines()
    assert first.startswith("# python benchmarks/geometry_table.py --dims 8 (")
    assert list(csv.reader(rest)) == [["x", "y"], ["1", "b, c"]]
