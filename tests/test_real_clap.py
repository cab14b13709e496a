"""benchmarks/real_clap.py: every layout, the whole way on a small one, going on after an interruption, bad input."""

import contextlib
import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TINY, script, soundfile, tone, tone_rows, write_rows

from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.run import run

PARITY = {"clips": 0, "audio": None, "texts": 0, "text": 0.0}
LABELS = {"dog_bark": 300, "siren": 900, "rain": 2500}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import published
    import real_clap
    import real_clap_figures
    import sound_sets

    monkeypatch.setattr(real_clap, "RATES", (1e-3,))
    monkeypatch.setattr(real_clap_figures, "RESAMPLES", 200)
    return SimpleNamespace(main=real_clap, sets=sound_sets, figures=real_clap_figures, published=published)


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def sound(path, frequency, i=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(frequency + 10 * i, 1.0, 22_050), 22_050)


@pytest.fixture
def esc(tmp_path):
    folder, rows = tmp_path / "ESC-50", []
    for fold in range(1, 6):
        for i, (label, frequency) in enumerate(LABELS.items()):
            sound(folder / "audio" / f"{fold}-{i}.wav", frequency, fold)
            rows.append((f"{fold}-{i}.wav", fold, i, label))
    table(folder / "meta" / "esc50.csv", ("filename", "fold", "target", "category"), rows)
    return folder


def start(benchmark, tmp_path, *flags):
    flags = ["--checkpoint", TINY, "--device", "cpu", "--dims", "8", "--epochs", "1", "--seeds", "1", *flags]
    flags += ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run(benchmark.main.main, benchmark.main.parser().parse_args(list(map(str, flags))))
    return SimpleNamespace(code=code, stdout=stdout.getvalue(), error=stderr.getvalue().rpartition("error: ")[2])


def test_the_whole_way_and_again_without_training(benchmark, tmp_path, esc, monkeypatch):
    done = start(benchmark, tmp_path, "--esc50", esc)
    assert done.code == 0, done.error
    report = json.loads((tmp_path / "out" / "real_clap.json").read_text())
    found = report["sets"]["ESC-50"]
    assert found["clips"] == {str(i): 3 for i in range(1, 6)} and found["classes"] == 3
    assert report["parity"]["audio"] < 1e-5 and report["parity"]["text"] < 1e-5 and report["parity"]["clips"] == 3
    heads = [(row["head"], row["dims"]) for row in found["rows"]]
    assert heads == [("zero-shot cosine", 512)] * 2 + [(f"trained {s}", 8) for s in ("cosine", "flat", "hyperbolic")]
    zero_shot, cosine = found["rows"][0], found["rows"][2]
    assert zero_shot["acc@1"] == pytest.approx(np.mean(zero_shot["acc@1_by_part"]))
    first = found["differences"][0]
    assert first["difference"] == "cosine 8 - zero-shot"
    assert first["acc@1"]["value"] == pytest.approx(cosine["acc@1"] - zero_shot["acc@1"])
    assert first["acc@1"]["low"] <= first["acc@1"]["value"] <= first["acc@1"]["high"]
    assert [d["difference"] for d in found["differences"][-2:]] == ["hyperbolic 8 - cosine 8", "hyperbolic 8 - flat 8"]
    text = (tmp_path / "out" / "real_clap.md").read_text()
    assert "| trained hyperbolic | `This is a sound of {label}.` | 8 |" in text and text in done.stdout + "\n\n"
    assert "published" not in text and found["distances"] == []  # three classes are not ESC-50
    monkeypatch.setattr(benchmark.main, "fit", None)
    again = start(benchmark, tmp_path, "--esc50", esc)
    assert again.code == 0, again.error
    repeated = json.loads((tmp_path / "out" / "real_clap.json").read_text())["sets"]["ESC-50"]
    assert repeated["rows"] == found["rows"] and repeated["differences"] == found["differences"]


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(benchmark, tmp_path, esc, monkeypatch):
    monkeypatch.setattr(benchmark.main, "near_transformers", lambda *given: PARITY)
    written, whole = [], benchmark.main.write_atomic

    def fills(path, write, tidy=True):
        if len(written) == 4:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        whole(path, write, tidy)

    monkeypatch.setattr(benchmark.main, "write_atomic", fills)
    done = start(benchmark, tmp_path, "--esc50", esc)
    assert done.code == 1 and done.error.startswith("No space left on device: ") and done.error.count("\n") == 1
    monkeypatch.setattr(benchmark.main, "write_atomic", whole)
    counted, fit = [], benchmark.main.fit
    monkeypatch.setattr(benchmark.main, "fit", lambda *given: counted.append(1) or fit(*given))
    assert start(benchmark, tmp_path, "--esc50", esc).code == 0
    assert len(counted) == 5 * 3 - 4


def test_the_bootstrap_measures_what_the_metrics_measure(benchmark):
    from hyperbolic_clap.metrics.classification import metrics

    figures = benchmark.figures
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(60, 9)), rng.random((60, 9)) < 0.2
    targets[:, 0] |= ~targets.any(axis=1)
    found = metrics(scores, targets, 1)
    ones = np.array([figures.average_precision(t[np.argsort(-s)]) for s, t in zip(scores, targets, strict=True)])
    assert ones.mean() == pytest.approx(found["map_samples"])
    drawn = figures._resampled(scores, targets)
    assert drawn.shape == (200, 4)
    for i, name in enumerate(figures.METRICS):
        assert drawn[:, i].mean() == pytest.approx(found[name], abs=0.03), name


def test_urbansound8k(benchmark, tmp_path):
    rows = [(f"{fold}-{i}.wav", fold, label) for fold in range(1, 11) for i, label in enumerate(LABELS)]
    for name, fold, label in rows:
        sound(tmp_path / "audio" / f"fold{fold}" / name, LABELS[label])
    table(tmp_path / "metadata" / "UrbanSound8K.csv", ("slice_file_name", "fold", "class"), rows)
    given = benchmark.sets.urbansound8k(tmp_path)
    assert given.classes.names == ["dog bark", "rain", "siren"] and len(given.rounds) == 10
    last = given.rounds[-1]
    assert (last.test, last.validation, len(last.train)) == ("10", ["1"], 8)
    assert [clip.positions for clip in given.parts["3"]] == [[0], [2], [1]]


def test_fsd50k(benchmark, tmp_path):
    table(tmp_path / "FSD50K.ground_truth" / "dev.csv", ("fname", "labels", "mids", "split"),
          [(1, "Dog,Animal", "", "train"), (2, "Rain", "", "val")])  # fmt: skip
    table(tmp_path / "FSD50K.ground_truth" / "eval.csv", ("fname", "labels", "mids"), [(3, "Crash_cymbal,Animal", "")])
    for kind, i in (("dev", 1), ("dev", 2), ("eval", 3)):
        sound(tmp_path / f"FSD50K.{kind}_audio" / f"{i}.wav", 300)
    given = benchmark.sets.fsd50k(tmp_path)
    assert given.classes.names == ["Animal", "Crash cymbal", "Dog", "Rain"]
    assert given.rounds == [benchmark.sets.Round(["train"], ["val"], "eval")]
    assert [sorted(clip.positions) for clip in given.parts["eval"]] == [[0, 1]]


@pytest.mark.parametrize("names", [("train_balanced", "eval"), ("data/bal_train", "data/eval")])
def test_audioset_in_its_own_folders_and_the_hubs(benchmark, tmp_path, names):
    for name in names:
        write_rows(tmp_path / name, tone_rows(3), f"{name[:3]}.parquet")
    found = benchmark.sets.audioset(tmp_path)
    assert found.sizes == {"train_balanced": 3, "eval": 3}
    assert [part.files[0].parent for part in found.parts.values()] == [tmp_path / name for name in names]


def test_audioset(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark.main, "near_transformers", lambda *given: PARITY)
    for name in ("train_balanced", "eval"):
        write_rows(tmp_path / "audioset" / name, tone_rows(8))
    done = start(benchmark, tmp_path, "--audioset", tmp_path / "audioset")
    assert done.code == 0, done.error
    found = json.loads((tmp_path / "out" / "real_clap.json").read_text())["sets"]["AudioSet"]
    assert found["clips"] == {"train_balanced": 8, "eval": 8} and found["classes"] == 527


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "meta" / "esc50.csv").rename(f / "other.csv"), "has another layout: it lacks meta/esc50.csv"),
        (lambda f: drop(f, ",5,"), "lacks the folds 5 of ESC-50"),
        (lambda f: [path.unlink() for path in (f / "audio").glob("2-*")], "is not ESC-50 as it is unpacked: 3 of"),
        (lambda f: table(f / "meta" / "esc50.csv", ("filename", "category"), [("x", "y")]), "lacks the column 'fold'"),
        (lambda f: (f / "meta" / "esc50.csv").write_bytes(b"\xff\xfe\x00"), "cannot be read as a UTF-8 CSV"),
    ],
)
def test_another_layout_is_one_sentence(benchmark, tmp_path, esc, damage, says):
    damage(esc)
    done = start(benchmark, tmp_path, "--esc50", esc)
    assert done.code == 2 and says in done.error and done.error.count("\n") == 1


def drop(folder, part):
    path = folder / "meta" / "esc50.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if part not in line))


def test_a_missing_file_is_counted(benchmark, esc):
    (esc / "audio" / "1-0.wav").unlink()
    given = benchmark.sets.esc50(esc)
    assert given.missing == 1 and given.sizes["1"] == 2


SAME_PROMPT, OTHER_PROMPT = "This is a sound of {label}", "This is a sound of {label}."


def test_published_figures_have_sources(benchmark):
    by_set = {name: benchmark.published.published(name) for name in ("ESC-50", "UrbanSound8K", "AudioCaps", "Clotho")}
    assert all(entry["source"] and entry["model"] for entries in by_set.values() for entry in entries)
    (laion, *_) = by_set["ESC-50"]
    assert laion["acc@1"] == pytest.approx(np.mean(laion["acc@1_by_fold"])) and laion["clips"] is None
    general = {name: [entry for entry in entries if entry["model"] == "laion/larger_clap_general"]
               for name, entries in by_set.items()}  # fmt: skip
    assert [len(entries) for entries in general.values()] == [1] * 4
    assert (general["ESC-50"][0]["acc@1"], general["ESC-50"][0]["clips"]) == (0.905, 2000)
    assert general["UrbanSound8K"][0]["f1_macro"] == 0.803802 and general["Clotho"][0]["text_to_audio R@1"] == 0.13876
    assert benchmark.published.published("FSD50K") == []


def test_distances_to_published_figures(benchmark):
    """Of the very model alone, for each prompt, with what was the same."""
    others, told = benchmark.published.published("UrbanSound8K"), benchmark.published.sentences
    rows = [{"prompt": prompt, "acc@1": value, "f1_macro": 0.8} for prompt, value in
            ((OTHER_PROMPT, 0.78), (SAME_PROMPT, 0.8))]  # fmt: skip
    found = benchmark.published.distances(rows, others, "laion/larger_clap_general", 8732)
    assert [entry["metric"] for entry in found] == ["acc@1", "f1_macro"] * 2
    assert [entry["prompt"] for entry in found] == [SAME_PROMPT] * 2 + ["the same"] * 2
    assert found[2]["difference"] == pytest.approx(0.8 - 0.796387) and found[2]["clips"] == "the same"
    first, _, third, _ = told(found, others, "laion/larger_clap_general")
    assert third.startswith("- acc@1 80.0, +0.4 from the published 79.6 of `laion/larger_clap_general` (revision ada0c")
    assert f"the same prompt `{SAME_PROMPT}`; as many clips, 8732; MAEB" in third
    assert f"**another prompt**, `{OTHER_PROMPT}`" in first and "-1.6 from" in first
    (fewer,) = told(benchmark.published.distances(rows[:1], others, "laion/clap-htsat-unfused", 8000), others, "")
    assert "the same prompt" in fewer and "8000 clips, theirs are not told" in fewer
    some = benchmark.published.distances(rows[1:], others, "laion/larger_clap_general", 8731)
    assert "**other clips**, 8731 of 8732" in told(some, others, "")[0]
    assert benchmark.published.distances(rows, others, "CLAP/tiny", 8732) == []
    (none,) = told([], others, "CLAP/tiny")
    assert none.startswith("No distance to the published figures: they are of `laion/clap-htsat-unfused`")
    assert none.endswith("and what was measured is `CLAP/tiny`.") and told([], [], "CLAP/tiny") == []


def test_the_model_is_what_it_is_said_to_be(benchmark):
    """A local folder is no model of the hub, whatever its path; --same-as is held against the architecture."""
    general, right = "laion/larger_clap_general", benchmark.published.LARGER_CLAP_GENERAL

    def model(name, same_as=None, config=right):
        return benchmark.published.model_of(SimpleNamespace(name=str(name), config=config), same_as)

    assert model(general) == general and model(TINY) == str(TINY) and model(TINY, general) == general
    assert model(TINY, "laion/clap-htsat-unfused", {}) == "laion/clap-htsat-unfused"
    small = {"audio_config": right["audio_config"] | {"hidden_size": 32}}
    for given in ((TINY, general, small), (general, None, small), (TINY, general, {})):
        with pytest.raises(UserError, match=f"is not {general}: its"):
            model(*given)


@pytest.fixture
def captioned(tmp_path):
    rows = [row | {"captions": [f"a tone {i}", f"a sound at {i}"]} for i, row in enumerate(tone_rows(6))]
    write_rows(tmp_path / "clotho", rows)
    return tmp_path / "clotho"


def test_retrieval_is_the_products_own(benchmark, tmp_path, captioned):
    """The same figures as test_retrieval.py's, in JSON and Markdown; no distance for the tiny model."""
    done = start(benchmark, tmp_path, "--clotho", captioned)
    assert done.code == 0, done.error
    report = json.loads((tmp_path / "out" / "real_clap.json").read_text())
    assert report["sets"] == {} and report["parity"]["clips"] == 6 and report["parity"]["texts"] == 12
    found = report["retrieval"]["Clotho"]
    assert (found["clips"], found["captions"], found["distances"]) == (6, 12, [])
    script("test_retrieval.py", "--parquet-dir", captioned, "--checkpoint", TINY, "--device", "cpu", "--cache-dir",
           tmp_path / "cache", "--output-json", tmp_path / "r.json")  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["metrics"] == found["metrics"]
    text = (tmp_path / "out" / "real_clap.md").read_text()
    assert "**Clotho**, retrieval, 6 clips with 12 captions" in text and "| text -> audio | " in text
    assert "| text -> audio, published: laion/larger_clap_general (MAEB" in text and "| 13.9 | 33.7 | 45.0 |" in text
    assert "No distance to the published figures: they are of `laion/larger_clap_general`" in text


def test_retrieval_of_the_very_model_has_distances(benchmark, tmp_path, captioned, monkeypatch):
    monkeypatch.setattr(benchmark.published, "SIZES", {})
    monkeypatch.setattr(benchmark.main, "near_transformers", lambda *given: PARITY)
    done = start(benchmark, tmp_path, "--clotho", captioned, "--same-as", "laion/larger_clap_general")
    assert done.code == 0, done.error
    found = json.loads((tmp_path / "out" / "real_clap.json").read_text())["retrieval"]["Clotho"]
    assert [entry["metric"] for entry in found["distances"]] == [f"text_to_audio R@{k}" for k in (1, 5, 10)]
    ours = found["metrics"]["text_to_audio"]["R@5"]
    assert found["distances"][1]["difference"] == pytest.approx(ours - 0.33715)
    assert "captions as they are; 6 clips, theirs are not told; MAEB" in (tmp_path / "out" / "real_clap.md").read_text()


def test_another_model_under_the_name_is_refused(benchmark, tmp_path, captioned):
    done = start(benchmark, tmp_path, "--clotho", captioned, "--same-as", "laion/larger_clap_general")
    assert done.code == 2 and "is not laion/larger_clap_general: its depths is" in done.error
    done = start(benchmark, tmp_path, "--clotho", captioned, "--limit", 3)
    assert done.code == 2 and "--limit does not apply to --clotho" in done.error
    write_rows(tmp_path / "plain", tone_rows(2))
    done = start(benchmark, tmp_path, "--audiocaps", tmp_path / "plain")
    assert done.code == 2 and "caption" in done.error and done.error.count("\n") == 1


def test_without_a_data_set_and_with_no_folder(benchmark, tmp_path):
    assert "no data set was given; name one or more of --esc50" in start(benchmark, tmp_path).error
    assert "nowhere is not a folder" in start(benchmark, tmp_path, "--esc50", tmp_path / "nowhere").error


def test_what_is_tested_neither_trains_nor_validates(benchmark, esc):
    given = benchmark.sets.esc50(esc)
    assert [turn.test for turn in given.rounds] == list(given.parts)
    for turn in given.rounds:
        assert len({turn.test, *turn.validation, *turn.train}) == 5
    with pytest.raises(UserError):
        benchmark.sets.esc50(esc / "audio")
