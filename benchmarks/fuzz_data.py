"""Feed damaged audio, arrays, labels and parquet files to the loader and count what happens.

    python benchmarks/fuzz_data.py --seconds 60 --seed 0
    python benchmarks/fuzz_data.py --only 1234        # one input again, with its traceback

Inputs run in batches in a child process, so that a crash of a C library is counted instead of ending the run.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import Clip, ParquetFolder, decode
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading.audio import MAX_SAMPLES
from hyperbolic_clap.reading.labels import ClassList

BATCH_SECONDS = 10
HANG_SECONDS = 60  # beyond the batch's own time: one input that takes so long counts as a crash
FORMATS = (
    ("FLAC", "PCM_16", 16_000),
    ("FLAC", "PCM_24", 96_000),
    ("WAV", "PCM_16", 44_100),
    ("WAV", "FLOAT", 22_050),
    ("WAV", "ULAW", 8_000),
    ("WAV", "IMA_ADPCM", 8_000),
    ("OGG", "VORBIS", 16_000),
    ("OGG", "OPUS", 48_000),
    ("MP3", "MPEG_LAYER_III", 32_000),
    ("AIFF", "PCM_16", 16_000),
    ("CAF", "ALAC_16", 16_000),
)
TYPES = (
    pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(),
    pa.int64(), pa.uint64(), pa.bool_(), pa.string(), pa.binary(), pa.timestamp("ns"), pa.date32(), pa.null(),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the next ones count on from it")
    parser.add_argument("--only", type=int, help="run the input with this seed alone")
    parser.add_argument("--batch", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    fuzz = Fuzz()
    if args.only is not None:
        print(*fuzz.run(args.only))
    elif args.batch is not None:
        run_batch(fuzz, args.seed, args.batch)
    else:
        run_all(args.seed, args.seconds)


def run_all(seed: int, seconds: float) -> None:
    """Batch after batch in child processes; prints the table at the end."""
    end = time.monotonic() + seconds
    outcomes, crashes, noise, slowest, memory = Counter(), [], Counter(), (0.0, -1), 0
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, __file__, "--seed", str(seed), "--batch", str(min(BATCH_SECONDS, left))]
        try:
            child = subprocess.run(command, capture_output=True, timeout=BATCH_SECONDS + HANG_SECONDS)
            ending, output, errors = f"exit {child.returncode}", child.stdout, child.stderr
        except subprocess.TimeoutExpired as error:
            ending, output, errors = "hang", error.stdout or b"", error.stderr or b""
        done = False
        for line in output.decode().splitlines():
            word, *rest = line.split("\t")
            if word == "start":
                seed = int(rest[0])
            elif word == "end":
                kind, outcome = rest[0], rest[1]
                slowest = max(slowest, (float(rest[2]), seed))
                outcomes[kind, outcome] += 1
                if outcome.startswith("crash"):
                    crashes.append((seed, kind, outcome))
            else:
                done, memory = True, max(memory, int(rest[0]))
        if not done:
            crashes.append((seed, "the process", ending))
        noise.update(line[:100] for line in errors.decode(errors="replace").splitlines())
        seed += 1
    print(f"{sum(outcomes.values())} inputs; slowest {slowest[0]:.2f} s (seed {slowest[1]}); {memory / 1024:.0f} MB")
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{count:8d}  {kind:8s}  {outcome}")
    print(f"{sum(noise.values())} lines on stderr", *(f"{n:8d}  {line}" for line, n in noise.most_common(5)), sep="\n")
    print(f"{len(crashes)} crashes", *(f"  seed {seed}: {kind}: {what}" for seed, kind, what in crashes[:20]), sep="\n")
    sys.exit(bool(crashes))


def run_batch(fuzz: Fuzz, seed: int, seconds: float) -> None:
    """In the child: one line when an input starts and one when it ends."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        print("start", seed, sep="\t", flush=True)
        started = time.monotonic()
        try:
            kind, outcome = fuzz.run(seed)
        except Exception as error:
            kind, outcome = fuzz.kind, f"crash: {type(error).__name__}: {str(error)[:80]!r}"
        print("end", kind, outcome, time.monotonic() - started, sep="\t", flush=True)
        seed += 1
    print("memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sep="\t", flush=True)


class Fuzz:
    """One hostile input for each seed."""

    def __init__(self):
        self.kind = ""
        self.classes = ClassList.read(CLASS_LABELS)
        rng = np.random.default_rng(0)
        self.sounds = [encode(rng, *each, channels) for each in FORMATS for channels in (1, 2)]
        self.tables = [self.table(rng) for _ in range(6)]

    def run(self, seed: int) -> tuple[str, str]:
        rng = np.random.default_rng(seed)
        self.kind = str(rng.choice(["audio", "array", "labels", "parquet"]))
        return self.kind, getattr(self, self.kind)(rng)

    def audio(self, rng) -> str:
        data = self.sounds[rng.integers(len(self.sounds))]
        return outcome(Clip(0, "", [], [], audio=damage(rng, data, self.sounds)))

    def array(self, rng) -> str:
        """A random column type through a real parquet file, as rows would arrive."""
        kind = TYPES[rng.integers(len(TYPES))]
        shape = rng.choice([0, 1, 2, 3, 50, 3000], size=rng.integers(1, 4)).tolist()
        if np.prod(np.maximum(shape, 1)) > 100_000:
            shape = shape[:1]
        values = rng.choice([-1e300, -(2.0**40), -40000, -1, -0.5, 0, 0.25, 1, 255, 1e9, np.nan, np.inf], size=shape)
        if rng.random() < 0.7:
            values = rng.uniform(-1, 1, shape) * rng.choice([1, 100, 1e4, 1e9, 1e18])
        wrapped = kind
        for _ in shape:
            wrapped = rng.choice([pa.list_, pa.large_list, pa.list_view])(wrapped)
        column = pa.array([None, convert(values, kind)], wrapped)
        if rng.random() < 0.5:
            rates = pa.array(rng.choice([0, -1, 1, 8000, 44100, 192000, 10**12], size=2))
            if rng.random() < 0.3:
                rates = pa.array([None, float(rng.choice([np.nan, np.inf, 8000.5]))])
            column = pa.StructArray.from_arrays([column, rates], ["array", "sampling_rate"])
        return self.load(pa.table({"audio": column, "human_labels": ["Speech"] * 2}))

    def labels(self, rng) -> str:
        names = rng.choice(self.classes.names, size=rng.integers(0, 6)).tolist()
        forms = (str, ", ".join, "; ".join, "|".join, lambda n: str(np.array(n)), lambda n: repr(tuple(n)), repr)
        value: object = forms[rng.integers(len(forms))](names)
        signs = list("[](){}'\"\\,;|\n\t\0 \u00e9\ud800") + ["None", "nan", "1e9", "/m/09x0r"]
        for _ in range(rng.integers(0, 8)):
            at = rng.integers(len(value) + 1)
            sign = signs[rng.integers(len(signs))] * int(rng.choice([1, 1, 1, 2, 3000]))
            value = value[:at] + sign + value[at + rng.integers(3) :]
        value = (value, [value, None, 3], ([value], value), value.encode(errors="replace"))[rng.integers(4)]
        found = self.classes.parse(value)
        assert all(isinstance(name, str) and name.strip() for name in found) and len(set(found)) == len(found)
        assert "".join(found).encode() is not None
        return "named" if self.classes.match(found) else "names unknown" if found else "no name"

    def parquet(self, rng) -> str:
        return self.load(damage(rng, self.tables[rng.integers(len(self.tables))], self.tables))

    def load(self, content: bytes | pa.Table) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "00.parquet")
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_bytes(content)
            try:
                seen = self.rows(Path(folder), skip_bad=False)
            except UserError as error:
                assert "\n" not in str(error) and (str(path) in str(error) or "no rows" in str(error)), str(error)
                try:
                    seen = self.rows(Path(folder), skip_bad=True)
                except UserError as error:
                    assert "can be used (1 " in str(error) or "no rows" in str(error)
                    return "refused"
                return "skipped from a damaged row on"
        return "loaded" if "loaded" in seen else seen[-1] if seen else "no rows"

    def rows(self, folder: Path, skip_bad: bool) -> list[str]:
        seen = []
        for clip in ParquetFolder(folder, self.classes, skip_bad):
            if clip.audio is not None:
                clip.content_key()
            seen.append(outcome(clip))
        return seen

    def table(self, rng) -> bytes:
        """A parquet file of 40 short clips in one of the writers' many ways."""
        audio = [self.sounds[i][:4000] for i in rng.integers(len(self.sounds), size=40)]
        rows = [
            {"video_id": f"v{i}", "audio": {"bytes": data, "path": None}, "human_labels": ["Speech"]}
            for i, data in enumerate(audio)
        ]
        buffer = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(rows),
            buffer,
            row_group_size=int(rng.choice([1, 7, 40])),
            compression=str(rng.choice(["none", "snappy", "zstd", "gzip"])),
            use_dictionary=bool(rng.integers(2)),
            data_page_version=str(rng.choice(["1.0", "2.0"])),
            write_page_checksum=bool(rng.integers(2)),
            data_page_size=2000,
        )
        return buffer.getvalue()


def encode(rng, container: str, subtype: str, rate: int, channels: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, rng.uniform(-0.9, 0.9, (rate // 8, channels)), rate, format=container, subtype=subtype)
    return buffer.getvalue()


def convert(values: np.ndarray, kind: pa.DataType) -> list:
    """Nested lists of what the type can hold."""
    if pa.types.is_null(kind):
        values = np.full(values.shape, None)
    elif pa.types.is_string(kind):
        values = values.astype(str)
    elif pa.types.is_binary(kind):
        values = values.astype(bytes)
    elif not pa.types.is_floating(kind):
        values = np.nan_to_num(values).clip(-1e18, 1e18).astype(bool if pa.types.is_boolean(kind) else "i8")
        if pa.types.is_integer(kind):
            values = values.astype(kind.to_pandas_dtype())
        elif pa.types.is_date(kind):
            values = values % 10**6
    elif kind == pa.float16():
        with np.errstate(over="ignore"):
            values = values.astype(np.float16)
    return values.tolist()


def damage(rng, data: bytes, others: list[bytes]) -> bytes:
    """Flipped, cut, doubled and foreign bytes, often near the head where the lies hurt most."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        size = max(len(result), 1)
        reach = int(rng.choice([min(100, size), size]))
        at, length = int(rng.integers(reach)), int(rng.integers(1, 200))
        way = rng.choice(["flip", "flip", "number", "cut", "drop", "double", "foreign", "tail", "random"])
        if way == "flip":
            for i in rng.integers(reach, size=rng.choice([1, 1, 4, 30])):
                result[i : i + 1] = bytes([int(rng.integers(256))])
        elif way == "tail":
            for i in rng.integers(max(size - 1500, 0), size, size=rng.choice([1, 1, 4])):
                result[i : i + 1] = bytes([int(rng.integers(256))])
        elif way == "number":
            result[at : at + 4] = [b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0" * 4][rng.integers(3)]
        elif way == "cut":
            del result[int(rng.integers(size)) :]
        elif way == "drop":
            del result[at : at + length]
        elif way == "double":
            result[at:at] = result[at : at + length]
        elif way == "foreign":
            result[at : at + length] = others[rng.integers(len(others))][at : at + length]
        elif way == "random":
            result[at : at + length] = rng.bytes(length)
    return bytes(result)


def outcome(clip: Clip) -> str:
    try:
        waveform = decode(clip)
    except RowError as error:
        return f"skipped: {error.reason}"
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and 0 < len(waveform) <= MAX_SAMPLES + 1
    assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 4  # beyond 1 only where the resampler overshoots
    return "loaded"


if __name__ == "__main__":
    main()
