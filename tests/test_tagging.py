"""Tagging: calibration against scikit-learn, its error by hand, tags of files, timelines of recordings, bad files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import flac, script, tone, tone_rows, write_rows
from sklearn.linear_model import LogisticRegression

import tag_sounds
from hyperbolic_clap.embedding.files import find_sounds
from hyperbolic_clap.inference.tagging import Tagger
from hyperbolic_clap.inference.timeline import Heard, TimelineConfig, labels, tell_gate
from hyperbolic_clap.inference.windows import Windows
from hyperbolic_clap.metrics.calibration import expected_calibration_error, fit, reliability
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.training.calibration import thresholds


def test_the_fit_equals_logistic_regression():
    generator = np.random.default_rng(0)
    logits = generator.normal(-2, 3, 4000)
    targets = generator.random(4000) < 1 / (1 + np.exp(-(0.6 * logits + 0.5)))
    slope, shift = fit(logits, targets)
    model = LogisticRegression(C=1e9).fit(logits[:, None], targets)
    assert slope == pytest.approx(model.coef_[0, 0], abs=2e-3) and shift == pytest.approx(model.intercept_[0], abs=5e-3)
    apart = fit(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert np.isfinite(apart).all() and apart[0] > 0


def test_the_error_by_hand():
    bins = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1]))
    assert [b["pairs"] for b in bins] == [2, 2]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_windows_cover_a_recording(tmp_path, rate, channels):
    samples = np.tile(tone(300, 5.5, rate)[:, None], (1, channels))
    soundfile.write(tmp_path / "a.wav", samples, rate)
    found = list(Windows(tmp_path / "a.wav", 2.0, 1.0))
    assert [(start, end) for start, end, _ in found] == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 5.5)]
    assert [len(waveform) for _, _, waveform in found] == [96_000] * 4 + [72_000]
    for seconds, hop in ((2.0, 1.0), (10.0, 1.0), (5.5, 5.5), (0.5, 0.3), (1.1, 1.1)):
        assert len(each := Windows(tmp_path / "a.wav", seconds, hop)) == len([*each]), (seconds, hop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("tagging")
    write_rows(home / "data", tone_rows(24))
    common = ("--cache-dir", home / "cache")
    script("train_hyperbolic_clap.py", "--parquet-dir", home / "data", *common, "--output-dir", home / "out",
           "--epochs", "2")
    (best,) = (home / "out").glob("best_*.pth")
    (home / "sounds" / "deep").mkdir(parents=True)
    (home / "sounds" / "deep" / "a.flac").write_bytes(flac(tone(300)))
    (home / "sounds" / "broken.wav").write_text("no sound")
    return home, (*common, "--use-hyperbolic", "--projection-checkpoint", best)


def test_tags_of_a_folder(trained):
    home, flags = trained
    done = script("tag_sounds.py", home / "sounds", *flags, "--top-k", "3", "--output-json", home / "tags.json")
    content = json.loads((home / "tags.json").read_text())
    (entry,) = content["files"]
    assert entry["file"].endswith("a.flac") and len(entry["tags"]) == 3
    values = [tag["probability"] for tag in entry["tags"]]
    assert content["reasons"] == {} and all(tag["similarity"] < 0 for tag in entry["tags"])
    assert values == sorted(values, reverse=True) and all(0 < value < 1 for value in values)
    assert content["model_info"]["calibration"].keys() == {"slope", "shift", "clips"}
    assert "skipped 1 rows: undecodable audio" in done.stdout
    script("tag_sounds.py", home / "sounds", *flags, "--branches", "--output-json", home / "tags.json")


def test_a_timeline(trained):
    home, flags = trained
    soundfile.write(home / "long.wav", tone(300, 5.0), 16_000)
    flags = (*flags, "--timeline", "--threshold", "0.0001", "--output-dir", home / "labels", "--output-json",
             home / "t.json")
    done = script("tag_sounds.py", home / "long.wav", *flags, "--background", "a quiet room")
    assert "long.wav: no gate: the loudest window is 0.0 dB above the floor" in done.stdout
    heard = json.loads((home / "t.json").read_text())["files"][0]["timeline"]
    rows = list(csv.DictReader((home / "labels" / "long.csv").open()))
    lines = (home / "labels" / "long.txt").read_text().splitlines()
    assert len(heard) == len(rows) == len(lines) > 0 and all(len(line.split("\t")) == 3 for line in lines)
    # A steady tone: what is heard is heard from the start to the end, joined into one label.
    steady = [x for x in heard if x["start"] == 0 and x["end"] == 5]
    assert steady and len({x["classname"] for x in steady}) == len(steady)


def windowed(levels, probabilities, competing=True):
    """A recording of windows of 2 s, a second apart."""
    starts = np.arange(len(levels), dtype=float)
    start, end = starts + 0.5, starts + 1.5
    start[0], end[-1] = 0, len(levels) + 1
    probabilities = np.array(probabilities, float)[:, None]
    return Heard(start, end, np.array(levels, float), probabilities, np.full(probabilities.shape, competing))


def spans(*args, names=("a",), thresholds=(0.5,), **config):
    found, told = labels(windowed(*args), list(names), np.array(thresholds), TimelineConfig(**config))
    return [(label["start"], label["end"]) for label in found], told


def test_the_gate_closes_what_is_no_louder_than_the_floor():
    levels, loud = [-60] * 4 + [-58, -30] + [-60] * 4, [0.9] * 10
    found, told = spans(levels, loud)
    assert found == [(5.5, 6.5)] and told["closed"] == 9 and told["floor_db"] == -60 and told["reason"] is None
    assert spans(levels, loud, gate=False)[0] == [(0, 11)]
    even, told = spans([-20, -21] * 5, loud)
    assert even == [(0, 11)] and "nothing stands out" in told["reason"]
    silent, told = spans([-120] * 10, loud)
    assert silent == [] and told["reason"] == "the recording is silent" and "silent" in tell_gate(told)


def test_labels_by_hand():
    levels = [-30] * 9
    heard = [0, 0.9, 0, 0.6, 0, 0, 0.7, np.nan, 0.4]
    assert spans(levels, heard)[0] == [(1.5, 4.5), (6.5, 7.5)]  # one window between two is a gap of a hop
    assert spans(levels, heard, min_duration=1.5)[0] == [(1.5, 4.5)]
    assert spans(levels, heard, thresholds=(0.65,))[0] == [(1.5, 2.5), (6.5, 7.5)]
    assert spans(levels, heard, False)[0] == []  # a background text is more similar


def test_thresholds_by_hand():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    right = np.array([1, 1, 1, 0, 1, 1, 0, 0], bool)
    # Precision 3/3, 3/4, 4/5, 5/6 down to 0.4: from there on 0.8 is not reached again.
    few, never = right & (values > 0.6), ~right & (values < 0.75)
    assert thresholds(np.stack([values] * 3, 1), np.stack([right, few, never], 1)) == [0.4, None, None]
    four = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)  # 4 of 5 are as many as it takes
    assert thresholds(values[:, None], four[:, None]) == [0.5]
    assert thresholds(np.full((8, 1), 0.5), right[:, None]) == [None]  # all or none: 5 of 8


def test_thresholds_of_the_validation_clips_are_used(trained, tmp_path):
    home, flags = trained
    content = torch.load(flags[-1], weights_only=True)
    assert content["thresholds"]["precision"] == 0.8
    content["thresholds"] |= {"by_class": {"Speech": 1e-6}, "others": 0.75}
    torch.save(content, tmp_path / "own.pth")
    soundfile.write(tmp_path / "a.wav", tone(300, 3.0), 16_000)
    shared = (tmp_path / "a.wav", *flags[:-1], tmp_path / "own.pth", "--timeline", "--output-dir", tmp_path / "labels",
              "--output-json", tmp_path / "t.json")  # fmt: skip
    done = script("tag_sounds.py", *shared)
    assert "0.8 on validation clips for 1 of 527 classes; 0.75 for the other 526" in done.stdout
    told = json.loads((tmp_path / "t.json").read_text())
    assert "Speech" in {label["classname"] for label in told["files"][0]["timeline"]}
    assert {name: told["model_info"]["thresholds"][name] for name in ("Speech", "Music")} == {
        "Speech": 1e-6, "Music": 0.75}  # fmt: skip
    assert told["files"][0]["gate"]["windows"] == 2
    script("tag_sounds.py", *shared, "--threshold", "0.9")
    assert json.loads((tmp_path / "t.json").read_text())["model_info"]["thresholds"]["Speech"] == 0.9
    for wrong in ({"by_class": {"Speech": 2.0}}, {"by_class": {}, "others": 2.0}):
        torch.save(content | {"thresholds": wrong}, tmp_path / "own.pth")
        assert "no numbers from 0 to 1 by class" in script("tag_sounds.py", *shared, check=False).stderr


@pytest.mark.parametrize(("kind", "seconds"), [("silence", 4), ("noise", 3600), ("second", 1)])
def test_silence_a_second_and_an_hour_of_noise(trained, tmp_path, monkeypatch, kind, seconds):
    home, flags = trained
    generator = np.random.default_rng(0)
    samples = np.zeros(16_000 * 4) if kind == "silence" else generator.normal(0, 1e-3, 16_000)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    if kind == "noise":  # an hour of it, of which one window stands for all
        part = np.float32(generator.normal(0, 1e-3, 960))
        every = [(t, t + 2, part * generator.uniform(0.9, 1.1)) for t in range(seconds - 1)]
        monkeypatch.setattr(Windows, "__len__", lambda _: len(every))
        monkeypatch.setattr(Windows, "__iter__", lambda _: iter(every))
        vector = torch.nn.functional.normalize(torch.ones(1, 512))[0]
        monkeypatch.setattr("hyperbolic_clap.inference.tagging.embed_window", lambda *_: vector)
    done = script("tag_sounds.py", tmp_path / "a.wav", *flags, "--timeline", "--threshold", "0.0001",
                  "--output-dir", tmp_path, "--output-json", tmp_path / "t.json")  # fmt: skip
    (entry,) = json.loads((tmp_path / "t.json").read_text())["files"]
    assert entry["gate"]["reason"] and entry["gate"]["reason"] in done.stdout
    if kind == "silence":
        assert entry["timeline"] == [] and entry["gate"]["closed"] == entry["gate"]["windows"]
    else:
        assert {(label["start"], label["end"]) for label in entry["timeline"]} == {(0, seconds)}


def test_results_report_the_calibration(trained):
    home, flags = trained
    script("test_clap_modelscope.py", "--parquet-dir", home / "data", *flags, "--output-json", home / "r.json")
    found = json.loads((home / "r.json").read_text())["calibration"]
    assert 0 <= found["calibrated_error"] <= 1 and 0 <= found["uncalibrated_error_top1"] <= 1
    assert sum(b["pairs"] for b in found["reliability"]["top1"]) == 24
    script("test_clap_modelscope.py", "--parquet-dir", home / "data", *flags[:2], "--output-json", home / "r.json")
    assert "calibration" not in json.loads((home / "r.json").read_text())


def test_an_older_checkpoint_says_that_it_is_uncalibrated(trained, tmp_path):
    home, flags = trained
    content = torch.load(flags[-1], weights_only=True)
    del content["calibration"]
    torch.save(content, tmp_path / "old.pth")
    done = script("tag_sounds.py", home / "sounds" / "deep", *flags[:-1], tmp_path / "old.pth")
    assert "has no calibration" in done.stdout


@pytest.mark.parametrize(
    ("sounds", "more", "says"),
    [
        ("none.wav", (), "is neither a file nor a folder"),
        ("empty", (), "holds no sound file"),
        ("sounds/broken.wav", (), "none of the 1 files can be used"),
        ("sounds/broken.wav", ("--timeline",), "none of the 1 files can be used"),
        ("sounds", ("--timeline", "--hop", "3"), "--hop 3 at most that"),
        ("sounds", ("--timeline", "--background", "speech"), "--background 'speech' is the class 'Speech'"),
        ("sounds", ("--background", "a quiet room"), "competes in a timeline; add --timeline"),
    ],
)
def test_bad_input(trained, sounds, more, says):
    home, flags = trained
    (home / "empty").mkdir(exist_ok=True)
    done = script("tag_sounds.py", home / sounds, *flags, *more, check=False)
    assert done.returncode == 2 and says in done.stderr


def test_plain_clap_tags_as_it_tests(tmp_path):
    names = ("dog barking", "glass breaking", "rain")
    rows = tone_rows(6, names)
    write_rows(tmp_path / "data", rows)
    (tmp_path / "sounds").mkdir()
    for row in rows:
        (tmp_path / "sounds" / f"{row['video_id']}.flac").write_bytes(row["audio"]["bytes"])
    shared = ("--cache-dir", tmp_path / "cache", "--classes", *names, "--output-json", tmp_path / "out.json")
    done = script("tag_sounds.py", tmp_path / "sounds", *shared)
    tagged = json.loads((tmp_path / "out.json").read_text())
    assert tagged["reasons"]["probability"] in done.stdout and "rain -0." in done.stdout
    script("test_clap_modelscope.py", "--parquet-dir", tmp_path / "data", *shared)
    tested = json.loads((tmp_path / "out.json").read_text())
    assert tested["test_info"]["class_names"] == list(names)
    for entry, row in zip(tagged["files"], tested["predictions"], strict=True):
        assert [(tag["classname"], tag["similarity"], tag["probability"]) for tag in entry["tags"]] == [
            (best["classname"], best["similarity"], None) for best in row["top_k_predictions"]
        ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--timeline",), "--timeline needs the probabilities of a trained projector"),
        (("--classes", "Dog"), "'Dog' is one name; give two or more"),
        (("--classes", "Dog", "dog "), "holds the name 'Dog' twice"),
        (("--classes", "Dog", " "), "is empty"),
        (("--classes", "Dog", "Cat", "--class-labels", "x.json"), "are two class lists; give one of them"),
    ],
)
def test_what_plain_clap_and_names_on_the_line_refuse(trained, flags, says):
    done = script("tag_sounds.py", trained[0] / "sounds", *flags, check=False)
    assert done.returncode == 2 and says in done.stderr


@pytest.fixture
def timeline(trained, tmp_path):
    """Run a timeline with hardly a threshold, in a folder of its own: -> (what was run, the rows of the CSV)."""
    flags = (*trained[1], "--timeline", "--threshold", "0.0001", "--output-dir", tmp_path / "labels", "--output-json",
             tmp_path / "t.json")  # fmt: skip

    def run(*files, check=True):
        done = script("tag_sounds.py", *files, *flags, check=check)
        path = tmp_path / "labels" / f"{files[0].stem}.csv"
        return done, list(csv.DictReader(path.open())) if path.exists() else None

    return run


def test_timelines_never_take_the_place_of_other_files(timeline, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "rec.wav", tone(300, 2.0), 16_000)
    files = tmp_path / "a" / "rec.wav", tmp_path / "b" / "rec.wav"
    timeline(*files)
    found = {path.relative_to(tmp_path / "labels").as_posix() for path in (tmp_path / "labels").rglob("*.csv")}
    assert found == {"a/rec.csv", "b/rec.csv"}
    (tmp_path / "labels" / "rec.txt").write_text("a transcript")
    done, rows = timeline(files[0], check=False)
    assert done.returncode == 2 and "is there already and no timeline" in done.stderr
    assert (tmp_path / "labels" / "rec.txt").read_text() == "a transcript"
    (tmp_path / "labels" / "rec.txt").unlink()
    assert timeline(files[0])[1] == timeline(files[0])[1] != []


def test_a_recording_that_is_damaged_further_on_ends_there(timeline, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 30)
    soundfile.write(tmp_path / "long.flac", noise, 16_000)
    data = bytearray((tmp_path / "long.flac").read_bytes())
    data[int(len(data) * 0.6) :] = b"\xa5" * (len(data) - int(len(data) * 0.6))
    (tmp_path / "long.flac").write_bytes(data)
    done, rows = timeline(tmp_path / "long.flac")
    ends = [float(row["end"]) for row in rows]
    assert rows and all(float(row["start"]) < end for row, end in zip(rows, ends, strict=True))
    assert 10 < max(ends) < 25 and "long.flac is damaged" in done.stdout
    notes = json.loads((tmp_path / "t.json").read_text())["test_info"]["notes"]
    assert notes["damaged, read without the damaged parts"] == {"count": 1, "first": [str(tmp_path / "long.flac")]}


def test_windows_that_are_no_use_cost_only_themselves(timeline, tmp_path):
    samples = np.float32(tone(300, 8.0))
    samples[16_000 * 5] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    done, rows = timeline(tmp_path / "nan.wav")
    assert "2 of 7 windows are left out: audio with NaN or infinity" in done.stdout
    assert rows and not any(float(row["start"]) < 5.2 < float(row["end"]) for row in rows)
    (said,) = json.loads((tmp_path / "t.json").read_text())["test_info"]["notes"].items()
    assert said == ("heard without some windows: audio with NaN or infinity",
                    {"count": 1, "first": [str(tmp_path / "nan.wav")]})  # fmt: skip
    samples[:] = np.nan
    soundfile.write(tmp_path / "all.wav", samples, 16_000, subtype="FLOAT")
    done, rows = timeline(tmp_path / "all.wav", check=False)
    assert done.returncode == 2 and "all.wav is skipped: audio with NaN or infinity" in done.stdout and rows is None


def test_a_file_that_cannot_be_read_costs_only_itself(trained, timeline, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300, 2.0), 16_000)
    (tmp_path / "gone.wav").symlink_to("/proc/self/mem")
    (tmp_path / "x.raw").write_bytes(b"raw")
    files = tmp_path / "gone.wav", tmp_path / "x.raw", tmp_path / "a.wav"
    script("tag_sounds.py", *files, *trained[1], "--output-json", tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    assert [Path(entry["file"]).name for entry in content["files"]] == ["a.wav"]
    assert sum(entry["count"] for entry in content["test_info"]["skipped"].values()) == 2
    done, _ = timeline(*files)
    assert done.stdout.count("is skipped") == 2 and (tmp_path / "labels" / "a.csv").exists()


def test_a_branch_has_the_prototypes_of_its_members():
    found = []
    for content in ({}, {"prototype_weight": 0.5, "prototype_classes": ["Bark"], "prototype_means": torch.eye(4)[:1]}):
        tagger = object.__new__(Tagger)  # without an encoder
        tagger.projector, tagger.names, tagger.text = Projector(None, torch.device("cpu")), ["Dog"], torch.eye(4)[:1]
        tagger.projector.content, tagger.projector.probability = content, lambda scores: scores
        tagger.subtrees = {0: (torch.eye(4)[:2], ["Dog", "Bark"])}
        found.append(tagger.probabilities(torch.eye(4)[:1])[0, 0])
    # Dog: 1; Bark: 0, and 0.5 more by its prototype.
    assert found[1] > found[0]


def test_folders_of_links_are_entered_and_each_file_is_heard_once(tmp_path):
    (tmp_path / "music" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("music/a.wav", "music/deep/b.MOV", "elsewhere/c.3gp", "elsewhere/no.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "music" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "again").symlink_to(tmp_path / "music" / "deep")
    (tmp_path / "music" / "deep" / "loop").symlink_to(tmp_path / "music")
    (tmp_path / "music" / "0.wav").symlink_to(tmp_path / "music" / "a.wav")
    found = find_sounds([tmp_path / "music", tmp_path / "music" / "a.wav"])
    assert [where.as_posix() for where in found.values()] == ["a.wav", "deep/b.MOV", "link/c.3gp"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["x"], ["a/rec", "b/rec", "other"]),
        (["x/a", "x/b"], ["a/rec", "b/rec"]),
        (["x/a/rec.wav", "x/other.wav"], ["rec", "other"]),
        (["x/other.wav", "y"], ["other.wav", "other.mp3"]),
    ],
)
def test_names_of_timelines(tmp_path, monkeypatch, given, names):
    monkeypatch.chdir(tmp_path)
    for name in ("x/a/rec.wav", "x/b/rec.wav", "x/other.wav", "y/other.mp3"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    found = tag_sounds.targets(find_sounds(map(Path, given)))
    assert [name.removeprefix("x/").removeprefix("y/") for name in found.values()] == [
        name.removesuffix(".wav").removesuffix(".mp3") for name in names
    ]
    Path("x/other.mp3").write_bytes(b"x")
    assert sorted(tag_sounds.targets(find_sounds([Path("x")])).values())[2:] == ["other.mp3", "other.wav"]
