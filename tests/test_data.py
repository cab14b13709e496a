"""Parquet layouts, audio formats and damage: each loads exactly, is skipped for a reason, or is refused by name."""

import contextlib
import io
import logging
import shutil
import tracemalloc

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
from conftest import flac, script, tone, tone_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import data
from data import Clip, ParquetFolder, decode
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading import audio as audio_reading
from hyperbolic_clap.reading import cells
from hyperbolic_clap.reading.labels import ClassList

CLASSES = ClassList.read(CLASS_LABELS)
HALF = [0.0, 0.5, -0.5, 0.25]


def rows_of(folder) -> list[Clip]:
    return list(ParquetFolder(folder, CLASSES))


def read_back(folder, audio, name="00.parquet", **columns) -> list[Clip]:
    """An audio column through a parquet file; the other columns get plain values."""
    folder.mkdir(exist_ok=True)
    columns = {"human_labels": [["Speech"]] * len(audio)} | columns
    with newer_arrow_types():
        pq.write_table(pa.table({"audio": audio} | columns), folder / name)
    return rows_of(folder)


@contextlib.contextmanager
def newer_arrow_types():
    """Skips a test of a type that this pyarrow cannot make or write."""
    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        if int(pa.__version__.split(".")[0]) >= 21:
            raise
        pytest.skip(f"pyarrow {pa.__version__} cannot write this type: {str(error)[:60]}")


OVERSHOOT = 2.83  # of the resampler: the sum of its filter's absolute taps, see test_the_worst_that_resampling_does


def heard(audio, rate=48_000) -> np.ndarray | str:
    """The waveform, or the reason why there is none."""
    clip = audio if isinstance(audio, Clip) else Clip(0, "", [], [], audio=audio, rate=rate)
    try:
        waveform = decode(clip)
    except RowError as error:
        return error.reason
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) and waveform.flags.c_contiguous
    as_it_was = isinstance(clip.audio, np.ndarray) and clip.rate == 48_000
    assert np.isfinite(waveform).all() and np.abs(waveform).max() <= (1 if as_it_was else OVERSHOOT)
    return waveform


def sine(frequency, seconds, rate, amplitude=0.4):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


# Layouts


BINARIES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())]


@pytest.mark.parametrize("kind", BINARIES)
@pytest.mark.parametrize("in_struct", [False, True])
def test_encoded_bytes(tmp_path, kind, in_struct):
    content = flac(tone(440), 48_000)
    column = pa.array([content, None, b""], kind)
    if in_struct:
        column = pa.StructArray.from_arrays([column, pa.array(["a", "b", None])], ["bytes", "path"])
    first, *rest = map(heard, read_back(tmp_path, column))
    np.testing.assert_allclose(first, tone(440), atol=2**-15)
    assert rest == ["holds only a path" if in_struct else "no audio", "no audio"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda k: pa.list_(k, 4)])
def test_lists_of_samples_are_48_khz(tmp_path, kind, lists):
    with newer_arrow_types():
        column = pa.array([HALF], lists(kind))
    (clip,) = read_back(tmp_path, column)
    assert heard(clip).tolist() == HALF


@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, pa.list_view])
def test_channels_in_either_order_are_averaged(tmp_path, lists):
    stereo = [[1.0, 0.5, 0.0], [0.0, 0.5, -1.0]]
    (clip,) = read_back(tmp_path, pa.array([stereo], lists(lists(pa.float32()))))
    assert heard(clip).tolist() == [0.5, 0.5, -0.5]
    (clip,) = read_back(tmp_path, pa.array([np.transpose(stereo).tolist()], lists(lists(pa.float32()))))
    assert heard(clip).tolist() == [0.5, 0.5, -0.5]


@pytest.mark.parametrize(("rate", "times"), [(None, 1), (48_000, 1), (24_000, 2), (16_000.0, 3), ("8000", 6)])
def test_array_with_its_sampling_rate(tmp_path, rate, times):
    column = pa.array([{"array": sine(100, 1, 3000).tolist(), "path": "x", "sampling_rate": rate}])
    (clip,) = read_back(tmp_path, column)
    assert len(heard(clip)) == 3000 * times


@pytest.mark.parametrize("rate", [0, -16_000, 44, 999, 1_000_001, 2**62, float("nan"), float("inf"), "fast"])
def test_rates_of_no_recording(tmp_path, rate):
    (clip,) = read_back(tmp_path, pa.array([{"array": HALF, "sampling_rate": rate}]))
    assert heard(clip) == "impossible sampling rate"


@pytest.mark.parametrize(
    "cell",
    [
        {"path": "clip.wav"},
        {"bytes": "text", "path": None},
        {"bytes": [1, 2, 3]},
        {"array": None, "sampling_rate": 16_000},
        {"array": [], "sampling_rate": 16_000},
        {"array": ["0.1", "0.2"]},
        {"array": [None, None]},
        {"array": [[0.1, 0.2], [0.3]]},
        {"array": [[0.1, 0.2], None]},
        {"array": [[[0.1]]]},
        {"array": [[]]},
        {"array": [True, False]},
        {"array": 0.5},
        {"array": {"left": [0.5]}},
        {"other": 1},
    ],
)
def test_structs_without_usable_audio_are_skipped(tmp_path, cell):
    for clip in read_back(tmp_path, pa.array([cell, None])):
        if clip.audio is not None:
            clip.content_key()
        assert heard(clip) in ("no audio", "empty audio", "holds only a path")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["clip.wav"]),
        pa.array([5]),
        pa.array([0.5]),
        pa.array([["0.1"]]),
        pa.array([[True]]),
        pa.array([[b"x"]]),
        pa.array([0], pa.timestamp("ns")),
        pa.array([[{"bytes": b"x"}]]),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 3))),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_columns_that_cannot_hold_audio_are_refused(tmp_path, column):
    with pytest.raises(UserError, match="00.parquet: its column 'audio' is .* cannot hold encoded bytes or samples"):
        read_back(tmp_path, column)


@pytest.mark.parametrize("column", [pa.array([3]), pa.array([[3]]), pa.array([{"a": "b"}]), pa.array([0], pa.date32())])
def test_columns_that_cannot_hold_labels_are_refused(tmp_path, column):
    with pytest.raises(UserError, match="00.parquet: its column 'human_labels' is .* cannot hold label names"):
        read_back(tmp_path, pa.array([b"x"]), human_labels=column)


def test_columns_of_nothing_are_rows_without_audio_or_label(tmp_path):
    (clip,) = read_back(tmp_path, pa.nulls(1), human_labels=pa.nulls(1), video_id=pa.nulls(1), labels=pa.nulls(1))
    assert (clip.audio, clip.human_labels, clip.machine_labels, clip.video_id) == (None, [], [], "00#0")


def test_text_that_is_not_utf8(tmp_path):
    wrong = pa.array([b"\xff\xfe"]).view(pa.string())
    (clip,) = read_back(tmp_path, pa.array([b"x"]), human_labels=wrong, video_id=wrong)
    assert clip.human_labels == [] and clip.video_id == "00#0"


# Rows


@pytest.mark.parametrize(
    ("given_ids", "ids"),
    [
        (["abc", "", None], ["abc", "00#1", "00#2"]),
        ([7, 8, None], ["7", "8", "00#2"]),
        ([1.5, float("nan"), None], ["1.5", "00#1", "00#2"]),
        ([b"abc", b"\xff", None], ["abc", "\ufffd", "00#2"]),
        (pa.array([0, 2**62, None], pa.timestamp("ns")), None),
        (pa.array([{"a": 1}, {"a": 2}, None]), ["{'a': 1}", "{'a': 2}", "00#2"]),
    ],
)
def test_video_ids(tmp_path, given_ids, ids):
    found = [clip.video_id for clip in read_back(tmp_path, pa.array([b"x"] * 3), video_id=given_ids)]
    assert found == ids if ids else len(set(found)) == 3


def test_rows_come_in_the_order_of_the_sorted_files(tmp_path):
    rows = tone_rows(70)
    write_rows(tmp_path, rows[40:], "b.parquet", row_group_size=1)
    write_rows(tmp_path, rows[:40], "a.parquet", row_group_size=7)
    (tmp_path / "c.parquet").mkdir()
    (tmp_path / "._a.parquet").write_bytes(b"what macOS leaves behind")
    folder = ParquetFolder(tmp_path, CLASSES)
    clips = list(folder)
    assert folder.num_rows == 70
    assert [clip.video_id for clip in clips] == [row["video_id"] for row in rows]
    assert [clip.sample_id for clip in clips] == list(range(70))
    assert clips[1].human_labels == ["Chirp tone"] and clips[1].positions == [CLASSES.find("Chirp tone")]
    assert clips[0].machine_labels == ["/m/01v_m0"]
    assert clips[50].audio == rows[50]["audio"]["bytes"]


def test_optional_columns_may_be_missing(tmp_path):
    first, second = read_back(tmp_path, pa.array([b"x", b"y"]))
    assert first.video_id != second.video_id and first.machine_labels == []


def test_labels_of_other_types_are_passed_over(tmp_path):
    (clip,) = read_back(tmp_path, pa.array([b"x"]), labels=pa.array([[3, 4]]))
    assert clip.machine_labels == [] and clip.human_labels == ["Speech"]


def test_content_key_is_of_the_content(tmp_path):
    one, two = flac(tone(440)), flac(tone(441))
    first = read_back(tmp_path / "a", pa.array([one, two]), "old.parquet", video_id=["a", "b"])
    again = read_back(tmp_path / "b", pa.array([two, two, one]), "new.parquet")
    assert [clip.content_key() for clip in again] == [first[i].content_key() for i in (1, 1, 0)]
    assert Clip(0, "", [], [], audio=one[:-1] + b"\0").content_key() != first[0].content_key()


def test_content_key_tells_types_shapes_and_rates_apart():
    samples = np.array([[1, 2], [3, 4]], np.int16)
    kinds = [samples, samples.T, samples.reshape(4), samples.astype(np.int32), samples.tobytes(), samples.view("f2")]
    keys = [Clip(0, "", [], [], audio=audio).content_key() for audio in kinds]
    keys.append(Clip(0, "", [], [], audio=samples, rate=16_000).content_key())
    assert len(set(keys)) == 7
    assert Clip(9, "x", ["y"], [], audio=np.asfortranarray(samples)).content_key() == keys[0]


# Folders and files


def test_missing_empty_and_nested_folders(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match="is not a folder"):
        ParquetFolder(tmp_path / "absent", CLASSES)
    with pytest.raises(UserError, match="holds no .*parquet file$"):
        ParquetFolder(tmp_path, CLASSES)
    write_rows(tmp_path / "x" / "y", tone_rows(2))
    with pytest.raises(UserError, match="1 lie in its sub-folders, which are not read"):
        ParquetFolder(tmp_path, CLASSES)
    write_rows(tmp_path, tone_rows(3))
    assert len(rows_of(tmp_path)) == 3
    assert "1 parquet files in sub-folders" in caplog.text


@pytest.mark.parametrize("column", ["audio", "human_labels"])
def test_missing_columns_are_named(tmp_path, column):
    write_rows(tmp_path, tone_rows(1), "a.parquet")
    write_rows(tmp_path, [{k: v for k, v in tone_rows(1)[0].items() if k not in (column, "labels")}], "b.parquet")
    with pytest.raises(UserError, match=f"b.parquet has no column '{column}'; its columns are video_id, "):
        ParquetFolder(tmp_path, CLASSES)


def test_machine_ids_alone_are_mapped_and_said(tmp_path, caplog):
    for name, labels in (("a", ["/m/09x0r", "/m/05zppz", "/m/none"]), ("b", '["/M/09X0R", "Music"]'), ("c", None)):
        pq.write_table(pa.table({"audio": [b"x"], "labels": pa.array([labels])}), tmp_path / f"{name}.parquet")
    many, text, none = rows_of(tmp_path)
    assert many.human_labels == ["Speech", "Male speech, man speaking", "/m/none"] and many.positions == [0, 1]
    assert many.machine_labels == ["/m/09x0r", "/m/05zppz", "/m/none"]
    assert text.human_labels == ["Speech", "Music"] and none.human_labels == []
    assert f"3 files have no column 'human_labels' (the first is {tmp_path / 'a.parquet'})" in caplog.text


def bad_folder(folder):
    """Two good files, one of which a row group is damaged, and others that are bad in every way."""
    write_rows(folder, tone_rows(3), "a.parquet")
    (folder / "b.parquet").write_bytes(b"a,b")
    write_rows(folder, [{"audio": b"x"}], "c.parquet")
    write_rows(folder, [{"audio": 5, "human_labels": ["Speech"]}], "d.parquet")
    twice = pa.Table.from_arrays([pa.array([b"x"]), pa.array(["a"]), pa.array([b"y"])], ["audio", "labels", "audio"])
    pq.write_table(twice, folder / "e.parquet")
    write_rows(folder, tone_rows(40), "f.parquet", row_group_size=10, compression="none", write_page_checksum=True)
    damage_page(folder / "f.parquet")
    write_rows(folder, tone_rows(2), "g.parquet")
    return folder


def damage_page(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def test_bad_files_are_skipped_and_counted_if_asked(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bad_folder(tmp_path)
    with pytest.raises(UserError, match="b.parquet cannot be read as parquet"):
        ParquetFolder(tmp_path, CLASSES)
    folder = ParquetFolder(tmp_path, CLASSES, skip_bad=True)
    clips = list(folder)
    folder.tell()
    assert folder.skipped == {
        "unreadable": {"count": 1, "first": ["b.parquet"]},
        "column missing": {"count": 1, "first": ["c.parquet"]},
        "column of another type": {"count": 1, "first": ["d.parquet"]},
        "column twice": {"count": 1, "first": ["e.parquet"]},
        "damaged part-way": {"count": 1, "first": ["f.parquet"]},
    }
    assert [clip.video_id for clip in clips] == [f"tone{i}" for i in (0, 1, 2, *range(20), *range(30, 40), 0, 1)]
    assert [clip.sample_id for clip in clips] == [*range(23), *range(33, 45)]  # a row keeps its number
    for start in range(0, 45, 7):  # whether a row is found does not depend on where a rank's part begins
        part = [clip.sample_id for clip in folder.rows(start, start + 7)]
        assert part == [i for i in [*range(23), *range(33, 45)] if start <= i < start + 7]
    assert "skipped 1 files: damaged part-way (f.parquet)" in caplog.text
    assert f"{tmp_path / 'c.parquet'} has no column 'human_labels'" in caplog.text


def test_many_bad_files_are_counted_and_a_few_named(tmp_path, caplog):
    write_rows(tmp_path, tone_rows(1))
    for i in range(30):
        (tmp_path / f"bad{i:02}.parquet").write_bytes(b"")
    folder = ParquetFolder(tmp_path, CLASSES, skip_bad=True)
    assert folder.skipped == {"unreadable": {"count": 30, "first": [f"bad{i:02}.parquet" for i in range(5)]}}
    assert caplog.text.count("the file is skipped") == 5


def test_no_file_left_is_an_error(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"no parquet file in .* can be used \(1 unreadable: bad.parquet\)"):
        ParquetFolder(tmp_path, CLASSES, skip_bad=True)
    write_rows(tmp_path, tone_rows(40), "bad.parquet", compression="none", write_page_checksum=True)
    content = bytearray((tmp_path / "bad.parquet").read_bytes())
    content[3000] ^= 1
    (tmp_path / "bad.parquet").write_bytes(content)
    flags = ["--parquet-dir", tmp_path, "--skip-bad-files", "--no-cache"]
    done = script("test_clap_modelscope.py", *flags, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "can be used (1 damaged part-way: bad.parquet)" in done.stderr


def test_a_file_that_vanishes_after_the_check(tmp_path):
    write_rows(tmp_path, tone_rows(2), "a.parquet")
    write_rows(tmp_path, tone_rows(3), "b.parquet")
    plain, lenient = ParquetFolder(tmp_path, CLASSES), ParquetFolder(tmp_path, CLASSES, skip_bad=True)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(UserError, match="a.parquet was there when the run began and is no longer$"):
        list(plain)
    assert [clip.sample_id for clip in lenient] == [2, 3, 4]
    assert lenient.skipped == {"vanished": {"count": 1, "first": ["a.parquet"]}}


def test_rows_of_hours_are_read_one_by_one(tmp_path, monkeypatch):
    sizes, plain = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda f, n, **o: sizes.append(n) or plain(f, n, **o))
    for length in (1000, 10**7, 14 * 10**7):
        table = pa.table({"audio": [bytes(range(200)) + bytes(length)], "human_labels": [["Speech"]]})
        pq.write_table(table, tmp_path / "00.parquet", compression="zstd", use_dictionary=False)
        rows_of(tmp_path)
    assert sizes == [16, 13, 1]


def test_a_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    table = pa.table({"audio": [bytes(10**7)] * 3, "human_labels": [["Speech"]] * 3})
    pq.write_table(table, tmp_path / "00.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "00.parquet").stat().st_size < 10**5 and len(rows_of(tmp_path)) == 3
    monkeypatch.setattr(data, "MAX_ROW_BYTES", 9 * 10**6)
    with pytest.raises(UserError, match="00.parquet unpacks to 0.0 GiB for each row, more than"):
        rows_of(tmp_path)


def test_of_a_huge_cell_the_first_part_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MAX_BYTES", 44 + 2 * 48_000)
    (clip,) = read_back(tmp_path, pa.array([flac(sine(440, 3, 48_000), 48_000, format="WAV")]))
    assert len(heard(clip)) == 48_000


def test_paths_in_the_data_are_never_opened(tmp_path):
    (tmp_path / "secret.wav").write_bytes(flac(tone(440), format="WAV"))
    path = str(tmp_path / "secret.wav")
    for audio in ({"bytes": None, "path": path}, {"bytes": path.encode(), "path": path}, {"array": None, "path": path}):
        (clip,) = read_back(tmp_path / "data", pa.array([audio]), video_id=[path], labels=[[path]])
        assert heard(clip) in ("holds only a path", "undecodable audio") and clip.video_id == path


def test_a_column_that_occurs_twice(tmp_path):
    columns = [pa.array([b"x"]), pa.array(["a"]), pa.array([b"y"])]
    pq.write_table(pa.Table.from_arrays(columns, ["audio", "human_labels", "audio"]), tmp_path / "00.parquet")
    with pytest.raises(UserError, match="00.parquet has 2 columns 'audio'"):
        ParquetFolder(tmp_path, CLASSES)


def test_a_struct_field_that_occurs_twice_is_no_crash(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array([b"x"]), pa.array([b"y"])], ["bytes", "bytes"])
    (clip,) = read_back(tmp_path, twice)
    assert isinstance(heard(clip), str)


def test_no_rows_at_all(tmp_path):
    pq.write_table(pa.Table.from_pylist(tone_rows(1))[:0], tmp_path / "00.parquet")
    with pytest.raises(UserError, match="no rows at all"):
        ParquetFolder(tmp_path, CLASSES)
    write_rows(tmp_path, tone_rows(2), "01.parquet")
    assert len(rows_of(tmp_path)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"PAR1", b"PAR1" + bytes(20) + b"PAR1", b"version https://git-lfs"]
)
def test_files_that_are_no_parquet(tmp_path, content):
    (tmp_path / "00.parquet").write_bytes(content)
    with pytest.raises(UserError, match="00.parquet cannot be read as parquet: ") as error:
        ParquetFolder(tmp_path, CLASSES)
    assert "\n" not in str(error.value)


def test_a_link_to_nowhere_is_not_passed_over(tmp_path):
    write_rows(tmp_path, tone_rows(1))
    (tmp_path / "01.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="01.parquet cannot be read"):
        ParquetFolder(tmp_path, CLASSES)


def test_a_damaged_page_with_a_checksum(tmp_path):
    write_rows(tmp_path, tone_rows(5), "00.parquet")
    write_rows(tmp_path, tone_rows(40), "01.parquet", row_group_size=10, compression="none", write_page_checksum=True)
    damage_page(tmp_path / "01.parquet")
    clips = iter(ParquetFolder(tmp_path, CLASSES))
    with pytest.raises(UserError, match="01.parquet is damaged after its row 20: ") as error:
        list(clips)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_damage_anywhere_loads_or_is_refused_by_name(tmp_path, compression, version):
    rows = [row | {"audio": {"bytes": row["audio"]["bytes"][:300]}} for row in tone_rows(20)]
    write_rows(tmp_path, rows, compression=compression, data_page_version=version, row_group_size=10)
    path = tmp_path / "00.parquet"
    whole = path.read_bytes()
    refused, known = 0, set()  # of the same bytes the same is heard
    for at in np.linspace(0, len(whole) - 1, 80).astype(int):
        content = bytearray(whole)
        content[at : at + 3] = b"\xff\x07\x95"
        path.write_bytes(content)
        try:
            for clip in rows_of(tmp_path):
                if not isinstance(clip.audio, bytes) or clip.audio not in known:
                    heard(clip)
                    known |= {clip.audio} if isinstance(clip.audio, bytes) else set()
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 5
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="00.parquet cannot be read"):
        rows_of(tmp_path)


# Formats


@pytest.mark.parametrize(
    ("container", "subtype", "error"),
    [
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-22),
        ("FLAC", "PCM_S8", 2**-7),
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-22),
        ("WAV", "PCM_32", 2**-22),
        ("WAV", "FLOAT", 2**-22),
        ("WAV", "DOUBLE", 2**-22),
        ("WAV", "ULAW", 0.02),
        ("WAV", "ALAW", 0.02),
        ("AIFF", "PCM_16", 2**-15),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats(container, subtype, error, channels):
    wanted = sine(440, 1, 48_000)
    waveform = heard(flac(np.repeat(wanted[:, None], channels, 1), 48_000, format=container, subtype=subtype))
    assert len(wanted) <= len(waveform) <= len(wanted) + 3000  # MP3 is padded to whole frames
    inside = slice(4000, 44_000)
    np.testing.assert_allclose(waveform[inside], wanted[inside], atol=error)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("encoded", [True, False])
def test_a_sine_stays_the_same_sine_at_48_khz(rate, encoded):
    samples = sine(1000, 1, rate)
    waveform = heard(flac(samples, rate, subtype="PCM_24")) if encoded else heard(samples, rate)
    wanted = sine(1000, 1, 48_000)
    assert len(waveform) == len(wanted)
    inside = slice(2000, -2000)
    np.testing.assert_allclose(waveform[inside], wanted[inside], atol=2e-4)


def test_resampling_removes_what_48_khz_cannot_hold():
    assert np.abs(heard(sine(40_000, 0.5, 192_000), 192_000)[2000:-2000]).max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "full"), [("i1", 2**7), ("i2", 2**15), ("i4", 2**31), ("u1", 2**7), ("u2", 2**15), ("u4", 2**31)]
)
def test_integers_are_scaled_by_their_range_exactly(kind, full):
    bounds = np.iinfo(kind)
    middle = bounds.min + full
    samples = np.array([bounds.min, middle, middle + full // 2, bounds.max], kind)
    assert heard(samples).tolist() == [-1.0, 0.0, 0.5, float(np.float32((full - 1) / full))]


@pytest.mark.parametrize(
    ("peak", "full"), [(-(2**15), 2**15), (2**15 + 1, 2**23), (-(2**23), 2**23), (2**31 - 1, 2**31), (2**40, 2**63)]
)
@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_wide_integers_hold_the_narrowest_usual_samples(peak, full, kind):
    peak = abs(peak) if kind == "u8" else peak
    assert heard(np.array([0, peak, 2**13], kind)).tolist() == [0.0, np.float32(peak / full), 2**13 / full]
    assert heard(np.array([0, np.iinfo(kind).min], kind)).tolist() == [0, -1 if kind == "i8" else 0]


def test_integer_lists_keep_their_type(tmp_path):
    for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.int64()):
        (clip,) = read_back(tmp_path, pa.array([[1, 2, 3]], pa.list_(kind)))
        assert clip.audio.dtype == kind.to_pandas_dtype()


@pytest.mark.parametrize(
    "samples",
    [[0.0, np.nan], [np.inf, 0.0], [-np.inf], [[0.5, 0.5], [np.nan, 0.5]], [[1.7e308, 0.0], [1.7e308, 0.0]]],
)
def test_nan_and_infinity_are_skipped(samples):
    assert heard(np.array(samples)) == "audio with NaN or infinity"
    if np.ndim(samples) == 1:
        assert heard(flac(samples, 48_000, format="WAV", subtype="DOUBLE")) == "audio with NaN or infinity"


def test_missing_samples_are_nan(tmp_path):
    for column in (pa.array([[0.5, None]]), pa.array([[1, None]], pa.list_(pa.int16()))):
        (clip,) = read_back(tmp_path, column)
        assert heard(clip) == "audio with NaN or infinity"


@pytest.mark.parametrize(("kind", "factor"), [("f2", 1), ("f4", 1), ("f4", 2.0**120), ("f8", 1), ("f8", 2.0**1000)])
def test_floats_beyond_one_are_scaled_by_their_peak(kind, factor):
    assert heard(np.array([2 * factor, -4 * factor, factor], kind)).tolist() == [0.5, -1.0, 0.25]


def test_a_float_wav_beyond_one():
    loud = flac(sine(440, 1, 48_000, 4.0), 48_000, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(heard(loud), sine(440, 1, 48_000, 1.0), atol=1e-5)


def test_resampling_is_left_as_it_is():
    square = np.sign(sine(100, 1, 16_000)).astype(np.float32)
    np.testing.assert_array_equal(heard(square, 16_000), soxr.resample(square, 16_000, 48_000, quality="HQ"))


def test_channels():
    left = sine(440, 0.5, 48_000)
    assert not heard(flac(np.stack([left, -left], 1), 48_000)).any()  # documented: anti-phase becomes silence
    assert not heard(np.stack([left, -left])).any()
    np.testing.assert_allclose(heard(flac(np.stack([left, 0 * left], 1), 48_000)), left / 2, atol=1e-4)
    six = np.stack([left] + [0 * left] * 5, 1)
    np.testing.assert_allclose(heard(flac(six, 48_000, format="WAV")), left / 6, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 48_000, 192_000])
@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_silence_constants_and_very_short_clips(rate, count):
    for level in (0.0, 0.5):
        waveform = heard(np.full(count, level), rate)
        assert isinstance(waveform, np.ndarray) or (waveform == "empty audio" and count * 48_000 < rate)
        assert isinstance(heard(flac(np.full(count, level), rate)), np.ndarray) or rate > 48_000


def test_long_clips_are_read_whole_up_to_the_limit(monkeypatch):
    assert len(heard(flac(sine(100, 40, 8000), 8000))) == 40 * 48_000
    monkeypatch.setattr(audio_reading, "MAX_SECONDS", 2)
    monkeypatch.setattr(audio_reading, "MAX_SAMPLES", 2 * 48_000)
    for rate in (8000, 48_000, 192_000):
        samples = sine(100, 3, rate)
        assert len(heard(samples, rate)) == len(heard(flac(samples, rate))) == 2 * 48_000
        assert len(heard(np.stack([samples, samples]), rate)) == 2 * 48_000


def test_a_decompression_bomb_stays_small():
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(180):
            file.write(np.zeros(60 * 8000, np.int16))
    assert len(buffer.getvalue()) < 1_000_000  # for three hours
    tracemalloc.start()
    waveform = heard(buffer.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(waveform) == audio_reading.MAX_SECONDS * 48_000
    assert peak < 300e6


# Damage


def test_headers_that_promise_three_hours(tmp_path):
    wav = bytearray(flac(sine(440, 1, 8000), 8000, format="WAV"))
    at = wav.index(b"data") + 4
    wav[at : at + 4] = (3 * 3600 * 8000 * 2).to_bytes(4, "little")
    assert len(heard(bytes(wav))) == 48_000
    lossless = bytearray(flac(sine(440, 1, 8000), 8000))
    lossless[21] |= 0x0F  # total samples: 36 bits in STREAMINFO
    lossless[22:26] = b"\xff" * 4
    found = heard(bytes(lossless))
    if av.__version__.split(".")[0] != "18" and isinstance(found, str):
        pytest.skip(f"the ffmpeg of PyAV {av.__version__} refuses such a header: {found}")
    assert len(found) == 48_000


@pytest.mark.parametrize("rate", [0, 44, 2**31 - 1, 2**32 - 1])
def test_wav_headers_with_impossible_rates(rate):
    wav = bytearray(flac(sine(440, 1, 8000), 8000, format="WAV"))
    wav[24:28] = rate.to_bytes(4, "little")
    assert heard(bytes(wav)) in ("impossible sampling rate", "undecodable audio")


@pytest.mark.parametrize(
    "audio",
    [
        b"this is a text, not a sound\n" * 100,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200),
        b"RIFF",
        b"\0",
        bytes(5000),
        flac(tone(440))[:60],
        b"XXXX" + flac(tone(440))[4:],
        np.random.default_rng(0).bytes(65_536),
    ],
)
def test_what_is_no_audio_is_skipped(audio):
    assert heard(audio) in ("undecodable audio", "not a sound but zeros", "not a sound but a picture")


def test_libsndfile_prints_no_traceback(capfd):
    assert heard(flac(tone(440), format="AIFF")[:30]) == "undecodable audio"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG", "MP3"])
def test_a_truncated_file_gives_its_first_part_or_nothing(container):
    whole = flac(sine(440, 4, 16_000), 16_000, format=container)
    waveform = heard(whole[: len(whole) // 2])
    assert isinstance(waveform, str) or 1.5 < len(waveform) / 48_000 < 2.5


SOUNDS = [flac(tone(440, 0.3), format=each) for each in ("FLAC", "WAV", "OGG", "MP3", "AIFF")]


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_never_crash(audio):
    heard(audio)


@given(st.sampled_from(SOUNDS), st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8), st.data())
@settings(deadline=None, max_examples=200)
def test_mutated_files_never_crash(audio, changes, draw):
    audio = bytearray(audio)
    for at, byte in changes:
        audio[at % len(audio)] = byte
    heard(bytes(audio[: draw.draw(st.integers(0, len(audio)))]))


KINDS = st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])


@given(
    KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(max_dims=2, min_side=0, max_side=40))),
    st.one_of(st.integers(), st.sampled_from([8000, 44_100, 48_000, 96_000])),
)
@settings(deadline=None, max_examples=300)
def test_random_arrays_never_give_nan(samples, rate):
    heard(samples, rate)


@pytest.mark.parametrize("rate", [1000, 8000, 11_025, 44_100, 96_000])
def test_the_worst_that_resampling_does(rate):
    """No waveform within [-1, 1] leaves the resampler above the sum of its responses to unit impulses, and one does."""
    count = max(400, 400 * rate // 48_000)
    responses = soxr.resample(np.eye(count, dtype=np.float32), rate, 48_000, quality="HQ")
    sums = np.abs(responses).sum(axis=1)
    assert sums.max() <= OVERSHOOT
    worst = np.sign(responses[sums.argmax()])
    assert np.abs(heard(worst, rate)).max() == pytest.approx(sums.max(), rel=1e-3)


# The hostile files of EXPECT.md


def alone(hostile, name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(hostile / f"{name}.parquet", folder)
    return rows_of(folder)


def test_hostile_layouts_load(hostile, tmp_path):
    names = ("a01_audio_struct_bytes", "a02_audio_raw_bytes", "a03_audio_list_float_48k", "f02_row_groups_of_one")
    struct, plain, lists, groups = ([heard(clip) for clip in alone(hostile, name, tmp_path)] for name in names)
    assert (len(struct), len(plain), len(lists), len(groups)) == (10, 10, 5, 60)
    assert all(isinstance(waveform, np.ndarray) for waveform in struct + plain + lists + groups)
    for one, other in zip(struct, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_hostile_labels(hostile, tmp_path):
    single = alone(hostile, "b01_labels_single_string", tmp_path)
    assert [len(clip.human_labels) for clip in single] == [1] * 4
    commas = alone(hostile, "b04_labels_with_commas_in_string", tmp_path)
    assert [clip.human_labels for clip in commas] == [
        ["Male speech, man speaking"],
        ["Speech", "Male speech, man speaking"],
        ["Violin, fiddle", "Music"],
        ["Chicken, rooster", "Fowl"],
        ["Livestock, farm animals, working animals"],
    ]
    nothing = alone(hostile, "b06_labels_null_empty", tmp_path)
    assert [clip.human_labels for clip in nothing[:5]] == [[], [], [], [], ["Speech"]]
    assert nothing[5].positions


def test_hostile_bytes(hostile, tmp_path):
    results = [heard(clip) for clip in alone(hostile, "c01_bad_bytes", tmp_path)]
    assert [i for i, result in enumerate(results) if isinstance(result, np.ndarray)] in ([0, 10], [0, 3, 10])
    assert [i for i, result in enumerate(results) if isinstance(result, str) and result == "no audio"] == [5, 11]
    assert results[6] == "holds only a path"


def test_hostile_audio(hostile, tmp_path):
    results = [heard(clip) for clip in alone(hostile, "d01_odd_audio", tmp_path)]
    assert [i for i, result in enumerate(results) if isinstance(result, str)] == [2]
    assert not results[0].any() and not results[6].any() and len(results[4]) == 40 * 48_000
    assert np.abs(results[10]).max() == 1 and (results[20] == 0.5).all()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("e01_missing_audio", "e01_missing_audio.parquet has no column 'audio'"),
        ("e04_empty_zero_rows", "no rows at all"),
        ("e06_not_parquet", "e06_not_parquet.parquet cannot be read as parquet"),
    ],
)
def test_hostile_files_are_refused(hostile, tmp_path, name, complaint):
    with pytest.raises(UserError, match=complaint):
        alone(hostile, name, tmp_path)


def test_hostile_nesting_is_told(hostile, caplog):
    caplog.set_level(logging.INFO)
    assert len(rows_of(hostile / "g_nested")) == 3
    assert "1 parquet files in sub-folders" in caplog.text
