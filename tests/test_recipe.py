"""From a folder of sounds and a CSV to parquet that the scripts read."""

import json
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import ROOT, here, script, tone

from data import ParquetFolder, decode
from hyperbolic_clap.reading.labels import ClassList


def recipe(*flags):
    return here("demo/wav_folder_to_parquet.py", *flags, check=False)


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
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, "--merge-rows")
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


def example(name):
    """The commands of a document's worked example, which begins with demo/wav_example.py."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    start = text.index("    python demo/wav_example.py")
    block = text[start : text.index("\n\n", start)]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def test_the_worked_example_of_the_readme_runs(tmp_path):
    """From WAV files to two results files and their comparison, each command as it stands there."""
    outputs = {}
    for name, *flags in example("docs/label-sets.md"):
        flags = [ROOT / flag if flag == "CLAP/tiny" else flag for flag in flags]
        if name.startswith(("train_", "test_")):
            done = script(name, *flags, "--cache-dir", tmp_path / "cache", cwd=tmp_path)
        else:
            done = here(name, *flags, cwd=tmp_path)
        outputs[name] = done.stdout
    mine = tmp_path / "demo" / "out" / "mine"
    assert len(list((tmp_path / "demo" / "out" / "sounds" / "audio").glob("*.wav"))) == 200
    assert [len(pq.read_table(mine / part / "sounds.parquet")) for part in ("train", "test")] == [160, 40]
    for kind in ("original", "hyperbolic"):
        result = json.loads((mine / f"results_{kind}.json").read_text(encoding="utf-8"))
        assert result["metrics"]["valid_samples"] == 40 and result["test_info"]["classes"] == 10
        assert {entry["ground_truth_human_labels"][0] for entry in result["predictions"]} == set(
            result["test_info"]["class_names"]
        )
        assert result["metrics"]["acc@1"] > 0.3  # by chance 0.1
    assert "hyperbolic and original have 40 clips in common, all of both" in outputs["compare_results.py"]
    assert re.search(r"^acc@1 .*\[[-+.\d]+, [-+.\d]+\]", outputs["compare_results.py"], re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "flags", "labels"),
    [
        # UrbanSound8K: one label, the files in folders by fold, only one fold chosen
        (
            "slice_file_name,fold,classID,class\na.wav,1,3,dog_bark\nc.wav,2,9,street_music\nd.wav,2,3,dog_bark\n",
            "--filename-column slice_file_name --label-column class --where fold=2",
            {"c": ["street music"], "d": ["dog bark"]},
        ),
        # FSD50K: names without ending, several labels between commas
        (
            'fname,labels,mids,split\na,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
            'b,"Bark,Dog","/m/05tny_,/m/0bt9lr",val\nd,"Dog","/m/0bt9lr",train\n',
            "--filename-column fname --label-column labels --separator , --where split=train",
            {"a": ["Electric guitar", "Guitar", "Music"], "d": ["Dog"]},
        ),
        # VGGSound: one label whose name may hold commas
        (
            'video_id,start,label,split\na,1,"playing violin, fiddle",test\nb,30,people marching,test\n'
            "c,2,people marching,train\n",
            "--filename-column video_id --where split=test",
            {"a": ["playing violin, fiddle"], "b": ["people marching"]},
        ),
    ],
    ids=["UrbanSound8K", "FSD50K", "VGGSound"],
)
def test_csv_files_in_the_form_of_known_data_sets(sounds, text, flags, labels):
    folder, table, target = sounds
    table.write_text(text)
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, *flags.split())
    assert done.returncode == 0, done.stderr
    classes = ClassList.read(target / "class_labels.json")
    clips = list(ParquetFolder(target, classes))
    assert {clip.video_id: clip.human_labels for clip in clips} == labels
    assert all(len(clip.positions) == len(clip.human_labels) for clip in clips)


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


@pytest.mark.parametrize(
    ("text", "flags", "sentence"),
    [
        ("filename,label\na.wav,Speech, male\n", (), "line 2 has more cells than the header"),
        ('filename,label\na.wav,"Cat\nb.wav,Bird\nd.wav,"Cow"\n', (), "is no UTF-8 CSV|cannot be read|a quote missing"),
        ('filename,label\na.wav,"Cat\nb.wav,Bird"\nd.wav,Cow\n', (), "holds several lines; is a quote missing"),
        ("filename,label\na.wav,Cat\nb.wav,Cow\n", ("--separator", ""), "--separator is empty"),
    ],
)
def test_a_csv_that_means_something_else_is_one_sentence(sounds, text, flags, sentence):
    folder, table, target = sounds
    table.write_text(text)
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, *flags)
    assert done.returncode == 2 and re.search(sentence, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert not target.exists()


def test_spellings_of_one_class_are_one(sounds):
    folder, table, target = sounds
    table.write_text("filename,label\na.wav,Dog\nb.wav,dog\nd.wav,Cat\n")
    assert recipe("--audio-dir", folder, "--csv", table, "--output-dir", target).returncode == 0
    assert ClassList.read(target / "class_labels.json").names == ["Cat", "Dog"]


def test_captions_of_files_that_cannot_have_them(tmp_path):
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.parquet"
    for content in (b"no parquet", {"labels": [["/m/x"]]}, {"human_labels": [["Dog"]], "captions": [["a dog"]]}):
        file.write_bytes(content) if isinstance(content, bytes) else pq.write_table(pa.table(content), file)
        done = here("demo/captions.py", "--parquet-dir", tmp_path / "in", "--output-dir", tmp_path / "o", check=False)
        assert done.returncode == 2 and "a.parquet" in done.stderr and not (tmp_path / "o").exists()


def made(sounds, text, *flags, files=()):
    """What the recipe makes of a CSV and further files: what it said, and the parquet's table without the audio."""
    folder, table, target = sounds
    table.write_text(text, encoding="utf-8")
    for name in files:
        soundfile.write(folder / name, tone(300), 16_000)
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, *flags)
    assert done.returncode == 0, done.stderr
    return done, pq.read_table(target / "sounds.parquet").drop_columns("audio").to_pylist()


VGGSOUND = "video_id,start,label,split\nvid,17,dog barking,train\nvid,46,train horning,test\n"


def test_a_name_made_of_columns(sounds):
    flags = ("--filename-template", "{video_id}_{start:06d}.wav")
    done, rows = made(sounds, VGGSOUND, *flags, files=("vid_000017.wav", "vid_000046.wav"))
    first, second = rows
    assert first == {"video_id": "vid_000017", "human_labels": ["dog barking"], "csv_video_id": "vid", "start": "17",
                     "split": "train"}  # fmt: skip
    assert (second["video_id"], second["human_labels"], second["start"]) == ("vid_000046", ["train horning"], "46")
    assert "warning" not in done.stdout
    floats = VGGSOUND.replace(",17,", ",17.0,")
    assert made(sounds, floats, *flags)[1][0]["video_id"] == "vid_000017"


@pytest.mark.parametrize(
    ("text", "template", "sentence"),
    [
        (VGGSOUND, "{video_id}_{begin}.wav", "has no column 'begin'"),
        (VGGSOUND, "{video_id}_{start!r}.wav", "must name columns as"),
        (VGGSOUND, "a.wav", "must name columns as"),
        (VGGSOUND.replace(",17,", ",soon,"), "{video_id}_{start:06d}.wav", "start is 'soon', no whole number"),
        (VGGSOUND, "{video_id}.flac", "need --filename-template"),
    ],
)
def test_templates_that_do_not_fit(sounds, text, template, sentence):
    folder, table, target = sounds
    table.write_text(text)
    done = recipe("--audio-dir", folder, "--csv", table, "--output-dir", target, "--filename-template", template)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_several_rows_of_a_file_are_merged_only_if_that_is_asked(sounds):
    text = "filename,label,fold\na.wav,dog,1\na.wav,cat,2\nb.wav,dog,1\nb.wav,dog,1\n./c.wav,cat,1\n"
    done, rows = made(sounds, text)
    assert [(row["video_id"], row["human_labels"]) for row in rows] == [
        ("a", ["dog"]), ("a", ["cat"]), ("b", ["dog"]), ("c", ["cat"])
    ]  # fmt: skip
    assert "1 files have several rows with different labels, 2 in all (the first is a.wav)" in done.stdout
    done, rows = made(sounds, text, "--merge-rows")
    assert [row["human_labels"] for row in rows] == [["dog", "cat"], ["dog"], ["cat"]]
    assert [row["fold"] for row in rows] == ["1;2", "1", "1"]
    assert "warning" not in done.stdout


def test_captions_of_several_rows_belong_to_one_clip(sounds):
    text = "filename,caption\na.wav,a dog\na.wav,a bark\nb.wav,a cat\n"
    done, rows = made(sounds, text, "--caption-columns", "caption")
    assert [row["captions"] for row in rows] == [["a dog", "a bark"], ["a cat"]] and "warning" not in done.stdout


@pytest.mark.parametrize("name", ["./fold2/c.wav", "fold2\\c.wav", ".\\fold2\\c.wav", "fold2//c.wav", "./c"])
def test_spellings_of_a_path(sounds, name):
    _, rows = made(sounds, f"filename,label\n{name},dog\na.wav,cat\n")
    assert [row["video_id"] for row in rows] == ["c", "a"]


def test_composed_and_decomposed_names_are_one(sounds):
    composed, decomposed = "caf\u00e9.wav", "cafe\u0301 2.wav"
    text = "filename,label\ncafe\u0301.wav,dog\ncaf\u00e9 2.wav,cat\n"
    _, rows = made(sounds, text, files=(composed, decomposed))
    assert [row["human_labels"] for row in rows] == [["dog"], ["cat"]]


def test_the_other_columns_split_the_clips(sounds, tmp_path):
    """Recordings of one source stay on one side, as --split-by asks."""
    text = "filename,label,source\na.wav,dog,x\nb.wav,cat,x\nc.wav,dog,y\nd.wav,cat,z\n"
    _, rows = made(sounds, text)
    assert [row["source"] for row in rows] == ["x", "x", "y", "z"]
    flags = ("--parquet-dir", sounds[2], "--class-labels", sounds[2] / "class_labels.json", "--split-by", "source")
    script("train_hyperbolic_clap.py", *flags, "--epochs", "1", "--no-cache", "--output-dir", tmp_path / "out")
