"""What compares audio with text: CLAP's own cosine, or a trained projector. One similarity for every script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hyperbolic import SIMILARITIES, UNTRAINED, HyperbolicProjector, LogitScale, Similarity
from hyperbolic_clap.embedding.given import Origin, same_model
from hyperbolic_clap.embedding.texts import PROMPT
from hyperbolic_clap.plumbing.config import ProjectorConfig
from hyperbolic_clap.plumbing.errors import UserError, warn
from hyperbolic_clap.projector import checkpoints, exported, prototypes
from hyperbolic_clap.reading.labels import normalise


class Projector:
    """Embeddings -> vectors -> similarities.

    path: a projection checkpoint (a .pth file, a training's output folder, whose best it is, an exported folder or its
    ModelScope id), or None for plain cosine.
    content: what the checkpoint holds. flag: the option that asked for it, for an error's sentence. UserError if it is
    no good.
    """

    def __init__(self, path: Path | None, device: torch.device, flag: str = "--projection-checkpoint"):
        path = path and exported.best_of(path, flag)
        self.path, self.device, self.flag = path, device, flag
        self.content: dict = checkpoints.load(path, flag) if path else {}
        self.module: HyperbolicProjector | None = checkpoints.rebuild(self.content, device) if path else None
        self.logit_scale = checkpoints.rebuild_scale(self.content, path) if path else LogitScale().requires_grad_(False)

    @property
    def trained(self) -> bool:
        """Whether a projector lies between embeddings and similarity."""
        return self.module is not None

    @property
    def similarity(self) -> str:
        """Its name in SIMILARITIES."""
        return self.content.get("similarity", UNTRAINED)

    @property
    def kind(self) -> Similarity:
        """Its entry in SIMILARITIES."""
        return SIMILARITIES[self.similarity]

    @property
    def c(self) -> float | None:
        """The squared radius of the ball; None where the similarity has no curvature."""
        return self.content["c"] if self.kind.curved else None

    @property
    def logit_scale_value(self) -> float:
        """What similarities are multiplied by to be logits: the trained scale, or where training starts."""
        return float(self.logit_scale.scale)

    @property
    def calibration(self) -> dict:
        """slope, shift and clips of training/calibration.py; {} without, as in checkpoints older than it."""
        return self.content.get("calibration", {})

    @property
    def thresholds(self) -> dict:
        """precision, clips, by_class and others of training/calibration.py; {} in checkpoints older than it."""
        return self.content.get("thresholds", {})

    def probability(self, similarity: np.ndarray, calibrated: bool = True) -> np.ndarray:
        """Similarities -> the sigmoid of the trained logits, scaled by the calibration if there is one."""
        logits = self.logit_scale_value * similarity.astype(np.float64) + float(self.logit_scale.bias)
        if calibrated and self.calibration:
            logits = self.calibration["slope"] * logits + self.calibration["shift"]
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))  # exp overflows at 710

    @property
    def classes(self) -> list[str] | None:
        """The class names it was trained on; None without training, on captions, and in checkpoints older than this."""
        return self.content.get("classes")

    def new_classes(self, names: list[str]) -> list[str]:
        """The class names among these that it was not trained on, as far as it knows."""
        trained = {normalise(name) for name in self.classes or names}
        return [name for name in names if normalise(name) not in trained]

    @property
    def prototypes(self) -> float:
        """What the cosine to a class's mean training audio is multiplied by; 0 without prototypes."""
        return self.content.get(prototypes.WEIGHT, 0.0)

    def prompts(self, given: Sequence[str] | None, flag: str = "--prompt") -> Sequence[str]:
        """The templates of the class texts: the checkpoint's, or those given; UserError if the two differ.

        flag: what gave them, for the error's sentence.
        """
        if not self.content.get("prompt"):  # also of a projector trained on texts whose prompts nobody says
            return given or [PROMPT]
        trained = self.content["prompt"].split("\n")
        if given is not None and sorted(given) != sorted(trained):
            shown = [" | ".join(templates) for templates in (given, trained)]
            raise UserError(
                f"{flag} {shown[0]!r} contradicts {self.path}, which was trained with {shown[1]!r}; leave the flag "
                "out or give the same"
            )
        return trained

    def require_model(self, origin: Origin, of_texts: dict | None = None, folder: Path | None = None) -> None:
        """UserError if the projector was trained on vectors of another model; a warning where nobody says.

        of_texts: of a GivenVectors. folder: that holds the vectors; None: they are CLAP's, of --checkpoint.
        """
        if not self.trained:
            return
        name, sha256 = self.content["clap_model"], self.content["clap_sha256"]
        same = same_model(name, sha256, origin.name, origin.sha256)
        if self.content["embed_dim"] != origin.embed_dim:
            same = False
        texts = (of_texts or {}).get("text_file_sha256")
        if same is None and (texts is None or texts != self.content.get("text_file_sha256")):
            warn(f"{self.path} and {folder or origin.name} do not both say of which model their vectors are, so it is "
                 "not checked that they belong together")  # fmt: skip
        if same is False:
            found = f"{folder} holds vectors of" if folder else f"--checkpoint {origin.name} is"
            raise UserError(
                f"{self.flag} {self.path} was trained on the CLAP model {name}, but {found} another model"
                + (f", {origin.name}" if folder and origin.name else "")
            )

    def audio(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(N, embed_dim) audio embeddings -> the (N, D) vectors that are compared, on the device."""
        embeddings = embeddings.to(self.device)
        return self.module.audio(embeddings) if self.module else embeddings

    def text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(M, embed_dim) text embeddings -> the (M, D) vectors that are compared, on the device."""
        embeddings = embeddings.to(self.device)
        return self.module.text(embeddings) if self.module else embeddings

    def compare(self, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Vectors (N, D), (M, D) -> similarities (N, M)."""
        return self.module.compare(audio, text) if self.module else self.kind.compare(audio, text, None, 1.0)

    def with_prototypes(self, similarity: torch.Tensor, embeddings: torch.Tensor, names: list[str]) -> torch.Tensor:
        """Similarities (N, M) to the classes `names`, with what the prototypes of the checkpoint add, if it has any.

        embeddings: the clips' (N, embed_dim).
        """
        if not self.prototypes:
            return similarity
        return similarity + prototypes.added(self.content, embeddings.to(self.device), names)

    def describe(self, origin: Origin, prompt: str) -> dict:
        """The models behind the numbers, for the results JSON. c, curvature and temperature: None for plain cosine."""
        return {
            "clap_model": origin.name or None,
            "clap_sha256": origin.sha256 or None,
            "prompt": prompt,
            "use_hyperbolic": self.kind.curved,
            "similarity": self.similarity,
            "projection_checkpoint": str(self.path) if self.path else None,
            "projection_sha256": exported.sha256(self.content) if self.trained else None,
            "epoch": self.content.get("epoch"),
            "output_dim": self.content.get("output_dim", origin.embed_dim),
            "c": self.c,
            "c_meaning": "squared radius of the ball, curvature = -1/c",
            "curvature": -1 / self.c if self.c else None,
            "temperature": self.content.get("temperature"),
            "training": checkpoints.training(self.content),
        } | ({"prototypes": self.prototypes} if self.prototypes else {})


def open_projector(config: ProjectorConfig, device: torch.device) -> Projector:
    """The projector of a config.

    UserError if the config contradicts the checkpoint; a warning for a value that plain cosine does not use.
    """
    projector = Projector(config.path, device)
    if config.prototypes is not None and not math.isclose(config.prototypes, projector.prototypes, rel_tol=1e-5):
        has = f"has those of weight {projector.prototypes:g}" if projector.prototypes else "has none"
        whose = config.path or "plain cosine"
        raise UserError(f"--prototypes {config.prototypes:g} contradicts {whose}, which {has}; leave the flag out")
    given = {"c": config.c, "temperature": config.temperature}
    if not projector.trained:
        for flag, value in given.items():
            if value is not None:
                warn(f"--{flag} {value:g} has no effect: plain cosine has no {flag}")
        return projector
    if config.use_hyperbolic not in (None, projector.kind.curved):
        mend = "test it without --use-hyperbolic" if config.use_hyperbolic else "add --use-hyperbolic"
        raise UserError(f"{config.path} was trained for {projector.similarity} similarity; {mend}")
    for flag, value in given.items():
        trained = projector.content[flag]
        if value is not None and not math.isclose(value, trained, rel_tol=1e-5):
            raise UserError(
                f"--{flag} {value:g} contradicts {config.path}, which was trained with {flag} = {trained:g}; leave the "
                "flag out or give that value"
            )
    return projector
