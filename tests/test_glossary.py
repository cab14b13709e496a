"""One word for one thing: words that the project gave up no longer occur in the product, its page and its documents."""

import re
import subprocess

import pytest
from conftest import ROOT

# What was said before, as a pattern -> the word that is said now.
GIVEN_UP = {
    r"\bSources\b": "embedding pipeline",
    r"\b[Mm]aterials?\b": "EmbeddedClips, data",
    r"\bCaptioned\b": "EmbeddedPairs",
    r"\bTruth\b": "PackedTargets",
    r"\b[Uu]nwanted\b|\breason_against\b": "skip_reason, exclusion",
    r"\bKnownFiles\b": "FileIndex",
    r"\b[Hh]eads?\b|_head\b|\bhead_": "projector; columns of a table; key_prefixes",
    r"\bprojection (layer|head)\b|投影头|可训练头": "projector, 投影层",
    r"(?i)\bfigures? (has|have|without|with no) ground\b|\b(no|without) ground\b": "undefined metric",
    r"(?i)\bway[ _]to[ _](the[ _])?root\b|\bwalk(s|ed|ing)?\b|通往根的路径": "traversal, 遍历",
    r"(?i)\binner[ _]class(es)?\b|内部类": "superclasses, 上位类",
    r"(?i)\bbranch(es)?\b|_branch\b|分支": "subtree, 子树",
    r"(?<!\.)\bflatten\b": "hyperbolic MDS",
    r"\bstalled\b": "should_stop_early",
    r"_blind\b": "avoids_host_sync",
    r"(?i)\bwhich class is true of which clip\b": "multi-hot targets",
    r"\b(is|are) told\b|\btold (when|then|later|if)\b": "is reported",
    r"\b(of|is|are) no use\b": "cannot be used",
    r"\bwhatever (it|its|else|the|a|he|they|kills|fits)\b": "any",
    r"\b(audio|text)_radius_(mean|std)\b": "distance_from_origin",
}

# Where a word stays: {file or folder: {what is allowed: why}}. What is allowed is taken out before the search.
BRANCHES_FLAG = {r"--(no-)?branches|\bargs\.branches\b": "a flag that users have in their scripts"}
ALLOWED = {
    "docs/flags.md": BRANCHES_FLAG,
    "docs/flags.zh-CN.md": BRANCHES_FLAG,
    "docs/search.md": BRANCHES_FLAG,
    "docs/tagging.md": BRANCHES_FLAG,
    "search_sounds.py": BRANCHES_FLAG,
    "tag_sounds.py": BRANCHES_FLAG,
    "docs/formats.md": {
        r"`way_to_root`": "a key of result files",
        r"`audio_radius_mean`": "what old training logs call it",
        r"`inner_classes`": "a key of result files",
    },
    "docs/report.md": {r"`ontology\.way_to_root`": "a key of result files"},
    "docs/sharing.md": {r"\bmy_head\b": "the folder's name in a command that a reader may have run"},
    "export_projector.py": {r"\bmy_head\b": "the folder's name in a command that a reader may have run"},
    "docs/machines.md": {r"\| head -n 1": "the shell's command"},
    "hyperbolic.py": {r"no branch (may depend|depends)\b": "a branch of the program, on CUDA"},
    "hyperbolic_clap/metrics/superclasses.py": {
        r'"inner_branch"|`inner_branch`': "a key of score files",
        r'"inner_classes"|`inner_classes`': "a key of result files",
    },
    "hyperbolic_clap/results/files.py": {
        r"`inner_branch`": "a key of score files",
        r'"inner_classes"': "a key of result files",
    },
    "hyperbolic_clap/results/compare.py": {r'"inner_classes"': "a key of result files"},
    "hyperbolic_clap/metrics/traversal.py": {
        r'"walk": kind\.root': "a key of result files",
    },
    "hyperbolic_clap/results/evaluation.py": {
        r'"way_to_root"|"inner_classes"': "keys of result files",
    },
    "hyperbolic_clap/plumbing/run.py": {r"`\| head`": "the shell's command"},
    "hyperbolic_clap/reporting/": {
        r"</?head>": "HTML",
    },
}
PRODUCT = ("CLAP/", "hyperbolic_clap/", "docs/", "benchmarks/README")  # and what lies in the root


def product() -> list[str]:
    """The tracked files that a user reads or runs: root scripts, packages, the page, every document."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("no git repository")
    paths = [path for path in run.stdout.split("\0") if path.endswith((".py", ".md", ".js", ".html"))]
    return sorted(path for path in paths if (ROOT / path).exists() and (path.startswith(PRODUCT) or "/" not in path))


def given_up(path: str) -> list[str]:
    """Each line of a file that says a word of GIVEN_UP where nothing in ALLOWED lets it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for place, patterns in ALLOWED.items():
        if path == place or place.endswith("/") and path.startswith(place):
            for pattern in patterns:
                text = re.sub(pattern, "", text)
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        for pattern, word in GIVEN_UP.items():
            if match := re.search(pattern, line):
                found.append(f"{path}:{number}: {match[0]!r}, say {word}")
    return found


def test_the_words_that_were_given_up_do_not_occur():
    assert [line for path in product() for line in given_up(path)] == []


def test_every_exception_is_needed():
    """An exception whose word is gone from its file is to be taken out of the list."""
    paths = product()
    for place, patterns in ALLOWED.items():
        of_it = [path for path in paths if path == place or place.endswith("/") and path.startswith(place)]
        text = "\n".join((ROOT / path).read_text(encoding="utf-8") for path in of_it)
        assert not [pattern for pattern in patterns if not re.search(pattern, text)], place


@pytest.mark.parametrize("line", ["the head's", "walked to the root", "an inner class", "a file of no use", "投影头"])
def test_a_word_that_was_given_up_is_seen(line):
    assert any(re.search(pattern, line) for pattern in GIVEN_UP)
