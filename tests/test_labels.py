"""Every spelling of a label cell gives the same names, and no text breaks or stalls the parser."""

import io
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import script, tone_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbolic_clap.embedding.pipeline import NO_CLASS, unmatched_labels
from hyperbolic_clap.embedding.skipped import Skipped
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.versions import at_least
from hyperbolic_clap.reading.labels import ClassList, normalise
from hyperbolic_clap.reading.rows import Rows

CLASSES = ClassList.read(CLASS_LABELS)
MAN, DRILL = "Male speech, man speaking", "Dental drill, dentist's drill"
LIVESTOCK = "Livestock, farm animals, working animals"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("", []),
        (" ,, ;\n", []),
        ([], []),
        ([None, "", "Speech"], ["Speech"]),
        ("Speech", ["Speech"]),
        (["Speech", "Music"], ["Speech", "Music"]),
        (("Speech", ["Music", ["Speech"]]), ["Speech", "Music"]),
        (MAN, [MAN]),
        ([MAN], [MAN]),
        (f"Speech, {MAN}", ["Speech", MAN]),
        (f"{MAN},Speech", [MAN, "Speech"]),
        ("Male speech,man speaking", ["Male speech,man speaking"]),
        ("Music,Male speech ,man speaking", ["Music", MAN]),
        (f"{LIVESTOCK}, {MAN}, Violin, fiddle", [LIVESTOCK, MAN, "Violin, fiddle"]),
        ("Speech; Music;", ["Speech", "Music"]),
        (f"{MAN}|Music", [MAN, "Music"]),
        ("Speech\tMusic\nSpeech", ["Speech", "Music"]),
        ('["Speech", "Male speech, man speaking"]', ["Speech", MAN]),
        ("['Speech', 'Male speech, man speaking']", ["Speech", MAN]),
        ("('Speech',)", ["Speech"]),
        ("[None, 'Speech', nan]", ["Speech"]),
        (f"[{DRILL}, Music]", [DRILL, "Music"]),
        ("[Speech]", ["Speech"]),
        ("[]", []),
        ('"/m/09x0r,/m/04rlf"', ["/m/09x0r", "/m/04rlf"]),
        ("['Speech', 'Mus", ["['Speech'", "'Mus"]),
        ("[[['Speech']", ["Speech"]),
        (b"Speech, Music", ["Speech", "Music"]),
        (["Zebra talk"], ["Zebra talk"]),
        (7, []),
        ([1, 2.5, True, {"Speech": 1}], []),
        ("[{[]: 1}]", ["{[]: 1}"]),
        ('["\\ud800"]', ["?"]),
    ],
)
def test_spellings(value, names):
    assert CLASSES.parse(value) == names


@pytest.mark.parametrize("names", [["Speech", MAN], [DRILL, "Music"], [MAN], [LIVESTOCK, DRILL, "Speech"]])
@pytest.mark.parametrize(
    "written",
    [json.dumps, repr, lambda n: repr(tuple(n)), lambda n: str(np.array(n)), lambda n: str(np.array(n, dtype=object)),
     lambda n: str([np.str_(name) for name in n]), lambda n: str(np.array(n).astype(bytes)), "; ".join, ", ".join],
)  # fmt: skip
def test_written_lists(names, written):
    assert CLASSES.parse(written(names)) == names
    assert CLASSES.parse([written(names)]) == names


def test_duplicates_keep_the_first_place_and_spelling():
    assert CLASSES.parse(["Speech", "Music", " speech ", "MUSIC"]) == ["Speech", "Music"]


def test_case_and_space_do_not_matter():
    assert CLASSES.match(["  male  SPEECH ,man speaking"]) == [1]


def test_machine_ids_match_their_class():
    assert CLASSES.match(CLASSES.parse(["/m/09x0r", "/m/05zppz", "Speech"])) == [0, 1]


def test_unknown_labels_stay_names_but_match_nothing():
    assert CLASSES.parse("Speech, Zebra talk, Music") == ["Speech", "Zebra talk", "Music"]
    assert CLASSES.match(["Zebra talk"]) == []
    assert CLASSES.near("Speach") == "Speech"


def test_every_name_is_its_own_position():
    assert [CLASSES.find(name) for name in CLASSES.names] == list(range(527))
    assert [CLASSES.match(CLASSES.parse(name)) for name in CLASSES.names] == [[i] for i in range(527)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.list_view(pa.string_view()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.binary()),
        pa.list_(pa.string(), 2),
    ],
)
def test_parquet_types_of_lists(kind):
    assert [CLASSES.parse(value) for value in through_parquet([["Speech", MAN], None], kind)] == [["Speech", MAN], []]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.binary()])
def test_parquet_types_of_text(kind):
    assert [CLASSES.parse(value) for value in through_parquet([MAN, None], kind)] == [[MAN], []]


def through_parquet(values, kind):
    buffer = io.BytesIO()
    try:
        pq.write_table(pa.table({"x": pa.array(values, kind)}), buffer)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        if at_least("pyarrow", "24"):
            raise
        pytest.skip(f"pyarrow {pa.__version__} writes no {kind}")
    return pq.read_table(buffer)["x"].to_pylist()


@given(st.lists(st.sampled_from(CLASSES.names), unique=True, max_size=20))
def test_names_joined_by_commas_come_back(names):
    # Well defined for AudioSet: no name begins with the comma parts of another one.
    assert CLASSES.parse(", ".join(names)) == names
    assert CLASSES.match(CLASSES.parse(",".join(names).upper())) == CLASSES.match(names)


WORDS = st.sampled_from(["Speech", MAN, ", ", "None", "\ud800", *"[]()'\"\\;|\n\0"])
TEXTS = st.one_of(st.text(), st.lists(WORDS, max_size=30).map("".join))
VALUES = st.recursive(st.one_of(st.none(), TEXTS, st.integers(), st.floats(), st.binary()), st.lists, max_leaves=12)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_anything_gives_distinct_non_empty_names(value):
    names = CLASSES.parse(value)
    assert all(type(name) is str and name == name.strip() != "" for name in names)
    assert len(set(map(normalise, names))) == len(names)
    assert json.dumps(names, ensure_ascii=False).encode()  # fit for the results file
    assert all(0 <= position < 527 for position in CLASSES.match(names))


@pytest.mark.parametrize(
    "text",
    ["a, ", "'", '"', "['", "'\\", "\\'", "[", "(", "['a' ", "'a',", "b'", ";", " ", "None", "Male speech, "],
)
def test_time_is_linear_in_the_length(text):
    # 0.3 s; what is quadratic takes more than ten times that, and hours for a megabyte. Processor time of this thread
    # alone, so that no busy neighbour makes it longer.
    text = text * (50_000 // len(text))
    started = time.thread_time()
    for value in (text, f"[{text}]", f"['{text}]"):
        CLASSES.parse(value)
    CLASSES.near(text)
    assert time.thread_time() - started < 5


def test_lists_nested_deeper_than_the_stack():
    value = "Speech"
    for _ in range(50_000):
        value = [value]
    assert CLASSES.parse(value) == ["Speech"]
    assert CLASSES.parse("[" * 50_000 + "'Speech'" + "]" * 50_000) == ["Speech"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("{'Dog': 0, 'Cat': 1}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[]", "must be an object"),
        ('["Dog", "Cat"]', "must be an object"),
        ("{}", "must be an object"),
        ('{"Dog": 0}', "two or more"),
        ('{"Dog": 0, "Cat": "1"}', "whole-number"),
        ('{"Dog": 0, "Cat": true}', "whole-number"),
        ('{"Dog": 0, "Cat": 1.0}', "whole-number"),
        ('{"Dog": 0, "Cat": {}}', "whole-number"),
        ('{"Dog": 0, "Cat": 0}', "twice"),
        ('{"Dog": 0, "dog ": 1}', "twice"),
        ('{"Dog": 0, "Cat": 1, "Dog": 2}', "twice"),
        ('{"Dog": 0, " ": 1}', "empty class name"),
    ],
)
def test_class_lists_that_are_none(tmp_path, text, complaint):
    path = tmp_path / "classes.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=complaint) as error:
        ClassList.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_class_list_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            ClassList.read(path)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_two_names_or_more_are_a_class_list(count):
    names = ["b", "a", "c"][:count]
    if count == 1:
        with pytest.raises(UserError, match="'b' is one name; give two or more"):
            ClassList.of(names)
        return
    assert ClassList.of(names).names == names
    with pytest.raises(UserError, match="holds the name 'b' twice"):
        ClassList.of([*names, " B"])


def test_class_list_is_in_the_order_of_its_indices(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('\ufeff{"Cat": 7, "Dog,bark": 2}', encoding="utf-8")
    classes = ClassList.read(path)
    assert classes.names == ["Dog,bark", "Cat"] and len(classes) == 2
    assert classes.parse("Cat, Dog, bark") == ["Cat", "Dog, bark"]
    assert classes.match(["Dog, bark"]) == [0]


def test_labels_that_do_not_match_are_said_with_the_nearest(caplog):
    classes = ClassList(["Speech", "Music", "Rain"])
    rows = Rows.of(classes, range(4), "abcd", [["Speach", "Music"], ["Speach"], ["Rains"], ["Rain", "Music"]], [[]] * 4)
    skipped = Skipped()
    found = unmatched_labels(rows, skipped)
    first = [{"label": "Speach", "nearest": "Speech"}, {"label": "Rains", "nearest": "Rain"}]
    assert found == {"labels": 2, "occurrences": 3, "clips_without_a_class": 2, "first": first}
    assert "2 labels are not in the class list of 3 names, for example 'Speach' (near: 'Speech')" in caplog.text
    assert "2 of 4 clips have none that is" in caplog.text and "only" not in caplog.text
    skipped.add(NO_CLASS, 3, ["e"], ["Raain"])
    assert unmatched_labels(rows, skipped)["clips_without_a_class"] == 5
    assert "only 2 of 7 clips have a label of the class list" in caplog.text
    caplog.clear()
    assert unmatched_labels(rows.take(np.array([3])), Skipped()) is None and not caplog.text


def test_labels_that_do_not_match_stand_in_the_json(tmp_path):
    write_rows(tmp_path / "data", tone_rows(6, ("Sine wave", "Sinewave", "Nothing")))
    flags = ("--parquet-dir", tmp_path / "data", "--cache-dir", tmp_path / "cache")
    done = script("test_clap_modelscope.py", *flags, "--output-json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())["test_info"]["clips"]["unmatched_labels"]
    assert (found["labels"], found["occurrences"], found["clips_without_a_class"]) == (2, 4, 4)
    assert {"label": "Sinewave", "nearest": "Sine wave"} in found["first"]
    assert "only 2 of 6 clips have a label of the class list" in done.stdout
    script("train_hyperbolic_clap.py", *flags, "--epochs", "1", "--output-dir", tmp_path / "out")
    setup = json.loads((tmp_path / "out" / "setup.json").read_text())
    assert setup["clips"]["unmatched_labels"]["clips_without_a_class"] == 4
