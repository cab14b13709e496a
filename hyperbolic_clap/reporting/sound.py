"""The sound of clips for the page: short mono Ogg/Opus, and a small spectrogram."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from CLAP import SAMPLE_RATE
from data import Clip, ParquetFolder, decode
from hyperbolic_clap.plumbing.device import cores
from hyperbolic_clap.plumbing.errors import RowError, UserError
from hyperbolic_clap.reading.labels import ClassList
from hyperbolic_clap.reporting.rebuild import stored_configs
from hyperbolic_clap.results.files import Results

SECONDS = 10  # of a clip, from its start
BUDGET = 13_000_000  # bytes of all sounds; 1000 clips of 10 seconds stay below 25 MB as text
BIT_RATES = 6_000, 32_000  # what libsndfile's Opus can do, and more than zero-shot listening needs
BANDS, FRAMES = 24, 64  # of a thumbnail
AT_ONCE = 64  # clips in memory


def choose(count: int, most: int, first: np.ndarray) -> np.ndarray:
    """At most `most` of `count` clips: those of the mask `first` before others, each group thinned evenly."""
    chosen: list[int] = []
    for group in (np.flatnonzero(first), np.flatnonzero(~first)):
        room = min(most - len(chosen), len(group))
        chosen += group[np.linspace(0, len(group) - 1, room).round().astype(int)].tolist() if room > 0 else []
    return np.array(sorted(chosen), int)


def sounds(file: Results, chosen: np.ndarray) -> dict[int, dict]:
    """{row of the file: {ogg, picture}} base64 texts of the chosen clips that are still there; UserError if none is."""
    data, *_ = stored_configs(file)
    folder = ParquetFolder(data.parquet_dir, ClassList(file.names), skip_bad=True, names=data.columns)
    if folder.given:
        raise UserError(f"{data.parquet_dir} holds vectors and no sound")
    wanted = {file.keys[i][1]: int(i) for i in chosen}
    numbers = [int(sample) for sample in wanted if sample.isdigit()]
    rate = BUDGET * 8 / max(1, len(chosen) * SECONDS)
    found: dict[int, dict] = {}

    def make(clip: Clip) -> dict | None:
        try:
            waveform = decode(clip)[: SECONDS * SAMPLE_RATE]
        except RowError:
            return None
        return {"ogg": text(opus(waveform, rate)), "picture": text(thumbnail(waveform).tobytes())}

    rows = folder.rows(min(numbers, default=0), max(numbers, default=-1) + 1)
    clips = ((wanted[str(clip.sample_id)], clip) for clip in rows if str(clip.sample_id) in wanted)
    same = ((i, clip) for i, clip in clips if clip.video_id == file.keys[i][0])
    with ThreadPoolExecutor(cores()) as pool:
        while batch := list(islice(same, AT_ONCE)):
            made = pool.map(make, [clip for _, clip in batch])
            found |= {i: sound for (i, _), sound in zip(batch, made, strict=True) if sound}
    if not found:
        raise UserError(f"{data.parquet_dir} no longer holds the clips of {file.label}")
    return found


def played(file: Results, chosen: np.ndarray, notes: list[str]) -> dict[str, dict]:
    """`sounds` of the chosen clips as the page holds them; where some or all are gone, a sentence in `notes`."""
    try:
        found = sounds(file, chosen)
    except (UserError, OSError) as error:
        notes.append(f"no clip can be played: {error}")
        return {}
    if len(found) < len(file.keys):
        notes.append(f"{len(found)} of {len(file.keys)} clips can be played")
    return {str(i): sound for i, sound in found.items()}


def opus(waveform: np.ndarray, rate: float) -> bytes:
    """A (samples,) waveform of 48 kHz as Ogg/Opus of about `rate` bits a second."""
    import soundfile

    rate = min(max(rate, BIT_RATES[0]), BIT_RATES[1])
    level = 1 - (rate - 6_000) / 250_000  # libsndfile's scale from 256 to 6 kbit/s
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return buffer.getvalue()


def thumbnail(waveform: np.ndarray) -> np.ndarray:
    """(samples,) -> (BANDS, FRAMES) uint8: loudness of bands from 50 Hz to 16 kHz, 0 from 60 dB below its peak on."""
    size = 2048
    starts = np.linspace(0, max(0, len(waveform) - size), FRAMES).astype(int)
    pieces = np.stack([np.pad(waveform[s : s + size], (0, size - len(waveform[s : s + size]))) for s in starts])
    power = np.abs(np.fft.rfft(pieces * np.hanning(size))) ** 2
    edges = np.unique((np.geomspace(50, 16_000, BANDS + 1) * size / SAMPLE_RATE).astype(int))
    edges = np.interp(np.linspace(0, 1, BANDS + 1), np.linspace(0, 1, len(edges)), edges).astype(int)
    loud = np.stack([power[:, a : max(b, a + 1)].max(axis=1) for a, b in zip(edges, edges[1:], strict=False)])
    decibel = 10 * np.log10(loud + 1e-10)  # the logarithm of silence
    return (255 * np.clip((decibel - decibel.max() + 60) / 60, 0, 1)).astype(np.uint8)


def text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
