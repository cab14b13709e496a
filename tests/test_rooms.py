"""The house: which room may import which, what lies in the root, and that the README's tree is the tree on disk."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT, finish

PACKAGE = "hyperbolic_clap"
ROOT_FOLDERS = {"CLAP/", "hyperbolic_clap/", "tests/", "demo/", "benchmarks/", "docs/"}  # beside .ci/ and .github/
# From the lowest to the uppermost. A room may import itself and what stands before it; the scripts may import all.
ROOMS = [
    "hyperbolic", "plumbing", "CLAP", "reading", "data", "embedding", "projector", "metrics", "training", "results",
    "inference", "reporting",
]  # fmt: skip


def tracked(*patterns: str) -> list[str]:
    """Files of the project, tracked or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [path for path in found if (ROOT / path).is_file()]


def room_of(name: str) -> str:
    """The room of a path or a dotted module name: of hyperbolic_clap.metrics.x it is metrics."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else parts[0]


def sources() -> dict[str, str]:
    """{path: room} of the product's modules; the scripts of the root are the room 'scripts'."""
    own = [path for path in tracked("*.py") if path.split("/")[0] not in ("tests", "demo", "benchmarks")]
    rooms = {path: room_of(path) for path in own if path != f"{PACKAGE}/__init__.py"}
    return {path: room if room in ROOMS else "scripts" for path, room in rooms.items()}


def imports(path: str) -> set[str]:
    """The rooms, or first parts of other names, that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {room_of(f"{node.module}.{alias.name}") for alias in node.names}
    return found


# What a notebook imports from a room, though a room above it makes it: {module: (name, the room it comes from)}. The
# rest of the module, and of the room, knows nothing of it.
DOORS = {"CLAP/__init__.py": ("Encoder", "embedding")}


def test_lower_rooms_import_no_upper_ones():
    assert set(ROOMS) <= set(sources().values())
    scripts = {path.removesuffix(".py") for path, room in sources().items() if room == "scripts"}
    for path, room in sources().items():
        if room == "scripts":
            assert "/" not in path, f"{path} lies in no room"
            continue
        upper = set(ROOMS[ROOMS.index(room) + 1 :]) | scripts
        assert imports(path) & upper == ({DOORS[path][1]} if path in DOORS else set()), path


def test_a_door_opens_only_when_it_is_used():
    doors = {"CLAP": "Encoder", f"{PACKAGE}.projector": "load"}
    assert doors.items() >= {path.removesuffix("/__init__.py"): name for path, (name, _) in DOORS.items()}.items()
    code = f"""
import importlib, sys
rooms = {{importlib.import_module(room): name for room, name in {doors}.items()}}
for room in rooms:
    try:
        room.nothing
    except AttributeError:
        print("shut")
assert "torch" not in sys.modules
for room, name in rooms.items():
    assert callable(getattr(room, name))
"""
    assert finish([sys.executable, "-c", code], cwd=ROOT).stdout == "shut\n" * 2


def nodes(path: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))


def test_below_the_scripts_one_place_knows_the_command_line():
    for path, room in sources().items():
        if room == "scripts" or path == f"{PACKAGE}/plumbing/flags.py":
            continue
        named = {node.arg for node in nodes(path) if isinstance(node, ast.arg)}
        named |= {node.id for node in nodes(path) if isinstance(node, ast.Name)}
        assert "argparse" not in imports(path) | named and "args" not in named, path


# Where a similarity's name may stand as a value: two defaults, and a schedule of learning rates, called cosine too.
NAMED = {
    f"{PACKAGE}/plumbing/config.py": ["hyperbolic"],
    f"{PACKAGE}/plumbing/flags.py": ["hyperbolic", "cosine"],
    f"{PACKAGE}/training/trainer.py": ["cosine"],
}


def test_only_the_registry_knows_the_names_of_similarities():
    from hyperbolic import SIMILARITIES

    found = {}
    for path, room in sources().items():
        constants = [node.value for node in nodes(path) if isinstance(node, ast.Constant)]
        if room not in ("hyperbolic", "projector") and (names := [x for x in constants if x in SIMILARITIES]):
            found[path] = names
    assert found == NAMED


def test_the_main_of_a_script_is_a_table_of_contents():
    for path, room in sources().items():
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if room == "scripts" else ():
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                assert node.end_lineno - node.lineno + 1 <= 40, path


def test_the_encoder_knows_nothing_of_parquet_ranks_or_flags():
    for path, room in sources().items():
        if room == "CLAP" and path not in DOORS:
            text = (ROOT / path).read_text(encoding="utf-8")
            rooms = r"plumbing\.(ranks|flags|file_index)|plumbing import .*\b(ranks|flags)\b|hyperbolic_clap\.embedding"
            known = re.search(rf"pyarrow|argparse|{rooms}", text)
            assert not known, path


@pytest.mark.parametrize("room", sorted({room for path, room in sources().items() if path.endswith("__init__.py")}))
def test_a_room_says_in_one_sentence_what_it_is(room):
    folder = ROOT / room if (ROOT / room).is_dir() else ROOT / PACKAGE / room
    sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert sentence and "\n" not in sentence and sentence.endswith(".")


def test_the_root_holds_these_folders():
    assert {path.split("/")[0] + "/" for path in tracked() if "/" in path and path[0] != "."} == ROOT_FOLDERS


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_tree_of_the_readme_is_the_tree_on_disk(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    tree = re.findall(r"^    ((?:[\w-]+(?:/|\.py) +)+)\S", text, re.MULTILINE)
    shown = [entry for line in tree for entry in line.split()]
    scripts = {path for path in tracked() if "/" not in path and path.endswith(".py")}
    assert sorted(shown) == sorted(ROOT_FOLDERS | scripts)
    inside = [room for room in ROOMS if (ROOT / PACKAGE / room).is_dir()]
    assert re.findall(r"^      ([a-z]+) +\S", text, re.MULTILINE) == inside
