"""Search: the same clips as by brute force, whatever the blocks; queries by text, branch and sound; bad queries."""

import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import flac, script, tone, tone_rows, write_rows

from hyperbolic import HyperbolicProjector
from hyperbolic_clap.inference.search import nearest
from hyperbolic_clap.projector.blocks import project
from hyperbolic_clap.projector.projector import Projector


def projector(kind: str) -> Projector:
    made = Projector(None, torch.device("cpu"))
    if kind != "plain":
        torch.manual_seed(0)
        made.module = HyperbolicProjector(32, 8, similarity=kind).requires_grad_(False)
        torch.nn.init.normal_(made.module.linear.weight)
    return made


@pytest.mark.parametrize("kind", ["plain", "cosine", "hyperbolic"])
@pytest.mark.parametrize("block", [7, 64, 5000])
def test_the_top_ten_are_those_of_brute_force(kind, block):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(1000, 32, generator=generator), dim=1)
    embeddings[500:520] = embeddings[:20]  # equal clips: the earlier one comes first
    texts = torch.nn.functional.normalize(torch.randn(5, 32, generator=generator), dim=1)
    one = projector(kind)
    audio = project(one, embeddings, block)
    queries = [one.text(texts[:1]), one.text(texts[1:4]), one.audio(embeddings[3:4]), one.text(texts[4:])]
    for vectors, (positions, values) in zip(queries, nearest(one, audio, queries, 10, block), strict=True):
        similarity = one.compare(one.audio(embeddings), vectors).double().numpy()
        if len(vectors) > 1:
            similarity = np.log(np.exp(similarity / 0.07).sum(axis=1)) * 0.07
        expected = sorted(range(1000), key=lambda i: (-round(float(np.ravel(similarity[i])[0]), 6), i))[:10]
        assert positions.tolist() == expected
        assert values == pytest.approx(np.ravel(similarity[expected]), abs=1e-5)


def test_more_asked_than_there_are():
    vectors = torch.eye(4)
    (found,) = nearest(projector("plain"), vectors, [vectors[:1]], 10)
    assert found[0].tolist() == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Eight tones, one of them without labels and one undecodable, and one of them as a file."""
    home = tmp_path_factory.mktemp("search")
    rows = tone_rows(8)
    rows[2]["human_labels"] = []
    rows[5]["audio"]["bytes"] = b"no sound"
    write_rows(home / "data", rows)
    (home / "like.flac").write_bytes(flac(tone(150 * 3)))
    return home


def search(home, *flags, **options):
    common = ("--parquet-dir", home / "data", "--cache-dir", home / "cache", "--output-json", home / "found.json")
    return script("search_sounds.py", *flags, *common, **options)


def test_by_text_by_branch_and_by_sound(sounds):
    done = search(sounds, "a whistle", "Music", "--like", sounds / "like.flac", "--top-k", "3",
                  "--save-audio", sounds / "audio")
    report = json.loads((sounds / "found.json").read_text())
    assert [entry["query"] for entry in report["queries"]] == ["a whistle", "Music", str(sounds / "like.flac")]
    assert report["test_info"]["clips"]["used"] == 7
    assert report["test_info"]["clips"]["skipped"]["undecodable audio"]["first"] == ["tone5"]
    first = report["queries"][2]["results"][0]  # the clip without labels is the sound itself
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert (first["rank"], first["video_id"], first["sample_id"], first["human_labels"]) == (1, "tone2", 2, [])
    assert "Music: a superclass, answered by the" in done.stdout and "tone2" in done.stdout
    files = sorted(path.relative_to(sounds / "audio").as_posix() for path in (sounds / "audio").rglob("*.wav"))
    assert len(files) == 9 and files[0].startswith("01_a_whistle/01_tone") and "03_like.flac/01_tone2.wav" in files
    assert soundfile.info(sounds / "audio" / "03_like.flac" / "01_tone2.wav").samplerate == 48_000


def test_a_branch_can_be_left_out(sounds):
    found = []
    for flags in ((), ("--no-branches",)):
        search(sounds, "Music", *flags)
        found.append(json.loads((sounds / "found.json").read_text())["queries"][0]["results"])
    assert found[0][0]["similarity"] > found[1][0]["similarity"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "nothing to search by"),
        (("  ",), "a query is empty"),
        (("x" * 10_000,), "has 10000 characters; up to 1000"),
        (("caf\udce9",), "is not UTF-8"),
        (("dog", "--prompt", "caf\udce9 {label}"), "is not UTF-8"),
        (("--like", "none.wav"), "none.wav is no file"),
        (("dog", "--use-hyperbolic"), "--use-hyperbolic needs --projection-checkpoint"),
    ],
)
def test_bad_queries(sounds, flags, says):
    done = search(sounds, *flags, check=False)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_bad_files(sounds, tmp_path):
    (tmp_path / "text.wav").write_text("no sound at all")
    done = search(sounds, "--like", tmp_path / "text.wav", check=False)
    assert done.returncode == 2 and "text.wav cannot be used: undecodable audio" in done.stderr
    write_rows(tmp_path / "data", [{"video_id": "a", "audio": {"bytes": b"x"}, "human_labels": ["Dog"]}])
    done = script("search_sounds.py", "dog", "--parquet-dir", tmp_path / "data", "--no-cache", check=False)
    assert done.returncode == 2 and "can be used" in done.stderr
    done = search(sounds, "dog", "--top-k", "99")
    assert "--top-k 99 is more than the 7 clips" in done.stdout
