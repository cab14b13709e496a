"""Other locales than UTF-8: zh_CN.GBK, and plain C, in processes of their own."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, few_classes, finish, tone_rows, write_rows

CHAIN = """
import sys, os, json, runpy
sys.path.insert(0, {root!r})
os.chdir({home!r})
assert sys.getfilesystemencoding() == {encoding!r}, sys.getfilesystemencoding()
folder = [name for name in os.listdir() if "." not in name and name != "data"][0]
model = ("--checkpoint", f"{{folder}}/tiny", "--device", "cpu", "--cache-dir", f"{{folder}}/cache")

def run(name, *flags):
    sys.argv = [{root!r} + "/" + name, *flags]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, (name, stop.code)

run("train_hyperbolic_clap.py", "--parquet-dir", "data", "--output-dir", f"{{folder}}/out", "--epochs", "1", *model,
    "--class-labels", "classes.json")
head = f"{{folder}}/out/projection_epoch_1.pth"
for kind, more in (("a", ()), ("b", ("--use-hyperbolic", "--projection-checkpoint", head))):
    run("test_clap_modelscope.py", "--parquet-dir", "data", "--save-scores", f"{{folder}}/{{kind}}.safetensors",
        "--output-json", f"{{folder}}/{{kind}}.json", "--class-labels", "classes.json", *more, *model)
run("compare_results.py", f"{{folder}}/a.json", f"{{folder}}/b.json", "--report", f"{{folder}}/report.html")
run("search_sounds.py", {query!r}, "--parquet-dir", "data", "--top-k", "3", "--save-audio", f"{{folder}}/found", *model)
sounds = [os.path.join(f"{{folder}}/found", a, b) for a in os.listdir(f"{{folder}}/found")
          for b in os.listdir(os.path.join(f"{{folder}}/found", a))]
assert len(sounds) == 3, sounds
run("tag_sounds.py", *sounds, "--timeline", "--output-dir", f"{{folder}}/tags", "--projection-checkpoint", head,
    "--use-hyperbolic", *model)
run("demo/synthesise.py", "--output-dir", f"{{folder}}/demo", "--train-clips", "2", "--eval-clips", "2")
run("train_hyperbolic_clap.py", "--parquet-dir", f"{{folder}}/demo/eval", "--output-dir", f"{{folder}}/two", "--epochs",
    "1", *model)
"""


@pytest.fixture(scope="module")
def gbk(tmp_path_factory):
    """The environment of a Chinese terminal of the old kind."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        pytest.skip("there is no localedef")
    subprocess.run(["localedef", "-i", "zh_CN", "-f", "GBK", folder / "zh_CN.GBK"], capture_output=True)
    if not (folder / "zh_CN.GBK").is_dir():
        pytest.skip("this system cannot make the locale zh_CN.GBK")
    return {"LOCPATH": str(folder), "LC_ALL": "zh_CN.GBK"}


@pytest.mark.parametrize("locale", ["gbk", "C"])
def test_the_whole_way_under_another_locale(request, tmp_path, locale):
    """Model, cache, outputs and sounds in a folder of Chinese name; video ids that the locale cannot write."""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    more, name, encoding = (
        (request.getfixturevalue("gbk"), "模型".encode("gbk"), "gbk") if locale == "gbk"
        else (plain, "模型".encode(), "utf-8" if sys.platform == "darwin" else "ascii")
    )  # fmt: skip
    rows = tone_rows(12)
    for i, row in enumerate(rows):
        row["video_id"] = f"猫\u00e9{i}\U0001f3b5"
    write_rows(tmp_path / "data", rows)
    few_classes(tmp_path)
    shutil.copytree(os.fsencode(TINY), os.path.join(os.fsencode(tmp_path), name, b"tiny"))
    code = CHAIN.format(root=str(ROOT), home=str(tmp_path), encoding=encoding, query="a tone")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    done = finish([sys.executable, "-c", code], env=environment | {"TMPDIR": "/tmp"} | more, encoding="utf-8",
                  errors="replace", timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
