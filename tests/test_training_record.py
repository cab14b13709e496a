"""Results say how their projector was trained, whatever file it came from."""

import json

import pytest
import torch
from conftest import here, script

from hyperbolic_clap.projector import checkpoints
from hyperbolic_clap.results.files import training_words

TRAIN, TEST = "train_hyperbolic_clap.py", "test_clap_modelscope.py"


@pytest.fixture
def trained(tones, tmp_path):
    """A run of one epoch on 24 tones: (its best checkpoint, the flags of its data)."""
    data = ["--parquet-dir", tones, "--cache-dir", tmp_path / "cache"]
    script(TRAIN, *data, "--output-dir", tmp_path / "out", "--epochs", 1, "--seed", 7, "--learning-rate", 0.002)
    return tmp_path / "out" / "best_projection_epoch_1.pth", data


def record_of(path, data, output) -> dict:
    script(TEST, *data, "--use-hyperbolic", "--projection-checkpoint", path, "--output-json", output)
    return json.loads(output.read_text())["model_info"]["training"]


def test_a_results_file_says_how_its_projector_was_trained(trained, tmp_path):
    path, data = trained
    found = record_of(path, data, tmp_path / "r.json")
    content = torch.load(path, weights_only=True)
    assert {name: found[name] for name in content["training"]} == content["training"]
    assert (found["seed"], found["learning_rate"], found["epochs"], found["epoch"]) == (7, 0.002, 1, 1)
    assert sum(found["clips"].values()) == 24 and found["validation"]["val_loss"] == content["val_loss"]
    here("export_projector.py", path, "--output-dir", tmp_path / "shared")
    assert record_of(tmp_path / "shared", data, tmp_path / "shared.json") == found
    plain = tmp_path / "plain.json"
    script(TEST, *data, "--output-json", plain)
    assert json.loads(plain.read_text())["model_info"]["training"] is None
    done = here("compare_results.py", plain, tmp_path / "r.json", "--resamples", 100)
    assert "r was trained with seed 7, epoch 1, train clips " in done.stdout
    assert ", epochs 1, learning rate 0.002" in done.stdout


def test_an_older_checkpoint_says_what_it_has(trained, tmp_path):
    path, data = trained
    content = torch.load(path, weights_only=True)
    del content["training"]
    checkpoints.save(tmp_path / "old.pth", content)
    found = record_of(tmp_path / "old.pth", data, tmp_path / "r.json")
    assert (found["seed"], found["loss"], found["learning_rate"], found["batch_size"]) == (7, "sigmoid", 0.002, 16)
    assert not {"clips", "data", "prompt"} & found.keys()


@pytest.mark.parametrize("odd", [{"seed": torch.zeros(2), "c": float("nan"), 3: "x"}, [1], "text"])
def test_a_training_of_another_program_breaks_no_results_file(trained, tmp_path, odd):
    path, data = trained
    content = torch.load(path, weights_only=True) | {"training": odd}
    checkpoints.save(tmp_path / "odd.pth", content)
    assert record_of(tmp_path / "odd.pth", data, tmp_path / "r.json")["epoch"] == 1


def test_training_words_of_files_of_other_programs():
    assert training_words({}) is None and training_words({"training": "x"}) is None
    assert training_words({"training": {"seed": 3, "clips": [1]}}) == "seed 3"


def test_a_trainings_output_folder_means_its_best_checkpoint(trained, tmp_path):
    path, data = trained
    script(TRAIN, *data, "--output-dir", path.parent, "--epochs", 3, "--seed", 7, "--learning-rate", 0.002, "--resume")
    (best,) = path.parent.glob("best_*.pth")
    for given in (path.parent, best):
        assert record_of(given, data, tmp_path / "r.json")["epoch"] == int(best.stem.split("_")[-1])
        model = json.loads((tmp_path / "r.json").read_text())["model_info"]
        assert model["projection_checkpoint"] == str(best)  # the file itself: a later training may have another best
    here("export_projector.py", path.parent, "--output-dir", tmp_path / "shared")
    test = TEST, *data, "--use-hyperbolic", "--projection-checkpoint", path.parent
    other = best.with_name("best_projection_epoch_99.pth")
    other.write_bytes(best.read_bytes())
    done = script(*test, check=False)
    assert done.returncode == 2 and f"holds {best.name} and {other.name}, left by a training that was" in done.stderr
    for gone in path.parent.glob("*.pth"):
        gone.unlink()
    done = script(*test, check=False)
    assert done.returncode == 2 and "is the folder of a training that has finished no epoch" in done.stderr
    (path.parent / "setup.json").unlink()
    done = script(*test, check=False)
    assert done.returncode == 2 and "is no exported projector" in done.stderr
