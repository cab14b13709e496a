"""A trained projector as a notebook uses it: vectors in, vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from hyperbolic_clap.embedding.given import Origin
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError, warn
from hyperbolic_clap.projector.blocks import project
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.reading.vectors import AS_IT_IS, to_unit

TOLD = 1e-2  # lengths this near to 1 are of float16 rounding, and not worth a word
Vectors = TypeVar("Vectors", np.ndarray, torch.Tensor)


def load(path: str | PathLike, device: str = "cpu", encoder=None) -> LoadedProjector:
    """A trained projector. It is one linear layer, so the CPU suffices.

    path: a .pth file of a training, its output folder (the best epoch), an exported folder, or its ModelScope id.
    encoder: a CLAP.Encoder, by which a projector of another CLAP model is refused. UserError in one sentence for what
    cannot be loaded.
    """
    projector = Projector(Path(path).expanduser(), choose_device(device), "the projector")
    if encoder is not None:
        projector.require_model(encoder)
    return LoadedProjector(projector)


class LoadedProjector:
    """Compares audio with text, as the scripts do.

    Vectors are numpy arrays or torch tensors of any float type, one a row; the answer is of the same kind, computed in
    float32 as in the scripts. classes: the names it was trained on, None of captions. settings: what a results JSON
    says in `model_info`, with `embed_dim`, `prompts` (the templates of a class text; none where the vectors it was
    trained on do not say them), `logit_scale`, `logit_bias` and `calibration` (None without).
    """

    def __init__(self, projector: Projector):
        content, self._projector, self._told = projector.content, projector, False
        self.classes: list[str] | None = projector.classes
        origin = Origin(content["clap_model"], content["clap_sha256"], content["embed_dim"])
        self.settings: dict = projector.describe(origin, content["prompt"]) | {
            "embed_dim": content["embed_dim"],
            "prompts": content["prompt"].split("\n") if content["prompt"] else [],
            "logit_scale": projector.logit_scale_value,
            "logit_bias": float(projector.logit_scale.bias),
            "calibration": projector.calibration or None,
        }

    def __repr__(self) -> str:
        kind, about = self._projector.similarity, self.settings
        ball = f", c = {about['c']:g}" if about["c"] else ""
        names = f", {len(self.classes)} classes" if self.classes else ""
        return f"<{kind} projector, {about['embed_dim']} -> {about['output_dim']} dimensions{ball}{names}>"

    def audio(self, vectors: Vectors) -> Vectors:
        """(N, embed_dim) audio embeddings -> (N, D) float32 vectors to compare; tangent vectors at the origin.

        Embeddings count by their direction: rows are scaled to length 1. UserError for another shape, NaN, infinity or
        a row of zeros.
        """
        return self._unit(vectors, "audio", lambda x: project(self._projector, x))

    def text(self, vectors: Vectors) -> Vectors:
        """(M, embed_dim) text embeddings -> (M, D) float32 vectors to compare, as of `audio`; their lengths differ."""
        return self._unit(vectors, "text", self._projector.text)

    def similarity(
        self, a: Vectors, t: Vectors, embeddings: Vectors | None = None, names: Sequence[str] | None = None
    ) -> Vectors:
        """(N, D) of `audio`, (M, D) of `text` -> (N, M) float32, greater for what fits better.

        A projector with prototypes also needs the clips' (N, embed_dim) embeddings and the M names of the classes that
        `t` stands for.
        """
        width = self.settings["output_dim"]
        audio, text = (_checked(x, width, f"similarity ({of})") for x, of in ((a, "audio"), (t, "text")))
        device, projector = self._projector.device, self._projector
        if abs(projector.content["audio_radius"] - 1) > TOLD and (_are_units(audio) or _are_units(text)):
            raise UserError("similarity takes what audio and text give, got embeddings of length 1")
        result = projector.compare(audio.to(device), text.to(device))
        if projector.prototypes:
            if embeddings is None or names is None:
                raise UserError(f"the projector {projector.path} has prototypes, so similarity also takes the "
                                "embeddings of the clips and the names of the classes")  # fmt: skip
            clips = _checked(embeddings, self.settings["embed_dim"], "similarity (embeddings)")
            if (len(clips), len(names)) != tuple(result.shape):
                raise UserError(f"similarity of shape {tuple(result.shape)} takes as many embeddings and names, got "
                                f"{len(clips)} and {len(names)}")  # fmt: skip
            result = projector.with_prototypes(result, clips, list(names))
        return _like(a, result)

    def probability(self, s: Vectors, calibrated: bool = True) -> Vectors:
        """Similarities of any shape -> float64 probabilities of that shape, those of tag_sounds.py.

        The sigmoid of the trained logits, scaled by the calibration. UserError without one, unless it is not asked for:
        then it is the bare sigmoid, which tag_sounds.py takes with a warning.
        """
        if calibrated and not self._projector.calibration:
            raise UserError(f"the projector {self._projector.path} has no calibration, as one with prototypes or of an "
                            "older version; probability(s, calibrated=False) gives the bare sigmoid")  # fmt: skip
        values = _floats(s, "probability")
        return _like(s, torch.as_tensor(self._projector.probability(values.cpu().numpy(), calibrated)))

    def ball_points(self, v: Vectors) -> Vectors:
        """(N, D) of `audio` or `text` -> (N, D) float32 points of the Poincare ball of radius sqrt(c).

        Points are for pictures: far out, their rounding loses the distance, which `similarity` takes from the vectors.
        UserError for a similarity without a ball.
        """
        if not self._projector.kind.curved or self._projector.module is None:
            raise UserError(f"the projector {self._projector.path} compares by {self._projector.similarity}, which has "
                            "no ball")  # fmt: skip
        tangent = _checked(v, self.settings["output_dim"], "ball_points")
        return _like(v, self._projector.module.ball_points(tangent.to(self._projector.device)))

    def _unit(self, vectors: Vectors, what: str, through: Callable[[torch.Tensor], torch.Tensor]) -> Vectors:
        embeddings = _checked(vectors, self.settings["embed_dim"], what, torch.float64)
        unit, lengths = to_unit(embeddings.detach().cpu().numpy())
        if len(zero := np.flatnonzero(lengths == 0)):
            raise UserError(f"{what} takes vectors with a direction, but row {zero[0]} is all zeros")
        if (np.abs(lengths - 1) > TOLD).any() and not self._told:
            self._told = True
            warn(f"vectors of lengths from {lengths.min():.4g} to {lengths.max():.4g} are scaled to 1")
        return _like(vectors, through(torch.from_numpy(unit)))


def _floats(values, what: str, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of this kind of floats; UserError unless all of it are finite floats."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
    if not tensor.is_floating_point():
        raise UserError(f"{what} takes floats, got {tensor.dtype}")
    if not bool(tensor.float().isfinite().all()):
        raise UserError(f"{what} takes finite values, got NaN, infinity or what float32 cannot hold")
    return tensor.to(kind)


def _checked(vectors, width: int, what: str, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Vectors of one width as a tensor; UserError for others."""
    tensor = _floats(vectors, what, kind)
    if tensor.ndim != 2 or tensor.shape[1] != width:
        hint = "; one vector is v[None]" if tensor.ndim == 1 else ""
        raise UserError(f"{what} takes vectors of shape (N, {width}), got {tuple(tensor.shape)}{hint}")
    return tensor


def _are_units(vectors: torch.Tensor) -> bool:
    """Whether all rows have length 1, as no projector makes them but one of that radius."""
    return len(vectors) > 0 and bool(((vectors.double().norm(dim=1) - 1).abs() <= AS_IT_IS).all())


def _like(given: Vectors, result: torch.Tensor) -> Vectors:
    """The result as what was given: a tensor, else an array."""
    return result if isinstance(given, torch.Tensor) else result.cpu().numpy()  # type: ignore[return-value]
