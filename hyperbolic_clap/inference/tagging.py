"""Similarities and probabilities of classes for sounds outside of any data set: of files, and along a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hyperbolic_clap.inference.windows import embed_window, windows
from hyperbolic_clap.metrics.ontology import audioset
from hyperbolic_clap.metrics.superclasses import log_sum_exp, subtree_of
from hyperbolic_clap.plumbing.errors import RowError, warn
from hyperbolic_clap.projector.opening import Model


class Tagger:
    """A model over its class list. branches: superclasses of AudioSet's tree are answered by subtrees.

    reason: why it has no probabilities, None where it has.
    """

    def __init__(self, model: Model, branches: bool):
        self.projector, self.embedder, self.names = model.projector, model.embedder, model.classes.names
        self.reason = None if self.projector.trained else "plain cosine has no trained logit scale and bias"
        self.text = self._vectors(self.names)
        tree = audioset()
        expands = branches and tree.find(self.names)[0] is not None
        below = {i: subtree_of(name, tree) for i, name in enumerate(self.names)} if expands else {}
        self.branches = {i: (self._vectors(members), members) for i, members in below.items() if members}

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
        for i, (text, members) in self.branches.items():
            below = self.projector.with_prototypes(self.projector.compare(audio, text), embeddings, members)
            similarity[:, i] = log_sum_exp(below, self.projector.logit_scale_value).to(similarity.dtype)
        return similarity.cpu().numpy()

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

    def timeline(self, path: Path, window: float, hop: float, threshold: float) -> list[dict]:
        """{start, end, classname, probability} where a class is at least that probable, by their start.

        Each window speaks for the hop in its middle, the first and the last for their outer half too; adjacent ones of
        a class are joined, with the greatest of their probabilities. A window that is no use has no label; it is
        told. RowError for what is no sound.
        """
        finished, running, length, lost, number = [], {}, 0.0, [], -1
        with tqdm(desc=path.name[:30], unit="window", mininterval=0.5) as progress:
            for number, (start, end, waveform) in enumerate(windows(path, window, hop)):
                here = start + (window - hop) / 2 if number else 0.0
                if isinstance(waveform, RowError):
                    lost.append(waveform)
                    heard = {}
                else:
                    row = self.probabilities(embed_window(waveform, self.embedder.encoder)[None])[0]
                    heard = {self.names[i]: float(row[i]) for i in np.flatnonzero(row >= threshold)}
                for name in running.keys() - heard.keys():
                    finished.append(running.pop(name))
                for name, value in heard.items():
                    label = running.setdefault(name, {"start": here, "end": 0.0, "classname": name, "probability": 0.0})
                    label["probability"] = max(label["probability"], value)
                    label["end"] = start + (window + hop) / 2
                length = end
                progress.update()
        if lost and len(lost) == number + 1:
            raise lost[0]
        if lost:
            warn(f"{path}: {len(lost)} of {number + 1} windows are left out: {lost[0]}")
        for label in running.values():
            label["end"] = length
        joined = [label | {"end": min(label["end"], length)} for label in [*finished, *running.values()]]
        return sorted(joined, key=lambda label: (label["start"], label["classname"]))
