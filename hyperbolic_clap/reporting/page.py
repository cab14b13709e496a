"""The page itself: a template, its style and scripts, and the data, in one file that needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.reporting import content, queries
from hyperbolic_clap.results.files import Results
from hyperbolic_clap.results.retrieval import Retrieval

PARTS = Path(__file__).resolve().parent / "page_assets"
# In order: the scripts of a page, and its sections with their names in the navigation and above them.
CLASSIFICATION = ("data", "sound", "verdict", "clips", "classes", "geometry", "disk", "way", "confidence", "main")
RETRIEVAL = ("data", "sound", "verdict", "queries", "geometry", "main")
SECTIONS = {
    "verdict": ("Verdict", "Verdict"),
    "queries": ("Queries", "Queries"),
    "clips": ("Clips", "Clips"),
    "classes": ("Classes", "Classes"),
    "disk": ("Disk", "The disk"),
    "way": ("Traversal", "The traversal to the root"),
    "confidence": ("Confidence", "Confidence"),
}


def write_report(
    path: Path, files: list[Results] | list[Retrieval], comparison: dict, audio_clips: int
) -> None:
    """Write the comparison of results files as one page. audio_clips: how many clips get their sound."""
    of = queries if isinstance(files[0], Retrieval) else content
    page = assemble(of.content(files, comparison, audio_clips))
    write_atomic(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def assemble(data: dict) -> str:
    """The template with style, scripts and data. The policy allows these very scripts and nothing from outside."""
    style = read("style.css")
    names = RETRIEVAL if "queries" in data else CLASSIFICATION
    scripts = [read(f"{name}.js") for name in names]
    sections = {name: titles for name, titles in SECTIONS.items() if name in names}
    allowed = " ".join(map(digest, scripts))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src {digest(style)}; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    pieces = {
        "policy": policy,
        "nav": " ".join(f'<a href="#{name}">{short}</a>' for name, (short, _) in sections.items()),
        "sections": "\n".join(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
            '<div class="body"></div></section>'
            for name, (_, title) in sections.items()
        ),
        "style": f"<style>{style}</style>",
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
        "data": f'<script type="application/json" id="data">{embedded(data)}</script>',  # last: it may hold any text
    }
    page = read("report.html")
    for name, piece in pieces.items():
        before, after = page.split(f"[[{name}]]", 1)
        page = before + piece + after
    return page


def embedded(data: dict) -> str:
    """JSON that is data within a page, with any texts: no tag ends or begins in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate as JSON's own escape


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
