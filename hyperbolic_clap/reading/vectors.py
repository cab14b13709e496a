"""Vectors that were made elsewhere: cells of a parquet column, and texts with theirs in a file, all at unit length."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.reading.arrays import compute, numbers
from hyperbolic_clap.reading.cells import is_list
from hyperbolic_clap.reading.labels import ClassList, normalise

EMBEDDING, CAPTION_EMBEDDING = "embedding", "caption_embedding"
KEY, WHY_NONE = "content_sha256", "skip_reason"  # columns that embed_sounds.py writes beside them
MODEL, SHA256 = "model", "sha256"  # in the metadata of a file of either kind: which model its vectors are of
AS_IT_IS = 1e-6  # a unit vector's length in float32 is this near to 1; its bits are kept, for it is one already
NO_VECTOR, NOT_A_NUMBER, ZERO = "no embedding", "embedding with NaN", "embedding of length zero"
INFINITE, OVERFLOW = "embedding with infinity", "embedding with infinity, as from numbers beyond 65504 in float16"


def may_hold_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a vector of floats in each row."""
    return is_list(kind) and pa.types.is_floating(kind.value_type)


def to_unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) floats -> (the same as float32 of length 1, (n,) float64: the lengths that they had).

    A vector that has length 1 up to float32's rounding keeps its bits. One of length 0 or that is not finite stays so.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # their lengths say so
        wide = vectors.astype(np.float64)  # where the squares of 1e30 and of 1e-30 are numbers
        lengths = np.linalg.norm(wide, axis=1)
        unit = vectors.astype(np.float32)
        others = (np.abs(lengths - 1) > AS_IT_IS) & (lengths > 0) & np.isfinite(lengths)
        unit[others] = wide[others] / lengths[others, None]
    return unit, lengths


def read_vectors(column: pa.Array, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A column that may_hold_vectors -> ((n, dim) float32 unit vectors, (n,) their former lengths, (n,) object).

    The last says why a row has no vector, and is None where it has one; the row of `vectors` is then anything.
    """
    sizes = compute("list_value_length", column)
    flat = compute("list_flatten", column)  # without the lists that are null
    values = numbers(flat) if not flat.null_count else flat.to_numpy(zero_copy_only=False)
    size = numbers(sizes.fill_null(-1) if sizes.null_count else sizes).astype(int)
    starts = np.cumsum(np.maximum(size, 0)) - np.maximum(size, 0)
    whole = size == dim
    if whole.all():
        given = values.reshape(len(column), dim)
    else:
        given = np.full((len(column), dim), np.nan, values.dtype)
        given[whole] = values[starts[whole, None] + np.arange(dim)]
    vectors, lengths = to_unit(given)
    reasons = np.full(len(column), None, object)
    infinite = OVERFLOW if given.dtype == np.float16 else INFINITE
    for which, reason in ((np.isinf(lengths), infinite), (np.isnan(lengths), NOT_A_NUMBER), (lengths == 0, ZERO)):
        reasons[which] = reason
    for other in np.unique(size[~whole]):
        reasons[size == other] = NO_VECTOR if other < 0 else f"embedding of {other} dimensions instead of {dim}"
    return vectors, lengths, reasons


def metadata_of(schema: pa.Schema) -> tuple[str, str]:
    """(model, its sha256) that a parquet file names in its schema's metadata, each "" where it does not."""
    metadata = schema.metadata or {}
    name, sha256 = (metadata.get(key.encode(), b"").decode("utf-8", "replace") for key in (MODEL, SHA256))
    return name, sha256


class MissingText(UserError):
    """A text of which a --text-embeddings file has no vector."""


@dataclass(frozen=True)
class TextVectors:
    """The texts of a --text-embeddings file. vectors (M, D) float32 unit vectors of the M names.

    classes: how many of the first names are the class list. model, sha256: of what made them, "" where the file does
    not say. prompts: the templates, None if it does not say. lengths: (least, greatest) before they were brought to 1.
    digest: SHA-256 of the file.
    """

    path: Path
    names: list[str]
    vectors: np.ndarray
    classes: int
    model: str
    sha256: str
    prompts: tuple[str, ...] | None
    lengths: tuple[float, float]
    digest: str

    @cached_property
    def class_list(self) -> ClassList:
        """The class list that the file stands for."""
        return ClassList(self.names[: self.classes])

    @cached_property
    def _place(self) -> dict[str, int]:
        """Where each name stands, as it is written and as labels are compared."""
        exact = {name: i for i, name in enumerate(self.names)}
        return {normalise(name): i for name, i in reversed(exact.items())} | exact

    def missing(self, names: list[str]) -> list[str]:
        """Those of the names of which the file has no vector."""
        return [name for name in names if name not in self._place and normalise(name) not in self._place]

    def of(self, names: list[str]) -> np.ndarray:
        """(m, D) vectors of these names, as written or else as labels are compared; MissingText if one is not there."""
        if missing := self.missing(names):
            near = ClassList(self.names).near
            examples = "; ".join(f"{name!r} (near: {near(name)!r})" for name in missing[:3])
            raise MissingText(f"--text-embeddings {self.path} has no vector for {len(missing)} of {len(names)} texts: "
                              f"{examples}")  # fmt: skip
        return self.vectors[[self._place[name if name in self._place else normalise(name)] for name in names]]


def read_text_vectors(path: Path) -> TextVectors:
    """A .npz with arrays, or a .safetensors with metadata, of the names below; UserError in one sentence.

    `embeddings` (M, D) floats and `names` (M texts; in safetensors a JSON list in the metadata) must be there; `model`,
    `sha256`, `prompts` (a list) and `classes` (a number) may be.
    """
    which = f"--text-embeddings {path}"
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{which} must be a .npz or .safetensors file with 'names' and 'embeddings'")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{which} cannot be read ({error.strerror})") from None
    try:
        embeddings, about = (_npz if path.suffix == ".npz" else _safetensors)(content)
        names, prompts, classes = _texts(about["names"]), about.get("prompts"), about.get("classes")
        prompts = None if prompts is None else tuple(_texts(prompts))
        classes = len(names) if classes is None else int(classes)
    except KeyError as error:
        raise UserError(f"{which} lacks {error}; it must hold 'names' and 'embeddings'") from None
    except Exception as error:  # damaged files fail in many ways in zip, numpy, safetensors and JSON
        raise UserError(f"{which} cannot be read: {first_line(error)}") from None
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or len(embeddings) != len(names):
        raise UserError(f"{which} has 'embeddings' of shape {embeddings.shape} and type {embeddings.dtype} for "
                        f"{len(names)} names; expected floats of shape ({len(names)}, D)")  # fmt: skip
    if not 2 <= classes <= len(names):
        raise UserError(f"{which} has {len(names)} names, {classes} of them classes; two or more are needed")
    counts = Counter([*map(normalise, names[:classes]), *names[classes:]])  # captions may differ in their case alone
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"{which} holds the name {twice[0]!r} twice; each must occur once")
    vectors, lengths = to_unit(embeddings)
    for wrong, what in ((~np.isfinite(lengths), "is not finite"), (lengths == 0, "has length zero")):
        if wrong.any():
            raise UserError(f"{which}: the vector of {names[int(wrong.argmax())]!r} {what}")
    if (vectors[:classes] == vectors[0]).all():
        raise UserError(f"{which} gives every class one vector, so they cannot be told apart")
    model, sha256 = (str(about.get(key, "")) for key in (MODEL, SHA256))
    ends, digest = (float(lengths.min()), float(lengths.max())), hashlib.sha256(content).hexdigest()
    return TextVectors(path, names, vectors, classes, model, sha256, prompts, ends, digest)


def _texts(values) -> list[str]:
    values = np.asarray(values).tolist()
    found = [value.decode() if isinstance(value, bytes) else value for value in values]
    if not all(isinstance(value, str) and value.strip() for value in found):
        raise ValueError("its names or prompts are not all texts that say something")
    return found


def _npz(content: bytes) -> tuple[np.ndarray, dict]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:  # a pickle could run code
        about = {name: file[name] for name in file.files}
    return about.pop("embeddings"), {name: value if value.ndim else value.item() for name, value in about.items()}


def _safetensors(content: bytes) -> tuple[np.ndarray, dict]:
    from safetensors.numpy import load

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = header.get("__metadata__", {})
    return load(content)["embeddings"], about | {
        name: json.loads(about[name]) for name in ("names", "prompts") if name in about
    }


def write_text_vectors(names: list[str], vectors: np.ndarray, classes: int, about: dict[str, str]) -> bytes:
    """What `read_text_vectors` reads from a .safetensors file, of (M, D) vectors. about: further metadata."""
    told = {"names": json.dumps(names, ensure_ascii=False), "classes": str(classes)}
    data = vectors.astype("<f4").tobytes()
    shape = {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, len(data)]}
    # By hand: the library writes metadata in an order of its own each time, and the file's SHA-256 must stay.
    header = json.dumps({"__metadata__": about | told, "embeddings": shape}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data
