"""The opening of every script that embeds sounds: device, projector, ranks, class list, data, encoder, in this order.

What is cheap to check is checked before what is dear to load, and all of it before any work begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data import ParquetFolder
from hyperbolic_clap.embedding.pipeline import Embedder, EmbeddingPipeline, open_embedder
from hyperbolic_clap.plumbing.config import CLASS_LABELS, DataConfig, EncoderConfig, ProjectorConfig
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import log
from hyperbolic_clap.plumbing.ranks import Alone
from hyperbolic_clap.projector.projector import Projector, open_projector
from hyperbolic_clap.reading.labels import ClassList


@dataclass(frozen=True)
class Model:
    """An opened projector (plain cosine without one), its class list and the embedder of its CLAP model."""

    device: torch.device
    ranks: Alone
    projector: Projector
    classes: ClassList
    embedder: Embedder

    def describe(self) -> dict:
        """The models behind the numbers, for the results JSON; new_classes: how many the projector did not train on."""
        described = self.projector.describe(self.embedder.encoder, self.embedder.prompt)
        known = self.projector.classes is not None
        return described | {"new_classes": len(self.projector.new_classes(self.classes.names)) if known else None}


def open_model(encoder: EncoderConfig, projector: ProjectorConfig) -> Model:
    """A model without data. UserError for what cannot be loaded, or for a projector of another CLAP model."""
    device = choose_device(encoder.device)
    chosen = open_projector(projector, device)
    return _with_embedder(encoder, device, chosen, Alone(), class_list(encoder, chosen))


def open_pipeline(
    data: DataConfig,
    encoder: EncoderConfig,
    projector: ProjectorConfig,
    labelled: bool = True,
    ranks: Alone | None = None,
) -> tuple[Model, EmbeddingPipeline]:
    """A model and the pipeline of a parquet folder. UserError as of open_model, or for the folder.

    labelled: whether rows must have labels. ranks: of torchrun, which share the rows; None: this process has all.
    """
    device = choose_device(encoder.device)
    chosen = open_projector(projector, device)
    ranks, classes = ranks or Alone(), class_list(encoder, chosen)
    folder = ParquetFolder(data.parquet_dir, classes, data.skip_bad_files, labelled, data.columns)
    model = _with_embedder(encoder, device, chosen, ranks, classes)
    return model, EmbeddingPipeline(folder, model.embedder, data, encoder, ranks)


def class_list(encoder: EncoderConfig, projector: Projector) -> ClassList:
    """The config's class list, else the one the projector was trained on, else AudioSet's; UserError if unreadable.

    A projector meets classes that it was not trained on as CLAP itself does, zero-shot: it is said how many they are.
    """
    if encoder.classes:
        classes = ClassList.of(encoder.classes)
    elif encoder.class_labels is None and projector.classes:
        return ClassList(projector.classes)
    else:
        classes = ClassList.read(encoder.class_labels or CLASS_LABELS)
    if new := projector.new_classes(classes.names):
        facts = len(new), len(classes), projector.path, "; ".join(new[:3])
        log.info("%d of %d classes are new to %s (%s), which meets them zero-shot", *facts)
    return classes


def _with_embedder(
    encoder: EncoderConfig, device: torch.device, projector: Projector, ranks: Alone, classes: ClassList
) -> Model:
    prompts = projector.prompts(encoder.prompts)
    embedder = ranks.in_turn(lambda: open_embedder(encoder, device, prompts))
    projector.require_model(embedder.encoder)
    return Model(device, ranks, projector, classes, embedder)
