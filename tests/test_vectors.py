"""Vectors in the place of audio: written by embed_sounds.py, or made elsewhere; with the same bits, or a sentence."""

import json
import re
import shlex

import forks
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, TINY, here, script, tone_rows, write_rows

NAMES = ["Low tone", "Mid tone", "High tone", "Tin bell"]
TEXTS = "text_embeddings.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """data: 24 tones in two files, one of them no sound and one without a label; vectors: what is written of them."""
    home = tmp_path_factory.mktemp("vectors")
    rows = tone_rows(24, NAMES[:3])
    rows[3]["audio"]["bytes"], rows[5]["human_labels"] = b"no sound", []
    rows[7]["audio"] = rows[8]["audio"]
    for row in rows[::4]:
        row["human_labels"].append("Tin bell")
    write_rows(home / "data", rows[:11], "00.parquet")
    write_rows(home / "data", rows[11:], "01.parquet", row_group_size=5)
    (home / "four.json").write_text(json.dumps({name: i for i, name in enumerate(NAMES)}))
    (home / "tree.csv").write_text("class,parent\n" + "".join(f"{name},all of it\n" for name in NAMES))
    script("embed_sounds.py", "--parquet-dir", home / "data", "--output-dir", home / "vectors", *common(home),
           "--taxonomy", home / "tree.csv")  # fmt: skip
    return home


def common(home):
    return "--class-labels", home / "four.json", "--cache-dir", home / "cache"


def both(home):
    """{name: flags}: of the sounds, and of the vectors with the texts of the model and of the file."""
    vectors = ("--parquet-dir", home / "vectors", *common(home))
    return {
        "sounds": ("--parquet-dir", home / "data", *common(home)),
        "vectors": vectors,
        "file": (*vectors, "--text-embeddings", home / "vectors" / TEXTS, "--checkpoint", "no/such_model"),
    }


def test_what_is_written(home):
    for name in ("00.parquet", "01.parquet"):
        source, made = (pq.read_table(home / folder / name) for folder in ("data", "vectors"))
        others = [column for column in source.column_names if column != "audio"]
        assert made.column_names == [*others, "embedding", "content_sha256", "skip_reason"]
        assert made.select(others).to_pylist() == source.select(others).to_pylist()
        assert made.schema.metadata[b"model"].decode() == str(TINY) and len(made.schema.metadata[b"sha256"]) == 64
        assert {b"preprocessing", b"versions", b"fingerprint"} <= made.schema.metadata.keys()
    made = pq.read_table(home / "vectors" / "00.parquet").to_pylist()
    assert [i for i, row in enumerate(made) if row["embedding"] is None] == [3]
    assert made[3]["skip_reason"] == "undecodable audio" and made[3]["content_sha256"] is None
    assert made[7]["content_sha256"] == made[8]["content_sha256"] != made[9]["content_sha256"]


@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
def test_training_testing_and_search_give_the_same_bits(similarity, home, tmp_path):
    kept = {}
    for name, flags in both(home).items():
        run, out = tmp_path / name, tmp_path / f"{name}.json"
        script("train_hyperbolic_clap.py", *flags, "--epochs", 2, "--similarity", similarity, "--output-dir", run)
        curved = ("--use-hyperbolic",) * (similarity == "hyperbolic")
        trained = (*flags, *curved, "--projection-checkpoint", tmp_path / "sounds")
        script("test_clap_modelscope.py", *trained, "--taxonomy", home / "tree.csv", "--output-json", out,
               "--save-scores", out.with_suffix(".st"))  # fmt: skip
        tested = json.loads(out.read_text())
        script("search_sounds.py", "Mid tone", "Tin bell", "--like", "tone9", *trained, "--output-json", out)
        tested |= {"queries": json.loads(out.read_text())["queries"]}
        tested |= {"skipped": tested.pop("test_info")["clips"]["skipped"]}
        tested["model_info"].pop("projection_checkpoint")
        kept[name] = {path.name: path.read_bytes() for path in sorted(run.glob("*.pth"))}, tested
        kept[name][0]["scores"] = out.with_suffix(".st").read_bytes()
    assert len(kept["sounds"][0]) == 4 and kept["sounds"][1]["skipped"]["undecodable audio"]["count"] == 1
    for name in ("vectors", "file"):
        assert kept[name][0] == kept["sounds"][0]
        for part, value in kept["sounds"][1].items():
            assert kept[name][1][part] == value, (name, part)


def test_two_ranks_write_and_read_the_same(home, tmp_path):
    flags = ("--checkpoint", TINY, "--device", "cpu", *common(home))

    def two_ranks(name, *more):
        forks.as_ranks(forks.server(), 2, name, [str(flag) for flag in (*more, *flags)], tmp_path)

    two_ranks("embed_sounds.py", "--parquet-dir", home / "data", "--output-dir", tmp_path / "vectors", "--taxonomy",
              home / "tree.csv")  # fmt: skip
    for path in (home / "vectors").iterdir():
        assert path.read_bytes() == (tmp_path / "vectors" / path.name).read_bytes(), path
    train = ("train_hyperbolic_clap.py", "--parquet-dir", home / "vectors", "--epochs", 1, "--output-dir")
    script(*train, tmp_path / "one", *flags)
    two_ranks(*train, tmp_path / "two")
    one, two = ((tmp_path / name / "projection_epoch_1.pth").read_bytes() for name in ("one", "two"))
    assert one == two


def test_float16_a_taxonomy_and_vectors_written_anew(home, tmp_path):
    first, second = tmp_path / "half", tmp_path / "anew"
    more = ("--taxonomy", home / "tree.csv", *common(home))
    script("embed_sounds.py", "--parquet-dir", home / "data", "--output-dir", first, "--float16", *more)
    half, whole = (pq.read_table(folder / "01.parquet")["embedding"] for folder in (first, home / "vectors"))
    assert pa.types.is_float16(half.type.value_type) and pa.types.is_float32(whole.type.value_type)
    assert np.allclose(half.to_pylist(), whole.to_pylist(), atol=1e-3) and half.to_pylist() != whole.to_pylist()
    done = script("embed_sounds.py", "--parquet-dir", first, "--text-embeddings", first / TEXTS, "--output-dir", second,
                  "--checkpoint", "no/such_model", *more)  # fmt: skip
    assert re.search(r"had lengths from (0\.999\d|1)\d* to 1(\.0\d*)?; each is brought to length 1", done.stdout)
    anew = np.array(pq.read_table(second / "01.parquet")["embedding"].to_pylist())
    assert np.abs(np.linalg.norm(anew, axis=1) - 1).max() < 1e-6
    output = ("--taxonomy", home / "tree.csv", "--output-json", tmp_path / "a.json", *common(home))
    found = []
    for folder in (home / "data", second):
        texts = ("--text-embeddings", second / TEXTS) if folder == second else ()
        script("test_clap_modelscope.py", "--parquet-dir", folder, *texts, *output)
        found.append(json.loads((tmp_path / "a.json").read_text())["ontology"])
    assert found[1]["map_inner"] == pytest.approx(found[0]["map_inner"], abs=0.05)
    assert found[1]["inner_classes"] == found[0]["inner_classes"] == 1


DIM, CLASSES, FLOAT32 = 16, ["Alpha", "Beta", "Gamma"], pa.float32()


def made(folder, name="00.parquet", kind=FLOAT32, count=30, model=None, change=lambda rows: None, **columns):
    """A file of vectors near those of three classes, and in this folder texts.npz; -> the folder."""
    draw = np.random.default_rng(0)
    text, of = draw.normal(size=(3, DIM)), np.arange(count) % 3
    vectors = 3 * (text[of] + 0.3 * draw.normal(size=(count, DIM)))
    rows = {"video_id": [f"v{i}" for i in range(count)], "human_labels": [[CLASSES[i]] for i in of],
            "embedding": [list(vector) for vector in vectors]} | columns  # fmt: skip
    change(rows)
    listed = {key: pa.array(value) for key, value in rows.items() if key != "embedding"}
    if isinstance(kind, pa.DataType):
        numpy = {pa.float16(): np.float16}.get(kind, np.float64)
        lists = [None if vector is None else np.array(vector, numpy) for vector in rows["embedding"]]
        listed["embedding"] = pa.array(lists, pa.list_(kind))
    else:
        listed["embedding"] = kind(rows["embedding"])
    table = pa.table(listed).replace_schema_metadata({"model": model} if model else None)
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / name)
    texts(folder / "texts.npz", text)
    return folder


def texts(path, vectors, names=CLASSES, **more):
    np.savez(path, names=np.array(names), embeddings=vectors, **more)
    return path


def results_of(folder, *flags, check=True):
    """(what was said, the results) of a test; texts.npz unless the flags name others."""
    given = () if "--text-embeddings" in flags else ("--text-embeddings", folder / "texts.npz")
    out = folder / "out.json"
    done = script("test_clap_modelscope.py", "--parquet-dir", folder, *given, "--output-json", out, *flags, check=check)
    return done.stdout + done.stderr, json.loads(out.read_text()) if check else None


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), "fixed"])
def test_lists_of_every_kind_are_brought_to_length_one(kind, tmp_path):
    if kind == "fixed":
        def kind(rows):
            return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(rows)), DIM)
    said, results = results_of(made(tmp_path / "data", kind=kind))
    assert "had lengths from" in said and "each is brought to length 1" in said
    assert "do not both say of which model" in said
    least, greatest = results["test_info"]["clips"]["embedding_lengths"]
    assert 5 < least < greatest < 30 and results["metrics"]["acc@1"] == 1
    vector = np.array(pq.read_table(tmp_path / "data" / "00.parquet")["embedding"][0].as_py(), float)
    text = np.load(tmp_path / "data" / "texts.npz")["embeddings"]
    cosine = text @ vector / np.linalg.norm(text, axis=1) / np.linalg.norm(vector)
    best = results["predictions"][0]["top_k_predictions"]
    assert [round(x["similarity"], 5) for x in best] == [round(x, 5) for x in sorted(cosine, reverse=True)]


def test_bad_rows_are_counted_by_reason(tmp_path):
    def spoil(rows):
        rows["embedding"][2] = [0.0] * DIM
        rows["embedding"][3] = [float("nan")] * DIM
        rows["embedding"][4] = [1e5] + [0.0] * (DIM - 1)
        rows["embedding"][5] = rows["embedding"][5][:-1]
        rows["embedding"][6] = rows["embedding"][7] = None
        rows["embedding"][8] = []

    said, results = results_of(made(tmp_path / "data", kind=pa.float16(), change=spoil))
    assert {reason: entry["count"] for reason, entry in results["test_info"]["clips"]["skipped"].items()} == {
        "embedding of length zero": 1,
        "embedding with NaN": 1,
        "embedding with infinity, as from numbers beyond 65504 in float16": 1,
        "embedding of 15 dimensions instead of 16": 1,
        "embedding of 0 dimensions instead of 16": 1,
        "no embedding": 2,
    }
    assert "skipped 2 rows: no embedding (v6, v7)" in said and len(results["predictions"]) == 23


def twice(folder):
    return texts(folder / "x.npz", np.eye(3, DIM), ["Alpha", "Beta", "alpha "])


@pytest.mark.parametrize(("change", "says"), [
    (lambda f: texts(f / "x.npz", np.eye(3, 8)), "has vectors of 8 dimensions, and {data} those of 16"),
    (twice, "holds the name 'alpha' twice"),
    (lambda f: texts(f / "x.npz", np.eye(3, DIM), ["Alpha", "Beta"]), "for 2 names; expected floats of shape (2, D)"),
    (lambda f: texts(f / "x.npz", np.ones((3, DIM))), "gives every class one vector"),
    (lambda f: texts(f / "x.npz", np.diag([1, 0, 1.0]) @ np.eye(3, DIM)), "the vector of 'Beta' has length zero"),
    (lambda f: texts(f / "x.npz", np.eye(3, DIM) * np.nan), "the vector of 'Alpha' is not finite"),
    (lambda f: texts(f / "x.npz", np.eye(3, DIM, dtype=int)), "expected floats"),
    (lambda f: texts(f / "x.npz", np.eye(3, DIM), np.array([["a"], "b", None], object)), "cannot be read"),
    (lambda f: np.savez(f / "x.npz", texts=np.eye(3)), "lacks 'embeddings'"),
    (lambda f: (f / "x.npz").write_bytes(b"PK none"), "cannot be read"),
    (lambda f: (f / "x.npz").mkdir(), "cannot be read (Is a directory)"),
    (lambda f: texts(f / "x.npz", np.eye(3, DIM), ["a", "b", "c"], model="another"), "{data} those of mine"),
])  # fmt: skip
def test_a_text_file_that_does_not_fit_is_refused(change, says, tmp_path):
    data = made(tmp_path / "data", model="mine")
    change(tmp_path)
    said, _ = results_of(data, "--text-embeddings", tmp_path / "x.npz", check=False)
    assert says.format(data=data) in said and "error: " in said and said.count("\n") == 1


def test_other_contradictions_are_one_sentence(home, tmp_path):
    data = made(tmp_path / "data", model="mine")
    missing = tmp_path / "missing.json"
    missing.write_text(json.dumps({"Alpha": 0, "Delta": 1}))
    made(made(tmp_path / "two", model="mine"), "01.parquet", model="other")
    made(write_rows(tmp_path / "mixed", tone_rows(3)), "01.parquet")
    wrong = made(tmp_path / "wrong", kind=lambda rows: pa.array([1] * len(rows)))
    of_clap = ("--text-embeddings", home / "vectors" / TEXTS)
    for folder, flags, says in (
        (data, ("--class-labels", missing), "has no vector for 1 of 2 texts: 'Delta' (near:"),
        (data, ("--prompt", "a {label}"), "which take no --prompt or --prompt-file"),
        (data, of_clap, "has vectors of 512 dimensions, and"),
        (data, ("--text-embeddings", tmp_path / "x.txt"), "must be a .npz or .safetensors file"),
        (tmp_path / "two", (), "names other as the model of its vectors, and 00.parquet mine"),
        (tmp_path / "mixed", (), "holds embeddings, and 00.parquet audio"),
        (wrong, (), "its column 'embedding' is int64, which cannot hold vectors of float16, 32 or 64"),
        (home / "data", of_clap, "goes with vectors, and"),
    ):
        said, _ = results_of(folder, *flags, check=False)
        assert says in said and "error: " in said and said.splitlines()[-1].startswith("error: "), said
    done = script("test_clap_modelscope.py", "--parquet-dir", data, check=False)
    assert "holds vectors of mine, and --checkpoint" in done.stderr and "give --text-embeddings" in done.stderr
    done = script("search_sounds.py", "x", "--parquet-dir", data, "--save-audio", tmp_path / "s", check=False)
    assert "--save-audio" in done.stderr and "holds vectors" in done.stderr


def test_audio_and_embeddings_in_one_file(home, tmp_path):
    rows = tone_rows(4, NAMES[:3])
    vectors = pq.read_table(home / "vectors" / "01.parquet")["embedding"].to_pylist()
    write_rows(tmp_path / "both", [row | {"embedding": vectors[i]} for i, row in enumerate(rows)])
    said = []
    for texts in ((), ("--text-embeddings", home / "vectors" / TEXTS)):
        done = script("test_clap_modelscope.py", "--parquet-dir", tmp_path / "both", *common(home), *texts,
                      "--output-json", tmp_path / "a.json")  # fmt: skip
        said.append((done.stdout, json.loads((tmp_path / "a.json").read_text())["similarity_stats"]))
    assert "there are both audio and embeddings; the audio is taken, without --text-embeddings" in said[0][0]
    assert "there are both audio and embeddings; the embeddings are taken, as --text-embeddings" in said[1][0]
    assert said[0][1] != said[1][1]


def test_a_projector_knows_its_vectors_again(tmp_path):
    mine, other, none = (made(tmp_path / name, model=model) for name, model in (("a", "mine"), ("b", "x"), ("c", None)))
    flags = ("--text-embeddings", mine / "texts.npz", "--epochs", 1)
    script("train_hyperbolic_clap.py", "--parquet-dir", mine, *flags, "--output-dir", tmp_path / "run")
    setup = json.loads((tmp_path / "run" / "setup.json").read_text())
    assert setup["clap_model"] == "mine" and setup["arguments"]["output_dim"] == DIM
    trained = ("--projection-checkpoint", tmp_path / "run", "--use-hyperbolic")
    said, results = results_of(mine, *trained)
    assert results["model_info"]["clap_model"] == "mine" and len(results["model_info"]["text_file_sha256"]) == 64
    said, _ = results_of(other, *trained, check=False)
    assert "was trained on the CLAP model mine, but" in said and "holds vectors of another model, x" in said
    said, _ = results_of(none, *trained)
    assert "do not both say of which model their vectors are" in said
    wide = made(tmp_path / "d", kind=lambda rows: pa.array([[*row, 0.0] for row in rows]))
    texts(wide / "texts.npz", np.eye(3, DIM + 1))
    said, _ = results_of(wide, *trained, check=False)
    assert "was trained on the CLAP model mine, but" in said and said.splitlines()[-1].startswith("error: ")
    done = script("train_hyperbolic_clap.py", "--parquet-dir", mine, *flags, "--output-dim", DIM + 1, check=False)
    assert f"--output-dim {DIM + 1} is above the {DIM} dimensions of mine" in done.stderr


def test_a_row_is_searched_by_its_id_without_any_text(tmp_path):
    data = made(tmp_path / "data", model="mine")
    out = tmp_path / "found.json"
    script("search_sounds.py", "--like", "v4", "--parquet-dir", data, "--top-k", 5, "--output-json", out)
    (query,) = json.loads(out.read_text())["queries"]
    assert [found["human_labels"] for found in query["results"]] == [["Beta"]] * 5
    assert query["results"][0]["video_id"] == "v4" and query["results"][0]["similarity"] == pytest.approx(1)


def test_captions_with_their_own_vectors(tmp_path):
    def add(rows):
        draw = np.random.default_rng(1)
        one, shared = draw.normal(size=(30, DIM)), draw.normal(size=(3, DIM)).tolist()
        rows["captions"] = [[f"Caption {i % 3}", "  ", f"of row {i}"] for i in range(30)]
        rows["caption_embedding"] = [[shared[i % 3], [0.0] * DIM, list(v)] for i, v in enumerate(one)]
        rows["embedding"] = [list(v + 0.1 * draw.normal(size=DIM)) for v in one]

    data = made(tmp_path / "data", model="mine", change=add)
    out = tmp_path / "r.json"
    script("test_retrieval.py", "--parquet-dir", data, "--output-json", out)
    results = json.loads(out.read_text())
    assert results["test_info"]["clips"]["distinct_captions"] == 33 and results["model_info"]["clap_model"] == "mine"
    assert results["metrics"]["audio_to_text"]["R@1"] == 1
    script("train_hyperbolic_clap.py", "--parquet-dir", data, "--text", "captions", "--epochs", 1, "--output-dir",
           tmp_path / "run")  # fmt: skip
    wrong = {"captions": "row 0 has 4 captions and 3 vectors", "caption_embedding": "cannot hold lists"}
    for column, says in wrong.items():
        def spoil(rows, column=column):
            add(rows)
            rows[column] = [["a", "b", "c", "d"]] * 30 if column == "captions" else ["a"] * 30
        done = script("test_retrieval.py", "--parquet-dir", made(tmp_path / column, change=spoil), check=False)
        assert says in done.stderr and done.returncode == 2


def test_a_sweep_a_disk_and_a_report(tmp_path):
    data, other = made(tmp_path / "data", model="mine"), made(tmp_path / "other", model="mine", count=24)
    texts = ("--text-embeddings", data / "texts.npz")
    script("sweep.py", "--parquet-dir", data, "--eval-dir", other, *texts, "--epochs", 1, "--seed", 1, 2,
           "--output-dir", tmp_path / "sweep")  # fmt: skip
    assert "hyperbolic_epochs1_seed2," in (tmp_path / "sweep" / "sweep.csv").read_text()
    results = sorted((tmp_path / "sweep" / "results").glob("*.json"))
    assert len(results) == 3
    here("compare_results.py", *results, "--resamples", 100, "--report", tmp_path / "page.html")
    assert "holds vectors and no sound" in (tmp_path / "page.html").read_text()
    wrong = made(tmp_path / "wrong", model="x")
    done = script("sweep.py", "--parquet-dir", data, "--eval-dir", wrong, *texts, "--output-dir", tmp_path / "s",
                  check=False)  # fmt: skip
    assert done.returncode == 2 and "holds vectors of x, and those trained on are of mine" in done.stderr
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -r requirements-plot.txt)")
    (tmp_path / "tree.csv").write_text("class,parent\n" + "".join(f"{name},all\n" for name in CLASSES))
    trained = ("--projection-checkpoint", tmp_path / "sweep" / "runs" / "hyperbolic_epochs1_seed1")
    script("plot_results.py", "disk", "--parquet-dir", data, *texts, *trained, "--layout", "tree", "--taxonomy",
           tmp_path / "tree.csv", "--output", tmp_path / "disk.png")  # fmt: skip
    assert (tmp_path / "disk.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A folder with vectors in every form that docs/vectors.md converts, near those of their classes' texts."""
    home, draw = tmp_path_factory.mktemp("recipes"), np.random.default_rng(0)
    codes = ["fx-o", "fx-v", "m-sp"]
    text = draw.normal(size=(3, DIM))
    vectors = text[np.arange(24) % 3] + 0.2 * draw.normal(size=(24, DIM))
    ids = [f"clip{i}" for i in range(24)]
    np.save(home / "vectors.npy", vectors)
    np.savez(home / "vectors.npz", ids=np.array(ids[::-1]), embeddings=vectors[::-1])
    lines = [{"id": ids[i], "embedding": list(vectors[i]), "labels": [CLASSES[i % 3]]} for i in range(24)]
    (home / "vectors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = "".join(f"{ids[i]},{CLASSES[i % 3]},{'test' if i % 4 == 0 else 'train'}\n" for i in range(24))
    (home / "labels.csv").write_text("id,label,split\n" + rows)
    texts(home / "texts.npz", text, model="my-model")
    texts(home / "bst.npz", text, codes)
    folder = home / "BSD10k" / "features" / "clap_audio_embeddings"
    folder.mkdir(parents=True)
    for i in range(24):
        np.save(folder / f"{100 + i}.npy", vectors[i].astype(np.float32)[None])
    (home / "BSD10k" / "metadata").mkdir()
    rows = "".join(f"{100 + i},{codes[i % 3]},{codes[i % 3].split('-')[0]},4\n" for i in range(25))
    (home / "BSD10k" / "metadata" / "BSD10k_metadata.csv").write_text("sound_id,class,class_top,confidence\n" + rows)
    return home


RECIPES = ["data/rows", "data/train", "data/bsd10k", "data/lines"]


@pytest.mark.parametrize("which", RECIPES)
def test_the_recipes_run(which, recipes):
    text = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"(?:^    python .*\n)+", text, re.MULTILINE)
    (block,) = (block for block in blocks if f"--output-dir {which}\n" in block)
    for line in block.splitlines():
        _, name, *flags = shlex.split(line)
        run = here if name.startswith("demo/") else script
        said = run(name, *flags, cwd=recipes).stdout
    if which == "data/rows":
        results = json.loads((recipes / "out" / "rows.json").read_text())
        assert results["metrics"]["acc@1"] == 1 and results["model_info"]["clap_model"] == "my-model"
    if which == "data/train":
        assert len(pq.read_table(recipes / "data" / "test" / "vectors.parquet")) == 6
        assert (recipes / "out" / "sweep" / "sweep.csv").exists()
    if which == "data/bsd10k":
        results = json.loads((recipes / "out" / "bsd10k.json").read_text())
        assert results["metrics"]["acc@1"] == 1 and results["metrics"]["total_samples"] == 24
        assert {*results["test_info"]["taxonomy"]} == {"fx-o", "fx-v", "m-sp", "fx", "m"}
        assert "bst.npz has no vector for 2 of 2 texts" in results["reasons"]["ontology.map_inner"]
    if which == "data/lines":
        assert len(re.findall(r"clip\d+ +Beta", said)) == 5


def test_vectors_that_are_none_are_refused(recipes, tmp_path):
    np.save(tmp_path / "short.npy", np.ones((3, DIM)))
    np.savez(tmp_path / "noids.npz", embeddings=np.ones((24, DIM)))
    np.savez(tmp_path / "others.npz", embeddings=np.ones((1, DIM)), ids=np.array(["x"]))
    np.save(tmp_path / "flat.npy", np.ones(24))
    (tmp_path / "cut.jsonl").write_text('{"id": 1, "embed')
    for name, says in (
        ("short.npy", "has 3 rows and --csv"), ("noids.npz", "lacks 'ids"), ("flat.npy", "has the shape (24,)"),
        ("cut.jsonl", "cannot be read"), ("none.npy", "cannot be read"), ("others.npz", "no id of the 24 rows is one"),
    ):  # fmt: skip
        done = here("demo/vectors_to_parquet.py", "--vectors", tmp_path / name, "--csv", recipes / "labels.csv",
                    "--output-dir", tmp_path / "out", check=False)  # fmt: skip
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_rotation_must_be_learned(tmp_path):
    """Vectors are their class's text but for a rotation and noise: cosine is at chance, a trained projector is not."""
    draw, count = np.random.default_rng(3), 12
    text = draw.normal(size=(count, 64))
    rotation = np.linalg.qr(draw.normal(size=(64, 64)))[0]
    names = [f"Class {i}" for i in range(count)]
    np.savez(tmp_path / "texts.npz", names=np.array(names), embeddings=text, model="none")
    for folder, clips in (("train", 240), ("test", 120)):
        of = np.arange(clips) % count
        vectors = text[of] @ rotation.T + 0.3 * draw.normal(size=(clips, 64))
        table = {"video_id": [f"{folder}{i}" for i in range(clips)], "human_labels": [[names[i]] for i in of],
                 "embedding": vectors.tolist()}  # fmt: skip
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table(table).replace_schema_metadata({"model": "none"}), tmp_path / folder / "00.parquet")
    assert ((vectors @ rotation @ text.T).argmax(axis=1) == of).mean() == 1
    shared = ("--text-embeddings", tmp_path / "texts.npz")
    train = ("--parquet-dir", tmp_path / "train", *shared, "--learning-rate", 1e-3, "--epochs", 30)
    found = {}
    for similarity in (None, "cosine", "hyperbolic"):
        trained = ()
        if similarity:
            trained = ("--projection-checkpoint", tmp_path / similarity)
            script("train_hyperbolic_clap.py", *train, "--similarity", similarity, "--output-dir", trained[1])
            trained += ("--use-hyperbolic",) * (similarity == "hyperbolic")
        script("test_clap_modelscope.py", "--parquet-dir", tmp_path / "test", *shared, *trained, "--num-samples", 120,
               "--output-json", tmp_path / "out.json")  # fmt: skip
        found[similarity] = json.loads((tmp_path / "out.json").read_text())["metrics"]["acc@1"]
    assert found[None] < 3 / count and min(found["cosine"], found["hyperbolic"]) > 0.95, found
