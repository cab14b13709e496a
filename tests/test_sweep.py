"""sweep.py: to the bit what the single scripts make, resumed, failing runs counted, one table with intervals."""

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pandas
import pytest
import torch
from conftest import few_classes, script, tone_rows, write_rows
from safetensors.numpy import load_file

from hyperbolic_clap.metrics.classification import metrics
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.flags import settings_rows
from hyperbolic_clap.results.sweep import Outcome, by_validation, chosen, duration, name_of, settings_of
from hyperbolic_clap.results.sweep_tables import METRICS, by_setting, other_side, resampled

TRAIN, TEST, SWEEP = "train_hyperbolic_clap.py", "test_clap_modelscope.py", "sweep.py"
GRID = ["--c", 0.5, 1, "--seed", 1, 2, "--similarity", "hyperbolic", "cosine", "--epochs", 2, "--resamples", 100]
NAMES = {f"{kind}_epochs2_seed{seed}" for kind in ("hyperbolic_c0.5", "hyperbolic", "cosine") for seed in (1, 2)}
NAMES = {name.replace("hyperbolic_c0.5_epochs2", "hyperbolic_epochs2_c0.5") for name in NAMES}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folders of tones to train and to test on, and the sweep of GRID over them."""
    home = tmp_path_factory.mktemp("sweep")
    write_rows(home / "train", tone_rows(24))
    write_rows(home / "eval", tone_rows(10)[3:])
    few_classes(home)
    done = sweep(home, "out", *GRID, "--baseline", "similarity=cosine")
    return home, done


def sweep(home, out, *flags, check=True):
    return script(SWEEP, "--parquet-dir", home / "train", "--eval-dir", home / "eval", "--cache-dir", home / "cache",
                  "--class-labels", home / "classes.json", "--output-dir", home / out, *flags, check=check)  # fmt: skip


def table(folder) -> pandas.DataFrame:
    return pandas.read_csv(folder / "sweep.csv")


def without_times(path) -> dict:
    content = json.loads(path.read_text())
    del content["test_info"], content["model_info"]["projection_checkpoint"]
    return content


def test_a_setting_without_effect_runs_once_and_each_run_has_a_row(home):
    home, done = home
    assert "6 runs" in done.stdout and "6 of 6 runs done, about 0 s left" in done.stdout
    assert {path.name for path in (home / "out" / "runs").iterdir()} == NAMES
    rows = table(home / "out")
    assert set(rows.run) == NAMES and len(rows) == 6 and rows.reason.isna().all()
    assert rows["best_epoch"].notna().all() and rows["val_map"].notna().all() and set(rows.folder) == {"eval"}
    for _, row in rows.iterrows():
        content = json.loads((home / "out" / "results" / f"{row.run}_eval.json").read_text())
        assert content["metrics"]["map"] == pytest.approx(row["map"])
        assert content["model_info"]["training"]["seed"] == row.seed


def test_runs_are_those_of_the_single_scripts(home, tmp_path):
    """Checkpoints and results, with two processes too."""
    home, _ = home
    shared = ["--cache-dir", home / "cache", "--class-labels", home / "classes.json"]
    for flags, name in ((["--c", 0.5, "--seed", 2], "hyperbolic_epochs2_c0.5_seed2"),
                        (["--similarity", "cosine", "--seed", 1], "cosine_epochs2_seed1")):  # fmt: skip
        out, run = tmp_path / name, home / "out" / "runs" / name
        script(TRAIN, *shared, "--parquet-dir", home / "train", "--output-dir", out, "--epochs", 2, *flags)
        (best,) = out.glob("best_*.pth")
        for file in (best.name, "projection_epoch_2.pth"):
            assert (out / file).read_bytes() == (run / file).read_bytes()
        test = [*shared, "--parquet-dir", home / "eval", "--num-samples", 1000, "--projection-checkpoint", out]
        script(TEST, *test, *([] if "cosine" in name else ["--use-hyperbolic"]), "--output-json", out / "r.json",
               "--save-scores", out / "s.safetensors")  # fmt: skip
        result = home / "out" / "results" / f"{name}_eval.json"
        assert without_times(out / "r.json") == without_times(result)
        assert (out / "s.safetensors").read_bytes() == result.with_suffix(".safetensors").read_bytes()


def test_a_sweep_goes_on_with_what_is_there(home):
    """Without its best checkpoint too: from the last one if that was it, and else from nothing."""
    home, _ = home
    runs = home / "out" / "runs"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in runs.glob("*/*.pth")}
    gone = {path.stem[-1]: path.parent for path in before if path.name.startswith("best_")}
    assert set(gone) == {"1", "2"}
    for folder in gone.values():
        for path in [*folder.glob("best_*.pth"), folder / "run.json"]:
            path.unlink()
    done = sweep(home, "out", *GRID, "--baseline", "similarity=cosine")
    assert done.stdout.count("so what it holds is moved aside") == 1 and "6 of 6 runs done" in done.stdout
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in runs.glob("*/*.pth")}
    assert {path for path in before if after[path][0] != before[path][0]} <= {
        path for folder in gone.values() for path in folder.glob("*.pth")}  # fmt: skip
    assert {path: content for path, (_, content) in after.items()} == {
        path: content for path, (_, content) in before.items()}  # fmt: skip


def test_the_table_has_means_deviations_and_intervals(home):
    home, _ = home
    text, rows = (home / "out" / "sweep.md").read_text(), table(home / "out")
    for label, some in (("cosine", rows[rows.similarity == "cosine"]),
                        ("hyperbolic c=0.5", rows[(rows.similarity == "hyperbolic") & (rows.c == 0.5)])):  # fmt: skip
        cells = [f"{some[name].mean():.4f} +- {some[name].std():.4f}" for name in METRICS]
        assert f"| {label} | 2 | {' | '.join(cells)} |" in text
    assert "| hyperbolic c=1.0 - cosine | " in text and "| cosine - " not in text
    assert "**Eval: difference to original**" in text and "sweep.py --parquet-dir" in text


def test_drawn_figures_are_the_metrics_and_the_same_clips(home):
    home, _ = home
    path = home / "out" / "results" / "cosine_epochs2_seed1_eval.json"
    drawn, content = resampled(path, 100, 0), load_file(path.with_suffix(".safetensors"))
    whole = metrics(content["scores"], content["targets"].astype(bool), 5)
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx({name: whole[name] for name in METRICS})
    assert all(len(values) == 101 and np.ptp(values[1:]) > 0 for name, values in drawn.items() if name != "acc@5")


def test_choose_by_tests_only_the_best_setting_of_each_similarity(home):
    home, _ = home
    sweep(home, "chosen", *GRID, "--choose-by", "val_map")
    rows, trained = table(home / "chosen"), table(home / "out")
    best = trained.groupby(["similarity", "c"], sort=False).val_map.mean().reset_index()
    best = best.sort_values("val_map", kind="stable", ascending=False)  # of equal ones the first that was named
    wanted = {(r.similarity, r.c) for r in best.groupby("similarity").head(1).itertuples()}
    tested = rows[rows["map"].notna()]
    assert len(rows) == 6 and {(r.similarity, r.c) for r in tested.itertuples()} == wanted
    assert len(tested) == 4


def test_finalists_of_a_file_of_settings_are_trained_with_all_seeds(home):
    """A random search: all rows with the first seed, the best two of each side with both, the best one tested."""
    home, _ = home
    rates = (1e-4, 1e-3, 1e-2)
    lines = [f"hyperbolic,{c},{rate}" for c in (1, 1e6) for rate in rates] + [f"cosine,,{rate}" for rate in rates]
    (home / "trials.csv").write_text("\n".join(["# drawn", "similarity,--c,learning-rate", *lines]) + "\n")
    flags = ["--settings", home / "trials.csv", "--seed", 1, 2, "--epochs", 2, "--resamples", 100]
    sweep(home, "searched", *flags, "--choose-by", "val_mean", "--choose-each", "similarity", "c", "--finalists", 2,
          "--baseline", "c=1e6")  # fmt: skip
    rows = table(home / "searched")
    sides = rows.groupby(["similarity", "c"], sort=False)
    assert len(sides) == 3 and len(rows) == 3 * (3 + 2)
    for _, side in sides:
        means = side.groupby("learning_rate", sort=False).val_mean
        first = side[side.seed == 1].set_index("learning_rate").val_mean.sort_values(kind="stable", ascending=False)
        assert set(means.count()[means.count() == 2].index) == set(first.index[:2])
        tested = side[side["map"].notna()]
        assert tested.learning_rate.tolist() == [means.mean()[first.index[:2]].idxmax()] * 2
        assert side.val_mean.to_numpy() == pytest.approx(
            side[["val_acc@1", "val_acc@5", "val_map", "val_map_samples"]].mean(axis=1).to_numpy())
    text = (home / "searched" / "sweep.md").read_text()
    assert text.split("difference to the baseline")[1].count("c=1000000.0 | ") == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file"),
        ("c\n", "holds no settings"),
        ("", "holds no settings"),
        ("c,map\n1,2\n", "'map' is not the name of one column among epochs, "),
        ("c,--c\n1,2\n", "'c' is not the name of one column"),
        ("learn_c\nTrue\n", "'learn_c' is not the name"),
        ("c,seed\n1,2\n3\n", "row 2 has 1 cells, and there are 2 columns"),
        ("c,seed\n1,2\n-1,\n", "row 2: argument --c: -1 is not a finite number above 0"),
        ("text\nspeech\n", "row 1: argument --text: invalid choice"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "s.csv").write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        settings_rows(tmp_path / "s.csv")


def test_settings_have_the_values_of_the_flags(tmp_path):
    lines = ["# a comment", "similarity, --learning-rate,epochs,loss", "cosine,1e-3,2,", ",, 3 ,softmax"]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    assert settings_rows(tmp_path / "s.csv") == [
        {"similarity": "cosine", "learning_rate": 1e-3, "epochs": 2}, {"epochs": 3, "loss": "softmax"}]  # fmt: skip


def test_contradicting_runs_are_named_before_any_work(home):
    home, _ = home
    flags = ["--similarity", "hyperbolic", "cosine", "--learn-c", "--epochs", 1, "--resamples", 100]
    done = sweep(home, "bad", *flags, check=False)
    assert done.returncode == 2 and not (home / "bad").exists()
    assert "1 of 2 runs contradict themselves: similarity=cosine: --learn-c has no meaning with" in done.stderr
    done = sweep(home, "bad", *flags, "--skip-bad")
    assert "warning: left out: similarity=cosine: --learn-c" in done.stdout
    rows = table(home / "bad")
    assert rows.run.tolist() == ["hyperbolic_epochs1_learn_c-True_seed42", "skipped"]
    assert "--learn-c has no meaning" in rows.reason[1]


def test_a_run_that_fails_ends_no_other(home):
    home, _ = home
    flags = ["--learning-rate", 1e-4, 1e30, "--epochs", 1, "--resamples", 100]
    done = sweep(home, "failing", *flags)
    rows = table(home / "failing").set_index("learning_rate")
    assert rows["map"].notna()[1e-4] and "not finite" in rows.reason[1e30] and math.isnan(rows["map"][1e30])
    assert "1 of 2 runs done" in done.stdout and "1 of 2 runs failed" in (home / "failing" / "sweep.md").read_text()
    done = sweep(home, "failing", "--learning-rate", 1e30, "--epochs", 1, check=False)
    assert done.returncode == 2 and "all 1 runs failed; the reasons are in" in done.stderr


def test_limits_and_kept_checkpoints(home):
    home, _ = home
    done = sweep(home, "few", "--num-samples", 12, "--eval-num-samples", 4, "--top-k", 2, "--epochs", 3, "--keep",
                 "all", "--resamples", 123)  # fmt: skip
    assert "1 runs" in done.stdout and "123 resamples" in (home / "few" / "sweep.md").read_text()
    (run,) = (home / "few" / "runs").iterdir()
    assert len(list(run.glob("projection_epoch_*.pth"))) == 3
    row = table(home / "few").loc[0]
    assert row.train_clips + row.validation_clips == 12 and row.total_samples == 4
    results = json.loads((home / "few" / "results" / f"{run.name}_eval.json").read_text())
    assert len(results["predictions"][0]["top_k_predictions"]) == 2


def test_every_setting_travels():
    """Each setting of a TrainConfig takes several values, and reaches its run."""
    import sweep as module

    given = {"--epochs": (1, 2), "--learning-rate": (0.1, 0.2), "--text-radius": (0.5, 0.7),
             "--select-by": ("val_map",), "--split-by": ("a", "b"), "--prototypes": (0.1,),
             "--lr-schedule": ("cosine",), "--patience": (2, 3)}  # fmt: skip
    flags = [part for name, values in given.items() for part in (name, *map(str, values))]
    args = module.parser().parse_args(["--parquet-dir", "x", "--eval-dir", "y", *flags])
    configs, bad = module.combinations(args)
    assert len(configs) == 32 and not bad and {config.seed for config in configs} == {42}
    for name, values in given.items():
        assert {getattr(config, name[2:].replace("-", "_")) for config in configs} == set(values)
    assert set(module.SETTINGS) == set(asdict(TrainConfig()))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--baseline", "similarity=flat"], "--baseline similarity=flat is no setting of these runs"),
        (["--baseline", "cosine"], "--baseline cosine is no setting of these runs"),
        (["--baseline", "seed=1"], "--baseline seed=1 is no setting of these runs"),
        (["--text", "captions"], "1 of 1 runs contradict themselves: --text captions has no class list to test on"),
        (["--jobs", 2, "--no-cache"], "--jobs needs the cache"),
        (["--similarity", "dot"], "--similarity dot is unknown; known are"),
        (["--choose-by", "map"], "invalid choice: 'map'"),
        (["--choose-by", "val_map", "--choose-each", "seed"], "--choose-each seed is no setting; they are "),
        (["--finalists", 2], "--finalists and --choose-each say how --choose-by chooses"),
    ],
)
def test_flags_that_make_no_sense(home, flags, sentence):
    home, _ = home
    done = sweep(home, "none", *flags, check=False)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_one_folder_named_twice_and_two_of_one_name(home, tmp_path):
    import sweep as module

    home, _ = home
    done = sweep(home, "none", "--eval-dir", home / "eval", home / "eval", check=False)
    assert done.returncode == 2 and "twice; name each folder once" in done.stderr
    assert list(module.named([tmp_path / "a" / "eval", tmp_path / "b" / "eval"])) == ["a-eval", "b-eval"]


def outcome(figure=0.0, reason=None, **settings) -> Outcome:
    config = TrainConfig(**settings)
    record = {} if reason else {"training": {"validation": {"val_map": figure, "val_loss": figure}}}
    return Outcome(name_of(config), config, record, {} if reason else {"eval": {"map": figure}}, reason)


def test_the_choice_is_by_the_mean_over_seeds_of_whole_settings():
    runs = [outcome(0.1, seed=1), outcome(0.5, seed=2), outcome(0.4, c=2.0, seed=1), outcome(0.4, c=2.0, seed=2),
            outcome(0.9, c=4.0, seed=1), outcome(reason="broke", c=4.0, seed=2)]  # fmt: skip
    by_map, by_loss = map(by_validation, ("val_map", "val_loss"))
    assert chosen(runs, by_map) == [runs[2].config, runs[3].config]
    assert chosen(runs, by_loss) == [runs[0].config, runs[1].config]
    assert chosen(runs, by_map, count=2) == [run.config for run in (*runs[2:4], *runs[:2])]
    assert chosen(runs, by_map, ("c",)) == [run.config for run in runs[:4]]
    with pytest.raises(UserError, match="earlier version, which kept no val_mean"):
        chosen(runs, by_validation("val_mean"))


def test_a_setting_is_compared_with_its_like():
    rates = (1e-4, 1e-3)
    runs = [outcome(similarity=s, learning_rate=rate, c=c) for rate in rates
            for s, c in (("hyperbolic", 2.0), ("hyperbolic", 1.0), ("cosine", 1.0))]  # fmt: skip
    groups = by_setting(runs)
    assert {tuple(sorted(label.split())) for label in list(groups)[:3]} == {
        ("c=2.0", "hyperbolic", "learning_rate=0.0001"), ("c=1.0", "hyperbolic", "learning_rate=0.0001"),
        ("cosine", "learning_rate=0.0001")}  # fmt: skip
    for label in groups:
        wanted = None if label.startswith("cosine") else f"cosine {next(w for w in label.split() if 'rate' in w)}"
        assert other_side(label, groups, {"similarity": "cosine"}) == wanted


def test_names_and_times():
    assert name_of(TrainConfig(c=1e6, lr_schedule="cosine")) == "hyperbolic_c1e+06_lr_schedule-cosine_seed42"
    assert settings_of(TrainConfig(seed=3)) == {"similarity": "hyperbolic"}
    assert [duration(s) for s in (3.2, 200, 9000)] == ["3 s", "3 min", "2.5 h"]


def test_two_jobs_make_the_same_bits(home):
    """With real processes, which is slow: two runs alone."""
    home, _ = home
    flags = ["--seed", 1, 2, "--epochs", 2, "--resamples", 100, "--similarity", "cosine", "--jobs", 2]
    sweep(home, "jobs", *flags)
    for path in (home / "jobs" / "runs").glob("*/*.pth"):
        assert path.read_bytes() == (home / "out" / "runs" / path.parent.name / path.name).read_bytes()
    assert len(list((home / "jobs" / "runs").glob("*/best_*.pth"))) == 2
    assert torch.get_num_threads() >= 1
