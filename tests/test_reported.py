"""What people reported elsewhere, rebuilt here in small: one line each, and the right value of it.

The kinds behind them are tested in test_readers, test_columns, test_recipe, test_tagging, test_labels and
test_retrieval_captions; this is the table.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import flac, here, script, tone, tone_rows, write_rows
from test_readers import FORMS, RATE, chirp, damaged_flac, muxed, piped_flac, unfinished_wav, vbr

from data import ONLY_PATH, ParquetFolder, decode
from hyperbolic_clap.inference.windows import Windows
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.reading import readers
from hyperbolic_clap.reading.audio import hear
from hyperbolic_clap.reading.labels import ClassList

CLASSES = ClassList.read(CLASS_LABELS)


def half_then_zeros() -> bytes:
    data = vbr(chirp(4.0))
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def at_384_khz() -> bytes:
    return flac(np.float32(0.1) * np.sin(np.arange(384_000 * 80, dtype=np.float32) / 50), 384_000)


@pytest.mark.parametrize(
    ("make", "seconds", "note"),
    [
        (FORMS["MP3 of variable rate without a count"][0], 20, None),
        (FORMS["chained Opus"][0], 6, None),
        (piped_flac, 3, None),
        (unfinished_wav, 3, readers.NO_LENGTH),
        (at_384_khz, 80, None),
        (FORMS["FLAC in Ogg"][0], 3, None),
        (FORMS["AAC after ID3"][0], 3, None),
        (half_then_zeros, 2, readers.SHORT),
        (FORMS["M4A"][0], 3, None),
        (damaged_flac, 6, readers.DAMAGED),
    ],
    ids=["vbr_without_xing.mp3", "chained.opus", "piped_length_unknown.flac", "recorder_never_wrote_its_length.wav",
         "rate_384k_90s.flac", "flac_in_ogg.ogg", "aac_after_id3.aac", "half_then_zeros.mp3", "needs_ffmpeg.m4a",
         "damaged.flac"],
)  # fmt: skip
def test_sound_is_read_whole_or_what_is_missing_is_said(make, seconds, note):
    found = hear(make(), 0)
    assert len(found.waveform) / 48_000 == pytest.approx(seconds, abs=0.2)
    assert note in found.notes if note else not found.notes


def test_tone_after_10_minutes(tmp_path):
    quiet = np.zeros(8000 * 606)
    quiet[8000 * 602 :] = tone(440, 4, 8000)
    (tmp_path / "a.m4a").write_bytes(muxed(quiet, "mp4", "aac", 8000))
    loud = [(start, end) for start, end, part in Windows(tmp_path / "a.m4a", 10.0, 10.0) if np.abs(part).max() > 0.1]
    assert loud == [(600.0, pytest.approx(606, abs=0.3))]


def test_float_scale(tmp_path):
    found = []
    for name, factor in (("control", 1), ("scaled", 32_768)):
        (tmp_path / name).write_bytes(flac(np.float32(chirp() * factor), format="WAV", subtype="FLOAT"))
        found.append([part for *_, part in Windows(tmp_path / name, 1.0, 1.0)])
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


ENCODED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SAMPLES = np.int16(tone(300) * 32_767)
BYTES = flac(tone(300), format="WAV")
ESC50 = {"filename": ["1.wav"], "fold": [1], "target": [1], "category": ["Speech"], "audio": [BYTES]}
FEATURES = {"info": {"features": {"labels": {"feature": {"names": ["Speech", "Music"], "_type": "ClassLabel"}}}}}


def cell(kind, **fields):
    kinds = {"array": pa.list_(kind)} | dict.fromkeys(fields, pa.int64())
    return pa.array([{"array": SAMPLES.tolist()} | fields], pa.struct(kinds))


@pytest.mark.parametrize(
    "columns",
    [
        {"audio": cell(pa.int32(), sampling_rate=RATE), "human_labels": ["Speech"]},
        {"audio": cell(pa.int16(), sample_rate=RATE), "human_labels": ["Speech"]},
        {"audio": pa.array([list(BYTES)], pa.list_(pa.uint8())), "human_labels": ["Speech"]},
        {"audio": pa.array([{"bytes": None, "path": "beside.wav"}], ENCODED), "human_labels": ["Speech"]},
        ESC50,
        {"audio": [BYTES], "labels": pa.array([[0]])},
    ],
    ids=["int16_samples_in_int32", "rate_called_sample_rate", "wav_bytes_as_list_of_uint8", "path_without_bytes",
         "hub_esc50", "hub_classlabel"],
)  # fmt: skip
def test_cells_and_columns(tmp_path, columns):
    (tmp_path / "beside.wav").write_bytes(BYTES)
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
    pq.write_table(table, tmp_path / "00.parquet")
    (clip,) = ParquetFolder(tmp_path, CLASSES)
    assert clip.human_labels == ["Speech"]
    np.testing.assert_allclose(decode(clip), hear(BYTES, 0).waveform, atol=1e-4)
    (tmp_path / "beside.wav").unlink()
    (clip,) = ParquetFolder(tmp_path, CLASSES)
    assert clip.without == ONLY_PATH or clip.audio is not None


@pytest.mark.parametrize(
    ("text", "flags", "ids", "said"),
    [
        ("video_id,start,label\na,17,x\na,46,y\n", ("--filename-template", "{video_id}_{start:06d}.wav"),
         ["a_000017", "a_000046"], ""),
        ("video_id,start,label\nb,17,x\nb,46,y\n", ("--filename-column", "video_id"), ["b", "b"], "several rows"),
        ("filename,label\n./b.wav,x\na_000017.wav,y\n", (), ["b", "a_000017"], ""),
    ],
    ids=["vggsound_names.csv", "vggsound_merge.csv", "dot_slash.csv"],
)  # fmt: skip
def test_recipes(tmp_path, text, flags, ids, said):
    (tmp_path / "sounds").mkdir()
    for name in ("a_000017", "a_000046", "b"):
        (tmp_path / "sounds" / f"{name}.wav").write_bytes(BYTES)
    (tmp_path / "a.csv").write_text(text)
    done = here("demo/wav_folder_to_parquet.py", "--audio-dir", tmp_path / "sounds", "--csv", tmp_path / "a.csv",
                "--output-dir", tmp_path / "out", *flags)  # fmt: skip
    assert pq.read_table(tmp_path / "out" / "sounds.parquet")["video_id"].to_pylist() == ids
    assert said in done.stdout and bool(said) == ("warning" in done.stdout)


def test_captions_one_per_row(tmp_path):
    rows = [row | {"caption": f"{text} {i}"} for i, row in enumerate(tone_rows(6)) for text in ("a tone", "a beep")]
    write_rows(tmp_path / "data", [{k: row[k] for k in ("video_id", "audio", "caption")} for row in rows])
    script("test_retrieval.py", "--parquet-dir", tmp_path / "data", "--no-cache", "--output-json", tmp_path / "r.json")
    clips = json.loads((tmp_path / "r.json").read_text())["test_info"]["clips"]
    assert (clips["used"], clips["captions"], clips["rows_of_the_same_audio"]) == (6, 12, 6)
