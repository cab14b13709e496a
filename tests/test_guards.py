"""Guards that nothing else would miss: synchronised files, exit codes, sound files by any case, what is kept and what
is not, rows without a name, and the colours of a verdict."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cached, script, tone_rows, write_rows

from data import ParquetFolder
from hyperbolic_clap.embedding import clips as embedding
from hyperbolic_clap.embedding import segments, store
from hyperbolic_clap.embedding.files import find_sounds
from hyperbolic_clap.plumbing import file_index
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.plumbing.files import require_outputs, write_atomic
from hyperbolic_clap.plumbing.run import run


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    path, told = tmp_path / "a", []

    def fsync(handle):
        told.append((os.path.samestat(os.fstat(handle), os.stat(tmp_path)), os.fstat(handle).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, lambda temporary: temporary.write_bytes(b"12345"))
    (file, size, named), (folder, _, there) = told
    assert (file, size, named) == (False, 5, False) and folder and there


def test_no_file_is_written_over_one_that_is_read_or_written_by_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a")
    require_outputs([Path("a"), None, Path("b")], [None, tmp_path / "c"])
    for outputs, inputs in ((["a"], [tmp_path / "a"]), (["link"], ["a"]), (["a", "link"], []), (["x/../a"], ["a"])):
        with pytest.raises(UserError, match="would be overwritten"):
            require_outputs(map(Path, outputs), map(Path, inputs))


@pytest.mark.parametrize(("error", "code", "says"), [
    (UserError("a\nb"), 2, "error: a\\nb\n"), (KeyboardInterrupt(), 130, "interrupted; finished work is kept\n"),
    (BrokenPipeError(), 1, ""), (OSError(28, "No space left", "x"), 1, "error: No space left: x\n"),
    (MemoryError(), 1, "error: out of memory"), (None, 0, ""),
])  # fmt: skip
def test_exit_codes(error, code, says, capsys):
    def main(_):
        if error:
            raise error

    assert run(main, None) == code
    printed = capsys.readouterr().err
    assert printed.startswith(says) and (says or not printed)


def test_a_file_is_settled_some_seconds_after_its_last_change_also_of_its_entry_alone(tmp_path, monkeypatch):
    """A program that sets the time of the content back, as cp -p and tar do, has changed the file now."""
    path, now = tmp_path / "a", time.time_ns()
    path.write_bytes(b"1")
    for content in (0, -3600, 2):
        os.utime(path, ns=(now, now + content * 10**9))
        for later in (0, 2.9, 3.5, 10):
            clock = int(os.stat(path).st_ctime_ns + later * 1e9)
            monkeypatch.setattr(file_index.time, "time_ns", lambda clock=clock: clock)
            assert file_index.stat_token(path)["settled"] == (later > 3 + max(content, 0)), (content, later)


def test_sound_files_are_found_whatever_the_case(tmp_path):
    for name in ("a.WAV", "b.flac", "sub/c.Mp3", "d.txt", "wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sorted(p.name for p in find_sounds([tmp_path])) == ["a.WAV", "b.flac", "c.Mp3"]
    assert list(find_sounds([tmp_path / "d.txt"])) == [tmp_path / "d.txt"]


def test_many_vectors_after_a_slow_start_are_one_segment(tmp_path, monkeypatch):
    """A segment every 20 seconds, not one for each vector from then on."""
    now = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    cache = store.EmbeddingCache(tmp_path, "f" * 64)
    for i in range(45):
        now[0] += 1
        cache.add(bytes([i] * 32), np.full(4, i, np.float32))
        assert len(list(tmp_path.rglob("*.safetensors"))) == (i + 1) // 21
    cache.flush()
    assert len(cached(tmp_path)) == 45 and len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_rows_far_apart_in_a_large_segment_are_found(tmp_path):
    """More rows lie between them than are read at once."""
    rng = np.random.default_rng(0)
    keys, vectors = rng.integers(0, 256, (5000, 32), dtype=np.uint8), rng.normal(size=(5000, 3)).astype(np.float32)
    segments.write(tmp_path / "a", "f", keys, vectors)
    for some in (keys[[4]], keys[[7, 4321, 5]], keys[rng.permutation(5000)[:40]], keys):
        out = np.zeros((len(some), 3), np.float32)
        prefix = segments.key_prefixes(some)
        order = np.argsort(prefix)
        assert segments.Segment(tmp_path / "a", "f").find(prefix[order], order, some, out).all()
        place = {key.tobytes(): i for i, key in enumerate(keys)}
        assert (out == vectors[[place[key.tobytes()] for key in some]]).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_the_check_of_a_row_is_a_sum_of_its_words_times_odd_numbers(dim):
    """By which segments of earlier versions are known too: of words of 8 bytes, or of 4 where there is half a one."""
    rng = np.random.default_rng(dim)
    keys, vectors = rng.integers(0, 256, (5, 32), dtype=np.uint8), rng.normal(size=(5, dim)).astype(np.float32)
    for key, vector, check in zip(keys, vectors, segments.row_checks(keys, vectors).tolist(), strict=True):
        size, content = 4 if dim % 2 else 8, vector.tobytes()
        words = [int.from_bytes(key.tobytes()[i : i + 8], "little") for i in range(0, 32, 8)]
        words += [int.from_bytes(content[i : i + size], "little") for i in range(0, len(content), size)]
        assert check == sum(w * (k * 0x9E3779B97F4A7C15 % 2**64 | 1) for k, w in enumerate(words, 1)) % 2**64


def test_the_cache_lies_where_the_system_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(store.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert os.name == "nt" or store.default_folder() == tmp_path / ".cache" / "hyperbolic_clap"
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path / "own"))
    assert store.default_folder() == tmp_path / "own" / "hyperbolic_clap"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six tones, and a function that tests them: the results and which rows were read."""
    monkeypatch.setattr(file_index, "RACY_SECONDS", -1)
    read = []
    clips = ParquetFolder.clips

    def counted(folder, span, wanted=None):
        for clip in clips(folder, span, wanted):
            read.append(clip.sample_id)
            yield clip

    monkeypatch.setattr(ParquetFolder, "clips", counted)
    (tmp_path / "three.json").write_text(json.dumps({"Sine wave": 0, "Chirp tone": 1, "Music": 2}))
    write_rows(tmp_path / "data", tone_rows(6))

    def test(*flags):
        read.clear()
        script("test_clap_modelscope.py", "--parquet-dir", tmp_path / "data", "--class-labels",
               tmp_path / "three.json", "--cache-dir", tmp_path / "cache", "--output-json", tmp_path / "r.json",
               *flags)  # fmt: skip
        result = json.loads((tmp_path / "r.json").read_text())
        skipped = result["test_info"]["clips"]["skipped"]
        return result["predictions"], skipped, list(read)

    return tmp_path / "data", test


@pytest.mark.parametrize("lasting", [False, True])
def test_a_failure_that_may_pass_is_not_kept(folder, monkeypatch, lasting):
    _, test = folder
    decode = embedding.decode

    def fails(clip):
        if clip.sample_id == 2:
            raise RowError("the disk is away", lasting=lasting)
        return decode(clip)

    monkeypatch.setattr(embedding, "decode", fails)
    assert test()[1].keys() == {"the disk is away"}
    monkeypatch.setattr(embedding, "decode", decode)
    predictions, skipped, read = test()
    assert (read, len(predictions), len(skipped)) == (([], 5, 1) if lasting else ([2], 6, 0))
    assert test()[2] == []


def test_a_file_that_changes_while_it_is_looked_at(folder, monkeypatch):
    """Keys of before and labels of after are of no clip: such a file is read as if nothing was known."""
    data, test = folder
    before = test()[0]
    columns, rows = ParquetFolder.columns, tone_rows(9)[3:]

    def changing(folder, span):
        found = columns(folder, span)
        write_rows(data, rows)
        return found

    monkeypatch.setattr(ParquetFolder, "columns", changing)
    predictions, _, read = test()
    monkeypatch.undo()
    assert read == list(range(6)) and predictions != before
    assert predictions == test("--no-cache")[0]


def test_rows_without_a_name_stand_for_themselves(folder):
    data, test = folder
    rows = tone_rows(6)
    for i, name in ((1, ""), (2, ""), (3, None), (4, " "), (5, "tone0")):
        rows[i]["video_id"] = name
    for some in (rows, [row | {"video_id": row["video_id"] or ""} for row in rows]):
        write_rows(data, some)
        by_row, _, by_column = test("--no-cache")[0], test(), test()[0]
        assert by_row == by_column
        names = [entry["video_id"] for entry in by_row]
        assert len({*names[1:4]}) == 3 and all(names[1:4]) and names[0] == names[5] == "tone0"


def test_the_colours_of_a_verdict():
    """Green is better: more of a metric, or less of one of which less is better; grey where the interval holds 0."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    cases = [("map", 0.1, 0.05, 0.2), ("map", -0.1, -0.2, -0.05), ("mean_rank", -2, -3, -1), ("mean_rank", 2, 1, 3),
             ("wrong_top1_distance", -0.1, -0.2, -0.05), ("map", 0.1, -0.1, 0.3)]  # fmt: skip
    rows = [{"metric": name, "values": [{"value": 1, "source": "stored"}] * 2,
             "differences": [{"difference": d, "low": low, "high": high}]} for name, d, low, high in cases]  # fmt: skip
    page = {"files": [{"label": "a", "skipped": {}, "skipped_files": {}}], "notes": [],
            "less": ["mean_rank", "wrong_top1_distance"], "clips": {"id": []},
            "comparison": {"tables": [{"title": "", "files": ["a", "b"], "rows": rows}], "resamples": 1, "seed": 0,
                           "k": 1, "notes": []}}  # fmt: skip
    code = (ROOT / "hyperbolic_clap/reporting/page_assets/verdict.js").read_text()
    stubs = """
        const colours = [], data = JSON.parse(process.argv[1]);
        class Node {}
        const make = () => new Node(), scrolling = make, figure = String, signed = String;
        const draw = (tag, of) => { if (tag === "svg") colours.push(of.class); return { append() {} }; };
        const body = () => ({ append() {} }), parts = {}, matchMedia = () => ({ matches: false });
    """
    done = subprocess.run(["node", "-e", stubs + code.replace('"use strict";', "") + "console.log(colours.join())",
                           json.dumps(page)], capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "good,bad,good,bad,good,soft"
