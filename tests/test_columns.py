"""Cells and columns in the forms of the hubs: samples in wide types, rates, bytes as numbers, paths, columns' names."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import flac, script, tone, tone_rows, write_rows

from data import ONLY_PATH, Clip, ParquetFolder, decode
from hyperbolic_clap.plumbing.config import CLASS_LABELS, Columns
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading.labels import ClassList

CLASSES = ClassList.read(CLASS_LABELS)
SAMPLES = np.int16(tone(300) * 32_767)


def write(folder, schema_metadata=None, name="00.parquet", **columns):
    folder.mkdir(exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(schema_metadata) if schema_metadata else table, folder / name)
    return folder


def clips(folder, **options) -> list[Clip]:
    """The rows as they are read with their audio, after a check that their columns alone say the same."""
    read = ParquetFolder(folder, CLASSES, **options)
    found = list(read)
    rows = [read.columns(span) for span in read.spans(0, read.num_rows)]
    assert [name for part in rows for name in part.video_ids] == [clip.video_id for clip in found]
    assert [names for part in rows for names in part.human_labels.to_pylist()] == [clip.human_labels for clip in found]
    return found


def struct(samples, kind, **fields):
    kinds = {"array": pa.list_(kind)} | dict.fromkeys(fields, pa.int64())
    return pa.array([{"array": samples.tolist()} | fields], pa.struct(kinds))


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
@pytest.mark.parametrize("bits", [16, 24])
def test_integers_in_wider_types_are_scaled_by_what_they_hold(tmp_path, kind, bits):
    wide = SAMPLES.astype(np.int32) << (bits - 16)
    narrow, given = (struct(x, k, sampling_rate=16_000) for x, k in ((SAMPLES, pa.int16()), (wide, kind)))
    (control,) = clips(write(tmp_path / "a", audio=narrow, labels=["Speech"]))
    (clip,) = clips(write(tmp_path / "b", audio=given, labels=["Speech"]))
    np.testing.assert_array_equal(decode(clip), decode(control))
    plain = Clip(0, "", [], [], audio=wide << (32 - bits), rate=16_000)
    if kind == pa.int32() and bits == 16:
        np.testing.assert_array_equal(decode(plain), decode(control))  # full 32 bits as ever


@pytest.mark.parametrize("name", ["sample_rate", "samplerate", "sr", "rate", "sampling_frequency", "fs"])
def test_a_rate_under_another_name_or_in_a_column(tmp_path, name):
    audio = struct(SAMPLES, pa.int16(), **{name: 16_000})
    inside = write(tmp_path / "a", audio=audio, human_labels=["Speech"])
    beside = write(tmp_path / "b", audio=[SAMPLES.tolist()], human_labels=["Speech"], **{name: [16_000]})
    both = write(tmp_path / "c", audio=audio, human_labels=["Speech"], sr=[8000])
    for folder in (inside, beside, both):
        (clip,) = clips(folder)
        assert clip.rate == 16_000 and len(decode(clip)) == 72_000


def test_a_rate_that_is_none_is_refused_and_that_of_encoded_bytes_is_their_own(tmp_path):
    (clip,) = clips(write(tmp_path / "a", audio=[SAMPLES.tolist()], human_labels=["Speech"], sr=[44]))
    with pytest.raises(RowError, match="impossible sampling rate"):
        decode(clip)
    (clip,) = clips(write(tmp_path / "b", audio=[flac(tone(300))], human_labels=["Speech"], sr=[44]))
    assert len(decode(clip)) == 72_000


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int16(), pa.int64()])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("in_struct", [False, True])
def test_bytes_as_a_list_of_numbers(tmp_path, kind, form, in_struct):
    data = flac(tone(300), format=form)
    cell, type_ = list(data), pa.list_(kind)
    if in_struct:
        cell, type_ = {"bytes": cell, "path": "a.wav"}, pa.struct({"bytes": type_, "path": pa.string()})
    (clip,) = clips(write(tmp_path / "a", audio=pa.array([cell], type_), human_labels=["Speech"]))
    assert clip.audio == data and clip.content_key() == Clip(0, "", [], [], audio=data).content_key()


def test_samples_that_begin_as_a_file_by_chance_stay_samples(tmp_path):
    samples = [*b"RIFF", *range(300)]
    (clip,) = clips(write(tmp_path / "a", audio=pa.array([samples], pa.list_(pa.int16())), human_labels=["Speech"]))
    assert isinstance(clip.audio, np.ndarray)


# Paths


def paths(folder, *given):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = pa.array([{"bytes": None, "path": str(path)} for path in given], kind)
    return write(folder, audio=audio, human_labels=["Speech"] * len(given))


def test_a_path_is_read_if_its_file_lies_beside_the_parquet(tmp_path):
    folder = tmp_path / "data"
    (folder / "sounds").mkdir(parents=True)
    data = flac(tone(300), format="WAV")
    for path in ("sounds/a.wav", "b.wav"):
        (folder / path).write_bytes(data)
    (tmp_path / "outside.wav").write_bytes(data)
    (folder / "link.wav").symlink_to(tmp_path / "outside.wav")
    inside = "sounds/a.wav", "b.wav", folder / "b.wav", "/home/somebody/b.wav"
    outside = "../outside.wav", tmp_path / "outside.wav", "link.wav", "gone.wav", "a\0b", "."
    found = clips(paths(folder, *inside, *outside))
    assert [clip.audio == data for clip in found] == [True] * 4 + [False] * 6
    assert {clip.without for clip in found[4:]} == {ONLY_PATH}
    with pytest.raises(RowError, match=ONLY_PATH):
        decode(found[4])


def test_a_file_beside_the_parquet_that_changes_is_read_again(tmp_path, monkeypatch):
    """Though the parquet file is as it was, and the table is trusted at once."""
    monkeypatch.setattr("hyperbolic_clap.plumbing.file_index.RACY_SECONDS", -1e6)
    folder = tmp_path / "data"
    write_rows(folder, tone_rows(4))
    paths(folder, "a.wav", "gone.wav")
    flags = ("--parquet-dir", folder, "--cache-dir", tmp_path / "cache", "--output-json", tmp_path / "r.json")
    found = []
    for frequency in (300, 3000, 3000):
        (folder / "a.wav").write_bytes(flac(tone(frequency), format="WAV"))
        script("test_clap_modelscope.py", *flags)
        content = json.loads((tmp_path / "r.json").read_text())
        assert content["test_info"]["clips"]["skipped"] == {ONLY_PATH: {"count": 1, "first": ["00#1"]}}
        found.append(content["predictions"][0])
    assert found[0] != found[1] == found[2]


# Names of columns


def sounds(count=2):
    return pa.array([{"bytes": flac(tone(300 * (i + 1))), "path": None} for i in range(count)])


def classlabel(form):
    feature = {"names": ["Speech", "Music"], "_type": "ClassLabel"}
    feature = {"plain": feature, "list": {"feature": feature, "_type": "List"}, "sequence": [feature]}[form]
    return {"huggingface": json.dumps({"info": {"features": {"labels": feature, "label": feature}}})}


@pytest.mark.parametrize("name", ["label", "labels"])
@pytest.mark.parametrize("form", ["plain", "list", "sequence"])
def test_numbers_have_the_names_of_the_schema(tmp_path, name, form, caplog):
    column = [0, 1, -1, None] if form == "plain" else [[0], [1, 0], [], None]
    kind = pa.int64() if form == "plain" else pa.list_(pa.int64())
    folder = write(tmp_path / "a", classlabel(form), audio=sounds(4), **{name: pa.array(column, kind)})
    wanted = [["Speech"], ["Music"], [], []] if form == "plain" else [["Speech"], ["Music", "Speech"], [], []]
    assert [clip.human_labels for clip in clips(folder)] == wanted
    assert "machine ids" not in caplog.text


def test_numbers_without_names_are_refused(tmp_path):
    other = json.dumps({"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}})
    for metadata in (None, {"huggingface": "["}, {"huggingface": other}):
        folder = write(tmp_path / "a", metadata, audio=sounds(), label=[0, 1])
        with pytest.raises(UserError, match="has no column 'human_labels'; .* --label-column names another"):
            clips(folder)
        with pytest.raises(UserError, match="column 'label' is int64, which cannot hold label names"):
            clips(folder, names=Columns(label="label"))


@pytest.mark.parametrize("name", ["category", "label", "class", "tags"])
def test_usual_names_are_found_and_said(tmp_path, name, caplog):
    columns = {"wav": [flac(tone(300))] * 2, "target": [1, 2], "ytid": ["x", "y"], name: ["Speech", "Music"]}
    folder = write(tmp_path / "a", **columns)
    found = clips(folder)
    assert [clip.human_labels for clip in found] == [["Speech"], ["Music"]]
    assert [clip.video_id for clip in found] == ["x", "y"] and all(len(decode(clip)) for clip in found)
    for role, other in (("human_labels", name), ("audio", "wav"), ("video_id", "ytid")):
        assert f"there is no column '{role}', so the " in caplog.text and f"are those of '{other}'" in caplog.text


def test_own_names_come_first_and_the_flags_before_all(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    columns = {"audio": sounds(), "human_labels": ["Speech"] * 2, "category": ["Music"] * 2, "video_id": ["a", "b"]}
    folder = write(tmp_path / "a", **columns, other=["c", "d"], wav=[flac(tone(900))] * 2)
    assert [clip.human_labels for clip in clips(folder)] == [["Speech"]] * 2 and not caplog.text
    found = clips(folder, names=Columns("wav", "category", "other"))
    assert [(clip.human_labels, clip.video_id) for clip in found] == [(["Music"], "c"), (["Music"], "d")]
    assert found[0].audio == flac(tone(900)) and not caplog.text
    for names in (Columns("none"), Columns(None, "none"), Columns(None, None, "none")):
        with pytest.raises(UserError, match="has no column 'none'"):
            clips(folder, names=names)


def test_the_flags_reach_every_script_and_the_table_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperbolic_clap.plumbing.file_index.RACY_SECONDS", -1e6)
    folder = write(tmp_path / "a", audio=sounds(), wav=[flac(tone(900)), flac(tone(1200))], mine=["Speech", "Music"],
                   category=["Music", "Speech"], number=["p", "q"])  # fmt: skip
    flags = ("--parquet-dir", folder, "--cache-dir", tmp_path / "cache", "--output-json", tmp_path / "r.json")
    chosen = ("--audio-column", "wav", "--label-column", "mine", "--id-column", "number")
    found = []
    for more in ((), chosen, (), chosen, chosen[:2]):
        script("test_clap_modelscope.py", *flags, *more)
        found.append(json.loads((tmp_path / "r.json").read_text())["predictions"])
    assert found[0] == found[2] != found[1] == found[3]
    tops = [[entry["top_k_predictions"] for entry in some] for some in found]
    assert tops[4] == tops[1] != tops[0], "what is known of one column is not of the other"
    assert [entry["video_id"] for entry in found[1]] == ["p", "q"]
    assert [entry["ground_truth_human_labels"] for entry in found[1]] == [["Speech"], ["Music"]]
    done = script("search_sounds.py", "rain", "--parquet-dir", folder, "--no-cache", *chosen)
    assert "mine" not in done.stderr and " p " in done.stdout


def test_a_sound_beside_the_parquet_is_read_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperbolic_clap.plumbing.file_index.RACY_SECONDS", -1e6)
    folder = write(tmp_path / "a", audio=[{"path": f"{i}.wav", "bytes": None} for i in range(2)],
                   human_labels=["Speech", "Music"])  # fmt: skip
    flags = ("--parquet-dir", folder, "--cache-dir", tmp_path / "cache", "--output-json", tmp_path / "r.json")
    tops = []
    for pitch in (300, 2000):
        for i in range(2):
            (folder / f"{i}.wav").write_bytes(flac(tone(pitch * (i + 1)), format="WAV"))
        script("test_clap_modelscope.py", *flags)
        found = json.loads((tmp_path / "r.json").read_text())["predictions"]
        tops.append([entry["top_k_predictions"] for entry in found])
    assert tops[0] != tops[1]
