"""What the page of retrieval shows: both directions' queries, their ranks, what each model finds, the clips' sounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hyperbolic_clap.embedding.pairs import EmbeddedPairs, embed_pairs
from hyperbolic_clap.plumbing.config import ProjectorConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector.opening import open_pipeline
from hyperbolic_clap.projector.projector import Projector, open_projector
from hyperbolic_clap.reporting.content import about_file, readable
from hyperbolic_clap.reporting.rebuild import stored_configs
from hyperbolic_clap.reporting.sound import choose, played
from hyperbolic_clap.results.files import Results, load
from hyperbolic_clap.results.retrieval import Retrieval
from hyperbolic_clap.results.tables import LESS_IS_BETTER

FOUND = 5  # shown of each query
BLOCK = 1 << 10  # queries compared at a time


@dataclass
class Made:
    """A file's vectors: audio (N, D) of its clips in the file's order, text (M, D) of the distinct captions `texts`."""

    projector: Projector
    audio: torch.Tensor
    text: torch.Tensor
    texts: list[str]


@dataclass
class Page:
    """rows[f] (N,): the entry of file f for each clip of the first, -1 without."""

    files: list[Retrieval]
    rows: list[np.ndarray]
    made: list[Made | None]
    notes: list[str] = field(default_factory=list)


def content(files: list[Retrieval], comparison: dict, audio_clips: int) -> dict:
    """The page of retrieval results, the baseline first. audio_clips: how many clips get their sound, 0 for none.

    What cannot be had is left out, with a sentence in `notes`.
    """
    base = files[0]
    places = [{key: i for i, key in enumerate(file.keys)} for file in files]
    page = Page(files, [np.array([place.get(key, -1) for key in base.keys]) for place in places], [])
    known: dict = {}
    for file in files:
        page.made.append(None)
        try:
            page.made[-1] = rebuild(file, known)
        except (UserError, OSError, TypeError, ValueError) as error:  # of a file that another program wrote
            page.notes.append(f"{file.label} is shown without what it finds: {error}")
    captions = [list(clip["captions"]) for clip in base.clips]
    queries = {"text_to_audio": text_queries(page), "audio_to_text": audio_queries(page)}
    projectors = [made.projector if made else None for made in page.made]
    return {
        "files": [about_file(as_results(file), of) for file, of in zip(files, projectors, strict=True)],
        "comparison": comparison,
        "less": LESS_IS_BETTER,
        "tree_name": None,
        "groups": [],
        "names": [],
        "clips": {"id": [readable(str(clip["video_id"])) for clip in base.clips], "truth": [[] for _ in base.clips],
                  "captions": [[readable(text) for text in texts] for texts in captions]},
        "queries": queries,
        "sounds": heard(page, [*queries["text_to_audio"], *queries["audio_to_text"]], audio_clips),
        "notes": page.notes,
    }  # fmt: skip


def as_results(file: Retrieval) -> Results:
    """A retrieval file in the form in which paths, runs and sounds are looked up."""
    stored = load(file.path)
    info = stored.get("test_info") if isinstance(stored.get("test_info"), dict) else {}
    keys = [(str(video), str(sample)) for video, sample, _ in file.keys]
    nothing = np.empty((len(keys), 0))
    return Results(file.path, file.label, True, {}, info | {"model": file.model}, [], keys, nothing.astype(int), 0,
                   nothing.astype(bool), None)  # fmt: skip


def rebuild(file: Retrieval, known: dict) -> Made:
    """The vectors of a retrieval file; UserError if they are gone. known: clips already embedded, filled here."""
    data, encoder, path = stored_configs(as_results(file))
    if (data, encoder) not in known:
        model, pipeline = open_pipeline(data, encoder, ProjectorConfig(path), labelled=False)
        known[data, encoder] = embed_pairs(pipeline), model.device
    pairs: EmbeddedPairs
    pairs, device = known[data, encoder]
    if pairs.rows.video_ids != [video for video, *_ in file.keys]:
        raise UserError(f"{data.parquet_dir} no longer holds the clips of {file.label}")
    projector = open_projector(ProjectorConfig(path), device)
    return Made(projector, projector.audio(pairs.audio), projector.text(pairs.text), pairs.texts)


def best(queries: torch.Tensor, compare) -> np.ndarray:
    """(Q, D) queries -> (Q, FOUND) positions of what is most similar, by compare(block of queries) -> (block, N)."""
    parts = [compare(block) for block in queries.split(BLOCK)]
    return torch.cat([part.topk(min(FOUND, part.shape[1]), dim=1).indices for part in parts]).cpu().numpy()


def text_queries(page: Page) -> list[dict]:
    """{text, clip, ranks, found} of every caption of every clip: of each file its rank and the clips found, or null."""
    found: list[dict[str, list[int]]] = []
    for made, rows in zip(page.made, page.rows, strict=True):
        if made is None:
            found.append({})
            continue
        here = {int(row): i for i, row in enumerate(rows) if row >= 0}  # the page's clip of each of the file's
        compare = lambda texts, made=made: made.projector.compare(made.audio, texts).T  # noqa: E731
        lists = best(made.text, compare)
        found.append({text: [here.get(int(i), -1) for i in row] for text, row in zip(made.texts, lists, strict=True)})
    queries = []
    for i, clip in enumerate(page.files[0].clips):
        for text in clip["captions"]:
            ranks = [rank_of(file.clips[rows[i]], text) if rows[i] >= 0 else None
                     for file, rows in zip(page.files, page.rows, strict=True)]  # fmt: skip
            queries.append({"text": readable(text), "clip": i, "ranks": ranks, "found": [of.get(text) for of in found]})
    return queries


def rank_of(clip: dict, text: str) -> int:
    return int(clip["text_to_audio_rank"][clip["captions"].index(text)])


def audio_queries(page: Page) -> list[dict]:
    """{clip, ranks, found} of every clip: of each file the rank of its first own caption and the captions found."""
    found: list[list[list[str]] | None] = []
    for made in page.made:
        if made is None:
            found.append(None)
            continue
        lists = best(made.audio, lambda audio, made=made: made.projector.compare(audio, made.text))
        found.append([[readable(made.texts[i]) for i in row] for row in lists])
    return [
        {"clip": i,
         "ranks": [int(file.clips[rows[i]]["audio_to_text_rank"]) if rows[i] >= 0 else None
                   for file, rows in zip(page.files, page.rows, strict=True)],
         "found": [of[rows[i]] if of and rows[i] >= 0 else None for of, rows in zip(found, page.rows, strict=True)]}
        for i in range(len(page.files[0].clips))
    ]  # fmt: skip


def heard(page: Page, queries: list[dict], most: int) -> dict:
    """The sounds of at most `most` clips: those of a query that became right or wrong first, then evenly."""
    base = page.files[0]
    if not most:
        return {}
    changed = np.zeros(len(base.clips), bool)
    for query in queries:
        first, *others = query["ranks"]
        changed[query["clip"]] |= any(rank is not None and (rank == 1) != (first == 1) for rank in others)
    return played(as_results(base), choose(len(base.clips), most, changed), page.notes)
