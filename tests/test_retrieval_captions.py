"""Captions: reading, training on them, and retrieval metrics against a second implementation by sorting."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from conftest import ROOT, script, tone, tone_rows, write_rows

from hyperbolic import HyperbolicProjector, cosine_similarity
from hyperbolic_clap.metrics.retrieval import retrieve, summary
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.reading.captions import parse_captions, read_captions
from hyperbolic_clap.training.caption_trainer import CaptionTrainer

NAMES = ("R@1", "R@5", "R@10", "mAP@10", "median_rank")


def plain_figures(similarity, right):
    """(Q, M) similarities, a set of right items for each query -> the five figures, by sorting each row."""
    ranks, precisions = [], []
    for row, items in zip(similarity, right, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        places = sorted(order.index(item) + 1 for item in items)
        ranks.append(places[0])
        hits = [(i + 1) / place for i, place in enumerate(places) if place <= 10]
        precisions.append(sum(hits) / min(len(items), 10))
    recall = [np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)]
    return dict(zip(NAMES, [*recall, np.mean(precisions), np.median(ranks)], strict=True))


def material(seed: int, ties: bool = False):
    """40 clips with 1 to 5 of 90 texts each, several of them shared."""
    generator = np.random.default_rng(seed)
    audio, text = generator.normal(size=(40, 8)), generator.normal(size=(90, 8))
    if ties:
        audio, text = np.sign(audio[:, :2]), np.sign(text[:, :2])
    said = [sorted(generator.choice(90, generator.integers(1, 6), replace=False)) for _ in range(40)]
    used = sorted({t for texts in said for t in texts})
    pairs = np.array([(clip, used.index(t)) for clip, texts in enumerate(said) for t in texts])
    return torch.tensor(audio, dtype=torch.float32), torch.tensor(text[used], dtype=torch.float32), pairs


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "hyperbolic"])
def test_figures_equal_a_second_implementation_whatever_the_blocks(kind, ties):
    audio, text, pairs = material(0, ties)
    compare = HyperbolicProjector(8, 8, similarity=kind).compare if kind == "hyperbolic" else cosine_similarity
    similarity = compare(audio, text).numpy()
    if ties:
        similarity = similarity.round(3)
        rounded = compare
        compare = lambda a, t: (rounded(a, t) * 1000).round() / 1000  # noqa: E731
        similarity = compare(audio, text).numpy()
    clips_of = {t: {c for c, other in pairs if other == t} for t in pairs[:, 1]}
    by_caption = plain_figures(similarity.T[pairs[:, 1]], [clips_of[t] for _, t in pairs])
    by_clip = plain_figures(similarity, [{t for c, t in pairs if c == clip} for clip in range(40)])
    for floats in (1, 500, 1 << 24):
        found = retrieve(compare, audio, text, pairs, floats)
        assert summary(*found["text_to_audio"]) == pytest.approx(by_caption)
        assert summary(*found["audio_to_text"]) == pytest.approx(by_clip)


def test_the_five_caption_rule_by_hand():
    """One clip of five captions at ranks 1, 2, 6, 11 and 12: R@1 counts, AP@10 is (1/1 + 2/2 + 3/6) / 5."""
    pairs = np.array([(0, t) for t in (0, 1, 5, 10, 11)])
    found = retrieve(lambda a, t: torch.arange(12.0, 0, -1)[None], torch.ones(1, 1), torch.ones(12, 1), pairs)
    assert summary(*found["audio_to_text"]) == {
        "R@1": 1, "R@5": 1, "R@10": 1, "mAP@10": pytest.approx(2.5 / 5), "median_rank": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("A dog,  barking. ", ["A dog, barking."]),
        (["a", "", None, "b", "a", ["c"]], ["a", "b", "c"]),
        (b"bytes", ["bytes"]),
        (None, []),
        (3.5, []),
    ],
)
def test_cells(value, captions):
    assert parse_captions(value) == captions


@pytest.mark.parametrize("similarity", ["hyperbolic", "cosine"])
def test_training_learns_pairs_and_shared_captions_are_no_negatives(similarity):
    generator = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(64, 16, generator=generator), dim=1)
    mix = torch.randn(16, 16, generator=generator) / 4
    text = torch.nn.functional.normalize(audio[:48] @ mix, dim=1)  # what the projector must undo
    pairs = torch.tensor([(clip, clip % 48) for clip in range(64)])
    settings = TrainConfig(epochs=12, batch_size=64, learning_rate=0.02, loss="contrastive", similarity=similarity,
                         output_dim=16)  # fmt: skip
    train = torch.arange(64)
    trainer = CaptionTrainer(settings, audio, pairs, text, train, train)
    texts, targets = trainer._batch(torch.tensor([3, 51, 7]))
    assert texts.tolist() == [3, 7] and targets.tolist() == [[True, False], [True, False], [False, True]]
    records = list(trainer.epochs())
    assert records[-1]["val_loss"] < records[0]["val_loss"]
    assert records[-1]["val_r1_text_to_audio"] > records[0]["val_r1_text_to_audio"]
    assert records[-1]["similarity_positives"] > records[-1]["similarity_negatives"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Twelve tones: captions in a list, in a text, shared, missing; no column of labels."""
    home = tmp_path_factory.mktemp("captioned")
    rows = [{key: row[key] for key in ("video_id", "audio")} for row in tone_rows(12)]
    for i, row in enumerate(rows):
        row["captions"] = [f"a tone number {i}", "a pure tone"] if i % 2 else [f"whistle {i}"]
    rows[4]["captions"] = []
    write_rows(home / "data", rows)
    return home


def test_from_training_to_a_comparison(captioned):
    flags = ("--parquet-dir", captioned / "data", "--cache-dir", captioned / "cache")
    done = script("train_hyperbolic_clap.py", *flags, "--text", "captions", "--epochs", "2",
                  "--output-dir", captioned / "out")
    assert "skipped 1 rows: no caption (tone4)" in done.stdout
    setup = json.loads((captioned / "out" / "setup.json").read_text())
    assert setup["arguments"]["loss"] == "contrastive" and setup["clips"]["skipped"]["no caption"]["count"] == 1
    best = max(setup["epochs"], key=lambda e: (e["val_r1_text_to_audio"] + e["val_r1_audio_to_text"], -e["val_loss"]))
    assert setup["best_epoch"] == best["epoch"]
    script("train_hyperbolic_clap.py", *flags, "--text", "captions", "--epochs", "3", "--resume",
           "--output-dir", captioned / "out")
    (checkpoint,) = (captioned / "out").glob("best_*.pth")
    assert torch.load(checkpoint, weights_only=True)["text"] == "captions"
    paths = [captioned / f"{name}.json" for name in "ab"]
    script("test_retrieval.py", *flags, "--output-json", paths[0])
    script("test_retrieval.py", *flags, "--use-hyperbolic", "--projection-checkpoint", checkpoint,
           "--output-json", paths[1])
    content = json.loads(paths[0].read_text())
    assert set(content["metrics"]) == {"text_to_audio", "audio_to_text"}
    assert all(tuple(content["metrics"][way]) == NAMES for way in content["metrics"])
    clips = content["test_info"]["clips"]
    assert (clips["used"], clips["captions"], clips["distinct_captions"]) == (11, 17, 12)
    assert clips["skipped"] == {"no caption": {"count": 1, "first": ["tone4"]}}
    said = {clip["video_id"]: set(clip["captions"]) for clip in content["predictions"]}
    assert said == {f"tone{i}": {f"a tone number {i}", "a pure tone"} if i % 2 else {f"whistle {i}"}
                    for i in range(12) if i != 4}  # fmt: skip
    report = captioned / "report.json"
    done = script_compare(*paths, "--resamples", "300", "--output-json", report)
    rows = {row["metric"]: row for row in json.loads(report.read_text())["tables"][0]["rows"]}
    for way in content["metrics"]:
        for name, value in content["metrics"][way].items():
            row = rows[f"{way} {name}"]
            assert row["values"][0]["value"] == pytest.approx(value)
            assert row["differences"][0]["low"] <= row["differences"][0]["difference"] <= row["differences"][0]["high"]
    assert "all of both" in done


def script_compare(*flags) -> str:
    command = [sys.executable, ROOT / "compare_results.py", *flags]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("captions", "says"),
    [
        (None, "has no column 'caption' or 'captions'; its columns are video_id, audio"),
        ([], "are all empty"),
        (["the same"], "have one and the same caption; two are needed"),
    ],
)
def test_bad_folders(tmp_path, captions, says):
    rows = [{key: row[key] for key in ("video_id", "audio")} for row in tone_rows(3)]
    write_rows(tmp_path / "data", rows if captions is None else [row | {"captions": captions} for row in rows])
    for name, *flags in (("test_retrieval.py",), ("train_hyperbolic_clap.py", "--text", "captions")):
        done = script(name, *flags, "--parquet-dir", tmp_path / "data", "--no-cache", check=False, cwd=tmp_path)
        assert done.returncode == 2 and says in done.stderr and done.stderr.strip().count("\n") <= 1, done.stderr


def test_one_clip_and_softmax(tmp_path, captioned):
    write_rows(tmp_path / "data", [tone_rows(1)[0] | {"captions": ["one", "two"]}])
    done = script("test_retrieval.py", "--parquet-dir", tmp_path / "data", "--no-cache", check=False, cwd=tmp_path)
    assert done.returncode == 2 and "has 1 usable clip with captions; two are needed" in done.stderr
    done = script("train_hyperbolic_clap.py", "--parquet-dir", captioned / "data", "--text", "captions", "--loss",
                  "softmax", check=False)
    assert done.returncode == 2 and "--loss softmax needs a class list" in done.stderr


@pytest.mark.parametrize(
    ("header", "rows", "flags", "expected"),
    [
        (
            ["file_name", "caption_1", "caption_2"],
            [["a.wav", "a bell, ringing", "bell"], ["b.wav", "rain", ""]],
            "--filename-column file_name --caption-columns caption_1,caption_2",
            {"a": ["a bell, ringing", "bell"], "b": ["rain"]},
        ),
        (
            ["audiocap_id", "youtube_id", "start_time", "caption"],
            [["1", "a", "0", "one"], ["2", "a", "0", "two"], ["3", "b", "0", "three"]],
            "--filename-column youtube_id --caption-columns caption",
            {"a": ["one", "two"], "b": ["three"]},
        ),
    ],
    ids=["Clotho", "AudioCaps"],
)
def test_the_recipe_takes_captions(tmp_path, header, rows, flags, expected):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(300), 16_000)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    command = [sys.executable, ROOT / "demo" / "wav_folder_to_parquet.py", "--audio-dir", tmp_path, "--csv",
               tmp_path / "t.csv", "--output-dir", tmp_path / "out", *flags.split()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out" / "sounds.parquet")
    assert dict(zip(table["video_id"].to_pylist(), table["captions"].to_pylist(), strict=True)) == expected


def test_num_samples_counts_clips_with_captions(tmp_path):
    rows = [{key: row[key] for key in ("video_id", "audio")} for row in tone_rows(12)]
    for i, row in enumerate(rows):
        row["captions"] = [] if i < 6 else [f"whistle {i}"]
    write_rows(tmp_path / "data", rows)
    flags = ("--parquet-dir", tmp_path / "data", "--cache-dir", tmp_path / "c", "--output-json", tmp_path / "r.json")
    for _ in range(2):  # once read, once known
        script("test_retrieval.py", *flags, "--num-samples", "4")
        clips = json.loads((tmp_path / "r.json").read_text())["test_info"]["clips"]
        assert clips["used"] == 4 and clips["skipped"]["no caption"]["count"] == 6


def test_a_file_without_captions_can_be_skipped(tmp_path):
    rows = [{key: row[key] for key in ("video_id", "audio")} for row in tone_rows(6)]
    write_rows(tmp_path / "data", [row | {"caption": f"whistle {i}"} for i, row in enumerate(rows[:3])], "00.parquet")
    write_rows(tmp_path / "data", rows[3:], "01.parquet")
    flags = ("--parquet-dir", tmp_path / "data", "--no-cache", "--output-json", tmp_path / "r.json")
    assert script("test_retrieval.py", *flags, check=False).returncode == 2
    done = script("test_retrieval.py", *flags, "--skip-bad-files")
    assert "01.parquet has no column 'caption' or 'captions'" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["test_info"]["clips"]["used"] == 3


def one_a_row(rows):
    """Grouped rows as AudioCaps has them: each caption with the audio again."""
    return [
        {key: value for key, value in row.items() if key != "captions"} | {"caption": text}
        for row in rows
        for text in row["captions"]
    ]


@pytest.fixture(scope="module")
def both_forms(tmp_path_factory):
    """The same twelve clips with three captions each, grouped and one caption a row, and an equal id of other audio."""
    home = tmp_path_factory.mktemp("forms")
    rows = [{key: row[key] for key in ("video_id", "audio")} for row in tone_rows(12)]
    for i, row in enumerate(rows):
        row["captions"] = [f"a tone number {i}", f"whistle {i}", "a pure tone"]
    rows[3]["video_id"] = rows[2]["video_id"]
    write_rows(home / "grouped", rows)
    write_rows(home / "apart", one_a_row(rows))
    return home


def test_one_caption_a_row_is_the_same_as_grouped(both_forms, tmp_path):
    found = {}
    for form in ("grouped", "apart"):
        flags = ("--parquet-dir", both_forms / form, "--cache-dir", tmp_path / "cache")
        done = script("test_retrieval.py", *flags, "--output-json", tmp_path / "r.json")
        training = ("--text", "captions", "--epochs", "1", "--output-dir", tmp_path / form)
        script("train_hyperbolic_clap.py", *flags, *training)
        (checkpoint,) = (tmp_path / form).glob("best_*.pth")
        weights = torch.load(checkpoint, weights_only=True)["projection_state_dict"]
        found[form] = json.loads((tmp_path / "r.json").read_text()), weights, done.stdout
    grouped, apart = (found[form] for form in ("grouped", "apart"))
    assert grouped[0]["metrics"] == apart[0]["metrics"]
    assert all(torch.equal(value, apart[1][name]) for name, value in grouped[1].items())  # split and batches too
    counts = apart[0]["test_info"]["clips"]
    assert (counts["used"], counts["rows_of_the_same_audio"], counts["captions"]) == (12, 24, 36)
    assert "36 rows hold the audio of 12 clips" in apart[2] and "rows hold the audio" not in grouped[2]
    assert "rows_of_the_same_audio" not in grouped[0]["test_info"]["clips"]


@pytest.mark.parametrize(
    ("columns", "captions"),
    [
        ({"text": ["a", "b"]}, [["a"], ["b"]]),
        ({"caption_1": ["a", "b"], "caption_2": ["c", None], "text": ["d", "d"]}, [["a", "c"], ["b"]]),
        ({"caption": ["a", "b"], "text": ["c", "d"]}, [["a"], ["b"]]),
        ({"text": [1, 2], "description": ["a", "b"]}, [["a"], ["b"]]),
    ],
)
def test_columns_of_captions(tmp_path, columns, captions):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_captions(tmp_path / "a.parquet", 2) == captions
