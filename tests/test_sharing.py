"""Projectors to share: exported and loaded to the last bit, the card, the example of the docs, and what is refused."""

import contextlib
import io
import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, script, soundfile, tone, tone_rows, write_rows

from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import checkpoints, exported

TEST, EXPORT = "test_clap_modelscope.py", "export_projector.py"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A hyperbolic projector with a learned c, a cosine one, and results of the untrained cosine and of the first."""
    home = tmp_path_factory.mktemp("sharing")
    write_rows(home / "data", tone_rows(12))
    common = ("--parquet-dir", home / "data", "--cache-dir", home / "cache")
    kinds = {"hyperbolic": ("--learn-c", "--learning-rate", "1e-2"), "cosine": ("--similarity", "cosine")}
    kinds["prototypes"] = ("--prototypes", "0.3", "--average-with-start", "0.5")
    for name, flags in kinds.items():
        script("train_hyperbolic_clap.py", *common, "--epochs", "2", "--output-dim", "8", *flags,
               "--output-dir", home / name)  # fmt: skip
        (best,) = (home / name).glob("best_*.pth")
        best.rename(home / f"{name}.pth")
    script(TEST, *common, "--output-json", home / "original.json")
    results(home, home / "hyperbolic.pth", home / "hyperbolic.json", "--use-hyperbolic")
    return home


def results(home, projector, output, *flags):
    data = ("--parquet-dir", home / "data", "--cache-dir", home / "cache")
    script(TEST, *data, "--projection-checkpoint", projector, *flags,
           "--output-json", output)  # fmt: skip
    return json.loads(output.read_text())


def export(*flags, check=True):
    # The parser has neither --checkpoint nor --device, which conftest's script would add.
    arguments, sys.argv = sys.argv, [EXPORT, *map(str, flags)]
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        import export_projector
        from hyperbolic_clap.plumbing.run import run

        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run(export_projector.main, export_projector.parser().parse_args())
    finally:
        sys.argv = arguments
    assert not check or code == 0, stderr.getvalue()
    return SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())


@pytest.mark.parametrize("name", ["hyperbolic", "prototypes", "cosine"])
def test_the_folder_gives_the_same_bits(home, tmp_path, name):
    flags = [] if name == "cosine" else ["--use-hyperbolic"]
    export(home / f"{name}.pth", "--output-dir", tmp_path / "projector")
    assert {p.name for p in (tmp_path / "projector").iterdir()} == {
        "model.safetensors", "config.json", "configuration.json", "README.md"
    }  # fmt: skip
    of_file = results(home, home / f"{name}.pth", tmp_path / "file.json", *flags)
    of_folder = results(home, tmp_path / "projector", tmp_path / "folder.json", *flags)
    for key in ("metrics", "predictions", "similarity_stats", "ontology"):
        assert of_file[key] == of_folder[key], key
    paths = [content["model_info"].pop("projection_checkpoint") for content in (of_file, of_folder)]
    assert of_file["model_info"] == of_folder["model_info"] and paths[0] != paths[1]
    assert len(of_file["model_info"]["projection_sha256"]) == 64


def test_every_field_travels_and_nothing_of_the_training(home, tmp_path):
    """Also fields that this version does not know: values, a tensor, and a dictionary of tensors."""
    content = checkpoints.load(home / "hyperbolic.pth")
    content |= {"calibration": {"slope": 0.1 + 0.2, "shift": -0.25}, "prototypes": torch.rand(3, 8)}
    content |= {"bank": {"a": torch.rand(2)}}
    content |= {"trained_state_dict": {"0": torch.rand(2)}}  # of the training too
    assert float(content["projection_state_dict"]["log_c_change"]) != 0
    exported.write(tmp_path / "projector", content, "laion/x")
    again = checkpoints.load(tmp_path / "projector")
    assert set(again) == set(content) - {"trained_state_dict"}
    for key in set(content) - set(exported.OF_THE_TRAINING) - {"clap_model"}:
        flat = zip(*(exported.split({key: c[key]}) for c in (content, again)), strict=True)
        (tensors, others), (values, other_values) = flat
        assert values == other_values and tensors.keys() == others.keys(), key
        assert all(torch.equal(tensors[n], others[n]) and tensors[n].dtype == others[n].dtype for n in tensors), key
    assert again["optimizer_state_dict"] == again["identity"] == {}
    assert exported.sha256(again) == exported.sha256(content)
    stored = (tmp_path / "projector" / "config.json").read_text()
    assert str(home) not in stored and "optimizer" not in stored


def test_the_card(home, tmp_path):
    import yaml

    flags = ("--results", home / "original.json", home / "hyperbolic.json", "--dataset", "a/b", "c/d")
    flags += ("--base-model", "laion/larger_clap_general")
    done = export(home / "hyperbolic.pth", "--output-dir", tmp_path / "my projector", *flags)
    assert "warning" not in done.stdout
    text = (tmp_path / "my projector" / "README.md").read_text(encoding="utf-8")
    _, metadata, body = text.split("---\n", 2)
    facts = yaml.safe_load(metadata)
    assert facts["base_model"] == ["laion/larger_clap_general"] and facts["datasets"] == ["a/b", "c/d"]
    assert facts["license"] == "mit" and facts["metrics"] == ["accuracy", "mAP"]
    measured = json.loads((home / "hyperbolic.json").read_text())["metrics"]
    (index,) = facts["model-index"]
    assert index["name"] == "my projector"
    found = {entry["name"]: entry["value"] for entry in index["results"][0]["metrics"]}
    assert found == {name: round(measured[name], 4) for name in ("acc@1", "acc@5", "map", "map_samples")}
    assert body.count(f"{measured['map']:.4f}") == 2  # in English and in Chinese
    assert "中文说明" in body and "untrained" in body and "{" not in body.replace("{label}", "")
    assert str(home) not in text


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_exporting_again_keeps_the_results(home, tmp_path):
    """Of the same projector, in the folder and from it; the results of another one are not thrown away."""
    folder, copy, flags = tmp_path / "projector", tmp_path / "copy", ("--name", "x")
    export(home / "hyperbolic.pth", "--output-dir", folder, *flags, "--results", home / "original.json",
           home / "hyperbolic.json")  # fmt: skip
    first = card_of(folder)
    assert "model-index" in first
    done = export(home / "hyperbolic.pth", "--output-dir", folder, *flags)
    kept = "those of the earlier export are kept: untrained on data, 12 clips; the projector on data, 12 clips"
    assert kept in done.stdout and card_of(folder) == first
    export(folder, "--output-dir", copy, *flags)
    assert card_of(copy) == first
    done = export(home / "cosine.pth", "--output-dir", folder, check=False)
    assert done.returncode == 2 and "holds results of another projector, which an export without" in done.stderr
    assert card_of(folder) == first
    export(home / "hyperbolic.pth", "--output-dir", folder, *flags, "--results", home / "original.json")
    assert "model-index" not in card_of(folder) and card_of(folder).count("untrained") == 1
    export(home / "cosine.pth", "--output-dir", folder, "--results", home / "original.json")


def test_a_card_of_an_older_version_is_not_thrown_away(home, tmp_path):
    """Its results stand in the card alone. Without results in it, there is nothing to keep."""
    exported.write(tmp_path, checkpoints.load(home / "hyperbolic.pth"), "x")
    (tmp_path / "README.md").write_text("acc@1: 0.5")
    done = export(home / "hyperbolic.pth", "--output-dir", tmp_path, check=False)
    assert done.returncode == 2 and "holds results that only its card holds" in done.stderr
    assert card_of(tmp_path) == "acc@1: 0.5"
    (tmp_path / "README.md").unlink()
    export(home / "cosine.pth", "--output-dir", tmp_path)


def test_an_undefined_metric_is_an_empty_cell(home, tmp_path):
    content = json.loads((home / "hyperbolic.json").read_text())
    content["metrics"]["map"] = None
    (tmp_path / "r.json").write_text(json.dumps(content))
    export(home / "hyperbolic.pth", "--output-dir", tmp_path / "o", "--results", tmp_path / "r.json")
    assert "|  |" in card_of(tmp_path / "o")


def test_the_folder_holds_classes_settings_and_calibration(home, tmp_path):
    """Also of a checkpoint older than the field `training`, whose settings lie in what is not exported."""
    content = checkpoints.load(home / "hyperbolic.pth")
    for made in (content, {name: value for name, value in content.items() if name != "training"}):
        checkpoints.save(tmp_path / "p.pth", made)
        export(tmp_path / "p.pth", "--output-dir", tmp_path / "o")
        again, stored = checkpoints.load(tmp_path / "o"), json.loads((tmp_path / "o" / "config.json").read_text())
        assert checkpoints.training(again) == checkpoints.training(made)
        assert stored["training"]["learning_rate"] == 1e-2 and stored["training"]["seed"] == 42
        assert len(stored["classes"]) == 527 and stored["calibration"] == content["calibration"] != {}


def test_a_card_without_results_says_so(home, tmp_path):
    done = export(home / "cosine.pth", "--output-dir", tmp_path / "projector")
    assert "no --results were given" in done.stdout and "give its id with --base-model" in done.stdout
    text = (tmp_path / "projector" / "README.md").read_text(encoding="utf-8")
    assert "None were given" in text and "没有给出结果" in text and "model-index" not in text


def test_the_example_of_the_docs(home, tmp_path, monkeypatch):
    """torch and transformers alone give the project's similarities and probabilities, as the page has the lines."""
    pytest.importorskip("librosa")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 30
    soundfile.write(tmp_path / "sound.wav", tone(440, 3, 48_000), 48_000)
    labels = ["Dog", "Rain", "Speech"]
    sounds = [{"video_id": "x", "audio": {"bytes": (tmp_path / "sound.wav").read_bytes()}, "human_labels": [label]}
              for label in labels]  # fmt: skip
    write_rows(tmp_path / "data", sounds)
    (tmp_path / "labels.json").write_text(json.dumps({label: i for i, label in enumerate(labels)}))
    shutil.copytree(TINY, tmp_path / "laion" / "larger_clap_general")
    monkeypatch.chdir(tmp_path)
    for name, flags in (("hyperbolic", ["--use-hyperbolic"]), ("cosine", [])):
        export(home / f"{name}.pth", "--output-dir", "my_head")
        printed, names = io.StringIO(), {}
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert len(printed.getvalue().splitlines()) == 3
        flags += ["--class-labels", "labels.json", "--output-json", "r.json", "--no-cache"]
        flags += ["--projection-checkpoint", "my_head"]
        script(TEST, "--parquet-dir", "data", *flags, "--top-k", "3")
        content = json.loads((tmp_path / "r.json").read_text())
        ours = {entry["classname"]: entry["similarity"] for entry in content["predictions"][0]["top_k_predictions"]}
        for label, theirs in zip(labels, names["similarity"][0].tolist(), strict=True):
            assert ours[label] == pytest.approx(theirs, abs=1e-6), (name, label)
        # One probability: of the example, the tagger, and the reliability that the page shows.
        (bin_,) = content["calibration"]["reliability"]["top1"]
        script("tag_sounds.py", "sound.wav", *flags)
        tags = json.loads((tmp_path / "r.json").read_text())["files"][0]["tags"]
        tagged = {tag["classname"]: tag["probability"] for tag in tags}
        for label, theirs in zip(labels, names["probability"][0].tolist(), strict=True):
            assert tagged[label] == pytest.approx(theirs, abs=1e-6), (name, label)
        assert bin_["probability"] == pytest.approx(max(tagged.values()), abs=1e-6)


@pytest.fixture
def projector(home, tmp_path):
    exported.write(tmp_path / "projector", checkpoints.load(home / "hyperbolic.pth"), "laion/x")
    return tmp_path / "projector"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: flip(f / "model.safetensors"), "is damaged or was changed"),
        (lambda f: cut(f / "model.safetensors"), "is damaged or was changed"),
        (lambda f: (f / "model.safetensors").unlink(), "is no exported projector: it lacks model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "config.json that is not JSON"),
        (lambda f: change(f / "config.json", format="x"), "config.json is not one of export_projector.py"),
        (lambda f: change(f / "config.json", format_version=9), "by a newer version"),
        (lambda f: change(f / "config.json", c=2.0), "has c = 2, but its weights make it"),
        (lambda f: change(f / "config.json", output_dim=16), "has linear.weight of shape"),
        (lambda f: change(f / "config.json", scale_state_dict=1), "holds scale_state_dict both in"),
        (lambda f: change(f / "config.json", prompt=None), "has 'prompt' of type NoneType"),
    ],
)
def test_a_damaged_folder_is_one_sentence(projector, damage, says):
    damage(projector)
    with pytest.raises(UserError, match=says) as error:
        checkpoints.load(projector)
    assert "\n" not in str(error.value)


def test_a_head_of_another_model_is_refused(home, projector):
    change(projector / "config.json", clap_sha256="0" * 64)
    flags = ("--parquet-dir", home / "data", "--use-hyperbolic", "--projection-checkpoint", projector)
    done = script(TEST, *flags, check=False)
    assert done.returncode == 2 and "was trained on the CLAP model laion/x, but --checkpoint" in done.stderr


def test_results_of_another_head_or_model_are_refused(home, tmp_path):
    flags = ("--output-dir", tmp_path / "projector")
    done = export(home / "cosine.pth", *flags, "--results", home / "hyperbolic.json", check=False)
    assert done.returncode == 2 and "is of another projector" in done.stderr
    other = json.loads((home / "original.json").read_text())
    other["model_info"]["clap_sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = export(home / "cosine.pth", *flags, "--results", tmp_path / "other.json", check=False)
    assert done.returncode == 2 and "is of another CLAP model" in done.stderr
    assert not (tmp_path / "projector").exists()


def test_a_folder_with_other_files_is_left_alone(home, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    done = export(home / "cosine.pth", "--output-dir", tmp_path, check=False)
    assert done.returncode == 2 and "holds other files" in done.stderr
    assert (tmp_path / "README.md").read_text() == "mine"
    # What a hub's download of somebody's model holds.
    for name in ("config.json", "configuration.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    done = export(home / "cosine.pth", "--output-dir", tmp_path, check=False)
    assert done.returncode == 2 and (tmp_path / "model.safetensors").read_text() == "{}"


def test_results_of_retrieval_are_refused(home, tmp_path):
    (tmp_path / "r.json").write_text('{"metrics": {"text_to_audio": {}, "audio_to_text": {}}}')
    done = export(home / "cosine.pth", "--output-dir", tmp_path / "o", "--results", tmp_path / "r.json", check=False)
    assert done.returncode == 2 and "holds results of retrieval" in done.stderr and not (tmp_path / "o").exists()


def test_an_id_is_fetched_once(home, projector, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(shutil.copytree(projector, tmp_path / "cache" / "models" / "me--projector" / "snapshots" / "master"))

    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.chdir(tmp_path)
    whole = results(home, projector, tmp_path / "a.json", "--use-hyperbolic")
    for _ in range(2):
        assert results(home, "me/projector", tmp_path / "b.json", "--use-hyperbolic")["metrics"] == whole["metrics"]
    assert asked == [("me/projector", ["config.json", "model.safetensors"])]


def test_an_id_that_cannot_be_fetched_is_one_sentence(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))

    def snapshot_download(name, allow_patterns):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    done = script(TEST, "--parquet-dir", home / "data", "--projection-checkpoint", "nobody/projector", check=False)
    assert done.returncode == 2
    assert "nobody/projector is no local path and ModelScope cannot fetch it (no network)" in done.stderr


@pytest.mark.parametrize("network", [True, False])
def test_push_uploads_only_when_asked(home, tmp_path, monkeypatch, network):
    calls = []

    class HubApi:
        def create_repo(self, name, **options):
            if not network:
                raise ConnectionError("no route to host\n...")
            calls.append(("create", name))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setitem(sys.modules, "modelscope.hub.api", SimpleNamespace(HubApi=HubApi))
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    export(home / "cosine.pth", "--output-dir", tmp_path / "projector")
    assert not calls
    done = export(home / "cosine.pth", "--output-dir", tmp_path / "projector", "--push", "me/projector", check=False)
    if network:
        assert calls == [("create", "me/projector"), ("upload", "me/projector", str(tmp_path / "projector"))]
        assert done.returncode == 0
    else:
        assert done.returncode == 2 and "did not take the upload (no route to host)" in done.stderr
        assert "\n" not in done.stderr.strip()
