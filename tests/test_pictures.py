"""plot_results.py: every picture in every form, what it shows against the data, and one sentence for what is wrong."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY, few_classes, finish, script, tone_rows, write_rows
from test_compare import NAMES, changed, write_results

import plot_results
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_json

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -r requirements-plot.txt)")

PLOT = "plot_results.py"


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch):
    """A picture is drawn the same however well its coordinates are fitted."""
    monkeypatch.setattr("hyperbolic_clap.reporting.mds.FIT_STEPS", 3)
    monkeypatch.setattr("hyperbolic_clap.reporting.mds.PLACE_STEPS", 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, a hyperbolic and a cosine training of two epochs, each tested with scores; some classes."""
    home = tmp_path_factory.mktemp("pictured")
    write_rows(home / "data", tone_rows(12))
    classes = few_classes(home, slice(None, None, 5))
    data = ("--parquet-dir", home / "data", "--cache-dir", home / "cache", "--class-labels", classes)
    for similarity, more in (("hyperbolic", ("--use-hyperbolic",)), ("cosine", ())):
        script("train_hyperbolic_clap.py", *data, "--epochs", 2, "--similarity", similarity,
               "--output-dir", home / similarity)
        best = next((home / similarity).glob("best_*.pth"))
        script("test_clap_modelscope.py", *data, *more, "--projection-checkpoint", best, "--save-scores",
               home / f"{similarity}.safetensors", "--output-json", home / f"results_{similarity}.json")
    return home


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two results files with scores, and one without."""
    home = tmp_path_factory.mktemp("results")
    return (
        write_results(home / "results_a.json"),
        write_results(home / "results_b.json", seed=1),
        write_results(home / "results_c.json", seed=2, save_scores=False),
    )


def draw(*flags):
    """Run the script's main in this process."""
    plot_results.main(plot_results.parser().parse_args([str(flag) for flag in flags]))


def flags_of(kind, trained, results):
    return {
        "losses": ("--setup", trained / "cosine" / "setup.json", trained / "hyperbolic" / "setup.json"),
        "disk": ("--parquet-dir", trained / "data", "--cache-dir", trained / "cache", "--class-labels",
                 trained / "classes.json", "--checkpoint", TINY, "--device", "cpu", "--projection-checkpoint",
                 next((trained / "hyperbolic").glob("best_*.pth"))),
        "gains": results[:2],
        "similarities": results[:2],
        "reliability": [trained / f"results_{similarity}.json" for similarity in ("hyperbolic", "cosine")],
    }[kind]


@pytest.mark.parametrize("kind", ["losses", "disk", "gains", "similarities", "reliability"])
def test_every_picture_in_every_form(kind, trained, results, tmp_path, monkeypatch):
    """One command gives one file: each kind as SVG, which holds all that was drawn, and one kind in every form."""
    from PIL import Image

    anew, drawn = plot_results.draw, []
    if kind != "losses":  # one figure as SVG and then as PDF
        monkeypatch.setattr(plot_results, "draw", lambda args: drawn[-1] if args.output.suffix == ".pdf" else
                            drawn.append(anew(args)) or drawn[-1])  # fmt: skip
    for form in ("png", "svg", "pdf"):
        target = tmp_path / f"picture.{form}"
        draw(kind, *flags_of(kind, trained, results), "--output", target)
        content = target.read_bytes()
        if form == "png":
            with Image.open(target) as image:
                shades = image.convert("RGB")
                assert image.width == 1760 and 400 < image.height < 1700  # twice the width of a README
                assert len(shades.getcolors(1 << 16)) > 8
            ink = (np.asarray(shades) < 250).any(axis=2)
            assert 0.01 < ink.mean() < 0.6
            assert not ink[:, :2].any() and not ink[:, -2:].any() and not ink[-2:].any()  # nothing is cut off
        else:
            assert content.startswith({"svg": b"<?xml", "pdf": b"%PDF"}[form]) and len(content) > 5000
        if kind == "losses" or form == "svg":
            draw(kind, *flags_of(kind, trained, results), "--output", target)
            assert target.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_palette_keeps_every_colour(trained, results, tmp_path):
    """A PNG of few colours still has each branch's own colour for its dots, and shades as of the smooth picture."""
    from io import BytesIO

    from PIL import Image

    from hyperbolic_clap.reporting.disk import COLOURS

    smooth = BytesIO()  # of a second figure: saving one twice lays it out twice
    plot_results.save(figure_of("disk", trained, results), tmp_path / "x.png", "png")
    figure_of("disk", trained, results).savefig(smooth, format="png", dpi=plot_results.DPI, facecolor="white")
    found, wanted = (np.asarray(Image.open(f).convert("RGB")).astype(int) for f in (tmp_path / "x.png", smooth))
    off = np.abs(found - wanted).max(axis=2)
    assert off.max() < 40 and (off > 16).mean() < 0.005
    for colour in COLOURS.values():
        dots = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        pure = (np.abs(wanted - dots) < 1).all(axis=2)
        assert pure.sum() > 100 and off[pure].max() < 12, colour


def figure_of(kind, trained, results, *more):
    """The figure of a picture, not saved."""
    return plot_results.draw(arguments(kind, trained, results, *more))


def arguments(kind, trained, results, *more):
    flags = (kind, *flags_of(kind, trained, results), *more, "--output", "x.png")
    return plot_results.parser().parse_args([str(flag) for flag in flags])


def captions(figure):
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_losses_show_the_numbers_of_setup_json(trained, results):
    figure = figure_of("losses", trained, results)
    assert len(figure.axes) == 4
    for axes, below, similarity in zip(figure.axes, figure.axes[2:], ("cosine", "hyperbolic"), strict=False):
        setup = json.loads((trained / similarity / "setup.json").read_text())
        lines = {line.get_label(): line for line in axes.lines}
        for label, key in (("training", "train_loss"), ("validation", "val_loss")):
            assert lines[label].get_xydata().tolist() == [[e["epoch"], e[key]] for e in setup["epochs"]]
        assert lines[f"best: epoch {setup['best_epoch']}"].get_xdata().tolist() == [setup["best_epoch"]]
        assert axes.get_title().startswith(similarity)
        drawn = {line.get_label(): line.get_xydata().tolist() for line in below.lines}
        assert drawn == {name: [[e["epoch"], e[f"val_{name}"]] for e in setup["epochs"]]
                         for name in ("acc@1", "map", "map_samples")}  # fmt: skip
    assert "The best epoch has the lowest validation loss." in captions(figure)
    assert "seed 42, learning rate 0.0001" in captions(figure)


def test_gains_show_the_comparison(trained, results):
    from hyperbolic_clap.results.compare import CompareConfig, compare
    from hyperbolic_clap.results.files import read

    files = [read(path, name, None, path) for path, name in zip(results[:2], "ab", strict=True)]
    (changes,) = compare(files, CompareConfig(classes=4, resamples=100))["classes"]
    figure = figure_of("gains", trained, results, "--classes", "4")
    for axes, way in zip(figure.axes, ("gained", "lost"), strict=True):
        wanted = changes[way]
        names = [f"{e['class']} ({e['clips']})" for e in wanted]
        assert names and [label.get_text() for label in axes.get_yticklabels()] == names
        drawn = [line.get_xdata().tolist() for line in axes.lines[::3]]
        assert drawn == [[e["before"], e["after"]] for e in wanted]
    assert f"out of {files[0].valid.sum()} clips and the {changes['compared']} classes" in captions(figure)


def test_the_disk_shows_what_was_fitted(trained, results):
    """Every class text and every clip at its place of the fit, rings at tanh(d / 2R), the stress in the caption."""
    from matplotlib.collections import PathCollection
    from matplotlib.patches import Circle

    from hyperbolic_clap.plumbing.flags import data_config, encoder_config
    from hyperbolic_clap.reporting import disk
    from hyperbolic_clap.reporting.mds import hyperbolic_mds

    figure = figure_of("disk", trained, results)
    (axes,) = figure.axes
    args = arguments("disk", trained, results)
    clips, projector = disk.embed(data_config(args), encoder_config(args), args.projection_checkpoint)
    c = projector.c
    flat = hyperbolic_mds(projector.text(clips.text), projector.audio(clips.audio), c)
    assert f"{len(clips.text)} class texts and 12 clips in the Poincare disk (c = {c:g})" in captions(figure)
    assert f"with stress {flat.stress:.3f}" in captions(figure) and f"plane: {flat.flat_stress:.3f}" in captions(figure)
    groups = [group.get_offsets() for group in axes.collections if isinstance(group, PathCollection)][:-2]  # legend's
    for drawn, tangent in ((groups[1::2], flat.text), (groups[::2], flat.audio)):
        wanted = disk.disk_points(tangent, c)
        assert np.allclose(np.sort(np.concatenate(drawn)[:, 0].data), np.sort(wanted.real), atol=1e-9)
    rings = [patch.radius for patch in axes.patches if isinstance(patch, Circle)][1:]
    labels = [float(label.get_text()) for label in axes.texts if label.get_position()[0] == 0]
    assert len(rings) >= 2 and [2 * np.sqrt(c) * np.arctanh(r) for r in rings] == pytest.approx(labels)
    named = {label.get_text() for label in axes.texts}
    assert len(named & {"Sine wave", "Chirp tone", "Music"}) > 1  # the classes of these clips, as far as there is room


def test_similarities_show_every_pair_once(trained, results):
    from hyperbolic_clap.results.files import read

    figure = figure_of("similarities", trained, results)
    file = read(results[0], "a", None, results[0])
    true, false = file.targets.sum(), (~file.targets & file.valid[:, None]).sum()
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [f"negatives ({false:,})", f"positives ({true:,})"]
    pairs = [(p, n) for p in file.scores[file.targets] for n in file.scores[~file.targets & file.valid[:, None]]]
    area = np.mean([(p > n) + (p == n) / 2 for p, n in pairs])
    assert figure.axes[0].get_title() == f"a: ROC area {area:.3f}"


def test_reliability_shows_the_figures_of_the_results_files(trained, results):
    """Its errors and, after calibration, its points are those of the results files."""
    figure = figure_of("reliability", trained, results)
    for axes, path in zip(figure.axes, flags_of("reliability", trained, results), strict=True):
        told = json.loads(path.read_text())["calibration"]
        lines = {line.get_label(): line.get_xydata() for line in axes.lines}
        assert f"before calibration: error {told['uncalibrated_error_top1']:.3f}" in lines
        drawn = lines[f"after calibration: error {told['calibrated_error_top1']:.3f}"]
        wanted = [[part["probability"], part["true"]] for part in told["reliability"]["top1"]]
        assert drawn == pytest.approx(np.array(wanted), abs=1e-6)
        assert axes.get_title() == f"{path.stem.removeprefix('results_')}: 12 clips"


def test_reliability_without_calibration_or_head(trained, results, tmp_path):
    """An older checkpoint has one curve; a projector that is gone, changed or plain cosine is said in one sentence."""
    import torch

    from hyperbolic_clap.projector.exported import sha256

    path = trained / "results_hyperbolic.json"
    content = torch.load(next((trained / "hyperbolic").glob("best_*.pth")), weights_only=True)
    del content["calibration"]
    torch.save(content, tmp_path / "old.pth")
    (tmp_path / "hyperbolic.safetensors").write_bytes((trained / "hyperbolic.safetensors").read_bytes())

    def older(name, **model):
        def change(content):
            content["model_info"] |= {"projection_checkpoint": "old.pth"} | model

        return changed(path, tmp_path / name, change)

    old = older("old.json", projection_sha256=sha256(content))
    figure = plot_results.draw_reliability([old], None)
    assert figure.axes[0].get_legend_handles_labels()[1][0].startswith("before calibration: error")
    assert len(figure.axes[0].lines) == 2 and "One with one curve has none" in captions(figure)
    out = ("--output", tmp_path / "x.png")
    other = older("other.json", projection_sha256="0" * 64)
    assert "is no longer the projector that" in refused("reliability", other, *out)
    gone = older("gone.json", projection_checkpoint="gone.pth")
    assert "gone.pth" in refused("reliability", gone, *out)
    assert "is not of a trained projector" in refused("reliability", results[0], *out)
    assert "has no stored similarities" in refused("reliability", results[2], *out)


def refused(*flags):
    with pytest.raises(UserError) as error:
        draw(*flags)
    return str(error.value)


def test_wrong_input_is_named_in_one_sentence(trained, results, tmp_path):
    a, b, without = results
    out = ("--output", tmp_path / "x.png")
    assert "must end in .png, .svg or .pdf" in refused("gains", a, b, "--output", tmp_path / "x.gif")
    (tmp_path / "broken.json").write_text('{"epochs": [')
    (tmp_path / "none.json").write_text('{"epochs": []}')
    (tmp_path / "odd.json").write_text('{"epochs": [{"epoch": 1}]}')
    for name, sentence in (("missing", "cannot be read"), ("broken", "is no setup.json"), ("odd", "is no setup.json"),
                           ("none", "holds no finished epoch yet")):
        message = refused("losses", "--setup", tmp_path / f"{name}.json", *out)
        assert sentence in message and f"{name}.json" in message
    assert "is not JSON" in refused("gains", a, tmp_path / "broken.json", *out)
    assert "has no stored similarities; run the test script with --save" in refused("similarities", without, *out)
    other = write_results(tmp_path / "results_other.json", names=NAMES[:6])
    assert "have other class lists" in refused("gains", a, other, *out)
    elsewhere = write_results(tmp_path / "results_elsewhere.json", clips=range(100, 120))
    assert "have no labelled clip in common" in refused("gains", a, elsewhere, *out)

    def silent(content):
        for entry in content["predictions"]:
            del entry["top_k_predictions"], entry["predicted_top1"]

    silent = changed(without, tmp_path / "results_silent.json", silent)
    assert "holds no predictions to compare" in refused("gains", a, silent, *out)
    cosine = next((trained / "cosine").glob("best_*.pth"))
    data = flags_of("disk", trained, results)[:-2]
    message = refused("disk", *data, "--projection-checkpoint", cosine, *out)
    assert "was trained for cosine similarity, which has no Poincare disk" in message
    write_json(tmp_path / "labels.json", {"Music": 0, "Sine wave": 1, "Chirp tone": 2, "drill press": 3})
    hyperbolic = next((trained / "hyperbolic").glob("best_*.pth"))
    labels = ("--class-labels", tmp_path / "labels.json")
    message = refused("disk", *data, "--projection-checkpoint", hyperbolic, *labels, *out)
    assert "the disk shows AudioSet's tree, but 1 of 4 classes are not AudioSet's" in message
    assert not list(tmp_path.glob("*.png"))


def test_gains_without_scores_use_the_stored_predictions(results, tmp_path):
    draw("gains", results[0], results[2], "--output", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.parametrize("flags", [("gains", "a.json", "b.json"), ("losses", "--setup", "s.json")])
def test_without_matplotlib_one_sentence(flags, tmp_path):
    """For real, in a process whose import of matplotlib fails."""
    code = "import runpy, sys; sys.modules['matplotlib'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    start = f"import sys; sys.argv = sys.argv[1:]; {code}"
    command = [sys.executable, "-c", start, str(ROOT / PLOT), *flags, "--output", str(tmp_path / "x.png")]
    done = finish(command, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "error: matplotlib is missing: pip install -r requirements-plot.txt\n"


def test_help_needs_no_matplotlib():
    code = "import runpy, sys; sys.modules['matplotlib'] = sys.modules['numpy'] = sys.modules['torch'] = None\n"
    code += f"sys.argv = ['x', '--help']; runpy.run_path({str(ROOT / PLOT)!r}, run_name='__main__')"
    done = finish([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0 and "similarities" in done.stdout, done.stderr
