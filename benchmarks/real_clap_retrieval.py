"""Retrieval of real_clap.py: AudioCaps and Clotho as parquet with captions, zero-shot cosine, as test_retrieval.py."""

from __future__ import annotations

import time
from pathlib import Path

from published import CAPTIONS, distances, published, sentences

SETS = {"audiocaps": "AudioCaps", "clotho": "Clotho"}
DIRECTIONS = {"text_to_audio": "text -> audio", "audio_to_text": "audio -> text"}


class Retrieval:
    """One checked folder of captioned clips; the opening costs no embedding."""

    def __init__(self, name: str, folder: Path):
        from data import ParquetFolder
        from hyperbolic_clap.plumbing.config import CLASS_LABELS
        from hyperbolic_clap.reading.captions import read_captions
        from hyperbolic_clap.reading.labels import ClassList

        self.name, self.folder = name, ParquetFolder(folder, ClassList.read(CLASS_LABELS), labelled=False)
        self.captions = [text for file, count in self.folder.rows_of.items()
                         for texts in read_captions(file, count) for text in texts]  # fmt: skip

    def report(self, encoder, cache, model: str, batch_size: int) -> dict:
        """The figures of both directions, for the JSON."""
        from hyperbolic_clap.embedding.pairs import embed_pairs
        from hyperbolic_clap.embedding.pipeline import Embedder, EmbeddingPipeline
        from hyperbolic_clap.embedding.texts import PROMPT
        from hyperbolic_clap.plumbing.config import DataConfig, EncoderConfig
        from hyperbolic_clap.plumbing.file_index import FileIndex
        from hyperbolic_clap.projector.projector import Projector
        from hyperbolic_clap.results.evaluation import evaluate_retrieval

        started = time.monotonic()
        embedder = Embedder(encoder, cache, FileIndex(None), (PROMPT,))
        asked = DataConfig(self.folder.folder), EncoderConfig(encoder.name, batch_size=batch_size)
        pairs = embed_pairs(EmbeddingPipeline(self.folder, embedder, *asked))
        metrics = evaluate_retrieval(pairs, Projector(None, encoder.device))["metrics"]
        row = {"prompt": CAPTIONS}
        row |= {f"{way} {name}": value for way, values in metrics.items() for name, value in values.items()}
        others = published(self.name)
        return {
            "clips": pairs.counts["used"],
            "captions": pairs.counts["captions"],
            "skipped": pairs.counts["skipped"],
            "metrics": metrics,
            "published": others,
            "distances": distances([row], others, model, pairs.counts["used"]),
            "seconds": round(time.monotonic() - started, 1),
        }


def render_retrieval(name: str, found: dict, model: str) -> list[str]:
    """The lines of one set in the Markdown report."""
    names = list(found["metrics"]["text_to_audio"])
    lines = [f"**{name}**, retrieval, {found['clips']} clips with {found['captions']} captions, zero-shot cosine; "
             f"{found['seconds']:.0f} s. Percent, but for the rank.", "", f"| direction | {' | '.join(names)} |",
             "|---|" + "---:|" * len(names)]  # fmt: skip
    for way, told in DIRECTIONS.items():
        values = found["metrics"][way]
        cells = [f"{values[n]:.1f}" if n == "median_rank" else f"{100 * values[n]:.1f}" for n in names]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    for other in found["published"]:
        for way, told in DIRECTIONS.items():
            values = {n: other.get(f"{way} {n}") for n in names}
            if any(values.values()):
                cells = ["" if v is None else f"{100 * v:.1f}" for v in values.values()]
                lines.append(f"| {told}, published: {other['model']} ({other['source']}) | {' | '.join(cells)} |")
    return [*lines, "", *sentences(found["distances"], found["published"], model), ""]
