"""The flags tables say what the parsers say, the READMEs' commands parse, and no link or picture is missing."""

import argparse
import importlib
import re
import shlex

import pytest
from conftest import ROOT

import test_clap_modelscope

FLAGS = ["docs/flags.md", "docs/flags.zh-CN.md"]
READMES = ["README.md", "README.zh-CN.md"]
SCRIPTS = {path.name for path in ROOT.glob("*.py") if "add_argument" in path.read_text(encoding="utf-8")}
ALWAYS_HYPERBOLIC = "test_hyperbolic_clap_modelscope.py"


def parser_of(script: str):
    if script == ALWAYS_HYPERBOLIC:
        return test_clap_modelscope.parser(always_hyperbolic=True)
    return importlib.import_module(script.removesuffix(".py")).parser()


def flags_tables(name) -> list[tuple[str, dict]]:
    """(heading, {flag: default cell}) of each section of a flags document, in order."""
    tables = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## (.*)", line):
            tables.append((heading.group(1), {}))
        elif row := re.match(r"\| `(--[\w-]+)` \| (.*?) \|", line):
            assert row.group(1) not in tables[-1][1], row.group(1)
            tables[-1][1][row.group(1)] = row.group(2).strip("`")
    return tables


def actions_of(parser) -> dict[str, list]:
    """{flag: its actions in the parser and its sub-commands}, without --help."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                for flag, actions in actions_of(sub).items():
                    found.setdefault(flag, []).extend(actions)
        elif action.option_strings and action.option_strings[0] != "-h":
            found.setdefault(action.option_strings[0], []).append(action)
    return found


@pytest.mark.parametrize("name", FLAGS)
def test_flags_tables(name):
    (_, shared), *sections = flags_tables(name)
    tables = {heading: rows for heading, rows in sections if rows}
    assert set(tables) == SCRIPTS
    for script, rows in tables.items():
        actions = actions_of(parser_of(script))
        common = shared if "--parquet-dir" in actions else {}
        assert set(rows) | set(common) == set(actions), script
        for flag, cell in (common | rows).items():
            for action in actions[flag]:
                assert action.required == (cell in {"required", "必需"}), (script, flag)
                if isinstance(action.default, (int, float, str)) and not isinstance(action.default, bool):
                    assert cell == str(action.default), (script, flag)


def test_both_languages_list_the_same_flags():
    one, other = ([(rows, set(rows)) for _, rows in flags_tables(name)] for name in FLAGS)
    assert [flags for _, flags in one] == [flags for _, flags in other]


@pytest.mark.parametrize("name", READMES)
def test_the_commands_parse(name):
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    scripts = {path.name for path in ROOT.glob("*.py")} - {"hyperbolic.py", "data.py"}
    command = re.compile(rf"    \S*python ({'|'.join(map(re.escape, scripts))}) ")
    commands = [shlex.split(line) for line in text.splitlines() if command.match(line)]
    manual = {"train_hyperbolic_clap.py", "test_clap_modelscope.py", ALWAYS_HYPERBOLIC, "compare_results.py"}
    assert {script for _, script, *_ in commands} >= manual
    for _, script, *flags in commands:
        parser_of(script).parse_args(flags)


def test_both_readmes_show_the_same_commands():
    lines = [re.findall(r"^    .*$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) for name in READMES]
    python = [[line for line in some if "python" in line or line.startswith("        --")] for some in lines]
    assert python[0] == python[1]


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_read_in_five_minutes(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 220 and sum(line.startswith("|") for line in lines) <= 30


def headings(path) -> set[str]:
    """The anchors of a document's headings."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_pictures_exist(name):
    path = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), target
            assert "#" not in target or target.split("#")[1] in headings(path.parent / target.split("#")[0]), target
            assert not target.endswith(".png") or (path.parent / target).stat().st_size <= 200_000, target


@pytest.mark.parametrize("name", READMES)
def test_the_small_table_is_part_of_the_large_one(name):
    def rows(path):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
        return {line[0]: line for line in cells if line[0] in ("acc@1", "map", "map_samples") and len(line) == 6}

    small, large = rows(name), rows("docs/results.md")
    assert len(small) == len(large) == 3
    for metric, (_, *values, against_original, _) in small.items():
        assert [*values, against_original] == [*large[metric][1:4], large[metric][5]]
