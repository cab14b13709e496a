"""The three entry scripts as a user runs them: the manual's commands, files, keys and errors."""

import json
import os
import re
import shlex
import shutil
import sys

import pytest
import torch
from conftest import ROOT, TINY, finish, script, tone_rows, write_rows

from hyperbolic_clap.plumbing.device import choose_device

TRAIN, TEST, HYPERBOLIC = "train_hyperbolic_clap.py", "test_clap_modelscope.py", "test_hyperbolic_clap_modelscope.py"
METRICS = (
    "acc@1 acc@3 acc@5 acc@10 f1_micro f1_macro precision_micro precision_macro recall_micro recall_macro "
    "map map_samples auc d_prime valid_samples total_samples"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training run on tones with the manual's flags, and the folder it worked in."""
    home = tmp_path_factory.mktemp("trained")
    rows = tone_rows(24)
    rows[3]["audio"]["bytes"] = b"broken"
    rows[7]["human_labels"] = []
    write_rows(home / "data", rows[:12], "00.parquet")
    write_rows(home / "data", rows[12:], "01.parquet")
    flags = "--num-samples 10000 --epochs 3 --batch-size 16 --learning-rate 1e-4 --c 1.0 --temperature 1.0".split()
    done = script(
        TRAIN,
        "--parquet-dir",
        home / "data",
        "--output-dir",
        home / "out",
        *flags,
        "--train-ratio",
        "0.8",
        "--cache-dir",
        home / "cache",
    )
    return home, done


def best(home):
    (path,) = (home / "out").glob("best_projection_epoch_*.pth")
    return path


def evaluate(home, name, *flags, output=None, **options):
    output = output or home / "results.json"
    done = script(
        name, "--parquet-dir", home / "data", "--cache-dir", home / "cache", "--output-json", output, *flags, **options
    )
    return done, json.loads(output.read_text()) if output.exists() else None


def test_training_files(trained):
    home, done = trained
    assert {p.name for p in (home / "out").glob("projection_epoch_*")} == {
        f"projection_epoch_{e}.pth" for e in (1, 2, 3)
    }
    content = torch.load(best(home), weights_only=True)
    keys = "epoch projection_state_dict optimizer_state_dict train_loss val_loss c temperature embed_dim".split()
    assert set(keys) < content.keys()
    assert (content["c"], content["temperature"], content["embed_dim"]) == (1.0, 1.0, 512)
    setup = json.loads((home / "out" / "setup.json").read_text())
    assert setup["arguments"]["learning_rate"] == 1e-4 and setup["versions"]["torch"]
    assert [e["epoch"] for e in setup["epochs"]] == [1, 2, 3]
    assert setup["best_epoch"] == content["epoch"] == min(setup["epochs"], key=lambda e: e["val_loss"])["epoch"]
    assert setup["clips"]["used"] == 22
    assert setup["clips"]["skipped"] == {
        "no label": {"count": 1, "first": ["tone7"]},
        "undecodable audio": {"count": 1, "first": ["tone3"]},
    }
    assert "skipped 1 rows: undecodable audio (tone3)" in done.stdout
    assert str(best(home)) in done.stdout.splitlines()[-1]


def test_results_json(trained):
    home, _ = trained
    flags = ("--projection-checkpoint", best(home), "--num-samples", "100", "--top-k", "5", "--c", "1.0")
    _, result = evaluate(
        home,
        HYPERBOLIC,
        *flags,
        "--temperature",
        "1.0",
        "--class-labels",
        ROOT / "CLAP/class_labels/audioset_class_labels_indices.json",
    )
    assert list(result["metrics"]) and set(result["metrics"]) == set(METRICS)
    assert {"command", "arguments", "time", "versions", "clips"} <= result["test_info"].keys()
    info = result["model_info"]
    assert info["use_hyperbolic"] is True and info["projection_checkpoint"] == str(best(home))
    assert (info["c"], info["curvature"], info["temperature"]) == (1.0, -1.0, 1.0)
    assert set(result["similarity_stats"]) == {"min", "max", "mean", "std"}
    assert result["similarity_stats"]["max"] < 0
    first = result["predictions"][0]
    assert set(first) == {
        "sample_id",
        "video_id",
        "predicted_top1",
        "top_k_predictions",
        "ground_truth_labels",
        "ground_truth_human_labels",
    }
    assert [entry["rank"] for entry in first["top_k_predictions"]] == [1, 2, 3, 4, 5]
    assert set(first["top_k_predictions"][0]) == {"rank", "classname", "similarity"}
    assert len(result["predictions"]) == result["metrics"]["total_samples"] == 22


def test_both_ways_to_hyperbolic_agree_and_repeat(trained):
    home, _ = trained
    flags = ("--projection-checkpoint", best(home))
    _, thin = evaluate(home, HYPERBOLIC, *flags)
    _, flagged = evaluate(home, TEST, "--use-hyperbolic", *flags)
    _, cold = evaluate(home, HYPERBOLIC, *flags, "--no-cache")
    for key in ("metrics", "predictions", "similarity_stats", "model_info"):
        assert thin[key] == flagged[key] == cold[key]


def test_plain_cosine_differs_in_nothing_but_the_similarity(trained):
    home, _ = trained
    _, cosine = evaluate(home, TEST, "--num-samples", "100")
    _, hyperbolic = evaluate(home, HYPERBOLIC, "--projection-checkpoint", best(home))
    assert cosine["model_info"]["use_hyperbolic"] is False and cosine["model_info"]["c"] is None
    assert -1 <= cosine["similarity_stats"]["min"] and cosine["similarity_stats"]["max"] <= 1
    for a, b in zip(cosine["predictions"], hyperbolic["predictions"], strict=True):
        for key in ("sample_id", "video_id", "ground_truth_labels", "ground_truth_human_labels"):
            assert a[key] == b[key]


def test_trained_cosine_is_tested_without_the_flag(trained, tmp_path):
    home, _ = trained
    script(
        TRAIN,
        "--parquet-dir",
        home / "data",
        "--output-dir",
        tmp_path / "out",
        "--similarity",
        "cosine",
        "--epochs",
        "1",
        "--cache-dir",
        home / "cache",
    )
    path = tmp_path / "out" / "best_projection_epoch_1.pth"
    _, result = evaluate(home, TEST, "--projection-checkpoint", path)
    assert result["model_info"]["similarity"] == "cosine" and result["similarity_stats"]["max"] <= 1
    done, _ = evaluate(home, TEST, "--use-hyperbolic", "--projection-checkpoint", path, check=False)
    assert done.returncode == 2 and "was trained for cosine similarity" in done.stderr


def test_a_timestamped_file_without_output_json(trained, tmp_path):
    home, _ = trained
    script(TEST, "--parquet-dir", home / "data", "--cache-dir", home / "cache", cwd=tmp_path)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"results_original_\d{8}_\d{6}\.json", path.name)
    found, (_, named) = json.loads(path.read_text()), evaluate(home, TEST)
    assert found["predictions"] == named["predictions"] and found["metrics"] == named["metrics"]


def test_num_samples_takes_the_first_usable_clips(trained):
    home, _ = trained
    _, result = evaluate(home, TEST, "--num-samples", "4")
    assert [entry["video_id"] for entry in result["predictions"]] == ["tone0", "tone1", "tone2", "tone4"]


def test_another_class_list(trained, tmp_path):
    home, _ = trained
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"Music": 0, "sine wave": 1, "Chirp tone": 2, "Dog": 3}))
    _, result = evaluate(home, TEST, "--class-labels", labels)
    assert result["metrics"]["acc@5"] == result["metrics"]["acc@10"] == 1.0
    assert len(result["predictions"][0]["top_k_predictions"]) == 4


def test_an_earlier_run_is_kept_aside(trained, tmp_path):
    home, _ = trained
    for _ in range(2):
        script(
            TRAIN,
            "--parquet-dir",
            home / "data",
            "--output-dir",
            tmp_path / "out",
            "--epochs",
            "1",
            "--cache-dir",
            home / "cache",
        )
    assert len(list((tmp_path / "out").glob("best_*.pth"))) == 1
    assert len(list((tmp_path / "out").glob("earlier_*/best_*.pth"))) == 1


def refuse(name, *flags, code=2):
    done = script(name, *flags, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--c", "0"], "argument --c: 0 is not a finite number above 0"),
        (["--c", "nan"], "argument --c: nan is not a finite number above 0"),
        (["--temperature", "-1"], "argument --temperature: -1"),
        (["--train-ratio", "1"], "argument --train-ratio: 1 is not between 0 and 1"),
        (["--num-samples", "1"], "argument --num-samples: 1 is below 2"),
        (["--seed", "99999999999999999999"], "argument --seed: 99999999999999999999 is not between"),
        (["--epochs", "two"], "argument --epochs: 'two' is not a whole number"),
        (["--device", "quantum"], "--device 'quantum' is not a device"),
        (["--checkpoint", "/no/such/model"], "--checkpoint /no/such/model is neither a local folder"),
        (["--class-labels", "missing.json"], "--class-labels missing.json cannot be read"),
        (["--output-dim", "513"], "--output-dim 513 is above the 512 dimensions"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
    ],
)
def test_wrong_training_flags(tones, tmp_path, flags, says):
    sentence = refuse(TRAIN, "--parquet-dir", tones, "--output-dir", tmp_path / "out", *flags)
    assert says in sentence
    assert not (tmp_path / "out").exists()


def test_wrong_folders(tmp_path):
    assert "is not a folder" in refuse(TEST, "--parquet-dir", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "holds no *.parquet file" in refuse(TEST, "--parquet-dir", tmp_path / "empty")
    assert "--parquet-dir" in refuse(TEST)


def test_no_usable_clip_is_an_error(tmp_path):
    rows = [row | {"human_labels": ["No such label"]} for row in tone_rows(3)]
    write_rows(tmp_path / "data", rows)
    flags = ("--parquet-dir", tmp_path / "data", "--no-cache")
    sentence = refuse(TEST, *flags, "--output-json", tmp_path / "r.json")
    assert "no label matches" in sentence and "'No such label' (near: " in sentence
    sentence = refuse(TRAIN, *flags, "--output-dir", tmp_path / "out")
    assert "no label matches" in sentence and "'No such label' (near: " in sentence
    assert not (tmp_path / "r.json").exists()


def test_skipped_files_are_in_the_log_and_the_json(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "data", tmp_path / "data")
    (tmp_path / "data" / "02.parquet").write_text("no parquet")
    flags = ("--parquet-dir", tmp_path / "data", "--cache-dir", home / "cache")
    where = {TRAIN: ("--output-dir", tmp_path), TEST: ("--output-json", tmp_path / "r.json")}
    for name, output in where.items():
        assert "02.parquet cannot be read as parquet" in refuse(name, *flags, *output)
        done = script(name, *flags, *output, "--skip-bad-files")
        assert "skipped 1 files: unreadable (02.parquet)" in done.stdout
    expected = {"unreadable": {"count": 1, "first": ["02.parquet"]}}
    assert json.loads((tmp_path / "setup.json").read_text())["clips"]["skipped_files"] == expected
    assert json.loads((tmp_path / "r.json").read_text())["test_info"]["clips"]["skipped_files"] == expected


def test_known_labels_of_rows_without_sound_are_not_blamed(tmp_path):
    write_rows(tmp_path / "data", [row | {"audio": {"bytes": b"no sound"}} for row in tone_rows(3)])
    for name, *output in ((TEST, "--output-json", tmp_path / "r.json"), (TRAIN, "--output-dir", tmp_path / "out")):
        sentence = refuse(name, "--parquet-dir", tmp_path / "data", "--no-cache", *output)
        assert sentence == "error: no row of the parquet files can be used (3 undecodable audio)"


def test_contradicting_flags(trained, tmp_path):
    home, _ = trained
    data = ("--parquet-dir", home / "data", "--cache-dir", home / "cache")
    path = best(home)
    assert "--use-hyperbolic needs --projection-checkpoint" in refuse(TEST, *data, "--use-hyperbolic")
    assert "--projection-checkpoint" in refuse(HYPERBOLIC, *data)
    sentence = refuse(HYPERBOLIC, *data, "--projection-checkpoint", path, "--c", "0.5")
    assert "--c 0.5 contradicts" in sentence and "c = 1;" in sentence
    sentence = refuse(HYPERBOLIC, *data, "--projection-checkpoint", path, "--temperature", "2")
    assert "--temperature 2 contradicts" in sentence
    assert "add --use-hyperbolic" in refuse(TEST, *data, "--projection-checkpoint", path)
    sentence = refuse(HYPERBOLIC, *data, "--projection-checkpoint", home / "out" / "best_projection_epoch_99.pth")
    assert "does not exist" in sentence and path.name in sentence
    other = tmp_path / "model"
    shutil.copytree(TINY, other)
    (other / "config.json").write_text((TINY / "config.json").read_text() + " ")
    sentence = refuse(HYPERBOLIC, *data, "--projection-checkpoint", path, "--checkpoint", other)
    assert "is another model" in sentence


def test_without_cuda_a_visible_warning_and_the_cpu(trained):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    home, _ = trained
    done, result = evaluate(home, TEST, "--device", "cuda:0")
    assert "warning: CUDA is not available, so --device cuda:0 becomes cpu" in done.stdout
    assert result["test_info"]["device"] == "cpu"


@pytest.mark.parametrize("name", [TRAIN, TEST, HYPERBOLIC])
def test_help_imports_nothing_heavy(name):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_path(sys.argv.pop(0) and %r, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'modelscope', 'pyarrow', 'numpy', 'sklearn', 'librosa', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    code = code.replace("sys.argv.pop(0) and ", "") % str(ROOT / name)
    done = finish([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--parquet-dir" in done.stdout


def test_no_input_is_overwritten(trained, tmp_path):
    home = trained[0]
    flags = ["--parquet-dir", home / "data", "--cache-dir", home / "cache"]
    projector = shutil.copy(best(home), tmp_path / "projector.pth")
    hyperbolic = ["--use-hyperbolic", "--projection-checkpoint", projector]
    for outputs in (["--save-scores", projector], ["--output-json", home / "data" / "00.parquet"],
                    ["--output-json", tmp_path / "r", "--save-scores", tmp_path / "r"]):  # fmt: skip
        before = projector.read_bytes(), (home / "data" / "00.parquet").read_bytes()
        done = script(TEST, *flags, *hyperbolic, *outputs, check=False, cwd=tmp_path)
        assert done.returncode == 2 and "would be overwritten" in done.stderr
        assert before == (projector.read_bytes(), (home / "data" / "00.parquet").read_bytes())


def test_a_reader_that_leaves_ends_no_work(trained, tmp_path):
    flags = ["--parquet-dir", trained[0] / "data", "--cache-dir", trained[0] / "cache", "--checkpoint", TINY]
    command = [sys.executable, ROOT / TEST, *flags, "--device", "cpu", "--output-json", tmp_path / "r.json"]
    line = shlex.join(map(str, command)) + " | head -c 1"
    done = finish(["bash", "-c", line], cwd=tmp_path)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert (tmp_path / "r.json").exists()


def test_resume_ends_with_the_same_weights(trained, tmp_path):
    home, _ = trained
    flags = ["--parquet-dir", home / "data", "--cache-dir", home / "cache", "--batch-size", "16", "--seed", "42"]
    script(TRAIN, *flags, "--output-dir", tmp_path / "out", "--epochs", "1")
    (tmp_path / "out" / "best_projection_epoch_1.pth").unlink()  # as if killed before the best file was written
    script(TRAIN, *flags, "--output-dir", tmp_path / "out", "--epochs", "3", "--resume")
    for epoch in (1, 2, 3):
        once, twice = (torch.load(f / f"projection_epoch_{epoch}.pth") for f in (home / "out", tmp_path / "out"))
        assert torch.equal(
            once["projection_state_dict"]["linear.weight"], twice["projection_state_dict"]["linear.weight"]
        )
        assert once["train_loss"] == twice["train_loss"] and once["val_loss"] == twice["val_loss"]
    first, second = (json.loads((f / "setup.json").read_text()) for f in (home / "out", tmp_path / "out"))
    assert first["epochs"] == second["epochs"] and first["best_epoch"] == second["best_epoch"]
    assert len(list((tmp_path / "out").glob("best_*.pth"))) == 1
    done = script(
        TRAIN, *flags, "--output-dir", tmp_path / "out", "--epochs", "3", "--resume", "--c", "0.5", check=False
    )
    assert done.returncode == 2 and "was trained with c = 1.0, this run has 0.5" in done.stderr


def test_resume_without_an_earlier_epoch_starts_anew(trained, tmp_path):
    home, _ = trained
    flags = ["--parquet-dir", home / "data", "--cache-dir", home / "cache"]
    script(TRAIN, *flags, "--output-dir", tmp_path / "out", "--epochs", "1", "--resume")
    assert (tmp_path / "out" / "best_projection_epoch_1.pth").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["scale_state_dict"].update(bias=torch.zeros(2)), "has a scale_state_dict that does not fit"),
        (lambda c: c["scale_state_dict"].clear(), "has a scale_state_dict that does not fit"),
        (lambda c: c["scale_state_dict"].update(bias=torch.tensor(float("nan"))), "has values in scale_state_"),
        (lambda c: c["optimizer_state_dict"].clear(), "has an optimizer_state_dict that does not fit"),
        (lambda c: c["optimizer_state_dict"]["state"].update({9: {}}), "has an optimizer_state_dict that does not fit"),
        (lambda c: c["optimizer_state_dict"]["state"][0].pop("step"), "has an optimizer_state_dict that does not fit"),
        (lambda c: c["optimizer_state_dict"]["state"][0].update(exp_avg=torch.zeros(3)), "has an optimizer_state_dict"),
        (lambda c: c["optimizer_state_dict"]["param_groups"][0].update(lr=9.0), "has an optimizer_state_dict"),
        (lambda c: c["optimizer_state_dict"]["param_groups"].pop(), "has an optimizer_state_dict that does not fit"),
        (lambda c: c["optimizer_state_dict"]["state"][0]["exp_avg"].fill_(float("inf")), "has values in optimizer_"),
        (lambda c: c["identity"].update(c=torch.ones(3)), "was trained with c = tensor"),
        (lambda c: c.pop("logit_scale"), "does not hold the figures of epoch 1"),
        (lambda c: c.update(epoch=7), "does not hold the figures of epoch 1"),
        (lambda c: c.update(val_loss=float("nan")), "has values in val_loss that are not finite"),
    ],
)
def test_a_tampered_checkpoint_is_not_resumed(trained, tmp_path, change, says):
    home, _ = trained
    for name in ("projection_epoch_1.pth", "setup.json"):
        (tmp_path / "out").mkdir(exist_ok=True)
        shutil.copy(home / "out" / name, tmp_path / "out")
    path = tmp_path / "out" / "projection_epoch_1.pth"
    content = torch.load(path)
    change(content)
    torch.save(content, path)
    setup = (tmp_path / "out" / "setup.json").read_bytes()
    flags = ["--parquet-dir", home / "data", "--cache-dir", home / "cache", "--resume"]
    sentence = refuse(TRAIN, *flags, "--output-dir", tmp_path / "out")
    assert f"--resume: {path} {says}" in sentence
    assert (tmp_path / "out" / "setup.json").read_bytes() == setup and len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-cache", "--workers", "1", "--encode-batch-size", "1"),
        ("--no-cache", "--workers", "5", "--encode-batch-size", "7"),
        ("--cache-dir", "cold", "--workers", "2"),
        ("--cache-dir", "warm"),
    ],
)
@pytest.mark.usefixtures("encoded_anew")
def test_workers_batches_and_cache_do_not_change_results(trained, tmp_path, flags):
    """Training and testing to the last bit, times and arguments aside."""
    home, _ = trained
    where = {"cold": tmp_path / "cache", "warm": home / "cache"}
    flags = ("--parquet-dir", home / "data", *(where.get(flag, flag) for flag in flags))
    script(TRAIN, *flags, "--output-dir", tmp_path / "out", "--epochs", "3")
    for epoch in (1, 2, 3):
        one, other = (torch.load(f / f"projection_epoch_{epoch}.pth") for f in (home / "out", tmp_path / "out"))
        assert str(one) == str(other)  # figures, settings and the beginnings of the tensors
        for key in ("projection_state_dict", "scale_state_dict"):
            assert all(torch.equal(one[key][name], other[key][name]) for name in one[key])
        assert one["identity"]["data"] == other["identity"]["data"]  # the SHA-256 of all embeddings
    script(HYPERBOLIC, *flags, "--projection-checkpoint", best(home), "--output-json", tmp_path / "r.json")
    _, expected = evaluate(home, HYPERBOLIC, "--projection-checkpoint", best(home))
    result = json.loads((tmp_path / "r.json").read_text())
    assert all(result[key] == expected[key] for key in expected if key != "test_info")


def test_cuda_runs_ask_for_deterministic_algorithms(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: [])
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        assert choose_device("cuda:0") == torch.device("cuda:0")
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_nothing_from_the_data_steers_the_terminal(tmp_path):
    rows = tone_rows(4)
    rows[1] |= {"video_id": "\x1b[2J\nerror: forged", "human_labels": []}
    rows[2] |= {"video_id": "../../\u202e", "audio": {"bytes": b"no sound"}}
    write_rows(tmp_path / "data", rows)
    done = script(TEST, "--parquet-dir", tmp_path / "data", "--no-cache", "--output-json", tmp_path / "r.json")
    assert "skipped 1 rows: no label (\\x1b[2J\\nerror: forged)" in done.stdout
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert not list(tmp_path.glob("*forged*")) and {p.name for p in tmp_path.iterdir()} == {"data", "r.json"}


def test_file_names_that_are_not_utf8(trained, tmp_path):
    home, _ = trained
    folder = tmp_path / os.fsdecode(b"\xff\x1b")
    try:
        shutil.copytree(home / "data", folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (folder / "00.parquet").rename(folder / os.fsdecode(b"\xfe.parquet"))
    flags = ("--parquet-dir", folder, "--cache-dir", home / "cache")
    script(TRAIN, *flags, "--output-dir", folder / "out", "--epochs", "1")
    _, result = evaluate(home, TEST, "--projection-checkpoint", folder / "out" / "best_projection_epoch_1.pth",
                         "--use-hyperbolic", output=folder / "r.json")  # fmt: skip
    assert "\udcff" in result["model_info"]["projection_checkpoint"]
