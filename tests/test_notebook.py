"""What a notebook imports gives the scripts' numbers; the page about it and the stored notebook run."""

import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, flac, script, tone, tone_rows, write_rows

from CLAP import Encoder
from hyperbolic import expmap0
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import checkpoints, exported, load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three trained projectors, one of them exported, and three sound files."""
    home = tmp_path_factory.mktemp("notebook")
    write_rows(home / "data", tone_rows(12))
    common = ["--parquet-dir", home / "data", "--cache-dir", home / "hyperbolic_clap"]
    common += ["--epochs", "2", "--output-dim", "8"]
    kinds = {"hyperbolic": (), "cosine": ("--similarity", "cosine"), "prototypes": ("--prototypes", "0.3")}
    for name, flags in kinds.items():
        script("train_hyperbolic_clap.py", *common, *flags, "--output-dir", home / name)
    exported.write(home / "exported", checkpoints.load(home / "hyperbolic"), "laion/x")
    for i in range(3):
        (home / f"{i}.flac").write_bytes(flac(tone(200 * (i + 1), 11 * i + 2, 22_050), 22_050))  # one to three windows
    return home


@pytest.fixture(scope="module")
def encoder(home):
    return Encoder(TINY, "cpu", cache_dir=home / "hyperbolic_clap")


@pytest.fixture(scope="module")
def vectors(home, encoder):
    """(3, 512) of the files, (2, 512) of texts."""
    texts = encoder.encode_texts(["a", "This is a sound of b."])
    return encoder.encode_files(home / f"{i}.flac" for i in range(3)), texts


def test_files_have_the_vectors_of_the_model_to_the_bit(home, vectors, encoder):
    from CLAP.encoder import Encoder as Model
    from data import decode
    from hyperbolic_clap.embedding.files import clips_of
    from hyperbolic_clap.embedding.skipped import Skipped

    model = Model(str(TINY), CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as of every worker of the scripts
    clips = clips_of([home / f"{i}.flac" for i in range(3)], Skipped())
    assert np.array_equal(vectors[0], np.stack([model.encode_waveform(decode(clip)) for clip in clips]))
    torch.set_num_threads(before)
    assert np.array_equal(vectors[1], model.encode_texts(["a", "This is a sound of b."]))
    assert vectors[0].dtype == vectors[1].dtype == np.float32 and encoder.embed_dim == 512 == vectors[0].shape[1]
    again = Encoder(str(TINY), "cpu", use_cache=False).encode_files([home / "2.flac", home / "0.flac", home / "2.flac"])
    assert np.array_equal(again, vectors[0][[2, 0, 2]])


def test_one_path_or_text_is_a_list_of_one_and_none_is_none(home, encoder, vectors):
    assert np.array_equal(encoder.encode_files(str(home / "0.flac")), vectors[0][:1])
    assert np.array_equal(encoder.encode_texts("a"), vectors[1][:1])
    assert repr(encoder).startswith("<CLAP encoder ") and repr(encoder).endswith("tiny on cpu, 512 dimensions>")
    assert encoder.encode_files([]).shape == encoder.encode_texts([]).shape == (0, 512)


def test_a_file_that_cannot_be_used_is_named(home, encoder):
    (home / "none.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"^1 of 2 files cannot be used, for example .*none\.wav: .*; leave them out$"):
        encoder.encode_files([home / "0.flac", home / "none.wav"])
    with pytest.raises(UserError, match=r"absent\.wav: unreadable file"):
        encoder.encode_files([home / "absent.wav"])


@pytest.mark.parametrize("name", ["hyperbolic", "cosine", "prototypes", "exported"])
def test_similarity_and_probability_are_those_of_tag_sounds(home, encoder, vectors, name):
    """One probability and one calibration: of the tagger and of a notebook, from every form of a projector."""
    flags = [] if name == "cosine" else ["--use-hyperbolic"]
    flags += ["--projection-checkpoint", home / name, "--cache-dir", home / "hyperbolic_clap", "--top-k", "1000"]
    files = [home / f"{i}.flac" for i in range(3)]
    done = script("tag_sounds.py", *files, *flags, "--output-json", home / "tags.json")
    assert ("has no calibration" in done.stdout) == (name == "prototypes")
    projector = load(str(home / name), encoder=encoder)
    (prompt,) = projector.settings["prompts"]
    texts = encoder.encode_texts([prompt.replace("{label}", label) for label in projector.classes])
    a, t = projector.audio(vectors[0]), projector.text(texts)
    if name == "prototypes":
        with pytest.raises(UserError, match="has prototypes, so similarity also takes"):
            projector.similarity(a, t)
        with pytest.raises(UserError, match="takes as many embeddings and names, got 2 and 527"):
            projector.similarity(a, t, vectors[0][:2], projector.classes)
        with pytest.raises(UserError, match="has no calibration, .* gives the bare sigmoid"):
            projector.probability(a)
        s = projector.similarity(a, t, vectors[0], projector.classes)
        p = projector.probability(s, calibrated=False)
    else:
        s = projector.similarity(a, t)
        p = projector.probability(s)
    assert a.shape == (3, 8) and t.shape == (527, 8) and s.shape == p.shape == (3, 527)
    assert (a.dtype, s.dtype, p.dtype) == (np.float32, np.float32, np.float64)
    content = json.loads((home / "tags.json").read_text())
    for file, similarity, probability in zip(content["files"], s, p, strict=True):
        place = {label: i for i, label in enumerate(projector.classes)}
        rows = [place[tag["classname"]] for tag in file["tags"]]
        assert [tag["similarity"] for tag in file["tags"]] == similarity[rows].tolist()
        assert [tag["probability"] for tag in file["tags"]] == probability[rows].tolist()
    info = {key: value for key, value in content["model_info"].items() if key != "new_classes"}
    assert {key: projector.settings[key] for key in info} == info | (
        {"clap_model": "laion/x"} if name == "exported" else {}
    )
    assert projector.settings["training"]["seed"] == 42 and repr(projector).endswith("8 dimensions" + (
        ", 527 classes>" if name == "cosine" else ", c = 1, 527 classes>"))  # fmt: skip


def test_tensors_give_tensors_of_the_same_values(home, vectors):
    projector = load(home / "hyperbolic")
    a, t = (projector.audio(vectors[0]), projector.text(vectors[1]))
    u, v = projector.audio(torch.from_numpy(vectors[0])), projector.text(torch.from_numpy(vectors[1]))
    pairs = [(a, u), (t, v), (projector.similarity(a, t), projector.similarity(u, v))]
    pairs += [(projector.probability(pairs[-1][0]), projector.probability(pairs[-1][1]))]
    pairs += [(projector.ball_points(t), projector.ball_points(v))]
    for array, tensor in pairs:
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        assert np.array_equal(array, tensor.numpy()) and str(tensor.dtype).endswith(str(array.dtype))
    assert np.allclose(projector.ball_points(t), expmap0(torch.from_numpy(t), projector.settings["c"]))
    assert (np.linalg.norm(projector.ball_points(t), axis=1) < projector.settings["c"] ** 0.5).all()


def test_other_lengths_are_scaled_and_said_once(home, vectors, caplog):
    projector = load(home / "hyperbolic")
    exact = projector.text(vectors[1])
    assert np.allclose(projector.text(3 * vectors[1].astype(np.float64)), exact, atol=1e-6)
    assert np.allclose(projector.text([list(map(float, row)) for row in 5 * vectors[1]]), exact, atol=1e-6)
    assert [r.getMessage() for r in caplog.records] == ["warning: vectors of lengths from 3 to 3 are scaled to 1"]
    assert np.allclose(load(home / "hyperbolic").text(vectors[1].astype(np.float16)), exact, atol=1e-3)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("what", "bad", "says"),
    [
        ("audio", np.ones((3, 256), np.float32), r"audio takes vectors of shape \(N, 512\), got \(3, 256\)"),
        ("text", np.ones(512), r"text takes vectors of shape \(N, 512\), got \(512,\); one vector is v\[None\]"),
        ("audio", np.ones((3, 512), int), "audio takes floats, got torch.int64"),
        ("audio", np.full((2, 512), np.nan), "audio takes finite values, got NaN"),
        ("audio", np.full((2, 512), 1e200), "infinity or what float32 cannot hold"),
        ("text", np.eye(2, 512, 1) * [[1], [0]], "text takes vectors with a direction, but row 1 is all zeros"),
        ("ball_points", np.ones((2, 512)), r"ball_points takes vectors of shape \(N, 8\), got \(2, 512\)"),
        ("probability", [np.inf], "probability takes finite values, got NaN, infinity"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(home, what, bad, says):
    with pytest.raises(UserError, match=says):
        getattr(load(home / "hyperbolic"), what)(bad)


def test_embeddings_are_no_vectors_to_compare(home, vectors, tmp_path):
    """Of a projector that keeps the width, only their lengths tell them apart from what audio and text give."""
    content = checkpoints.load(home / "hyperbolic")
    state = {**content["projection_state_dict"], "linear.weight": torch.eye(512), "linear.bias": torch.zeros(512)}
    state["linear.weight"] *= torch.linspace(0.5, 1.5, 512)
    checkpoints.save(tmp_path / "wide.pth", content | {"projection_state_dict": state, "output_dim": 512})
    projector, (sounds, texts) = load(tmp_path / "wide.pth"), vectors
    a, t = projector.audio(sounds), projector.text(texts)
    for pair in ((sounds, texts), (a, texts), (sounds, t)):
        with pytest.raises(UserError, match="takes what audio and text give, got embeddings of length 1$"):
            projector.similarity(*pair)
    assert np.array_equal(projector.similarity(a, t)[:1], projector.similarity(a[:1], t))


def test_a_projector_of_finished_texts_has_no_prompts(home, tmp_path):
    checkpoints.save(tmp_path / "p.pth", checkpoints.load(home / "hyperbolic") | {"prompt": ""})
    assert load(tmp_path / "p.pth").settings["prompts"] == []
    assert load(home / "hyperbolic").settings["prompts"] == ["This is a sound of {label}."]


def test_no_row_gives_no_row(home):
    projector, none = load(home / "hyperbolic"), np.empty((0, 512), np.float32)
    assert projector.audio(none).shape == projector.text(none).shape == (0, 8)
    assert projector.similarity(projector.audio(none), projector.text(none)).shape == (0, 0)


def test_what_cannot_be_loaded_is_one_sentence(home, encoder):
    with pytest.raises(UserError, match=r"^the projector .*absent\.pth does not exist; .* holds"):
        load(home / "absent.pth")
    with pytest.raises(UserError, match="^the projector .* is no exported projector: it lacks config.json"):
        load(home / "data")
    with pytest.raises(UserError, match="has no ball"):
        load(home / "cosine").ball_points(np.ones((1, 8)))
    other = checkpoints.load(home / "hyperbolic") | {"clap_sha256": "0" * 64}
    exported.write(home / "other", other, "laion/y")
    with pytest.raises(UserError, match="^the projector .*other was trained on the CLAP model laion/y, but"):
        load(home / "other", encoder=encoder)


def test_an_id_of_modelscope_is_loaded(home, monkeypatch, tmp_path, vectors):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "me").mkdir(parents=True)
    (tmp_path / "models" / "me" / "projector").symlink_to(home / "exported")
    assert np.array_equal(load("me/projector").text(vectors[1]), load(home / "hyperbolic").text(vectors[1]))


@pytest.fixture
def demo(home, tmp_path, monkeypatch):
    """A folder as `make demo` leaves it, with smaller data, and the cache that knows the class texts."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("agg")
    (tmp_path / "demo" / "out").mkdir(parents=True)
    (tmp_path / "CLAP").mkdir()
    os.symlink(TINY, tmp_path / "CLAP" / "tiny")
    os.symlink(home / "hyperbolic", tmp_path / "demo" / "out" / "checkpoints")
    write_rows(tmp_path / "demo" / "data" / "eval", tone_rows(12))
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    import matplotlib.pyplot as plt

    plt.close("all")


def test_the_page_runs(demo):
    """Block after block in one namespace, as somebody types them; its distances are what it says of them."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5 and names["probability"].shape == (3, 527) and (demo / "disk.png").stat().st_size > 5000
    true = names["tangent_pairwise_distance"](names["x"].double(), names["y"].double(), names["c"]).diagonal()
    assert names["exact"].tolist() == pytest.approx(true.tolist(), rel=1e-6)
    assert (names["ball"] < true - 20).all()


NOTEBOOK = ROOT / "demo" / "quickstart.ipynb"


def test_the_cells_of_the_notebook_run(demo, monkeypatch):
    monkeypatch.chdir(demo / "demo")
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["probability"].shape == (12, 527) and len(names["axes"].texts) == 3
    assert len(list((demo / "demo" / "out" / "sounds").iterdir())) == 12


def test_the_notebook_holds_its_outputs_and_nothing_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [{kind for output in cell["outputs"] for kind in output.get("data", {"": 0})} for cell in code]
    assert not kinds[0] and all(kinds[1:]) and "text/html" in kinds[-2] and "image/png" in kinds[-1]
    assert NOTEBOOK.stat().st_size < 300 * 1024 and "stderr" not in text
    assert not re.search(r"/(home|root|tmp|work|Users|opt|mnt)/|[A-Z]:\\\\", text)
