"""The opening of every script that embeds sounds: device, projector, ranks, class list, data, encoder, in this order.

What is cheap to check is checked before what is dear to load, and all of it before any work begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from data import ParquetFolder
from hyperbolic_clap.embedding.given import GivenVectors, given_vectors, same_model
from hyperbolic_clap.embedding.pipeline import Embedder, EmbeddingPipeline, open_embedder
from hyperbolic_clap.plumbing.config import CLASS_LABELS, DataConfig, EncoderConfig, ProjectorConfig
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.ranks import Alone
from hyperbolic_clap.projector.projector import Projector, open_projector
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.vectors import TextVectors, read_text_vectors


@dataclass(frozen=True)
class Model:
    """An opened projector (plain cosine without one), its class list and what has the vectors of its model."""

    device: torch.device
    ranks: Alone
    projector: Projector
    classes: ClassList
    embedder: Embedder | GivenVectors

    def describe(self) -> dict:
        """The models behind the numbers, for the results JSON; new_classes: how many the projector did not train on."""
        described = self.projector.describe(self.embedder.origin, self.embedder.prompt) | self.embedder.of_texts
        known = self.projector.classes is not None
        return described | {"new_classes": len(self.projector.new_classes(self.classes.names)) if known else None}


def open_model(encoder: EncoderConfig, projector: ProjectorConfig) -> Model:
    """A model without data. UserError for what cannot be loaded, or for a projector of another CLAP model."""
    device = choose_device(encoder.device)
    chosen = open_projector(projector, device)
    classes, embedder = class_list(encoder, chosen), open_embedder(encoder, device, chosen.prompts(encoder.prompts))
    chosen.require_model(embedder.origin)
    return Model(device, Alone(), chosen, classes, embedder)


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
    texts = read_text_vectors(encoder.text_embeddings) if encoder.text_embeddings else None
    ranks, classes = ranks or Alone(), class_list(encoder, chosen, texts)
    folder = ParquetFolder(data.parquet_dir, classes, data.skip_bad_files, labelled, data.columns)
    prompts = _prompts(encoder, chosen, texts)

    def opened() -> Embedder | GivenVectors:
        embedder = _embedder(folder, texts, prompts, encoder, lambda: open_embedder(encoder, device, prompts))
        if labelled:
            _ = texts.of(classes.names) if texts else embedder.clap  # what lacks the class texts is refused now
        return embedder

    embedder = ranks.in_turn(opened)
    chosen.require_model(embedder.origin, embedder.of_texts, folder.folder if folder.given else None)
    return Model(device, ranks, chosen, classes, embedder), EmbeddingPipeline(folder, embedder, data, encoder, ranks)


def beside(model: Model, data: DataConfig, encoder: EncoderConfig) -> EmbeddingPipeline:
    """The pipeline of a further folder for an opened model; UserError also for vectors of another model."""
    folder = ParquetFolder(data.parquet_dir, model.classes, data.skip_bad_files, True, data.columns)
    texts = model.embedder.texts if isinstance(model.embedder, GivenVectors) else None
    embedder = _embedder(folder, texts, model.embedder.prompts, encoder, lambda: model.embedder.clap)
    one, other = model.embedder.origin, embedder.origin
    if (one.embed_dim != other.embed_dim) or same_model(one.name, one.sha256, other.name, other.sha256) is False:
        raise UserError(f"{folder.folder} holds vectors of {other.name or 'another model'}, and those trained on are "
                        f"of {one.name or 'another model'}")  # fmt: skip
    return EmbeddingPipeline(folder, embedder, data, encoder)


def _embedder(
    folder: ParquetFolder, texts: TextVectors | None, prompts: Sequence[str], encoder: EncoderConfig,
    open_clap: Callable[[], Embedder],
) -> Embedder | GivenVectors:  # fmt: skip
    if folder.given:
        return given_vectors(folder, texts, prompts, encoder.checkpoint, open_clap)
    if texts:
        raise UserError(f"--text-embeddings {texts.path} goes with vectors, and {folder.folder} holds audio; write its "
                        "vectors with embed_sounds.py first, or leave the flag out")  # fmt: skip
    return open_clap()


def _prompts(encoder: EncoderConfig, projector: Projector, texts: TextVectors | None) -> Sequence[str]:
    """The templates of the class texts; of a text file its own, () where it does not say."""
    if texts is None:
        return projector.prompts(encoder.prompts)
    if texts.prompts is None and not projector.content.get("prompt"):
        return ()
    return projector.prompts(texts.prompts, f"--text-embeddings {texts.path} with the prompt")


def class_list(encoder: EncoderConfig, projector: Projector, texts: TextVectors | None = None) -> ClassList:
    """The config's class list, else the one the projector was trained on, else AudioSet's; UserError if unreadable.

    texts: a text file; the projector's list is then taken if the file has it, else the file's own.
    A projector meets classes that it was not trained on as CLAP itself does, zero-shot: it is said how many they are.
    """
    if encoder.classes:
        classes = ClassList.of(encoder.classes)
    elif encoder.class_labels is None and projector.classes and not (texts and texts.missing(projector.classes)):
        return ClassList(projector.classes)
    elif encoder.class_labels is None and texts:
        classes = texts.class_list
    else:
        classes = ClassList.read(encoder.class_labels or CLASS_LABELS)
    if new := projector.new_classes(classes.names):
        facts = len(new), len(classes), projector.path, "; ".join(new[:3])
        log.info("%d of %d classes are new to %s (%s), which meets them zero-shot", *facts)
    return classes
