"""The readers of sound files: each gives mono blocks until the bytes end; a second one is asked where one is in doubt.

libsndfile is first. Its number of frames is an estimate for MP3 without a header of its own, and it stops at the end of
the first stream of a chained Ogg. So what counts is whether it got to the end of the bytes. Where it did not, where it
fails, and for the forms that it does not know, PyAV reads. Its wheels carry ffmpeg's libraries: nobody installs them.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from hyperbolic_clap.plumbing.errors import RowError, first_line
from hyperbolic_clap.reading import containers
from hyperbolic_clap.reading.cells import MAX_BYTES

BLOCK_SAMPLES = 1 << 20  # samples decoded at a time, all channels together
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # 44 is most likely meant as kHz
MOSTLY = 0.99  # of a length that counts the silence at both ends, which is not read
SLACK = 0.1  # seconds that two readers may differ by: encoder delays, the last frame of a lossy format
BAD_RATE, NO_TRACK, UNDECODABLE = "impossible sampling rate", "no audio track", "undecodable audio"
LONGEST_GAP = 60  # seconds of silence that stand in for damaged packets; more is a wrong time stamp
# What PyAV may take a file for. Others, such as playlists, could make it open further files or addresses.
FORMS = ("aac,ac3,aiff,amr,ape,asf,au,caf,dsf,dts,eac3,flac,flv,gsm,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,tta,"
         "voc,w64,wav,wv")  # fmt: skip

CUT = "longer than 10 minutes, cut there"
DAMAGED = "damaged, read without the damaged parts"
SHORT = "shorter than its header promises"
NO_LENGTH = "without its length in the header, read to the end of the bytes"
FOLLOWED = "followed by another sound, which is not read"
LARGE = f"above {MAX_BYTES >> 20} MiB, cut there"


class Taker(Protocol):
    """What takes a sound's mono blocks, each (n,) float32 of `rate` Hz."""

    def add(self, block: np.ndarray, rate: int) -> None: ...


Takes = TypeVar("Takes", bound=Taker)


@dataclass
class Reading(Generic[Takes]):
    """One reader's way through a sound: `rate` in Hz, mono `frames`, what took them, and what was found on the way.

    cut: there is more than was asked for. lost, good: damaged packets and others. promise: the seconds that the
    container states. doubtful: bytes were left behind. notes: what of it all must be said.
    """

    taker: Takes
    rate: int = 0
    frames: int = 0
    cut: bool = False
    lost: int = 0
    good: int = 0
    promise: float | None = None
    doubtful: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate if self.rate else 0.0


Blocks = Callable[[bytes | Path, Reading], Iterator[np.ndarray]]


def read(source: bytes | Path, most: float | None, taker: Callable[[], Takes]) -> tuple[Reading[Takes], Blocks]:
    """Read encoded bytes or a file, `most` seconds of it -> the reading that got further, with its notes; its reader.

    most: None for all of it. taker: makes what takes the blocks, anew for each attempt.
    RowError with the reason if no reader can.
    """
    with _looked_at(source) as data:
        foreign = containers.is_foreign(data)
        first = None if foreign else _attempt(soundfile_blocks, source, most, taker())
        if isinstance(first, RowError):
            if first.reason == BAD_RATE:
                raise first
        elif first and first.frames and (first.cut or not (first.doubtful or containers.is_joined(data))):
            return _noted(first, data), soundfile_blocks
        reader = av_blocks
        second = _attempt(reader, source, most, taker())
        if isinstance(second, RowError) and not second.lasting and foreign:
            reader = librosa_blocks
            second = _attempt(reader, source, most, taker())
        reached = first.seconds + SLACK if isinstance(first, Reading) else -math.inf
        if isinstance(second, Reading) and second.frames and second.seconds > reached:
            return _noted(second, data), reader
        if isinstance(first, Reading) and first.frames:
            # Of a chained Ogg whose rate changes ffmpeg reads no more than libsndfile.
            stopped = containers.is_joined(data) and (isinstance(second, RowError) or second.lost > 0)
            return _noted(first, data, stopped), soundfile_blocks
        if isinstance(first, Reading) or isinstance(second, Reading):
            error = RowError("empty audio")
        else:
            error = second if first is None or second.reason == NO_TRACK else first
            if form := containers.other_form(data):
                error = RowError(f"not a sound but {form}", lasting=error.lasting)
        if isinstance(data, bytes) and len(data) >= MAX_BYTES:
            error = RowError(f"above {MAX_BYTES >> 20} MiB, of a form that cannot be read in part", str(error))
        raise error


def _attempt(reader: Blocks, source: bytes | Path, most: float | None, taker: Takes) -> Reading[Takes] | RowError:
    """The reading, or why there is none."""
    about = Reading(taker)
    try:
        for block in reader(source, about):
            limit = len(block) if most is None else round(most * about.rate) - about.frames
            about.cut = limit < len(block)
            block = block[:limit]
            about.frames += len(block)
            taker.add(block, about.rate)
            if about.cut:
                break
    except RowError as error:
        return error
    return about


def _noted(reading: Reading[Takes], data: containers.Bytes, followed: bool = False) -> Reading[Takes]:
    """The reading with its notes: what is missing of the sound, or is not as its header says."""
    large = isinstance(data, bytes) and len(data) >= MAX_BYTES
    promise = containers.promised_seconds(data) or reading.promise or 0
    found = {
        CUT: reading.cut,
        DAMAGED: reading.lost,
        LARGE: large and not reading.cut,
        SHORT: not (reading.cut or large) and reading.seconds < promise - SLACK,
        NO_LENGTH: containers.lacks_its_length(data),
        FOLLOWED: followed or containers.is_followed(data),
    }
    reading.notes = [note for note, is_so in found.items() if is_so]
    return reading


@contextlib.contextmanager
def _looked_at(source: bytes | Path) -> Iterator[containers.Bytes]:
    """The bytes of a sound, of a file without reading it whole."""
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as file:
            try:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (ValueError, OSError):  # empty, or of a kind that cannot be mapped
                yield file.read(MAX_BYTES)
                return
            with data:
                yield data
    except OSError as error:
        raise RowError(f"unreadable file ({error.strerror})", lasting=False) from None


class _Bytes(io.BytesIO):
    """libsndfile seeks to -1 in damaged AIFF files, and an error in there is printed with its traceback."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return super().seek(max(offset, 0) if whence == 0 else offset, whence)


def _open(source: bytes | Path) -> io.IOBase:
    return _Bytes(source) if isinstance(source, bytes) else source.open("rb")


def require_rate(rate: int) -> int:
    """The rate; RowError for one that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise RowError(BAD_RATE, f"{rate} Hz")
    return rate


def soundfile_blocks(source: bytes | Path, about: Reading) -> Iterator[np.ndarray]:
    """libsndfile: WAV, FLAC, Ogg, MP3, AIFF, AU, CAF and others."""
    import soundfile

    try:
        with _open(source) as opened, soundfile.SoundFile(opened) as file:
            about.rate, promised = require_rate(file.samplerate), file.frames
            frames = max(1, BLOCK_SAMPLES // file.channels)
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                yield _average(block)
            with _looked_at(source) as data:
                about.doubtful = not containers.is_explained(data, opened.tell())
                if file.format == "MP3" and containers.has_frame_count(data):
                    about.promise = MOSTLY * promised / about.rate
    except (soundfile.SoundFileError, TypeError, ValueError) as error:  # TypeError: raw samples of an unknown rate
        # Of what cannot be opened, libsndfile's own words: the whole sentence names an object of Python.
        raise RowError(UNDECODABLE, first_line(getattr(error, "error_string", error))) from None


def av_blocks(source: bytes | Path, about: Reading) -> Iterator[np.ndarray]:
    """PyAV, packet by packet: a damaged one is passed over and counted, with silence in its place if its time is known.

    Of several tracks it is ffmpeg's choice.
    """
    try:
        import av
    except ImportError as error:
        raise RowError(UNDECODABLE, f"the library av is missing: {first_line(error)}", lasting=False) from None
    options = {"format_whitelist": FORMS}
    try:
        with _open(source) as opened, av.open(opened, "r", options=options, metadata_errors="ignore") as file:
            stream = file.streams.best("audio")
            if stream is None:
                raise RowError(NO_TRACK)
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            flac = stream.codec_context.name == "flac"
            if flac:  # whose frames have checksums
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            with _looked_at(source) as data:
                counted = file.format.name == "mp3" and containers.has_frame_count(data)
            if (counted or file.format.name.startswith("mov")) and stream.duration and stream.time_base:
                about.promise = MOSTLY * float(stream.duration * stream.time_base)
            yield from _grouped(_av_frames(file.demux(stream), flac, av.FFmpegError, about))
    except RowError:
        raise
    except Exception as error:  # its errors are of many classes
        raise RowError(UNDECODABLE, first_line(error)) from None
    if about.lost > about.good:
        raise RowError(UNDECODABLE, f"{about.lost} of its {about.lost + about.good} packets are damaged")


def _av_frames(packets: Iterator, flac: bool, errors: type[Exception], about: Reading) -> Iterator[np.ndarray]:
    """The packets' samples as (n,) float32 mono of about.rate."""
    import soxr

    end, damage = 0, False
    converter: tuple[int, soxr.ResampleStream] | None = None
    packet: Any = b""
    while packet is not None:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet else []
        except errors:
            if not any(mark in bytes(packet)[:256] for mark in containers.FRAME_COUNTS):  # the second of joined MP3s
                about.lost, damage = about.lost + 1, True
            continue
        about.good += bool(frames)
        for frame in frames:
            mono, rate = _mono(frame), frame.sample_rate
            about.rate = about.rate or require_rate(rate)
            start = None if frame.pts is None else round(frame.pts * frame.time_base * about.rate)
            if start is None:  # a FLAC packet whose beginning is lost holds several frames, and nobody knows which
                damage, start = damage or (flac and end > 0), end
            elif damage and 0 < start - end <= LONGEST_GAP * about.rate:
                about.lost = max(about.lost, 1)
                yield np.zeros(start - end, np.float32)
                damage = False
            end = start + round(len(mono) * about.rate / rate)
            if rate != about.rate:  # a chained stream may have another
                if converter is None or converter[0] != rate:
                    converter = rate, soxr.ResampleStream(rate, about.rate, 1, np.float32)
                mono = converter[1].resample_chunk(mono)
            yield mono


def _mono(frame) -> np.ndarray:
    """A frame's (n,) float32 samples, its channels averaged."""
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype.kind != "f":
        bits = 8 * samples.dtype.itemsize
        samples = samples.astype(np.float32) / 2.0 ** (bits - 1) - (samples.dtype.kind == "u")
    samples = samples.astype(np.float32, copy=False)
    return _average(samples.T)


def _average(samples: np.ndarray) -> np.ndarray:
    """(n, channels) -> (n,) their mean. Of two channels it is the same to the bit as numpy's, in less time."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    return (samples[:, 0] + samples[:, 1]) / 2 if samples.shape[1] == 2 else samples.mean(axis=1)


def _grouped(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in blocks of a useful size."""
    waiting, length = [], 0
    for block in blocks:
        waiting.append(block)
        length += len(block)
        if length >= BLOCK_SAMPLES // 16:
            yield np.concatenate(waiting)
            waiting, length = [], 0
    if length:
        yield np.concatenate(waiting)


def librosa_blocks(source: bytes | Path, about: Reading) -> Iterator[np.ndarray]:
    """librosa with a system ffmpeg, where there is no PyAV; its import costs 20 s."""
    import librosa

    with tempfile.TemporaryDirectory(prefix="hyperbolic_clap_") as folder:
        path = source
        if isinstance(source, bytes):
            path = Path(folder, "clip")
            path.write_bytes(source)
        try:
            samples, rate = librosa.load(path, sr=None, mono=False)
        except Exception as error:  # its decoders raise whatever their back ends do, and one may be installed later
            raise RowError(UNDECODABLE, first_line(error), lasting=False) from None
    about.rate = require_rate(int(rate))
    yield _average(np.atleast_2d(samples).T)
