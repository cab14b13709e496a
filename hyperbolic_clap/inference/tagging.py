"""Similarities and probabilities of classes for sounds outside of any data set: of files, and along a recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hyperbolic_clap.inference.timeline import SILENT, THRESHOLD, Heard, TimelineConfig, labels, level
from hyperbolic_clap.inference.windows import Windows, embed_window
from hyperbolic_clap.metrics.ontology import audioset
from hyperbolic_clap.metrics.superclasses import log_sum_exp, subtree_of
from hyperbolic_clap.plumbing.errors import RowError, warn
from hyperbolic_clap.plumbing.progress import bar
from hyperbolic_clap.projector.opening import Model


class Tagger:
    """A model over its class list. subtrees: superclasses of AudioSet's tree are answered by those below.

    background: texts that compete with the classes of a timeline and are not reported. reason: why it has no
    probabilities, None where it has.
    """

    def __init__(self, model: Model, subtrees: bool, background: Sequence[str] = ()):
        self.projector, self.embedder, self.names = model.projector, model.embedder, model.classes.names
        self.reason = None if self.projector.trained else "plain cosine has no trained logit scale and bias"
        self.text = self._vectors(self.names)
        self.background_names = list(background)
        self.background = self._vectors(self.background_names) if background else None
        tree = audioset()
        expands = subtrees and tree.find(self.names)[0] is not None
        below = {i: subtree_of(name, tree) for i, name in enumerate(self.names)} if expands else {}
        self.subtrees = {i: (self._vectors(members), members) for i, members in below.items() if members}

    def _vectors(self, names: list[str]) -> torch.Tensor:
        return self.projector.text(self.embedder.texts_of(names))

    @property
    def reasons(self) -> dict[str, str]:
        """What is null, and why, for the JSON."""
        return {"probability": self.reason} if self.reason else {}

    def similarities(self, embeddings: torch.Tensor) -> np.ndarray:
        """(N, embed_dim) audio embeddings -> (N, M) similarities to the classes."""
        audio = self.projector.audio(embeddings)
        similarity = self.projector.compare(audio, self.text)
        similarity = self.projector.with_prototypes(similarity, embeddings, self.names).clone()
        for i, (text, members) in self.subtrees.items():
            below = self.projector.with_prototypes(self.projector.compare(audio, text), embeddings, members)
            similarity[:, i] = log_sum_exp(below, self.projector.logit_scale_value).to(similarity.dtype)
        return similarity.cpu().numpy()

    def backgrounds(self, embeddings: torch.Tensor) -> np.ndarray:
        """(N, embed_dim) audio embeddings -> (N, B) similarities to the background texts."""
        if self.background is None:
            return np.empty((len(embeddings), 0))
        similarity = self.projector.compare(self.projector.audio(embeddings), self.background)
        return self.projector.with_prototypes(similarity, embeddings, self.background_names).cpu().numpy()

    def probabilities(self, embeddings: torch.Tensor) -> np.ndarray:
        """(N, embed_dim) audio embeddings -> (N, M) probabilities of the classes, of a trained projector."""
        return self.projector.probability(self.similarities(embeddings))

    def best(self, similarity: np.ndarray, k: int) -> list[dict]:
        """{classname, similarity, probability} of the k best of (M,) similarities; probability None where `reason`."""
        order = np.argsort(-similarity, kind="stable")[:k]
        values = [None] * len(order) if self.reason else map(float, self.projector.probability(similarity[order]))
        return [
            {"classname": self.names[i], "similarity": float(similarity[i]), "probability": value}
            for i, value in zip(order, values, strict=True)
        ]

    def thresholds(self, given: float | None) -> np.ndarray:
        """(M,) least probabilities of a timeline: the one given, or the projector's own by class, else that of all."""
        own = self.projector.thresholds.get("by_class", {}) if given is None else {}
        return np.array([own.get(name, self._others if given is None else given) for name in self.names])

    @property
    def _others(self) -> float:
        """The threshold of a class that has none of its own."""
        found = self.projector.thresholds.get("others")
        return THRESHOLD if found is None else found

    def tell_thresholds(self, given: float | None) -> str:
        """Where they come from, in one line of the log."""
        if given is not None:
            return f"{given:g} for every class"
        own = self.projector.thresholds
        known = sum(name in own.get("by_class", {}) for name in self.names)
        if not known and own.get("others") is None:
            return f"{THRESHOLD:g} for every class, since the projector has none of its own for them"
        rest = f"; {self._others:.3g} for the other {len(self.names) - known}" if known < len(self.names) else ""
        return f"a precision of {own['precision']:g} on validation clips for {known} of {len(self.names)} classes{rest}"

    def timeline(self, path: Path, config: TimelineConfig) -> tuple[list[dict], dict, list[str]]:
        """The labels of a recording and what the gate chose, as timeline.labels gives them; what is said of its sound.

        RowError for no sound.
        """
        heard, notes = self.hear(path, config.window, config.hop)
        return *labels(heard, self.names, self.thresholds(config.threshold), config), notes

    def hear(self, path: Path, window: float, hop: float) -> tuple[Heard, list[str]]:
        """A recording window by window; what must be said of its sound.

        A window that cannot be used has no probabilities and is reported. RowError for what is no sound.
        """
        starts, levels, vectors, useless, lost, length = [], [], [], [], [], 0.0
        windows = Windows(path, window, hop)
        with bar(path.name[:30], "window", len(windows)) as progress:
            for start, end, waveform in windows:
                starts.append(start)
                useless.append(isinstance(waveform, RowError))
                if isinstance(waveform, RowError):
                    lost.append(waveform)
                    levels.append(SILENT)
                else:
                    levels.append(level(waveform))
                    vectors.append(embed_window(waveform, self.embedder.clap.encoder))
                length = end
                progress.update()
        if not vectors:
            raise lost[0]
        if lost:
            warn(f"{path}: {len(lost)} of {len(starts)} windows are left out: {lost[0]}")
            windows.notes.append(f"heard without some windows: {lost[0].reason}")
        embeddings, begins, used = torch.stack(vectors), np.array(starts), ~np.array(useless)
        similarity, background = self.similarities(embeddings), self.backgrounds(embeddings)
        probability = np.full((len(starts), len(self.names)), np.nan)
        probability[used] = self.projector.probability(similarity)
        competing = np.zeros(probability.shape, bool)
        competing[used] = similarity > background.max(axis=1, initial=-np.inf, keepdims=True)
        begin, until = begins + (window - hop) / 2, np.minimum(begins + (window + hop) / 2, length)
        begin[0], until[-1] = 0.0, length
        return Heard(begin, until, np.array(levels), probability, competing), windows.notes
