"""The house: which folder may import which, what lies in the root, and that the README's tree is the tree on disk."""

import ast
import re
import subprocess

import pytest
from conftest import ROOT

# From the lowest to the uppermost. A room may import itself and what stands before it; the scripts may import all.
ROOMS = ["plumbing", "hyperbolic", "CLAP", "reading", "data", "embedding", "training", "results"]


def sources() -> dict[str, str]:
    """{path: room} of the library's modules; the scripts of the root are the room 'scripts'."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = {path: path.split("/")[0].removesuffix(".py") for path in files.split() if (ROOT / path).is_file()}
    own = {path: room for path, room in rooms.items() if room not in ("tests", "demo", "benchmarks")}
    return {path: room if room in ROOMS else "scripts" for path, room in own.items()}


def imports(path: str) -> set[str]:
    """The first part of every name that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module.split(".")[0])
    return found


def test_lower_rooms_import_no_upper_ones():
    assert set(ROOMS) <= set(sources().values())
    scripts = {path.removesuffix(".py") for path, room in sources().items() if room == "scripts"}
    for path, room in sources().items():
        if room == "scripts":
            assert "/" not in path, f"{path} lies in no room"
            continue
        upper = set(ROOMS[ROOMS.index(room) + 1 :]) | scripts
        assert not imports(path) & upper, path


def test_the_encoder_knows_nothing_of_parquet_ranks_or_flags():
    for path, room in sources().items():
        if room == "CLAP":
            text = (ROOT / path).read_text(encoding="utf-8")
            known = re.search(r"pyarrow|argparse|plumbing\.(ranks|flags)|plumbing import .*\b(ranks|flags)\b", text)
            assert not known, path


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room).is_dir()])
def test_a_room_says_in_one_sentence_what_it_is(room):
    sentence = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
    assert sentence and "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_tree_of_the_readme_is_the_tree_on_disk(name):
    tree = re.findall(r"^    ((?:[\w-]+(?:/|\.py) +)+)\S", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    shown = [entry for line in tree for entry in line.split()]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] + "/" for path in tracked if "/" in path and not path.startswith(".")}
    scripts = {path for path in tracked if "/" not in path and path.endswith(".py")}
    assert sorted(shown) == sorted(folders | scripts)
    assert [entry.rstrip("/").removesuffix(".py") for entry in shown][: len(ROOMS)] == ROOMS
