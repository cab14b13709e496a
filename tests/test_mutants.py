"""The list of mistakes in mutants.py: every edit applies to the code as it is, and names tests that there are."""

import ast
import re

import pytest
from conftest import ROOT
from mutants import MUTANTS, ROOMS


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_every_edit_applies_and_changes_the_program(file):
    whole = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.dump(ast.parse(whole)) if file.endswith(".py") else None
    for mutant in (mutant for mutant in MUTANTS if mutant.file == file):
        assert whole.count(mutant.old) == 1, mutant.old
        if file.endswith(".py"):
            assert ast.dump(ast.parse(whole.replace(mutant.old, mutant.new))) != tree, mutant.old


def test_the_tests_that_must_notice_are_there():
    named = {name for mutant in MUTANTS for name in mutant.tests.split()}
    for name in sorted(named | {name for room in ROOMS.values() for tests in room.values() for name in tests.split()}):
        file, _, test = name.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or re.search(rf"^def {test}\(", source, re.MULTILINE), name
    assert len(set(MUTANTS)) == len(MUTANTS)
    for place in (place for room in ROOMS.values() for place in room):
        file, _, function = place.partition("::")
        assert not function or f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), place
