"""compare_results.py on many files: groups of seeds, another baseline, CSV, tables that fit a terminal."""

import csv
import json

import numpy as np
import pytest
from test_compare import compared, write_results

from compare_results import main, parser
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.results.groups import BY_SEED, interval_over_seeds


def trained(path, seed, draws, **settings):
    """A results file of a training with that seed and settings, nested as `settings` for odd seeds."""
    write_results(path, seed=draws)
    content = json.loads(path.read_text())
    settings = {"similarity": "cosine", "learning_rate": 0.1} | settings
    found = {"seed": seed, "settings": settings} if seed % 2 else {"seed": seed, **settings}
    content["model_info"] |= {"projection_checkpoint": "x.pth", "training": found | {"epoch": draws}}
    write_json(path, content)
    return path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Plain cosine, three seeds of cosine, three of hyperbolic at each of two c, one of another rate."""
    home = tmp_path_factory.mktemp("sweep")
    paths = [write_results(home / "original.json")]
    paths += [trained(home / f"cosine_{seed}.json", seed, seed) for seed in (1, 2, 3)]
    for c in (0.5, 4.0):
        for seed in (3, 2, 1):
            paths.append(trained(home / f"h{c}_{seed}.json", seed, 10 * seed + int(c), similarity="hyperbolic", c=c))
    return [*paths, trained(home / "fast.json", 1, 99, learning_rate=1.0)]


def test_means_over_seeds_by_hand(sweep, tmp_path):
    report, rows = compared(tmp_path, *sweep, flags=("--group-by", "seed", "--baseline", "cosine_2"))
    table = report["tables"][0]
    assert table["title"] == BY_SEED and report["tables"][1]["title"] == "all clips"
    assert table["files"] == [
        "cosine learning_rate=0.1 (3)", "original (1)", "hyperbolic learning_rate=0.1 c=0.5 (3)",
        "hyperbolic learning_rate=0.1 c=4.0 (3)", "cosine learning_rate=1.0 (1)"]  # fmt: skip
    every = {row["metric"]: [cell["value"] for cell in row["values"]] for row in report["tables"][1]["rows"] if
             None not in row["values"]}  # fmt: skip
    for name in ("acc@1", "map", "f1_macro"):
        row, values = rows[name], every[name]
        for cell, part in zip(row["values"], (values[1:4], values[:1], values[4:7], values[7:10], values[10:]),
                              strict=True):
            assert cell["value"] == pytest.approx(np.mean(part))
            assert cell["deviation"] == (pytest.approx(np.std(part, ddof=1)) if len(part) > 1 else None)
        for entry, cell in zip(row["differences"], row["values"][1:], strict=True):
            assert entry["difference"] == pytest.approx(cell["value"] - row["values"][0]["value"])
            assert entry["paired"] and entry["low"] < entry["high"]
    assert any(note.startswith("original is one file") for note in report["notes"])


def test_one_file_against_one_is_the_interval_over_clips(sweep, tmp_path):
    pair = sweep[0], sweep[-1]
    report, rows = compared(tmp_path, *pair, flags=("--group-by", "seed"))
    plain = {row["metric"]: row for row in report["tables"][1]["rows"]}
    for name in ("acc@1", "map", "map_inner"):
        if name in rows and rows[name]["differences"][0]:
            ends = [[row["differences"][0].get(end) for end in ("low", "high")] for row in (rows[name], plain[name])]
            assert ends[0] == pytest.approx(ends[1])


def test_an_interval_over_seeds_of_known_spread():
    """Clips that do not vary: what is left is the spread of the mean over seeds."""
    a, b = [np.zeros(20_000)], [np.full(20_000, x) for x in (-1.0, 0.0, 1.0)]
    assert interval_over_seeds(a, b, False, 0) == (-1.0, 1.0)  # (1/3)^3 of the resamples pick one seed alone
    same = [np.full(1000, x) for x in (5.0, 7.0)]
    assert interval_over_seeds(same, same, True, 0) == (0.0, 0.0)
    assert interval_over_seeds(same, same, False, 0) == (-2.0, 2.0)


def test_what_cannot_be_grouped_is_a_sentence(sweep, tmp_path):
    other = write_results(tmp_path / "other.json", ours=False)
    args = ["--class-labels", str(tmp_path / "classes.json")]
    write_json(tmp_path / "classes.json", {name: i for i, name in enumerate(json.loads(sweep[0].read_text())[
        "test_info"]["class_names"])})  # fmt: skip
    old = trained(tmp_path / "old.json", 1, 5)
    content = json.loads(old.read_text())
    content["model_info"]["training"] = {"epoch": 3}
    write_json(old, content)
    for files, flags, sentence in (
        ([*sweep, old], ["--group-by", "seed"], "old does not say how it was trained"),
        ([*sweep, other], ["--group-by", "seed", *args], "other does not say how it was trained"),
        ([*sweep, trained(tmp_path / "again.json", 1, 5)], ["--group-by", "seed"], "two of them the same seed"),
        (sweep, ["--group-by", "seed", "--baseline", "flat"], "--baseline flat is neither a group nor a file"),
        (sweep, ["--baseline", "flat"], "--baseline flat is none of the files; they are: original, cosine_1"),
    ):
        with pytest.raises(UserError, match=sentence):
            main(parser().parse_args([*map(str, files), "--resamples", "100", *flags]))


def test_another_baseline_comes_first(sweep, tmp_path):
    for name in ("cosine_2", str(sweep[2])):
        report, _ = compared(tmp_path, *sweep[:4], flags=("--baseline", name))
        assert [file["label"] for file in report["files"]] == ["cosine_2", "original", "cosine_1", "cosine_3"]


@pytest.mark.parametrize("count", [2, 4, 11])
@pytest.mark.parametrize("flags", [[], ["--group-by", "seed"]])
def test_tables_fit_a_terminal(sweep, count, flags, caplog):
    caplog.set_level("INFO")
    main(parser().parse_args([*map(str, sweep[:count]), "--resamples", "100", *flags]))
    text = caplog.messages[-1].split("\nnotes\n")[0]
    assert max(map(len, text.splitlines())) <= 120
    assert "map_samples" in text and text.count("acc@10") == (1 if count == 11 and not flags else text.count("acc@3"))


def test_a_row_for_each_file_as_csv(sweep, tmp_path):
    target = tmp_path / "c.csv"
    report, _ = compared(tmp_path, *sweep[:3], flags=("--csv", str(target)))
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["original", "cosine_1", "cosine_2"]
    found = {row["metric"]: row for row in report["tables"][0]["rows"]}["map"]
    assert [float(row["map"]) for row in rows] == pytest.approx([cell["value"] for cell in found["values"]])
    assert rows[0]["map_low"] == "" and float(rows[2]["map_low"]) == pytest.approx(found["differences"][1]["low"])
    assert rows[1]["path"] == str(sweep[1]) and [row["seed"] for row in rows] == ["", "1", "2"]
    assert rows[1]["learning_rate"] == "0.1" and "training" not in rows[1]
