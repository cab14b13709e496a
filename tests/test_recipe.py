"""From a folder of sounds and a CSV to parquet that the scripts read."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import ROOT, tone

from data import ParquetFolder, decode
from labels import ClassList


def recipe(*flags):
    command = [sys.executable, ROOT / "demo" / "wav_folder_to_parquet.py", *flags]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


@pytest.fixture
def sounds(tmp_path):
    """Four WAV files, two of them in a sub-folder, and a CSV as of ESC-50."""
    folder = tmp_path / "sounds"
    (folder / "fold2").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "fold2/c.wav", "fold2/d.wav"):
        soundfile.write(folder / name, tone(300), 16_000)
    table = tmp_path / "labels.csv"
    table.write_text("filename,fold,label\na.wav,1,dog\nb.wav,1,clock_alarm;rain\nc.wav,2,dog\nc.wav,2,rain\nd.wav,2,cat\n")
    return folder, table, tmp_path / "parquet"


def test_rows_labels_and_classes(sounds):
    folder, table, target = sounds
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target)
    assert done.returncode == 0, done.stderr
    classes = ClassList.read(target / "class_labels.json")
    assert classes.names == ["cat", "clock alarm", "dog", "rain"]
    clips = list(ParquetFolder(target, classes))
    assert [clip.video_id for clip in clips] == ["a", "b", "c", "d"]
    assert [clip.human_labels for clip in clips] == [["dog"], ["clock alarm", "rain"], ["dog", "rain"], ["cat"]]
    assert all(clip.positions for clip in clips)
    assert clips[0].audio == (folder / "a.wav").read_bytes()
    assert len(decode(clips[0])) == 72_000


def test_selected_rows_keep_the_whole_class_list(sounds):
    folder, table, target = sounds
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, "--where", "fold=1")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(target / "sounds.parquet")["video_id"].to_pylist() == ["a", "b"]
    assert json.loads((target / "class_labels.json").read_text()) == {"cat": 0, "clock alarm": 1, "dog": 2, "rain": 3}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--label-column", "category"), "has no column 'category'; its columns are filename, fold, label"),
        (("--where", "fold=9"), "selects no row"),
        (("--where", "fold"), "is not of the form"),
        (("--audio-dir", "missing"), "is not a folder"),
    ],
)
def test_one_sentence_for_what_is_wrong(sounds, flags, sentence):
    folder, table, target = sounds
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, *flags)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not target.exists() or not list(target.iterdir())
