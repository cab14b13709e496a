"""A parquet folder with the vectors in the place of the audio, as GivenVectors reads it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from CLAP.encoder import PREPROCESSING
from data import UNREADABLE
from hyperbolic_clap.embedding.given import GivenVectors
from hyperbolic_clap.embedding.pipeline import EmbeddedRows, EmbeddingPipeline
from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.plumbing.versions import versions
from hyperbolic_clap.reading.layout import AUDIO
from hyperbolic_clap.reading.vectors import EMBEDDING, KEY, MODEL, NO_VECTOR, SHA256, WHY_NONE, write_text_vectors

TEXTS = "text_embeddings.safetensors"
ROWS = 1 << 13  # of a row group


def about(pipeline: EmbeddingPipeline) -> dict[str, str]:
    """What the files' metadata says of their vectors: model, SHA-256 of its files, preprocessing, versions."""
    embedder = pipeline.embedder
    told = {MODEL: embedder.origin.name, SHA256: embedder.origin.sha256}
    if isinstance(embedder, GivenVectors):  # nobody says how these were made
        return {name: value for name, value in told.items() if value}
    made = {"preprocessing": PREPROCESSING, "fingerprint": embedder.encoder.audio_fingerprint}
    return told | made | {"versions": json.dumps(versions()), "device": embedder.encoder.device.type}


def require_free(folder: Path, pipeline: EmbeddingPipeline) -> None:
    """UserError if the output folder is the one that is read, or holds parquet files of others."""
    if folder.resolve() == pipeline.folder.folder.resolve():
        raise UserError(f"--output-dir {folder} is the folder that is read; name another one")
    others = sorted({path.name for path in folder.glob("*.parquet")} - {path.name for path in pipeline.folder.files})
    if others:
        raise UserError(f"--output-dir {folder} holds {others[0]}, which {pipeline.folder.folder} does not; name a new "
                        "or an empty folder")  # fmt: skip


def write_folder(folder: Path, pipeline: EmbeddingPipeline, embedded: EmbeddedRows, half: bool) -> None:
    """A file for each file that is read, of its name, rows and columns but the audio; a row without a vector says why.

    half: vectors as float16. A file that cannot be read is skipped if that is asked for, FileError otherwise.
    """
    source, told = pipeline.folder, about(pipeline)
    place = np.full(source.num_rows, -1)
    place[embedded.rows.sample_ids] = np.arange(len(embedded.rows))
    vectors, first = embedded.audio.numpy().astype(np.float16 if half else np.float32), 0
    for file, count in source.rows_of.items():
        gone = {source.layouts[file].columns.get(AUDIO), EMBEDDING, KEY, WHY_NONE}
        try:
            table = _others(file, gone)
        except UNREADABLE as error:
            source.lost(file, f" is damaged: {first_line(error)}")
        else:
            at = place[first : first + count]
            why = [None if i >= 0 else embedded.unusable.get(number, NO_VECTOR) for number, i in enumerate(at, first)]
            columns = _lists(vectors, at), _keys(embedded.keys, at), pa.array(why, pa.string())
            for name, column in zip((EMBEDDING, KEY, WHY_NONE), columns, strict=True):
                table = table.append_column(name, column)
            table = table.replace_schema_metadata(_metadata(table.schema, gone) | told)
            write_atomic(folder / file.name, partial(_write, table))
        first += count


def _others(file: Path, gone: set[str | None]) -> pa.Table:
    with file.open("rb") as opened, pq.ParquetFile(opened) as parquet:
        names = [name for name in parquet.schema_arrow.names if name not in gone]
        return parquet.read(names, use_threads=False)


def _lists(vectors: np.ndarray, at: np.ndarray) -> pa.Array:
    """The vectors at these places, null where a place is below 0."""
    has = at >= 0
    ends = np.concatenate([[0], np.cumsum(has) * vectors.shape[1]])
    values = pa.array(vectors[at[has]].reshape(-1))
    return pa.LargeListArray.from_arrays(pa.array(ends), values, mask=pa.array(~has))


def _keys(keys: np.ndarray, at: np.ndarray) -> pa.Array:
    return pa.array([keys[i].tobytes() if i >= 0 else None for i in at], pa.binary())


def _write(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:  # numbers that are all different need no dictionary
        pq.write_table(table, file, row_group_size=ROWS, compression="zstd", use_dictionary=False)


def _metadata(schema: pa.Schema, gone: set[str | None]) -> dict:
    """A file's own metadata; what datasets says there of columns that are gone is left out."""
    metadata = dict(schema.metadata or {})
    try:
        told = json.loads(metadata[b"huggingface"])
        features = told["info"]["features"]
        told["info"]["features"] = {name: feature for name, feature in features.items() if name not in gone}
        metadata[b"huggingface"] = json.dumps(told).encode()
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return metadata


def write_texts(folder: Path, pipeline: EmbeddingPipeline, names: list[str], classes: int) -> None:
    """text_embeddings.safetensors: the vectors of names, the first of which are the class list."""
    embedder = pipeline.embedder
    prompts = {"prompts": json.dumps(embedder.prompts)} if embedder.prompts else {}
    content = write_text_vectors(names, embedder.texts_of(names).numpy(), classes, about(pipeline) | prompts)
    write_atomic(folder / TEXTS, lambda temporary: temporary.write_bytes(content))
