"""Which columns of a parquet file are what: by the project's names, those that are usual elsewhere, or the flags."""

from __future__ import annotations

import json
from typing import NamedTuple

import pyarrow as pa

from hyperbolic_clap.plumbing.config import Columns
from hyperbolic_clap.reading.cells import RATE_NAMES, holds_samples, is_number, may_hold_audio, may_hold_text
from hyperbolic_clap.reading.vectors import EMBEDDING, may_hold_vectors

AUDIO, LABELS, IDS, VIDEO, RATE = "audio", "human_labels", "labels", "video_id", "sampling_rate"
# What the hubs call them, tried in this order where the project's own name is missing.
USUAL = {
    AUDIO: ("sound", "wav", "flac", "mp3", "ogg", "waveform", "audio_bytes", "bytes"),
    LABELS: ("label", "category", "class", "classname", "class_name", "label_name", "labels_name", "tag", "tags",
             "sound_class", "event", "events"),
    VIDEO: ("youtube_id", "ytid"),
}  # fmt: skip


class Layout(NamedTuple):
    """A file's own column for each of AUDIO or EMBEDDING, LABELS, IDS, VIDEO, RATE that it has; names of numbers.

    names: of labels that are kept as numbers. found: those that were found by a usual name, to be said. both: whether
    there is audio beside embeddings, or embeddings beside audio.
    """

    columns: dict[str, str]
    names: dict[str, list[str]]
    found: dict[str, str]
    both: bool = False


def layout_of(schema: pa.Schema, given: Columns) -> Layout:
    """A file's layout. Columns of the flags or the project's names may be missing, or of a type that does not fit."""
    names, classes = list(schema.names), class_names(schema)

    def fits(role: str, name: str) -> bool:
        if name not in names:
            return False
        kind = schema.field(names.index(name)).type
        return may_hold_audio(kind) if role == AUDIO else may_hold_text(kind) or name in classes

    columns, found = {}, {}
    for role, flag in ((AUDIO, given.audio), (LABELS, given.label), (VIDEO, given.id)):
        usual = next((name for name in USUAL[role] if fits(role, name)), None)
        ids = role == LABELS and IDS in names
        if flag is not None:
            columns[role] = flag
        elif role in names or (ids and IDS not in classes and (fits(LABELS, IDS) or not usual)):
            columns |= {role: role} if role in names else {}
        elif ids and IDS in classes:
            columns[role] = IDS
        elif usual:
            columns[role] = found[role] = usual
    if IDS in names and columns.get(LABELS) != IDS:
        columns[IDS] = IDS
    kinds = dict(zip(names, schema.types, strict=True))
    both = AUDIO in columns and EMBEDDING in names and may_hold_vectors(kinds[EMBEDDING])
    if EMBEDDING in names and (AUDIO not in columns or (both and given.vectors and given.audio is None)):
        columns = {role: name for role, name in columns.items() if role != AUDIO} | {EMBEDDING: EMBEDDING}
        found.pop(AUDIO, None)
    rate = next((name for name in RATE_NAMES if name in names and is_number(kinds[name])), None)
    if rate and columns.get(AUDIO) in names and holds_samples(kinds[columns[AUDIO]]):
        columns[RATE] = rate
    return Layout(columns, {role: classes[name] for role, name in columns.items() if name in classes}, found, both)


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """{column: names of its numbers} as datasets' ClassLabel keeps them in a file's schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: _names_of(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_of(feature) -> list[str] | None:
    """The names of a ClassLabel, also within a list of any of datasets' forms."""
    while isinstance(feature, (dict, list)) and feature:
        if isinstance(feature, list):
            feature = feature[0]
        elif feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
        else:
            feature = feature.get("feature")
    return None


def named(column: pa.Array | pa.ChunkedArray, names: list[str] | None) -> pa.Array | pa.ChunkedArray:
    """A column of numbers, or of lists of them, with each number's name, null where it has none; others as they are."""
    if names is None or may_hold_text(column.type):
        return column

    def name(value):
        if isinstance(value, (list, tuple)):
            return [name(each) for each in value]
        return names[value] if type(value) is int and 0 <= value < len(names) else None

    cells = [name(value) for value in column.to_pylist()]
    made = pa.array(cells, pa.list_(pa.string()) if any(isinstance(cell, list) for cell in cells) else pa.string())
    return pa.chunked_array([made]) if isinstance(column, pa.ChunkedArray) else made
