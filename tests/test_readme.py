"""The READMEs' flags tables say what the parsers say, and their commands parse."""

import re
import shlex
from functools import partial

import pytest
from conftest import ROOT

import compare_results
import plot_results
import test_clap_modelscope
import train_hyperbolic_clap

READMES = ["README.md", "README.zh-CN.md"]
PARSERS = {
    "train_hyperbolic_clap.py": train_hyperbolic_clap.parser,
    "test_clap_modelscope.py": test_clap_modelscope.parser,
    "test_hyperbolic_clap_modelscope.py": partial(test_clap_modelscope.parser, always_hyperbolic=True),
    "compare_results.py": compare_results.parser,
    "plot_results.py": plot_results.parser,
}


def flags_tables(name):
    """The flags tables of a README in order: {flag: default cell}."""
    tables, current = [], None
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| `(--[\w-]+)` \| (.*?) \|", line)
        if match:
            if current is None:
                tables.append(current := {})
            current[match.group(1)] = match.group(2).strip("`")
        elif not line.startswith("|"):
            current = None
    return tables


@pytest.mark.parametrize("name", READMES)
@pytest.mark.parametrize(("position", "module"), [(0, train_hyperbolic_clap), (1, test_clap_modelscope)])
def test_flags_tables(name, position, module):
    table = flags_tables(name)[position]
    actions = {a.option_strings[0]: a for a in module.parser()._actions if a.option_strings[0] != "-h"}
    assert set(table) == set(actions)
    words = {"required", "必需"}
    for flag, action in actions.items():
        assert action.required == (table[flag] in words), flag
        if isinstance(action.default, (int, float, str)) and not isinstance(action.default, bool):
            assert table[flag] == str(action.default), flag


@pytest.mark.parametrize("name", READMES)
def test_the_commands_parse(name):
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.compile(rf"    \S*python ({'|'.join(map(re.escape, PARSERS))}) ")
    commands = [shlex.split(line) for line in text.splitlines() if command.match(line)]
    assert {script for _, script, *_ in commands} == set(PARSERS)
    for _, script, *flags in commands:
        PARSERS[script]().parse_args(flags)


@pytest.mark.parametrize("name", READMES)
def test_the_pictures_exist_and_are_small(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert set(pictures) == {f"docs/{kind}.png" for kind in ("losses", "disk", "gains", "similarities")}
    for picture in pictures:
        assert 10_000 < (ROOT / picture).stat().st_size <= 200_000, picture
        assert f"--output {picture}" in text, picture  # the command that draws it stands below it
