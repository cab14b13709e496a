"""compare_results.py --report: what the page holds, and that it works in a real browser without network."""

import json
import re
import time
from io import BytesIO
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soundfile
from conftest import script, tone, tone_rows, write_rows
from test_compare import changed, write_results

from compare_results import main, parser
from hyperbolic_clap.metrics.calibration import expected_calibration_error, top1_reliability
from hyperbolic_clap.metrics.ontology import Ontology
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.reporting import confidence, sound
from hyperbolic_clap.reporting.page import assemble
from hyperbolic_clap.reporting.rebuild import find
from hyperbolic_clap.reporting.tree_disk import fit_tree, means

LABELS = ("Sine wave", "Chirp tone", "Musical instrument", "Piano")
CLASSES = ("Music", "Musical instrument", "Keyboard (musical)", "Piano", "Sine wave", "Chirp tone", "Speech", "Animal",
           "Domestic animals, pets", "Dog", "Bark", "Wind", "Rain", "Vehicle", "Car", "Engine")  # fmt: skip
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
           "--disable-component-update"]  # fmt: skip
HOSTILE = '</script><img src=x onerror="window.hacked = 1">'


def report(target: Path, *flags) -> dict:
    """Make a page in this process; its data."""
    flags = [*map(str, flags), "--resamples", "100", "--report", str(target)]
    main(parser().parse_args(flags))
    return data_of(target)


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8").split('id="data">', 1)[1].split("</script>", 1)[0]
    return json.loads(text)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A folder with data, plain cosine results, and results of a hyperbolic projector; all with scores."""
    home = tmp_path_factory.mktemp("reported")
    rows = tone_rows(30, LABELS)
    rows[5]["video_id"] = f"'\"{HOSTILE}"
    write_rows(home / "data", rows)
    write_json(home / "classes.json", {name: i for i, name in enumerate(CLASSES)})
    shared = ("--parquet-dir", home / "data", "--cache-dir", home / "cache", "--class-labels", home / "classes.json")
    script("train_hyperbolic_clap.py", *shared, "--epochs", 1, "--output-dir", home / "h")
    script("test_clap_modelscope.py", *shared, "--output-json", home / "results_plain.json", "--save-scores",
           home / "plain.safetensors")
    script("test_hyperbolic_clap_modelscope.py", *shared, "--projection-checkpoint", next((home / "h").glob("best_*")),
           "--output-json", home / "results_hyperbolic.json", "--save-scores", home / "hyperbolic.safetensors")
    return home


@pytest.fixture(scope="module")
def made(tested):
    """The page of both, and its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperbolic_clap.reporting.mds.FIT_STEPS", 5)
        patch.setattr("hyperbolic_clap.reporting.mds.PLACE_STEPS", 5)
        page = tested / "report.html"
        return page, report(page, tested / "results_plain.json", tested / "results_hyperbolic.json")


def test_the_page_holds_what_was_tested(tested, made):
    page, data = made
    original = json.loads((tested / "results_plain.json").read_text())
    assert data["clips"]["id"] == [entry["video_id"] for entry in original["predictions"]]
    for f, name in enumerate(("plain", "hyperbolic")):
        content = json.loads((tested / f"results_{name}.json").read_text())
        for best, truth, entry in zip(data["clips"]["best"][f], data["clips"]["truth"], content["predictions"],
                                      strict=True):
            assert [data["names"][j] for j in best] == [b["classname"] for b in entry["top_k_predictions"]]
            assert {data["names"][j] for j in truth} == set(entry["ground_truth_human_labels"])
        figure = content["ontology"]["way_to_root"]
        assert figure["share"] is not None
        assert {name: data["traversals"][f][name] for name in ("share", "low", "high", "clips", "shuffled")} == {
            name: figure[name] for name in ("share", "low", "high", "clips", "shuffled")}
        values = [value for value in data["classes"][f]["value"] if value is not None]
        assert np.mean(values) == pytest.approx(content["metrics"]["map"], abs=1e-6)
        risk = data["confidence"][f]["risk"]["risk"]
        assert risk[-1] == pytest.approx(1 - content["metrics"]["acc@1"])
    assert data["disks"][0] is None and data["disks"][1]["stress"] > 0
    assert None not in data["disks"][1]["texts"] and len(data["disks"][1]["texts"]) == len(CLASSES)
    assert len(data["disks"][1]["clips"]) == 30
    assert len(data["sounds"]) == 30 and data["nearest"][1][0] and 0 not in data["nearest"][1][0]
    assert data["confidence"][0]["reliability"] is None and data["confidence"][1]["reliability"]["bins"]
    told = json.loads((tested / "results_hyperbolic.json").read_text())["calibration"]
    assert data["confidence"][1]["reliability"]["error"] == pytest.approx(told["calibrated_error_top1"], rel=1e-6)
    assert data["confidence"][1]["reliability"]["bins"] == told["reliability"]["top1"]  # one probability
    for entry in data["sounds"].values():
        import base64

        samples, rate = soundfile.read(BytesIO(base64.b64decode(entry["ogg"])))
        assert rate == 48_000 and len(samples) == pytest.approx(1.5 * rate, rel=0.01) and samples.ndim == 1


def test_nothing_comes_from_outside_and_no_text_is_code(made):
    page, _ = made
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 11 and "<img" not in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "http" not in policy and policy.count("sha256-") == 11


def test_what_cannot_be_had_is_left_out_with_a_sentence(tested, tmp_path):
    """No scores, no folder, another class list, another program, metrics alone, one clip."""
    scored, bare = write_results(tmp_path / "a.json"), write_results(tmp_path / "b.json", seed=1, save_scores=False)
    other = write_results(tmp_path / "c.json", names=["Music", "Speech", HOSTILE])
    write_json(tmp_path / "d.json", {"metrics": {"map": 0.5}})
    data = report(tmp_path / "x.html", scored, bare, tmp_path / "d.json", other)
    notes = " ".join(data["notes"])
    assert data["names"][-1] == HOSTILE and len(data["names"]) == 9  # of two class lists
    assert "b was tested without --save-scores, so its confidence cannot be drawn" in notes
    assert "a does not say which clips and model it was made of" in notes and "no clip can be played" in notes
    assert data["disks"] == data["traversals"] == data["nearest"] == [None] * 4 and data["sounds"] == {}
    assert data["classes"][1]["measure"] == "recall at 3" and data["classes"][2] is None
    gone = changed(tested / "results_hyperbolic.json", tmp_path / "gone.json",
                   lambda content: content["test_info"]["arguments"].update(parquet_dir="nowhere/at/all"))
    data = report(tmp_path / "y.html", gone, tested / "results_plain.json", "--no-audio")
    assert "gone is shown without nearest clips, disk and traversal to the root: --parquet-dir now" in data["notes"][0]
    assert data["disks"] == [None, None] and data["traversals"][1] is not None

    def foreign(content):
        for entry in content["predictions"]:
            entry["top_k_predictions"] = [{"rank": 1, "classname": "Music", "similarity": 0}]

    swapped = changed(tested / "results_plain.json", tmp_path / "swapped.json", foreign)
    data = report(tmp_path / "z.html", swapped, tested / "results_plain.json", "--no-audio")
    assert any("swapped gives other predictions than the file holds" in note for note in data["notes"])


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory):
    """The page of two retrieval results, and its data: plain cosine, and the same with other ranks of three texts."""
    home = tmp_path_factory.mktemp("retrieved")
    rows = [row | {"captions": [f"tone number {i}", HOSTILE] if i % 2 else [f"tone number {i}"]}
            for i, row in enumerate(tone_rows(8))]  # fmt: skip
    write_rows(home / "data", rows)
    script("test_retrieval.py", "--parquet-dir", home / "data", "--cache-dir", home / "cache", "--output-json",
           home / "a.json")  # fmt: skip

    def exchange(content):
        for clip in content["predictions"][:3]:
            clip["text_to_audio_rank"][0] = 1 if clip["text_to_audio_rank"][0] > 1 else 2

    changed(home / "a.json", home / "b.json", exchange)
    return home / "x.html", report(home / "x.html", home / "a.json", home / "b.json")


def test_the_page_of_retrieval(visit, retrieved):
    path, data = retrieved
    text, audio = data["queries"]["text_to_audio"], data["queries"]["audio_to_text"]
    assert len(text) == 12 and len(audio) == 8 and len(data["sounds"]) == 8
    for query in text:
        if query["text"] != HOSTILE:  # what is found first is what the rank says
            assert (query["found"][0][0] == query["clip"]) == (query["ranks"][0] == 1)
    for query in audio:
        own = data["clips"]["captions"][query["clip"]]
        assert (query["found"][0][0] in own) == (query["ranks"][0] == 1)
    page = visit(path, viewport={"width": 400, "height": 800})
    gained = [q for q in text if q["ranks"][0] > 1 and q["ranks"][1] == 1]
    lost = [q for q in text if q["ranks"][0] == 1 and q["ranks"][1] > 1]
    assert len(gained) + len(lost) == 3
    page.get_by_role("button", name=f"{len(gained)} quer").first.click()
    assert f"{len(gained)} of 12 queries" in page.inner_text("#queries")
    page.get_by_label("direction").select_option("audio_to_text")
    page.get_by_label("outcome").select_option("")
    page.locator("#queries").get_by_role("button", name="Play clip tone3").first.click()
    assert "tone number 3" in page.inner_text("#playing") and page.evaluate("window.hacked") is None
    assert page.locator("#verdict table tbody tr").count() == 10
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_stored_paths_are_found_from_the_results_file(tmp_path, monkeypatch):
    (tmp_path / "out" / "h").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find("out/h", tmp_path / "out" / "results.json") == tmp_path / "out" / "h"
    assert find("out/none", tmp_path / "out" / "results.json") == Path("out/none")
    assert find(str(tmp_path), Path("results.json")) == tmp_path


def test_players_are_thinned_with_the_changed_clips_first():
    first = np.arange(100) % 10 == 0
    assert sound.choose(100, 200, first).tolist() == list(range(100))
    assert sound.choose(100, 10, first).tolist() == np.flatnonzero(first).tolist()
    chosen = sound.choose(100, 40, first)
    assert len(chosen) == 40 and first[chosen].sum() == 10 and np.diff(chosen).max() <= 5
    assert len(sound.choose(100, 3, first)) == 3 and not len(sound.choose(0, 3, first[:0]))


def test_sounds_stay_small_and_are_what_was_played():
    waveform = tone(440, 10, 48_000).astype(np.float32)
    assert len(sound.opus(waveform, 13e6 * 8 / 10_000)) < 18_000  # 1000 of them, as text, stay below 25 MB
    assert len(sound.opus(waveform, 1e9)) < 60_000
    picture = sound.thumbnail(waveform)
    assert picture.shape == (sound.BANDS, sound.FRAMES) and (picture.argmax(axis=0) == picture[:, 9].argmax()).all()
    high = sound.thumbnail(tone(8000, 1, 48_000))
    assert high[:, 9].argmax() > picture[:, 9].argmax()
    assert sound.thumbnail(np.zeros(10, np.float32)).shape == picture.shape


def test_risk_and_reliability_of_known_answers():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], bool)
    found = confidence.risk_coverage(scores, targets)  # right, wrong, right, wrong by falling similarity
    assert found["coverage"] == [0.25, 0.5, 0.75, 1] and found["risk"] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    probability = np.repeat([0.2, 0.8], 50)[:, None] * [1, 0.5]
    right = np.concatenate([np.arange(50) % 5 < 1, np.arange(50) % 5 < 3])[:, None] & [True, False]  # 0.2 and 0.6
    bins = top1_reliability(probability, right)
    assert expected_calibration_error(bins) == pytest.approx((0 + 0.2) / 2) and [b["pairs"] for b in bins] == [50, 50]
    for part, share in zip(bins, (0.2, 0.6), strict=True):
        z, n = 1.959964, 50  # Wilson's interval by hand
        middle, wide = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        interval = (middle - wide) / (1 + z * z / n), (middle + wide) / (1 + z * z / n)
        assert (part["low"], part["high"]) == pytest.approx(interval, abs=1e-6) and part["true"] == share


# In a browser. One for all; each test has a page of its own.


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(file, **context) -> a page without network; at the end there was no error and no request but the file's."""
    contexts, trouble = [], []

    def go(file, **options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: trouble.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: re.match("file:|data:", request.url) or trouble.append(request.url))
        page.goto(file.as_uri())
        until(page, "!!window.report")
        return page

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


def until(page, expression: str, seconds: float = 30) -> None:
    """Wait until an expression holds; by Python, since the page's policy forbids the driver's own way, eval."""
    end = time.perf_counter() + seconds
    while not page.evaluate(expression):
        assert time.perf_counter() < end, expression
        time.sleep(0.05)


def shown(page) -> list[int]:
    """The clips in the table, in order."""
    numbers = "rows => rows.map((row) => Number(row.dataset.clip))"
    return page.eval_on_selector_all("#clips tbody tr[data-clip]", numbers)


def test_sort_filter_and_search(visit, made):
    path, data = made
    page, clips = visit(path), data["clips"]
    assert shown(page) == list(range(25)) and "30 of 30 clips" in page.inner_text("#clips")
    page.get_by_role("button", name="Next").click()
    assert shown(page) == list(range(25, 30))
    top = [data["names"][best[0]].lower() for best in clips["best"][1]]
    projector = page.locator("#clips thead button", has_text="hyperbolic")
    projector.click()
    assert shown(page) == sorted(range(30), key=lambda i: (top[i], i))[:25]
    projector.click()
    assert shown(page)[0] == next(i for i in range(30) if top[i] == max(top))
    assert page.locator("#clips th[aria-sort=descending]").inner_text() == "hyperbolic"
    right = [[best[0] in truth for best, truth in zip(of, clips["truth"], strict=True)] for of in clips["best"]]
    for value, wanted in {
        "right 0": right[0], "wrong 1": [not r for r in right[1]],
        "gained 1": [b and not a for a, b in zip(*right, strict=True)],
        "lost 1": [a and not b for a, b in zip(*right, strict=True)],
    }.items():  # fmt: skip
        page.get_by_label("outcome").select_option(value)
        assert f"{sum(wanted)} of 30 clips" in page.inner_text("#clips"), value
    page.get_by_label("outcome").select_option("")
    page.get_by_label("true class").fill("Piano")
    piano = data["names"].index("Piano")
    assert sorted(shown(page)) == [i for i, truth in enumerate(clips["truth"]) if piano in truth]
    page.get_by_label("true class").fill("")
    page.locator("#clips").get_by_label("search").fill("tone17")
    assert shown(page) == [17]
    page.get_by_role("button", name="More about clip tone17").click()
    near = page.locator("#clips .detail li button.plain").all_inner_texts()
    wanted = [clips["id"][j] for of in data["nearest"] for j in of[17]]
    assert near == wanted


def test_what_changed_is_told_and_leads_to_its_clips(visit, made):
    path, data = made
    page, clips = visit(path), data["clips"]
    top = [[best[0] for best in of] for of in clips["best"]]
    right = [[j in truth for j, truth in zip(of, clips["truth"], strict=True)] for of in top]
    gained = [i for i, (a, b) in enumerate(zip(*right, strict=True)) if b and not a]
    page.get_by_role("button", name=f"{len(gained)} clip").first.click()
    assert sorted(shown(page)) == gained
    pairs = [(own, [of[i] for of in top]) for i, truth in enumerate(clips["truth"]) for own in truth]
    own, answer = next((own, b) for own, (a, b) in pairs if a != b)
    before, after = (sum(o == own and of[side] == answer for o, of in pairs) for side in (0, 1))
    names = data["names"]
    page.get_by_role("button", name=f"{names[own]} answered as {names[answer]}: {before}, then {after}").click()
    assert sorted(shown(page)) == [i for i, truth in enumerate(clips["truth"])
                                   if own in truth and answer in (top[0][i], top[1][i])]
    page.get_by_role("button", name=f"{names[own]} answered as {names[answer]} ✕").click()
    assert len(shown(page)) == 25
    curves = data["files"][1]["curves"]
    assert data["files"][0]["curves"] is None and curves["epoch"] == [1] and curves["best"] == 1
    assert "seed 42" in data["files"][1]["training"]
    assert page.locator("#verdict svg[aria-label*='by epoch']").count() == 1


def test_classes_of_ones_own_have_colours_and_no_tree(visit, tmp_path):
    names = [f"own class {i}" for i in range(8)]
    files = [write_results(tmp_path / f"{name}.json", names=names, seed=i) for i, name in enumerate("ab")]
    data = report(tmp_path / "x.html", *files)
    assert data["groups"] == data["group_of"] == names and data["tree_name"] is None
    assert data["tree"] == [] and data["traversals"] == [None, None] and not any(data["ancestors"])
    page = visit(tmp_path / "x.html", viewport={"width": 400, "height": 800})
    assert page.locator("#way").count() == 0 and "Traversal" not in page.inner_text("body")
    assert page.locator("#verdict details[open]").count() == 0
    assert page.evaluate("document.querySelector('#verdict').offsetHeight") < 900
    assert page.evaluate("new Set(data.groups.map(groupColour)).size") == 8
    assert page.evaluate("[0.7, 1, 0.043, 12].map(ticks)") == [
        [0, 0.2, 0.4, 0.6, 0.8], [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.01, 0.02, 0.03, 0.04, 0.05], [0, 5, 10, 15]]
    assert page.evaluate("data.less.includes('mean_rank')")


@pytest.fixture(scope="module")
def with_taxonomy(tested, tmp_path_factory):
    """The page of plain cosine, tested with a taxonomy of one's own and without, its data, and the test's flags."""
    home = tmp_path_factory.mktemp("taxonomy")
    above = {name: "tones" if "tone" in name or "wave" in name else "others" for name in CLASSES}
    write_json(home / "own.json", above)
    shared = ("--parquet-dir", tested / "data", "--cache-dir", tested / "cache", "--class-labels",
              tested / "classes.json", "--taxonomy", home / "own.json")  # fmt: skip
    script("test_clap_modelscope.py", *shared, "--output-json", home / "own_plain.json")
    page = home / "x.html"
    return page, report(page, home / "own_plain.json", tested / "results_plain.json", "--no-audio"), shared


def test_a_taxonomy_takes_the_place_of_the_tree(visit, with_taxonomy, tmp_path):
    path, data, shared = with_taxonomy
    content = json.loads((path.parent / "own_plain.json").read_text())
    assert content["test_info"]["taxonomy"]["Piano"] == ["others"]
    assert 2 <= content["ontology"]["wrong_top1_distance"] <= 4  # one branch or two
    assert data["groups"] == ["others", "tones"] and data["group_of"][data["names"].index("Piano")] == "others"
    assert {name for name, *_ in data["tree_disk"]["nodes"]} == {"(all sounds)", "others", "tones", *CLASSES}
    page = visit(path)
    assert page.locator("#way").count() == 0  # nothing above a class is a class, so nothing could be met
    assert "The taxonomy" in page.inner_text("#classes") and "The nodes of the taxonomy" in page.inner_text("#disk")
    assert page.evaluate("report.parts.disk.points().filter((p) => p.kind === 'clip').length") == 30
    for lines, says in (({"Piano": "Piano"}, "circle"), ({"Dog": "Animal"}, "lacks 14 of the 16 classes: 'Music'")):
        write_json(tmp_path / "bad.json", lines)
        done = script("test_clap_modelscope.py", *shared[:-1], tmp_path / "bad.json", check=False)
        assert done.returncode == 2 and says in done.stderr


def test_a_class_leads_to_its_clips_and_the_tree_opens(visit, made):
    path, data = made
    page = visit(path)
    page.locator("#classes").get_by_role("button", name="Chirp tone", exact=True).first.click()
    chirp = data["names"].index("Chirp tone")
    assert sorted(shown(page)) == [i for i, truth in enumerate(data["clips"]["truth"]) if chirp in truth]
    page.locator("#classes summary", has_text="Music").first.click()
    page.wait_for_selector("#classes details[open] details")
    music = data["names"].index("Music")
    inside = [i for i, truth in enumerate(data["clips"]["truth"]) if any(
        j == music or music in data["ancestors"][j] for j in truth)]
    assert f"{len(inside)} clips" in page.locator("#classes summary", has_text="Music").first.inner_text()


def test_a_clip_plays(visit, made):
    page = visit(made[0])
    page.locator("#clips").get_by_role("button", name="Play clip tone3").click()
    until(page, "document.querySelector('audio').currentTime > 0.1")
    assert page.inner_text("#playing").startswith("Clip tone3: ")
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(1.5, abs=0.05)


def isometry(view: dict, z: complex) -> complex:
    a, b = complex(*view["a"]), complex(*view["b"])
    return (a * z + b) / (b.conjugate() * z + a.conjugate())


def far(z: complex, w: complex) -> float:
    return 2 * np.arctanh(abs((z - w) / (1 - z.conjugate() * w)))


def points(page) -> np.ndarray:
    places = "window.report.parts.disk.points().map((_, n) => window.report.parts.disk.where(n))"
    return np.array(page.evaluate(places)) @ [1, 1j]


def test_the_disk_is_dragged_by_an_isometry(visit, made):
    page = visit(made[0], viewport={"width": 1280, "height": 1000})
    page.locator("#disk canvas").scroll_into_view_if_needed()
    before = points(page)
    grip = np.array(page.evaluate("window.report.parts.disk.screen([0.1, 0.05])")).round()
    goal = grip + [83, -47]
    under = "([x, y]) => window.report.parts.disk.under({clientX: x, clientY: y})"
    p, q = (complex(*page.evaluate(under, at.tolist())) for at in (grip, goal))
    page.mouse.move(*grip)
    page.mouse.down()
    page.mouse.move(*(grip + [-60, 120]))  # only where the drag ends counts
    page.mouse.move(*goal, steps=3)
    page.mouse.up()
    after = points(page)
    view = page.evaluate("window.report.parts.disk.state.view")
    assert abs(isometry(view, p) - q) < 1e-9  # what was grasped is under the pointer
    # The translation along the geodesic of p and q: to the origin, along a ray, back; written anew.
    home = (before - p) / (1 - np.conj(p) * before)
    w = (q - p) / (1 - np.conj(p) * q)
    moved = (home + w) / (1 + np.conj(w) * home)
    wanted = (moved + p) / (1 + np.conj(p) * moved)
    assert np.abs(after - wanted).max() < 1e-6 and np.abs(after - before).max() > 0.05
    for i, j in ((0, 1), (10, 20), (3, 40)):
        assert far(after[i], after[j]) == pytest.approx(far(before[i], before[j]), abs=1e-6)
    page.get_by_role("button", name="Back to the start").click()
    assert np.abs(points(page) - before).max() < 1e-12
    # Geodesics are circles orthogonal to the boundary.
    path = np.array(page.evaluate("plane.geodesic([0.3, -0.2], [-0.4, 0.7])")) @ [1, 1j]
    assert abs(path[0] - (0.3 - 0.2j)) < 1e-12 and abs(path[-1] - (-0.4 + 0.7j)) < 1e-12
    rows = np.column_stack([path.real, path.imag])  # |z|^2 + 1 = 2 Re(z conj(m)) on the circle about m
    centre, *_ = np.linalg.lstsq(2 * rows, np.abs(path) ** 2 + 1, rcond=None)
    assert np.abs(2 * rows @ centre - np.abs(path) ** 2 - 1).max() < 1e-9
    steps = [far(a, b) for a, b in zip(path, path[1:], strict=False)]
    assert np.ptp(steps) < 1e-9


def test_the_disk_shows_the_tree(visit, made):
    path, data = made
    page = visit(path)
    page.get_by_label("distances of").select_option("tree")
    assert f"{100 * data['tree_disk']['error']:.1f} % on average" in page.inner_text("#disk")
    nodes, clips = data["tree_disk"]["nodes"], data["tree_clips"][1]
    assert page.evaluate("report.parts.disk.points().length") == len(nodes) + len(clips) and len(clips) == 30
    assert data["tree_disk"]["error"] < data["tree_disk"]["flat_error"]
    right = [data["clips"]["best"][1][i][0] in data["clips"]["truth"][i] for i, *_ in clips]
    told = page.evaluate("report.parts.disk.points().filter((p) => p.kind === 'clip').map((p) => p.outcome)")
    assert told == right
    page.get_by_label("fly to a class").fill("piano")
    page.get_by_label("fly to a class").press("Enter")
    assert "Piano (Music, 7 clips)" in page.inner_text("#disk")
    page.get_by_label("distances of").select_option("model")
    assert "stress" in page.inner_text("#disk")


def test_the_tree_in_the_disk_by_hand():
    tree = Ontology({"a": [], "b": [], "c": ["a"], "d": ["a"], "e": ["b"]})
    found = fit_tree(tree, tuple(tree.find(["c", "d", "e"])[0].tolist()))
    assert [tree.names[node] for node in found.nodes] == ["(all sounds)", "a", "b", "c", "d", "e"]
    assert found.parent.tolist() == [-1, 0, 0, 1, 1, 2] and found.place[0] == 0
    z = found.place
    shown = np.array([[far(a, b) if a != b else 0 for b in z] for a in z])
    pairs = np.triu_indices(6, 1)
    wanted = tree.distances[np.ix_(found.nodes, found.nodes)][pairs].astype(float)
    scale = np.linalg.lstsq((shown[pairs] / wanted)[:, None], np.ones(15), rcond=None)[0]
    assert np.abs(scale * shown[pairs] / wanted - 1).mean() == pytest.approx(found.error, abs=5e-3)
    assert found.error < found.flat_error
    pair = np.array([[0.5 + 0.2j, -0.3j]])
    (middle,) = means(pair, np.ones((1, 2)))
    assert far(middle, pair[0, 0]) == pytest.approx(far(middle, pair[0, 1]), abs=1e-9)
    assert far(middle, pair[0, 0]) == pytest.approx(far(*pair[0]) / 2, abs=1e-9)
    assert means(pair, np.array([[1.0, 0.0]]))[0] == pytest.approx(pair[0, 0])


def test_the_tree_as_a_picture(tested, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -r requirements-plot.txt)")
    (best,) = (tested / "h").glob("best_*")
    shared = ("disk", "--parquet-dir", tested / "data", "--cache-dir", tested / "cache", "--class-labels",
              tested / "classes.json", "--projection-checkpoint", best, "--output", tmp_path / "tree.png")  # fmt: skip
    script("plot_results.py", *shared, "--layout", "tree")
    assert (tmp_path / "tree.png").stat().st_size > 10_000
    (tmp_path / "own.csv").write_text("\n".join(f'"{name}",all' for name in CLASSES))
    script("plot_results.py", *shared, "--layout", "tree", "--taxonomy", tmp_path / "own.csv")
    done = script("plot_results.py", *shared, "--taxonomy", tmp_path / "own.csv", check=False)
    assert done.returncode == 2 and "add --layout tree" in done.stderr


def test_search_flies_to_a_class_and_a_click_selects(visit, made):
    path, data = made
    page = visit(path, reduced_motion="reduce", viewport={"width": 1280, "height": 1000})
    page.get_by_label("fly to a class").fill("piano")
    page.get_by_label("fly to a class").press("Enter")
    piano = page.evaluate("window.report.parts.disk.points().findIndex((p) => p.name === 'Piano')")
    assert abs(points(page)[piano]) < 1e-9
    assert "Piano (Music, 7 clips)" in page.inner_text("#disk")
    page.get_by_label("texts (dots)").uncheck()
    page.get_by_role("button", name="Back to the start").click()
    page.locator("#disk canvas").scroll_into_view_if_needed()
    clip = page.evaluate("window.report.parts.disk.points().findIndex((p) => p.kind === 'clip' && p.j === 2)")
    at = page.evaluate(f"window.report.parts.disk.screen(window.report.parts.disk.where({clip}))")
    page.mouse.click(*at)
    playing = page.inner_text("#playing")
    assert playing.startswith("Clip ") and page.locator("#disk").get_by_role("button", name="In the table").count() == 1


def test_the_way_to_the_root_marks_ancestors(visit, made):
    path, data = made
    page = visit(path)
    page.locator("#way").get_by_label("clip", exact=True).fill("tone3")
    page.locator("#way").get_by_label("clip", exact=True).press("Enter")
    truth = data["clips"]["truth"][3]
    above = {a for j in truth for a in data["ancestors"][j]}
    chains = [found["clips_met"][3] for found in data["traversals"]]
    assert page.locator("#way .chain li").count() == sum(map(len, chains))
    assert page.locator("#way .chain li.above").count() == sum(j in above for chain in chains for j in chain)
    page.locator("#way").get_by_label("class", exact=True).fill("Piano")
    page.locator("#way").get_by_label("class", exact=True).press("Enter")
    assert "Keyboard (musical)" in page.inner_text("#way")


def test_the_keyboard_alone(visit, made):
    page = visit(made[0])
    focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert seen[:6] == ["Verdict", "Clips", "Classes", "Disk", "Traversal", "Confidence"]
    page.locator("#clips thead button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#clips th[aria-sort=ascending]").count() == 1
    page.locator("#disk canvas").focus()
    before = points(page)
    page.keyboard.press("ArrowLeft")
    assert np.abs(points(page) - before).max() > 0.01
    page.keyboard.press("Enter")
    assert page.locator("#disk").get_by_role("button", name="Traversal").count() == 1
    page.keyboard.press("Home")
    assert np.abs(points(page) - before).max() < 1e-9
    page.locator("#classes summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#classes details[open]").count() == 1


def test_dark_mode_repaints(visit, made):
    page = visit(made[0], color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#disk canvas').toDataURL()"
    light, painted = page.evaluate(ground), page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) != light
    until(page, f"{ink} !== {json.dumps(painted)}")


@pytest.fixture(scope="module")
def kinds(made, with_taxonomy, retrieved):
    """{kind: page}. That of classes of one's own is the first one without its tree."""
    names, own = made[1]["names"], made[0].parent / "own.html"
    gone = {"tree_name": None, "tree": [], "tree_disk": None, "tree_clips": [None, None], "traversals": [None, None]}
    gone |= {"groups": names, "group_of": names, "ancestors": [[] for _ in names]}
    own.write_text(assemble(made[1] | gone), encoding="utf-8")
    return {"AudioSet": made[0], "own classes": own, "taxonomy": with_taxonomy[0], "retrieval": retrieved[0]}


@pytest.mark.parametrize(
    ("kind", "looked_at"),
    [("AudioSet", "body"), ("own classes", "#disk"), ("taxonomy", "#disk, #classes"), ("retrieval", "main, #player")],
)
def test_both_widths_and_both_schemes(visit, kinds, kind, looked_at):
    """Nothing scrolls sideways, the verdict is folded where it is narrow; a few rows of each table pass axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(kinds[kind], color_scheme="light", viewport={"width": 400, "height": 800})
    assert page.locator("#verdict details[open]").count() == 0
    few = page.locator("section", has=page.get_by_label("search")).first.get_by_label("search")
    few.fill("tone3")  # a row or two stand for all
    if kind != "retrieval":
        page.get_by_role("button", name="More about clip tone3").click()
        page.locator("#classes").get_by_label("search").fill("Piano")
    if kind not in ("taxonomy", "retrieval"):
        page.get_by_label("fly to a class").fill("Piano")
        page.get_by_label("fly to a class").press("Enter")
    if kind != "taxonomy":
        page.get_by_role("button", name="Play clip tone3").first.click()
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('tbody').forEach((b) => [...b.rows].slice(3).forEach((r) => r.remove()))")
    # The page's policy allows no foreign script, so the checker comes in through the debugger.
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    for scheme, options in (("light", "resultTypes: ['violations']"), ("dark", "runOnly: ['color-contrast']")):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(f"axe.run('{looked_at}', {{{options}}})")["violations"]
        serious = [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found
                   if v["impact"] in ("serious", "critical")]  # fmt: skip
        assert serious == [], scheme


def test_hostile_names_are_text(visit, made, tmp_path):
    names = [HOSTILE, "'; alert(1); '", "a\u2028b", "<!-- [[data]] -->", "Music", "=1+1", "\"quoted\" & 'so'", "Dog"]
    first = write_results(tmp_path / "a.json", names=names)
    report(tmp_path / "x.html", first, write_results(tmp_path / "b.json", names=names, seed=1))
    for path in (tmp_path / "x.html", made[0]):
        page = visit(path)
        for box in page.get_by_role("button", name="More about").all()[:3]:
            box.click()
        assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
        assert HOSTILE in page.inner_text("#clips")
        assert page.evaluate("report.data") == data_of(path)


def test_pages_with_little_open_as_well(visit, tmp_path):
    write_json(tmp_path / "d.json", {"metrics": {"map": 0.5}})
    write_json(tmp_path / "e.json", {"metrics": {"map": 0.25, "acc@1": 1}})
    report(tmp_path / "x.html", tmp_path / "d.json", tmp_path / "e.json")
    page = visit(tmp_path / "x.html")
    assert "d holds no predictions, so there are no clips to show" in page.inner_text("#clips")
    assert page.locator("#way").count() == 0
    for section in ("classes", "disk", "confidence"):
        assert len(page.inner_text(f"#{section} .body")) > 20
    report(tmp_path / "y.html", write_results(tmp_path / "one.json", clips=[4]), tmp_path / "e.json")
    assert "1 of 1 clips" in visit(tmp_path / "y.html").inner_text("#clips")


def test_twenty_thousand_clips_open_quickly(visit, made, tmp_path):
    """The page of thirty clips with the table of many, its ids made different: no more of it is drawn."""
    data, times = json.loads(json.dumps(made[1])), 667
    clips = data["clips"] | {name: data["clips"][name] * times for name in ("truth", "sample")}
    clips |= {"id": [f"v{i}" for i in range(30 * times)], "best": [best * times for best in clips["best"]]}
    data |= {"clips": clips, "nearest": [None, None], "traversals": [None, None]}
    (tmp_path / "x.html").write_text(assemble(data), encoding="utf-8")
    few, page = visit(made[0]), visit(tmp_path / "x.html")
    assert "20010 of 20010 clips" in page.inner_text("#clips") and len(shown(page)) == 25
    drawn = [some.locator("*").count() for some in (few, page)]
    assert 100 < drawn[1] <= drawn[0], drawn
    page.locator("#clips").get_by_label("search").fill("v19999")
    assert shown(page) == [19_999]
