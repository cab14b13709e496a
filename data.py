"""Parquet folders in AudioSet form: rows with labels, and their audio as 48 kHz mono waveforms, or vectors.

Columns: `audio` (struct with `bytes`; plain bytes; struct with `array` and `sampling_rate`; or a list of
samples, taken as 48 kHz), `human_labels`, and optionally `labels` (machine ids) and `video_id`; names that are usual
elsewhere are found (reading/layout.py). Or, in the place of audio, `embedding`: vectors that were made elsewhere.
A file of another form is refused (FileError), or skipped and counted if that is asked for; a row that cannot be
used is skipped and counted (RowError).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from CLAP import SAMPLE_RATE
from hyperbolic_clap.plumbing.config import Columns
from hyperbolic_clap.plumbing.errors import RowError, UserError, first_line, log, warn
from hyperbolic_clap.reading import audio
from hyperbolic_clap.reading.arrays import compute
from hyperbolic_clap.reading.cells import MAX_BYTES, audio_cell, may_hold_audio, may_hold_text, plain, whole_rate
from hyperbolic_clap.reading.columns import read_columns
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reading.layout import AUDIO, IDS, LABELS, RATE, VIDEO, Layout, layout_of, named
from hyperbolic_clap.reading.rows import Rows, video_id
from hyperbolic_clap.reading.vectors import (
    EMBEDDING,
    KEY,
    NO_VECTOR,
    WHY_NONE,
    may_hold_vectors,
    metadata_of,
    read_vectors,
)

ROWS_AT_ONCE, BYTES_AT_ONCE = 16, 1 << 27  # read from a file; one row at least
VECTORS_AT_ONCE = 1 << 13
MAX_ROW_BYTES = 1 << 30  # on average, unpacked; pyarrow takes four times that for each row that it reads
READ_AHEAD = 1 << 20  # bytes of each column
PART_WAY = "damaged part-way"
NAMED_PER_REASON = 5  # skipped rows and files that the log and the JSON name
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)  # the last from damaged column names
NO_AUDIO, ONLY_PATH = "no audio", "holds only a path"


class FileError(UserError):
    """Why one file cannot be used. `reason` is what files are counted by, `file` the one."""

    def __init__(self, file: Path, reason: str, sentence: str):
        super().__init__(f"{file}{sentence}")
        self.file, self.reason = file, reason


class Span(NamedTuple):
    """Rows of one file, from start to stop; `first` is the number of the file's first row in the folder."""

    file: Path
    first: int
    start: int
    stop: int


@dataclass
class Clip:
    """One parquet row. audio: encoded bytes, a file, or samples with `rate`; dropped once it is embedded.

    notes: what decoding found to be said. beside: the audio is that of a file beside the parquet file. without: why
    there is none.
    """

    sample_id: int
    video_id: str
    human_labels: list[str]
    machine_labels: list[str]
    positions: list[int] = field(default_factory=list)
    audio: bytes | np.ndarray | Path | None = None
    rate: int = SAMPLE_RATE
    notes: list[str] = field(default_factory=list)
    beside: bool = False
    without: str = NO_AUDIO

    def content_key(self) -> bytes:
        """SHA-256 of the audio as stored: a renamed file keeps it, a changed clip does not."""
        if self.audio is None:
            raise RowError(self.without, lasting=not self.beside)
        digest = hashlib.sha256()
        if isinstance(self.audio, np.ndarray):
            digest.update(f"{self.audio.dtype.str} {self.audio.shape} {self.rate}\n".encode())
            digest.update(np.ascontiguousarray(self.audio))
            return digest.digest()
        digest.update(b"encoded\n")
        if isinstance(self.audio, Path):
            try:
                with self.audio.open("rb") as file:
                    while part := file.read(READ_AHEAD):
                        digest.update(part)
            except OSError as error:
                raise RowError(f"unreadable file ({error.strerror})", lasting=False) from None
        else:
            digest.update(self.audio)
        return digest.digest()


class ParquetFolder:
    """The parquet files of a folder, checked before any work begins.

    Raises UserError for a folder that is missing or holds no row, and for a file that is unreadable or lacks a column.
    skip_bad: such a file is skipped instead, and of one that is damaged part-way the rest of that row group; `skipped`
    counts them. labelled: a file must have a column of labels. names: of the columns, where they are not usual.
    given: whether the files hold vectors in the place of audio; model, sha256: what they say made them, "" if nothing.
    """

    def __init__(self, folder: Path, classes: ClassList, skip_bad: bool = False, labelled: bool = True,
                 names: Columns | None = None):  # fmt: skip
        self.folder, self.classes, self.skip_bad, self.labelled = folder, classes, skip_bad, labelled
        self.names = names or Columns()
        self.layouts: dict[Path, Layout] = {}
        self.of_vectors: dict[Path, tuple[str, str] | None] = {}  # the model of a file's vectors; of audio None
        self.bad: dict[Path, str] = {}  # skipped files and why
        if not folder.is_dir():
            raise UserError(f"--parquet-dir {folder} is not a folder; give the folder that holds the *.parquet files")
        # A link to nowhere stays in, to be refused; hidden files are what systems add (macOS: ._00.parquet).
        files = sorted(p for p in folder.glob("*.parquet") if not p.is_dir() and not p.name.startswith("."))
        nested = sum(1 for p in folder.glob("*/**/*.parquet") if p.is_file())
        if not files:
            hint = f" ({nested} lie in its sub-folders, which are not read)" if nested else ""
            raise UserError(f"--parquet-dir {folder} holds no *.parquet file{hint}")
        if nested:
            warn(f"{nested} parquet files in sub-folders of {folder} are not read, only those at its top level")
        self.rows_of: dict[Path, int] = {}
        unnamed = []
        for file in files:
            try:
                self.rows_of[file], named = self._check(file)
            except FileError as error:
                self._skip(error)
            else:
                unnamed += [] if named else [file]
        if unnamed:
            warn(f"{len(unnamed)} files have no column 'human_labels' (the first is {unnamed[0]}); the machine ids in "
                 "their column 'labels' are used instead")  # fmt: skip
        self.given = next(iter(self.of_vectors.values()), None) is not None
        self.model, self.sha256 = next(iter(self.of_vectors.values()), None) or ("", "")
        self._tell_found()
        self.files, self.num_rows = list(self.rows_of), sum(self.rows_of.values())
        if not self.files:
            raise self.nothing()
        if not self.num_rows:
            raise UserError(f"the parquet files in {folder} hold no rows at all")

    def _tell_found(self) -> None:
        """A warning for each column that was found by a name that is usual elsewhere."""
        found: dict[tuple[str, str], list[Path]] = {}
        for file in self.rows_of:
            for role, column in self.layouts[file].found.items():
                found.setdefault((role, column), []).append(file)
        for (role, column), files in found.items():
            what = {AUDIO: "audio", LABELS: "labels", VIDEO: "ids"}[role]
            flag = {AUDIO: "--audio-column", LABELS: "--label-column", VIDEO: "--id-column"}[role]
            where = files[0].name if len(files) == 1 else f"{len(files)} files"
            warn(f"{where}: there is no column {role!r}, so the {what} are those of {column!r} ({flag} names another)")
        if both := [file.name for file in self.rows_of if self.layouts[file].both]:
            taken, flag = ("embeddings are", "as") if self.given else ("audio is", "without")
            warn(f"{both[0] if len(both) == 1 else f'{len(both)} files'}: there are both audio and embeddings; the "
                 f"{taken} taken, {flag} --text-embeddings is given")  # fmt: skip

    def _skip(self, error: FileError) -> None:
        """Note a file that cannot be used; the error itself if none is to be skipped."""
        if not self.skip_bad:
            raise error
        if error.file not in self.bad:
            if sum(reason == error.reason for reason in self.bad.values()) < NAMED_PER_REASON:
                warn(f"{error}; {'the rest of that row group' if error.reason == PART_WAY else 'the file'} is skipped")
            self.bad[error.file] = error.reason

    @property
    def skipped(self) -> dict[str, dict]:
        """{reason: {count, first}} of the files that were skipped, for the JSON."""
        report: dict[str, dict] = {}
        for file, reason in sorted(self.bad.items()):
            entry = report.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += 1
            entry["first"] += [file.name] * (len(entry["first"]) < NAMED_PER_REASON)
        return report

    def nothing(self) -> UserError:
        """The error for a folder of which no file can be used."""
        reasons = "; ".join(f"{e['count']} {r}: {', '.join(e['first'])}" for r, e in self.skipped.items())
        return UserError(f"no parquet file in {self.folder} can be used ({reasons})")

    def tell(self) -> None:
        """One log line for each reason why files were skipped."""
        tell_skipped("files", self.skipped)

    def _check(self, file: Path) -> tuple[int, bool]:
        """(rows of a file, whether it has label names); FileError if it cannot be used."""
        try:
            with _open(file) as parquet:
                schema, rows, size = parquet.schema_arrow, parquet.metadata.num_rows, _row_bytes(parquet)
        except UNREADABLE as error:
            raise FileError(file, "unreadable", f" cannot be read as parquet: {first_line(error)}") from None
        if size > MAX_ROW_BYTES:
            limit = f"{MAX_ROW_BYTES / 2**30:g} GiB"
            sentence = f" unpacks to {size / 2**30:.1f} GiB for each row, more than the {limit} accepted"
            raise FileError(file, "rows too large", sentence)
        layout = self.layouts[file] = layout_of(schema, self.names)
        for column in {AUDIO, LABELS, IDS, VIDEO, *layout.columns.values()}:
            count = schema.names.count(column)
            if count > 1:
                raise FileError(file, "column twice", f" has {count} columns {column!r}; it must have one")
        labels = LABELS if LABELS in layout.columns or IDS not in layout.columns else IDS
        sound = (AUDIO, "--audio-column", may_hold_audio, "encoded bytes or samples")
        if EMBEDDING in layout.columns:
            sound = (EMBEDDING, "--audio-column", may_hold_vectors, "vectors of float16, 32 or 64")
        needed = [
            sound,
            (labels, "--label-column", may_hold_text, "label names"),
            (VIDEO, "--id-column", lambda kind: True, "ids"),
        ]
        for role, flag, fits, need in needed:
            column = layout.columns.get(role, role)
            if column not in schema.names:
                required = {sound[0]: True, labels: self.labelled or self.names.label, VIDEO: self.names.id}
                if not required[role]:
                    continue
                others = ", ".join(schema.names) or "none"
                sentence = f" has no column {column!r}; its columns are {others}; {flag} names another"
                raise FileError(file, "column missing", sentence)
            kind = schema.field(column).type
            if not fits(kind) and role not in layout.names:
                sentence = f": its column {column!r} is {first_line(kind)}, which cannot hold {need}"
                sentence += f"; {flag} names another"
                raise FileError(file, "column of another type", sentence)
        self._require_alike(file, metadata_of(schema) if EMBEDDING in layout.columns else None)
        return rows, labels == LABELS or not self.labelled

    def __iter__(self) -> Iterator[Clip]:
        """Every row in order as a Clip; read as it goes, a few rows at a time."""
        return self.rows(0, self.num_rows)

    def rows(self, start: int, stop: int) -> Iterator[Clip]:
        """The rows from start to stop in the order of the whole folder; row groups outside are not read.

        skip_bad: what a damaged row group holds from the damage on is left out; a row keeps its number whatever is
        missing before it, and whether it is found does not depend on where a part begins.
        """
        for span in self.spans(start, stop):
            yield from self.clips(span)

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        """The parts of files that hold the rows from start to stop."""
        first = 0
        for file, count in self.rows_of.items():
            if max(first, start) < min(stop, first + count):
                yield Span(file, first, max(start - first, 0), min(stop - first, count))
            first += count

    def columns(self, span: Span) -> Rows:
        """A span's rows as `clips` would give them, without their audio, of which nothing is read; UNREADABLE."""
        start, stop = span.start, span.stop
        with _open(span.file) as parquet:
            layout = self.layouts[span.file]
            roles = {r: name for r, name in layout.columns.items() if r not in (AUDIO, EMBEDDING, RATE)}
            ends = np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])
            groups = np.flatnonzero((ends > start) & (ends - np.diff(ends, prepend=0) < stop)).tolist()
            skipped = int(ends[groups[0] - 1]) if groups and groups[0] else 0
            wanted = list(dict.fromkeys(roles.values()))
            table = parquet.read_row_groups(groups, wanted, use_threads=False).slice(start - skipped, stop - start)
        if len(table) != stop - start:
            raise pa.ArrowInvalid(f"it holds {len(table)} of {stop - start} rows")
        columns = {role: named(table[name], layout.names.get(role)) for role, name in roles.items()}
        return read_columns(columns, self.classes, span.file.stem, span.first + start, len(table))

    def _require_alike(self, file: Path, model: tuple[str, str] | None) -> None:
        """FileError for a file of vectors among files of audio, for one of audio among vectors, or of other vectors."""
        first = next(iter(self.of_vectors), file)
        before = self.of_vectors.setdefault(first, model)
        if (before is None) != (model is None):
            one, other = ("embeddings", "audio") if before is None else ("audio", "embeddings")
            raise FileError(file, f"{one} among {other}", f" holds {one}, and {first.name} {other}; a folder must hold "
                            "one of the two")  # fmt: skip
        if before and model and before != model:
            names = [" ".join(filter(None, each)) or "no model" for each in (model, before)]
            raise FileError(file, "vectors of another model", f" names {names[0]} as the model of its vectors, and "
                            f"{first.name} {names[1]}; a folder must hold vectors of one model")  # fmt: skip
        self.of_vectors[file] = model

    def dimensions(self) -> int:
        """How many numbers most of the first vectors have; UserError if no row has a vector."""
        for file in self.files:
            try:
                with _open(file) as parquet:
                    for batch in parquet.iter_batches(VECTORS_AT_ONCE, columns=[EMBEDDING], use_threads=False):
                        sizes = [size for size in compute("list_value_length", batch.column(0)).to_pylist() if size]
                        if sizes:
                            return max(sorted({*sizes}), key=sizes.count)
            except UNREADABLE as error:
                self.lost(file, f" is damaged: {first_line(error)}")
        raise UserError(f"no row of {self.folder} has a vector in its column {EMBEDDING!r}")

    def vectors(self, span: Span, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A span's (n, dim) float32 unit vectors, (n,) former lengths, (n, 32) keys, (n,) reasons; UNREADABLE.

        keys: equal ones are of the same audio, as far as the file knows, or of the same vector. reasons: why a row has
        no vector, None where it has one.
        """
        n = span.stop - span.start
        unit, lengths = np.empty((n, dim), np.float32), np.empty(n)
        keys, reasons = np.zeros((n, 32), np.uint8), np.empty(n, object)
        with _open(span.file) as parquet:
            names = [name for name in (EMBEDDING, KEY, WHY_NONE) if name in parquet.schema_arrow.names]
            end = -span.start
            for batch in parquet.iter_batches(VECTORS_AT_ONCE, columns=names, use_threads=False):
                start, end = end, end + batch.num_rows
                batch = batch.slice(max(-start, 0), max(min(n, end) - max(start, 0), 0))
                if not batch.num_rows:
                    continue
                at = slice(max(start, 0), max(start, 0) + batch.num_rows)
                unit[at], lengths[at], reasons[at] = read_vectors(batch.column(EMBEDDING), dim)
                hashes, why = (batch.column(x).to_pylist() if x in names else [None] * batch.num_rows
                               for x in (KEY, WHY_NONE))  # fmt: skip
                for i, (given, reason) in enumerate(zip(hashes, why, strict=True), at.start):
                    known = isinstance(given, bytes) and len(given) == 32
                    keys[i] = np.frombuffer(given if known else hashlib.sha256(unit[i]).digest(), np.uint8)
                    if reasons[i] == NO_VECTOR and isinstance(reason, str) and reason:
                        reasons[i] = reason
        if end < n:
            raise pa.ArrowInvalid(f"it holds {end + span.start} of {self.rows_of[span.file]} rows")
        return unit, lengths, keys, reasons

    def clips(self, span: Span, wanted: np.ndarray | None = None) -> Iterator[Clip]:
        """A span's rows, or those of them that are wanted, by a mask; row groups without one are not read."""
        file, first, start, stop = span
        chosen = np.ones(stop - start, bool) if wanted is None else wanted
        end = 0
        try:
            with _open(file) as parquet:
                layout = self.layouts[file]
                names = list(dict.fromkeys(layout.columns.values()))
                at_once = int(min(max(BYTES_AT_ONCE / max(_row_bytes(parquet), 1), 1), ROWS_AT_ONCE))
                for group in range(parquet.num_row_groups):
                    row, end = end, end + parquet.metadata.row_group(group).num_rows
                    if row >= stop or end <= start or not chosen[max(row - start, 0) : end - start].any():
                        continue
                    try:
                        batches = parquet.iter_batches(at_once, row_groups=[group], columns=names, use_threads=False)
                        for batch in batches:
                            columns = {
                                role: named(batch.column(name), layout.names.get(role))
                                for role, name in layout.columns.items()
                            }
                            for i in range(batch.num_rows):
                                if start <= row < stop and chosen[row - start]:
                                    yield self._clip(columns, i, first + row, file)
                                row += 1
                            if row >= stop:
                                break
                        if row < min(end, stop):
                            self.lost(file, f" is damaged: a row group ends after row {row} instead of {end}")
                    except UNREADABLE as error:
                        self.lost(file, f" is damaged after its row {row}: {first_line(error)}")
            if end < stop:
                self.lost(file, f" is damaged: it holds {end} rows where its footer promises {self.rows_of[file]}")
        except FileNotFoundError:
            self._skip(FileError(file, "vanished", " was there when the run began and is no longer"))
        except UNREADABLE as error:
            self.lost(file, f" is damaged: {first_line(error)}")

    def lost(self, file: Path, sentence: str) -> None:
        """Note that what is left of a file cannot be read; FileError if none is to be skipped."""
        self._skip(FileError(file, PART_WAY, sentence))

    def _clip(self, columns: dict[str, pa.Array], i: int, sample_id: int, file: Path) -> Clip:
        ids = self.classes.parse(plain(columns[IDS][i])) if IDS in columns else []
        if LABELS in columns:
            names = self.classes.parse(plain(columns[LABELS][i]))
        else:
            found = {name: self.classes.find(name) for name in ids}
            names = [name if place is None else self.classes.names[place] for name, place in found.items()]
        given = plain(columns[VIDEO][i]) if VIDEO in columns else None
        cell, rate = audio_cell(columns[AUDIO][i])
        if rate is None and RATE in columns and isinstance(cell, np.ndarray):
            rate = whole_rate(plain(columns[RATE][i]))
        named_file = isinstance(cell, PurePath)
        return Clip(
            sample_id=sample_id,
            video_id=video_id(given, file.stem, sample_id),
            human_labels=names,
            machine_labels=ids,
            positions=self.classes.match(names),
            audio=stored_beside(file, cell) if isinstance(cell, PurePath) else cell,
            rate=SAMPLE_RATE if rate is None else rate,
            beside=named_file,
            without=ONLY_PATH if named_file else NO_AUDIO,
        )


def stored(path: Path) -> bytes | Path:
    """A file's bytes, or above MAX_BYTES its path, by which it can be read; OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES)
        return path if file.read(1) else content


def stored_beside(parquet: Path, given: PurePath) -> bytes | Path | None:
    """The file that a cell's path means, if it lies in the folder of its parquet file or below; None if it does not.

    Its name alone is tried too: many paths are those of the machine that wrote the data. Nothing else is ever opened.
    """
    folder = parquet.parent.resolve()
    for path in (folder / given, folder / given.name):
        try:
            if path.resolve().is_relative_to(folder) and path.is_file():
                return stored(path)
        except (OSError, ValueError):  # unreadable, or no path at all
            continue
    return None


def tell_skipped(what: str, report: dict[str, dict]) -> None:
    """One log line for each reason of {reason: {count, first}}; what: "rows" or "files"."""
    for reason, entry in report.items():
        log.info("skipped %d %s: %s (%s)", entry["count"], what, reason, ", ".join(entry["first"]))


@contextlib.contextmanager
def _open(file: Path) -> Iterator[pq.ParquetFile]:
    # By its bytes: pyarrow takes a name that is not UTF-8 for an error, and one with a colon for a URI.
    # With a buffer it is read as it goes; without one, whole columns of a row group at once.
    options = {"page_checksum_verification": True, "buffer_size": READ_AHEAD}
    with pa.OSFile(os.fsencode(file)) as source:
        with pq.ParquetFile(source, metadata=_footer(source), **options) as parquet:
            yield parquet


def _footer(source: pa.NativeFile) -> pq.FileMetaData | None:
    """A file's footer; pyarrow would read the last 64 KiB, audio or not. None: no parquet, as it will say."""
    size = source.size()
    tail = source.read_at(8, max(size - 8, 0))
    length = int.from_bytes(tail[:4], "little") + 8
    if tail[4:] != b"PAR1" or length + 4 > size:
        return None
    return pq.read_metadata(pa.BufferReader(b"PAR1" + source.read_at(length, size - length)))


def _row_bytes(parquet: pq.ParquetFile) -> float:
    """The bytes of a row when unpacked, on average over the row group where that is most."""
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    return max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)


def decode(clip: Clip) -> np.ndarray:
    """A clip's audio as a (samples,) float32 waveform of 48 kHz; RowError with the reason why it cannot be used."""
    if clip.audio is None:
        raise RowError(clip.without)
    waveform, clip.notes = audio.hear(clip.audio, clip.rate)
    return waveform
