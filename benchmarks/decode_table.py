"""Waveforms of 40 made files, containers x codecs x rates x broken headers, against ffmpeg's own program.

    python benchmarks/decode_table.py --output docs/results/decoding.csv

ffmpeg makes the files and their references; the product is given none on its PATH. A row holds both lengths in seconds,
the correlation of the waveforms at 48 kHz over the shorter one, what the reader said, and whether it is as it must be:
lengths equal to 1 ms (of a lossy format: to a frame), correlation above .999.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hyperbolic_clap.plumbing.errors import RowError  # noqa: E402
from hyperbolic_clap.reading.audio import hear  # noqa: E402

LOSSY = 2048 / 8000  # seconds of the longest frame of these formats at their lowest rate here
# name: (Hz, channels, seconds, ffmpeg's options)
MADE = {
    "a8.wav": (8000, 1, 4, "-c:a pcm_u8"),
    "a16.wav": (16000, 2, 6, "-c:a pcm_s16le"),
    "a24.wav": (44100, 2, 6, "-c:a pcm_s24le"),
    "a32.wav": (48000, 1, 6, "-c:a pcm_s32le"),
    "af.wav": (96000, 1, 6, "-c:a pcm_f32le"),
    "ad.wav": (22050, 1, 6, "-c:a pcm_f64le"),
    "mulaw.wav": (8000, 1, 4, "-c:a pcm_mulaw"),
    "adpcm.wav": (22050, 1, 6, "-c:a adpcm_ms"),
    "ima.wav": (22050, 1, 6, "-c:a adpcm_ima_wav"),
    "mp3.wav": (44100, 1, 6, "-c:a libmp3lame"),
    "a.flac": (44100, 2, 6, ""),
    "high.flac": (192000, 1, 6, "-sample_fmt s32"),
    "a.aiff": (44100, 2, 6, ""),
    "a.au": (16000, 1, 6, ""),
    "a.caf": (44100, 1, 6, ""),
    "a.w64": (48000, 1, 6, ""),
    "cbr.mp3": (44100, 2, 6, "-b:a 128k"),
    "vbr.mp3": (22050, 1, 6, "-q:a 4"),
    "nox.mp3": (44100, 1, 6, "-q:a 4 -write_xing 0"),
    "tag.mp3": (44100, 1, 6, "-write_id3v1 1 -metadata title=x"),
    "a.mp2": (44100, 2, 6, ""),
    "vorbis.ogg": (44100, 2, 6, "-c:a libvorbis"),
    "opus.opus": (48000, 1, 6, ""),
    "flac.ogg": (16000, 1, 6, "-c:a flac"),
    "aac.aac": (44100, 2, 6, ""),
    "aac.m4a": (44100, 2, 6, ""),
    "alac.m4a": (44100, 2, 6, "-c:a alac"),
    "pcm.mov": (48000, 2, 6, "-c:a pcm_s16le"),
    "faststart.mp4": (16000, 1, 6, "-c:a aac -movflags faststart"),
    "opus.webm": (48000, 2, 6, "-c:a libopus"),
    "vorbis.mka": (44100, 1, 6, "-c:a libvorbis"),
    "flac.mka": (44100, 1, 6, "-c:a flac"),
    "a.wma": (44100, 2, 6, ""),
    "a.wv": (44100, 2, 6, ""),
}
PIPED = {
    "piped.flac": (44100, 1, 6, "-f flac"),
    "piped.wav": (44100, 1, 6, "-f wav"),
    "piped.mp3": (44100, 1, 6, "-q:a 4 -f mp3"),
}
LOSSLESS = ("flac", "wav", "aiff", "au", "caf", "w64", "wv", "pcm", "alac")


def sound(rate: int, channels: int, seconds: float) -> np.ndarray:
    """Quiet first, then loud, so that a variable rate starts low; a chirp and noise, different in each channel."""
    t, rng = np.arange(round(rate * seconds)) / rate, np.random.default_rng(0)
    one = (0.02 + 0.3 * (t > seconds / 3)) * np.sin(2 * np.pi * (200 + 200 * t) * t)
    return np.stack([one + rng.normal(0, 0.01, len(t)) for _ in range(channels)], 1).clip(-1, 1)


def ffmpeg(*arguments) -> bytes:
    command = ["ffmpeg", "-nostdin", "-threads", "1", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make(folder: Path) -> list[Path]:
    """The files, and those whose headers are then broken."""
    for name, (rate, channels, seconds, options) in (MADE | PIPED).items():
        source = folder / "source.wav"
        soundfile.write(source, sound(rate, channels, seconds), rate, subtype="FLOAT")
        if name in PIPED:
            (folder / name).write_bytes(ffmpeg("-i", source, *options.split(), "-"))
        else:
            ffmpeg("-i", source, *options.split(), folder / name)
    source.unlink()
    unfinished = bytearray((folder / "a16.wav").read_bytes())
    at = unfinished.index(b"data") + 4
    unfinished[4:8] = unfinished[at : at + 4] = bytes(4)
    (folder / "unfinished.wav").write_bytes(unfinished)
    (folder / "id3.aac").write_bytes(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + (folder / "aac.aac").read_bytes())
    (folder / "chained.opus").write_bytes(2 * (folder / "opus.opus").read_bytes())
    return sorted(folder.iterdir())


def reference(path: Path) -> tuple[np.ndarray, int]:
    """What ffmpeg's program decodes: (n,) float32 mono, as the average of its channels, and its rate."""
    target = path.with_name("reference.wav")
    ffmpeg("-i", path, "-map", "0:a:0", "-c:a", "pcm_f32le", target)
    samples, rate = soundfile.read(target, dtype="float32", always_2d=True)
    target.unlink()
    return samples.mean(axis=1), rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results/decoding.csv"))
    output, rows = parser.parse_args().output, []
    if not shutil.which("ffmpeg"):
        sys.exit("ffmpeg's program is needed for the references")
    with tempfile.TemporaryDirectory() as folder:
        for path in make(Path(folder)):
            # ffmpeg's program before version 8 keeps the second stream's encoder delay, so it is asked for each alone.
            parts = [path.with_name("opus.opus")] * 2 if path.name == "chained.opus" else [path]
            heard = [reference(part) for part in parts]
            samples, rate = np.concatenate([samples for samples, _ in heard]), heard[0][1]
            path_before, os.environ["PATH"] = os.environ["PATH"], folder
            try:
                found = hear(path.read_bytes(), 0)
            except RowError as error:
                rows.append((path.name, f"{len(samples) / rate:.4f}", "", "", str(error), "no"))
                continue
            finally:
                os.environ["PATH"] = path_before
            peak = max(1.0, np.abs(samples).max())
            wanted = samples / peak if rate == 48_000 else soxr.resample(samples / peak, rate, 48_000, quality="HQ")
            shared = min(len(wanted), len(found.waveform))
            correlation = np.corrcoef(wanted[:shared], found.waveform[:shared])[0, 1]
            limit = 0.001 if any(word in path.name for word in LOSSLESS) else LOSSY
            good = abs(len(wanted) - len(found.waveform)) / 48_000 <= limit and correlation > 0.999
            lengths = (f"{len(samples) / rate:.4f}", f"{len(found.waveform) / 48_000:.4f}")
            rows.append((path.name, *lengths, f"{correlation:.6f}", "; ".join(found.notes), "yes" if good else "no"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("file", "ffmpeg_seconds", "seconds", "correlation", "notes", "equal"), *rows])
    for row in rows:
        print(*row, sep="\t")
    print(f"{sum(row[-1] == 'yes' for row in rows)} of {len(rows)} equal")


if __name__ == "__main__":
    main()
