"""What the bytes of a sound file say before anything is decoded: its form, its length, what lies behind its end."""

from __future__ import annotations

import mmap
from typing import Literal, NamedTuple

Bytes = bytes | mmap.mmap
# What libsndfile cannot open: MP4/M4A, Matroska/WebM, ADTS AAC, Windows Media.
FOREIGN = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"0&\xb2u"))
# The forms of named chunks, and their byte order.
IFF: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
# What stands in a sound's place where a download went wrong, by its first bytes.
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file that it stands for",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML text",
    b"{": "a JSON text",
    b"\x1f\x8b": "a file compressed by gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF document",
    b"PAR1": "a parquet file",
}
SOUNDS = (b"RIFF", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff")
UNEXPLAINED = 512  # bytes behind the end that may be the rest of a page or of a frame
LOOK = 1 << 20  # bytes behind the end that are looked at
FRAME_COUNTS = (b"Xing", b"Info", b"VBRI")  # of MP3: what a frame without sound begins with
NO_SIZE = 0x7FFFF000  # from here on a size of a data chunk means that nobody knew it


class WavData(NamedTuple):
    """The samples of a WAV file: the size in its header, the bytes that lie there, and those of a second."""

    declared: int
    present: int
    per_second: int


def is_foreign(data: Bytes) -> bool:
    """Whether the bytes are of a form that libsndfile cannot read and other readers can."""
    return any(data[at : at + len(magic)] == magic for at, magic in FOREIGN)


def other_form(data: Bytes) -> str | None:
    """What bytes are that no reader takes for a sound; None if nothing is known of them."""
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.rstrip(b"\0") == b"":
        return "zeros" if data[:64] else None
    return next((form for magic, form in OTHERS.items() if start.lower().startswith(magic.lower())), None)


def flac_length(data: Bytes) -> tuple[int, int] | None:
    """(samples, Hz) as a FLAC file's first block gives them, 0 samples being unknown; None if it is no FLAC."""
    if data[:4] != b"fLaC" or len(data) < 26:
        return None
    return (data[21] & 15) << 32 | int.from_bytes(data[22:26], "big"), int.from_bytes(data[18:21], "big") >> 4


def wav_data(data: Bytes) -> WavData | None:
    """Where a WAV file's samples lie; None if it is none, or one without format or data."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, per_second = 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"data":
            return WavData(size, len(data) - at - 8, per_second) if per_second else None
        if name == b"fmt ":
            per_second = int.from_bytes(data[at + 16 : at + 20], "little")
        at += 8 + size + size % 2
    return None


def promised_seconds(data: Bytes) -> float | None:
    """The length that the header of a FLAC or WAV file gives; None if it gives none, or is of another form."""
    if flac := flac_length(data):
        return flac[0] / flac[1] if all(flac) else None
    wav = wav_data(data)
    return wav.declared / wav.per_second if wav and 0 < wav.declared < NO_SIZE else None


def lacks_its_length(data: Bytes) -> bool:
    """Whether this is a WAV file with samples whose header says that it has none: its recorder was cut off."""
    wav = wav_data(data)
    return wav is not None and wav.declared == 0 and wav.present > 0


def has_frame_count(data: Bytes) -> bool:
    """Whether an MP3 file says how many frames it has (Xing, LAME, VBRI), so that nobody must guess."""
    tag = 0
    if data[:3] == b"ID3":  # its length in four bytes of 7 bits
        tag = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    first = data[tag : tag + 2048]
    return any(mark in first for mark in FRAME_COUNTS)


def is_joined(data: Bytes) -> bool:
    """Whether a second stream may begin within a FLAC or Ogg file."""
    return (data[:4] == b"fLaC" and data.find(b"fLaC", 4) > 0) or (
        data[:4] == b"OggS" and data.find(b"OggS\0\2", 27) > 0  # 2: a stream's first page
    )


def is_followed(data: Bytes) -> bool:
    """Whether another WAV file lies behind the end of this one, which no reader goes on to."""
    end = 8 + int.from_bytes(data[4:8], "little")
    return data[:4] == b"RIFF" == data[end : end + 4]


def is_explained(data: Bytes, at: int) -> bool:
    """Whether the bytes from `at` on, where a reader stopped, are no sound: tags, padding, further chunks."""
    order = IFF.get(data[:4])
    if order:
        at += at % 2  # chunks begin at even places
        while at + 8 <= len(data) and data[at : at + 4] not in IFF and all(32 <= c < 127 for c in data[at : at + 4]):
            size = int.from_bytes(data[at + 4 : at + 8], order)
            at += 8 + size + size % 2
    rest = data[at : at + LOOK]
    for mark in (b"APETAGEX", b"LYRICSBEGIN"):
        rest = rest[: rest.find(mark)] if mark in rest else rest
    rest = rest[:-128] if rest[-128:-125] == b"TAG" else rest
    rest = rest.rstrip(b"\0")
    return len(rest) <= UNEXPLAINED and not rest.startswith(SOUNDS)
