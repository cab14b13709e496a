"""The READMEs' flags tables say what the parsers say, and their commands parse."""

import re
import shlex

import pytest
from conftest import ROOT

import test_clap_modelscope
import train_hyperbolic_clap

READMES = ["README.md", "README.zh-CN.md"]


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
    command = re.compile(r"    \S*python (train|test)_\w+\.py ")
    commands = [shlex.split(line) for line in text.splitlines() if command.match(line)]
    assert len(commands) >= 6
    for _, script, *flags in commands:
        if script == "train_hyperbolic_clap.py":
            train_hyperbolic_clap.parser().parse_args(flags)
        else:
            always = script == "test_hyperbolic_clap_modelscope.py"
            test_clap_modelscope.parser(always_hyperbolic=always).parse_args(flags)
