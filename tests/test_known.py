"""What is unchanged is not read again, whatever changed is, and the results are the same to the bit either way."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import forks
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY, cached, flac, script, tone, tone_rows, write_rows
from reads import audio_ranges, counted_reads

from data import ParquetFolder
from hyperbolic_clap.embedding.clips import embed_clips
from hyperbolic_clap.plumbing import file_index as known
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.reading.labels import ClassList

TEST = "test_clap_modelscope.py"
CLASSES = ClassList.read(CLASS_LABELS)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """The tests' files are young; without the wait for a coarse clock they count as settled."""
    monkeypatch.setattr(known, "RACY_SECONDS", -1)


class Folder:
    """Twelve tones in two files and one row each that is of no use; runs of the test script over them.

    With few classes out of no tree: what is known of a clip does not hang on how many texts it is compared with.
    """

    def __init__(self, home, monkeypatch):
        self.home, self.data, self.read = home, home / "data", []
        self.classes = home / "three.json"
        self.classes.write_text(json.dumps({"low": 0, "middle": 1, "high": 2}))
        rows = tone_rows(12, ("low", "middle", "high"))
        rows[3]["audio"]["bytes"] = b"no sound at all"
        rows[5]["human_labels"] = []
        write_rows(self.data, rows[:6], "00.parquet")
        write_rows(self.data, rows[6:], "01.parquet")
        clips = ParquetFolder.clips

        def counted(folder, span, wanted=None):
            for clip in clips(folder, span, wanted):
                self.read.append(clip.sample_id)
                yield clip

        monkeypatch.setattr(ParquetFolder, "clips", counted)

    def run(self, *flags, cache="cache", **options):
        """(the results without the run's own figures, the rows whose audio was read, the file counts, the log)."""
        self.read.clear()
        where = ("--parquet-dir", self.data, "--cache-dir", self.home / cache, "--output-json", self.home / "r.json")
        where += ("--class-labels", self.classes)
        done = script(TEST, *where, "--num-samples", 1000, *flags, **options)
        results, files = self.results("r.json")
        return results, list(self.read), files, done.stdout

    def results(self, name):
        """(the results without the run's own figures, the file counts)."""
        results = json.loads((self.home / name).read_text())
        files = results["test_info"]["clips"].pop("files")
        same = {name: results[name] for name in ("predictions", "metrics", "similarity_stats")}
        return same | {"clips": results["test_info"]["clips"]}, files

    def fresh(self, *flags):
        """The results as a run without any cache gives them."""
        return self.run("--no-cache", *flags)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return Folder(tmp_path, monkeypatch)


def test_a_second_run_reads_nothing_and_says_the_same(folder):
    first, read, files, _ = folder.run()
    assert read == list(range(12)) and files == {"files": 2, "known": 0, "read": 2}
    second, read, files, _ = folder.run()
    assert read == [] and files == {"files": 2, "known": 2, "read": 0}
    verified, read, files, said = folder.run("--verify-cache")
    assert read == list(range(12)) and files == {"files": 2, "known": 0, "read": 2, "verified": 2, "wrong": 0}
    assert "2 of 2 files were known without being read, what was known of 0 of them was wrong" in said
    assert first == second == verified == folder.fresh()
    assert first["clips"]["skipped"]["undecodable audio"] == {"count": 1, "first": ["tone3"]}


def test_no_byte_of_audio_is_read_in_a_second_run(folder):
    """Every byte that is read of a file is counted, by its place in the file."""
    ranges = [some for path in folder.data.iterdir() for some in audio_ranges(pq.read_metadata(path))]
    with counted_reads() as read:
        folder.run()
    assert sum(read) >= sum(stop - start for start, stop in ranges) > 10_000
    with counted_reads() as read:
        assert folder.run()[2]["read"] == 0
    assert read and sum(read) == 0


def swap_tone(path, row=2, pitch=3333):
    """Replace one clip by another of the same number of bytes."""
    rows = pq.read_table(path).to_pylist()
    old = rows[row]["audio"]["bytes"]
    new = flac(tone(pitch))
    rows[row]["audio"]["bytes"] = (new + bytes(len(old)))[: len(old)] if len(new) <= len(old) else new
    return rows


def content_with_the_same_size_and_mtime(path):
    stat = path.stat()
    content = bytearray(path.read_bytes())
    at = content.index(b"fLaC") + 800  # inside the first clip's frames
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def replaced_by_rename(path):
    stat = path.stat()
    other = path.with_name("other")
    shutil.copy2(path, other)
    content_with_the_same_size_and_mtime(other)
    other.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def touched(path):
    os.utime(path)


def renamed(path):
    path.rename(path.with_name("02.parquet"))


def moved_away_and_back(path):
    shutil.copy2(path, path.with_name("copy"))
    path.unlink()
    path.with_name("copy").rename(path)


def row_group_appended(path):
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table.slice(0, 2))


def clip_replaced(path):
    write_rows(path.parent, swap_tone(path), path.name)


def labels_changed(path):
    rows = pq.read_table(path).to_pylist()
    rows[0]["human_labels"] = ["high", "middle"]
    write_rows(path.parent, rows, path.name)


CHANGES = [
    (content_with_the_same_size_and_mtime, 6),
    (replaced_by_rename, 6),
    (touched, 6),
    (renamed, 6),
    (moved_away_and_back, 6),
    (row_group_appended, 8),
    (clip_replaced, 6),
    (labels_changed, 6),
]


@pytest.mark.parametrize(("change", "rows"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_whatever_changes_is_read_again_and_right(folder, change, rows):
    folder.run()
    change(folder.data / "01.parquet")
    results, read, files, _ = folder.run()
    assert read == list(range(6, 6 + rows)) and files == {"files": 2, "known": 1, "read": 1}
    again, read, _, _ = folder.run()
    assert read == [] and results == again == folder.fresh()


def test_a_folder_moved_to_another_disk(folder, disk):
    """Under the same name, with the same sizes and times, on a device of its own."""
    first = folder.run()[0]
    there = disk[0] / "data"
    shutil.copytree(folder.data, there)
    shutil.rmtree(folder.data)
    folder.data.symlink_to(there, target_is_directory=True)
    results, read, files, _ = folder.run()
    assert read == list(range(12)) and files["read"] == 2 and results == first
    assert folder.run()[:2] == (first, [])


def test_a_clock_that_goes_backwards(folder, monkeypatch):
    first = folder.run()[0]
    now, hour = time.time_ns, 3600 * 10**9
    monkeypatch.setattr(known, "time", SimpleNamespace(time_ns=lambda: now() - hour))
    assert folder.run()[:2] == (first, [])
    path = folder.data / "01.parquet"
    content_with_the_same_size_and_mtime(path)
    os.utime(path, ns=(now() - hour,) * 2)
    fresh = folder.fresh()
    for _ in range(2):  # changed in the future, by this clock: who knows what else is
        assert folder.run()[:3] == (fresh, list(range(6, 12)), {"files": 2, "known": 1, "read": 1})
    monkeypatch.setattr(known, "time", time)
    assert folder.run()[:2] == (fresh, list(range(6, 12))) and folder.run()[:2] == (fresh, [])


def test_two_processes_index_one_folder_at_once(folder, encoder):
    """Both begin with nothing; small pieces, so that each finds what the other writes and merges."""
    server, processes = forks.server(), []
    changed = max(path.stat().st_ctime for path in folder.data.iterdir())
    time.sleep(max(0, changed + 3.1 - time.time()))  # in the processes young files are not known
    for name in ("one", "other"):
        argv = ["--parquet-dir", folder.data, "--cache-dir", folder.home / "cache", "--num-samples", 1000]
        argv += ["--checkpoint", TINY, "--device", "cpu", "--output-json", folder.home / f"{name}.json"]
        argv += ["--class-labels", folder.classes]
        said = folder.home / f"{name}.said"
        processes.append(forks.start(server, forks.enter, (TEST, [str(part) for part in argv], (said, said), {}, 2)))
    for process, name in zip(processes, ("one", "other"), strict=True):
        process.join(60)
        said = (folder.home / f"{name}.said").read_text()
        assert process.exitcode == 0 and "warning" not in said, said
    one, other = (folder.results(f"{name}.json")[0] for name in ("one", "other"))
    assert one == other == folder.fresh() and folder.run()[:2] == (one, [])


def test_another_class_list_finds_the_same_rows(folder):
    folder.run()
    (folder.home / "classes.json").write_text('{"high": 0, "low": 1}')
    flags = ("--class-labels", folder.home / "classes.json")
    results, read, _, _ = folder.run(*flags)
    assert read == [] and results == folder.fresh(*flags)


def test_first_rows_then_more(folder):
    few, read, _, _ = folder.run("--num-samples", 4)
    assert read == [0, 1, 2, 3, 4] and few == folder.fresh("--num-samples", 4)
    assert folder.run("--num-samples", 4)[1] == []
    _, read, files, _ = folder.run()
    # Row 5 has no label, so nothing was found out of its audio.
    assert read == list(range(6, 12)) and files == {"files": 2, "known": 1, "read": 1}
    assert folder.run()[1] == []


def test_a_young_file_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(known, "RACY_SECONDS", 3600)
    folder.run()
    assert folder.run()[1] == list(range(12))
    monkeypatch.setattr(known, "RACY_SECONDS", -1)
    assert folder.run()[1] == list(range(12)) and folder.run()[1] == []


def damage(entry):
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        lambda entry: entry.write_bytes(entry.read_bytes()[:50]),
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(min(entry.parents[2].rglob("hashes/*")).read_bytes()),
    ],
    ids=["one byte", "half written", "empty", "of another file"],
)
def test_a_damaged_table_is_said_in_one_line_and_made_anew(folder, spoil):
    first = folder.run()[0]
    for entry in folder.home.rglob("*.known"):
        spoil(entry)
    results, read, _, said = folder.run()
    assert results == first and read == list(range(12))
    assert said.count("warning: the table of known files has a damaged entry") == 1 == said.count("warning")
    results, read, _, said = folder.run()
    assert results == first and read == [] and "warning" not in said


def test_a_table_of_another_version_is_made_anew(folder, monkeypatch):
    monkeypatch.setattr(known, "FORMAT", "0")
    folder.run()
    monkeypatch.undo()
    assert folder.run()[2]["read"] == 2


def test_a_lie_is_found_by_verifying(folder, monkeypatch):
    first = folder.run()[0]
    put = known.FileIndex.put

    def lie(self, path, kind, seen, arrays, **about):
        if "keys" in arrays:
            arrays = arrays | {"keys": np.roll(arrays["keys"], 1, axis=0)}
        put(self, path, kind, seen, arrays, **about)

    with monkeypatch.context() as patch:
        patch.setattr(known.FileIndex, "put", lie)
        os.utime(folder.data / "00.parquet")
        folder.run()
    results, _, files, said = folder.run("--verify-cache")
    assert results == first and files["wrong"] == 1 and "of 1 of them was wrong" in said
    assert folder.run()[0] == first


def test_a_vector_that_is_gone_is_made_again(folder):
    first = folder.run()[0]
    shutil.rmtree(next(folder.home.rglob("store")))
    results, read, files, _ = folder.run()
    # Row 3 is known to be of no use, row 5 has no label.
    assert results == first and read == [0, 1, 2, 4, *range(6, 12)] and files["read"] == 2
    assert folder.run()[1] == []


def test_a_table_that_cannot_be_written_is_a_warning(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(known, "write_atomic", refuse)
        first, _, _, said = folder.run()
    assert said.count("cannot be written (Read-only file system)") == 1
    assert folder.run()[0] == first


def test_two_runs_index_one_folder_at_once(folder, encoder):
    """One run's table and vectors are replaced by another's while it works: both are right, and so is the third."""
    first = folder.run(cache="other")[0]
    shutil.copytree(folder.home / "other", folder.home / "cache")

    def interleaved(*arguments, **options):
        for i, outcome in enumerate(embed_clips(*arguments, **options)):
            if i == 4:
                shutil.rmtree(folder.home / "cache" / "hashes")
                shutil.copytree(folder.home / "other", folder.home / "cache", dirs_exist_ok=True)
            yield outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperbolic_clap.embedding.row_index.embed_clips", interleaved)
        assert folder.run("--verify-cache")[0] == first
    assert folder.run()[:2] == (first, [])
    assert set(cached(folder.home / "cache", once=False)) == set(cached(folder.home / "other"))


@pytest.mark.parametrize("skip", [False, True])
def test_a_damaged_file_is_never_taken_for_known(folder, skip):
    path = folder.data / "01.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[-2]["human_labels"] = []  # lost with its group: never counted as a row without labels
    write_rows(folder.data, rows, path.name, row_group_size=2, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"fLaC") + 200
    content[at] ^= 1
    path.write_bytes(content)
    flags = ("--skip-bad-files",) if skip else ()
    for _ in range(2):
        if skip:
            results, read, files, _ = folder.run(*flags)
            assert 6 in read and files["read"] >= 1 and results["clips"]["skipped_files"]
            assert results == folder.fresh(*flags)
        else:
            assert "is damaged" in script(TEST, "--parquet-dir", folder.data, "--cache-dir", folder.home / "cache",
                                          "--num-samples", 100, check=False).stderr  # fmt: skip


def test_why_one_row_is_skipped_says_nothing_of_those_that_another_class_list_left_unread(folder):
    two = folder.home / "two.json"
    two.write_text(json.dumps({"low": 0, "middle": 1}))
    script("train_hyperbolic_clap.py", "--parquet-dir", folder.data, "--class-labels", two, "--epochs", 1,
           "--cache-dir", folder.home / "cache", "--output-dir", folder.home / "out")  # fmt: skip
    found, read, *_ = folder.run()
    assert set(read) >= {2, 8, 11} and found == folder.fresh()


def test_columns_say_what_reading_row_by_row_says(realsounds, hostile, tmp_path):
    """Every parquet file there is: the columns, read whole, against each row read with its audio."""
    odd = [
        {"video_id": "a", "human_labels": ["Music", "music ", "Speech"], "labels": ["/m/04rlf"]},
        {"video_id": None, "human_labels": None, "labels": None},
        {"video_id": "", "human_labels": ["['Speech', 'Dog']", None, ""], "labels": ["x", "/m/04rlf", "Music"]},
        {"video_id": "\N{SNOWMAN}", "human_labels": [], "labels": ["Boat, Water vehicle", "boat,  water VEHICLE"]},
    ]
    rows = [row | {"audio": b"a"} for row in odd]
    write_rows(tmp_path / "odd", rows)
    write_rows(tmp_path / "ids", [{k: row[k] for k in ("video_id", "labels", "audio")} for row in rows])
    texts = ["Speech", "Music, Dog", None, "Speech;Music", ""]
    rows = [{"audio": b"a", "human_labels": text, "video_id": i} for i, text in enumerate(texts)]
    write_rows(tmp_path / "text", rows)
    (tmp_path / "odd" / "00.parquet").rename(tmp_path / "odd" / os.fsdecode(b"\xff.parquet"))
    checked = 0
    for place in (realsounds / "eval", hostile, tmp_path / "odd", tmp_path / "ids", tmp_path / "text"):
        whole = ParquetFolder(place, CLASSES, skip_bad=True)
        for span in whole.spans(0, whole.num_rows):
            clips = list(whole.clips(span))
            if not clips or len(clips) < span.stop - span.start:
                continue
            got = whole.columns(span)
            assert got.sample_ids.tolist() == [clip.sample_id for clip in clips]
            assert got.video_ids == [clip.video_id for clip in clips]
            assert got.human_labels.to_pylist() == [clip.human_labels for clip in clips]
            assert got.machine_labels.to_pylist() == [clip.machine_labels for clip in clips]
            assert [got.positions(i).tolist() for i in range(len(got))] == [clip.positions for clip in clips]
            cut = span._replace(start=len(clips) // 3, stop=max(len(clips) // 2, len(clips) // 3 + 1))
            assert whole.columns(cut).video_ids == got.video_ids[cut.start : cut.stop]
            checked += len(clips)
    assert checked > 100
