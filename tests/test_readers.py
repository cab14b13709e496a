"""Sound is read whole: forms of which libsndfile guesses the length, forms that it cannot read, damage, notes."""

import gzip
import io
import logging
import shutil
import sys
import tempfile
import types
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from conftest import cached, flac, tone

from hyperbolic_clap.embedding.files import embed_files
from hyperbolic_clap.embedding.store import EmbeddingCache
from hyperbolic_clap.inference.windows import Windows
from hyperbolic_clap.plumbing.errors import RowError
from hyperbolic_clap.reading import audio as audio_reading
from hyperbolic_clap.reading import cells, readers
from hyperbolic_clap.reading.audio import hear

RATE = 16_000


def chirp(seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """A tone that rises, so that each moment differs from the others, over a little noise."""
    t = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + np.random.default_rng(0).normal(0, 0.01, len(t))


def muxed(samples: np.ndarray, container: str, codec: str, rate: int = RATE, options: dict | None = None) -> bytes:
    """Mono samples in a container, by PyAV."""
    target = Path(tempfile.mkdtemp(), "sound")
    with av.open(str(target), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono", bit_rate=64_000)
        kinds = [kind.name for kind in stream.codec_context.codec.audio_formats]
        kind = next((kind for kind in kinds if kind.startswith("s16")), kinds[0])
        stream.format = kind
        resampler = av.AudioResampler(kind, "mono", rate)
        frame = av.AudioFrame.from_ndarray(np.int16(samples * 32767)[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    content = target.read_bytes()
    shutil.rmtree(target.parent)
    return content


def frames_of_mp3(data: bytes) -> list[bytes]:
    """The frames of an MP3 file of MPEG 2, layer III, the first being the one that counts the others."""
    rates, found, at = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160), [], data.index(b"\xff\xf3")
    while at + 4 <= len(data) and data[at : at + 2] == b"\xff\xf3":
        size = 72_000 * rates[data[at + 2] >> 4] // RATE + (data[at + 2] >> 1 & 1)
        found.append(data[at : at + size])
        at += size
    return found


def vbr(samples: np.ndarray) -> bytes:
    return flac(samples, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")


def quiet_then_loud() -> np.ndarray:
    """At a variable rate the first frames of it are short, so that a guess by them is far too low."""
    noise = np.random.default_rng(0).normal(0, 0.2, RATE * 10)
    return np.concatenate([noise, 0 * noise])


def vbr_without_xing() -> bytes:
    frames = frames_of_mp3(vbr(quiet_then_loud()))
    assert b"Xing" in frames[0] or b"Info" in frames[0]
    return b"".join(frames[1:])


def piped_flac() -> bytes:
    data = bytearray(flac(chirp()))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def unfinished_wav() -> bytes:
    data = bytearray(flac(chirp(), format="WAV"))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = bytes(4)
    return bytes(data)


def chained(codec: str) -> bytes:
    return b"".join(flac(part, format="OGG", subtype=codec) for part in np.split(chirp(6.0), 2))


def after_id3(data: bytes) -> bytes:
    return b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data


FORMS = {
    "MP3 of variable rate without a count": (vbr_without_xing, 20.0, []),
    "two MP3 in one": (lambda: 2 * vbr(quiet_then_loud()), 40.0, []),
    "chained Opus": (lambda: chained("OPUS"), 6.0, []),
    "chained Vorbis": (lambda: chained("VORBIS"), 6.0, []),
    "FLAC of unknown length": (piped_flac, 3.0, []),
    "two FLAC in one": (lambda: flac(chirp()) + flac(chirp()), 6.0, []),
    "WAV that was never finished": (unfinished_wav, 3.0, [readers.NO_LENGTH]),
    "FLAC in Ogg": (lambda: muxed(chirp(), "ogg", "flac"), 3.0, []),
    "AAC": (lambda: muxed(chirp(), "adts", "aac"), 3.0, []),
    "AAC after ID3": (lambda: after_id3(muxed(chirp(), "adts", "aac")), 3.0, []),
    "M4A": (lambda: muxed(chirp(), "mp4", "aac"), 3.0, []),
    "ALAC in MOV": (lambda: muxed(chirp(), "mov", "alac"), 3.0, []),
    "Opus in WebM": (lambda: muxed(chirp(3.0, 48_000), "webm", "libopus", 48_000), 3.0, []),
    "WavPack": (lambda: muxed(chirp(), "wv", "wavpack"), 3.0, []),
    "WMA": (lambda: muxed(chirp(), "asf", "wmav2"), 3.0, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_libsndfile_reads_in_part_or_not_at_all(form, tmp_path, monkeypatch):
    make, seconds, notes = FORMS[form]
    monkeypatch.setitem(sys.modules, "librosa", None)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no ffmpeg
    data = make()
    found = hear(data, 0)
    assert len(found.waveform) / 48_000 == pytest.approx(seconds, abs=0.15)  # lossy formats pad to whole frames
    assert found.notes == notes
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(found.waveform, hear(tmp_path / "a", 0).waveform)
    *_, (_, end, last) = Windows(tmp_path / "a", 2.0, 1.0)
    assert end == pytest.approx(seconds, abs=0.15) and isinstance(last, np.ndarray)


@pytest.mark.parametrize("form", ["FLAC in Ogg", "ALAC in MOV", "WavPack", "FLAC of unknown length"])
def test_the_second_reader_hears_what_the_first_does(form):
    np.testing.assert_allclose(hear(FORMS[form][0](), 0).waveform, hear(flac(chirp()), 0).waveform, atol=1e-4)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "OGG", "AIFF", "AU", "CAF", "W64"])
def test_what_libsndfile_reads_whole_is_read_by_it_alone(container, monkeypatch):
    monkeypatch.setattr(readers, "av_blocks", None)
    data = flac(chirp(), format=container)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        samples, rate = file.read(dtype="float32"), file.samplerate
    found = hear(data, 0)
    np.testing.assert_array_equal(found.waveform, hear(samples, rate).waveform)
    assert not found.notes


def with_chunk(data: bytes) -> bytes:
    """A WAV file with a list of 1003 bytes behind its samples, padded."""
    return data + b"LIST" + (1003).to_bytes(4, "little") + bytes(range(32, 127)) * 10 + bytes(54)


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(flac(chirp(), format="WAV")),
        flac(chirp(), format="WAV") + bytes(5000),
        flac(chirp(), format="MP3") + b"TAG" + b"\xff" * 125,
        flac(chirp(), format="MP3") + b"APETAGEX" + b"\xfe" * 20_000,
        flac(chirp()) + b"TAG" + b"x" * 125,
    ],
    ids=["chunk", "zeros", "ID3v1", "APE", "FLAC with ID3v1"],
)
def test_tags_and_padding_behind_the_end_are_no_sound(data, monkeypatch):
    monkeypatch.setattr(readers, "av_blocks", None)
    found = hear(data, 0)
    assert len(found.waveform) == pytest.approx(3 * 48_000, abs=6000) and not found.notes


def test_junk_behind_the_end_is_asked_about_and_changes_nothing():
    data = flac(chirp(), format="MP3")
    junk = data + np.random.default_rng(0).bytes(9000)
    np.testing.assert_array_equal(hear(junk, 0).waveform[: 2 * 48_000], hear(data, 0).waveform[: 2 * 48_000])


# What is missing is said


def damaged_flac() -> bytes:
    data = bytearray(flac(chirp(6.0)))
    for at in (len(data) // 3, len(data) // 2):
        data[at : at + 4] = b"\x55\xaa\x55\xaa"
    return bytes(data)


def chained_with_another_rate() -> bytes:
    return flac(chirp(), format="OGG") + flac(chirp(3.0, 48_000), 48_000, format="OGG")


def header_of_twice_the_length() -> bytes:
    data = bytearray(flac(chirp(), format="WAV"))
    at = data.index(b"data") + 4
    data[at : at + 4] = (2 * 3 * RATE * 2).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "seconds", "note"),
    [
        (damaged_flac, 6.0, readers.DAMAGED),
        (lambda: flac(chirp(8.0))[:60_000], 2.5, readers.SHORT),
        (header_of_twice_the_length, 3.0, readers.SHORT),
        (lambda: vbr(chirp(8.0))[:9000], 3.0, readers.SHORT),
        (lambda: muxed(chirp(60.0), "mp4", "aac", options={"movflags": "faststart"})[:200_000], 30.0, readers.SHORT),
        (lambda: 2 * flac(chirp(), format="WAV"), 3.0, readers.FOLLOWED),
        (chained_with_another_rate, 3.0, readers.FOLLOWED),
    ],
    ids=["damaged", "cut FLAC", "WAV header", "cut MP3", "cut M4A", "two WAV", "two rates"],
)
def test_what_is_missing_is_said(make, seconds, note):
    found = hear(make(), 0)
    assert note in found.notes
    assert 0.5 * seconds < len(found.waveform) / 48_000 < 1.5 * seconds


def test_damage_is_silent_where_it_lies_and_the_rest_keeps_its_time(tmp_path, caplog):
    for name, data in (("whole", flac(chirp(6.0))), ("damaged", damaged_flac())):
        (tmp_path / f"{name}.flac").write_bytes(data)
    whole, found = ([*Windows(tmp_path / f"{name}.flac", 2.0, 2.0)] for name in ("whole", "damaged"))
    assert [end for _, end, _ in whole] == [end for _, end, _ in found] == [2.0, 4.0, 6.0]
    same = [np.isclose(one, other, atol=1e-4).mean() for (*_, one), (*_, other) in zip(whole, found, strict=True)]
    assert min(same) < 0.95 and same[2] > 0.999
    assert "damaged.flac is damaged, read without the damaged parts; 6.0 s of it are read" in caplog.text


def test_what_is_mostly_damage_is_not_heard():
    data = bytearray(flac(chirp(6.0)))
    data[3000::97] = bytes(byte ^ 0xFF for byte in data[3000::97])
    with pytest.raises(RowError, match="undecodable audio"):
        hear(bytes(data), 0)


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
        (gzip.compress(flac(chirp())), "a file compressed by gzip"),
        (b"PK\x03\x04" + bytes(60), "a ZIP archive"),
        (b'{"error": "Unauthorized"}', "a JSON text"),
        (bytes(1000), "zeros"),
    ],
)
def test_what_a_failed_download_left_is_named(data, form, tmp_path):
    (tmp_path / "a.wav").write_bytes(data)
    for source in (data, tmp_path / "a.wav"):
        with pytest.raises(RowError, match=f"^not a sound but {form}"):
            hear(source, 0)


def test_the_reason_of_other_bytes_names_nothing_of_ours():
    with pytest.raises(RowError) as error:
        hear(bytes(range(256)) * 10, 0)
    assert error.value.reason == "undecodable audio" and "object at" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_channels_are_averaged_as_numpy_does(channels):
    rng = np.random.default_rng(channels)
    samples = np.float32(rng.normal(size=(4000, channels)) * 10.0 ** rng.integers(-30, 30, (4000, channels)))
    assert readers._average(samples).tobytes() == samples.mean(axis=1).tobytes()
    assert readers._average(samples.T.copy().T).tobytes() == samples.mean(axis=1).tobytes()


@pytest.mark.parametrize("rate", [8000, 48_000, 192_000])
def test_ten_minutes_are_ten_minutes_at_any_rate(rate, monkeypatch):
    monkeypatch.setattr(audio_reading, "MAX_SECONDS", 2)
    monkeypatch.setattr(audio_reading, "MAX_SAMPLES", 2 * 48_000)
    for seconds, notes in ((1.5, []), (2.0, []), (3.0, [readers.CUT])):
        samples = np.float32(chirp(seconds, rate))
        for audio in (samples, flac(samples, rate, format="WAV", subtype="FLOAT")):
            found = hear(audio, rate)
            assert (len(found.waveform), found.notes) == (min(seconds, 2) * 48_000, notes)
    # Resampled while it is read, the same as at once.
    plain = hear(samples[: 2 * rate], rate).waveform
    np.testing.assert_array_equal(hear(flac(samples, rate, format="WAV", subtype="FLOAT"), 0).waveform, plain)
    loud = hear(flac(4 * samples, rate, format="WAV", subtype="FLOAT"), 0).waveform
    np.testing.assert_allclose(loud, plain / np.abs(samples[: 2 * rate]).max() if rate == 192_000 else loud, atol=1e-5)


def test_a_cell_that_was_cut_off_says_so(monkeypatch):
    for data, seconds in ((flac(chirp(), format="WAV"), 1.5), (muxed(chirp(), "mp4", "aac"), None)):
        monkeypatch.setattr(readers, "MAX_BYTES", len(data) // 2)
        if seconds is None:  # its index stands at the end
            with pytest.raises(RowError, match="of a form that cannot be read in part"):
                hear(data[: len(data) // 2], 0)
            continue
        found = hear(data[: len(data) // 2], 0)
        assert found.notes == [readers.LARGE] and len(found.waveform) / 48_000 == pytest.approx(seconds, abs=0.01)


def test_a_film_without_sound_has_no_audio_track():
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    with pytest.raises(RowError, match="no audio track"):
        hear(target.getvalue(), 0)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n", "[playlist]\nFile1={}\n"]
)
def test_playlists_open_no_other_file(text, tmp_path):
    (tmp_path / "other.wav").write_bytes(flac(chirp(), format="WAV"))
    with pytest.raises(RowError, match="undecodable audio"):
        hear(text.format(tmp_path / "other.wav").encode(), 0)


def test_librosa_is_the_last_reader(monkeypatch):
    asked = []

    def load(path, sr, mono):
        asked.append((path.read_bytes(), sr, mono))
        if len(asked) > 1:
            raise EOFError
        return np.array([[0.5, 0.5], [0.0, 0.25]], np.float32), 48_000

    monkeypatch.setitem(sys.modules, "librosa", types.SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "av", None)
    m4a = b"\0\0\0\x20ftypM4A " + bytes(50)
    assert hear(m4a, 0).waveform.tolist() == [0.25, 0.375]
    assert asked == [(m4a, None, False)]
    with pytest.raises(RowError, match="undecodable audio") as error:
        hear(m4a, 0)
    assert not error.value.lasting
    assert len(hear(flac(chirp()), 0).waveform) == 3 * 48_000  # libsndfile's own forms need neither


# Timelines


def test_one_gain_for_a_whole_recording(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    samples = np.float32(chirp(6.0) * np.repeat([0.05, 1, 0.3], 2 * RATE))
    found = {}
    for name, factor in (("control", 1), ("as16", 32_768), ("twice", 4)):
        soundfile.write(tmp_path / f"{name}.wav", samples * factor, RATE, subtype="FLOAT")
        found[name] = [waveform for _, _, waveform in Windows(tmp_path / f"{name}.wav", 2.0, 2.0)]
    for one, other in zip(found["control"], found["as16"], strict=True):
        np.testing.assert_array_equal(one, other)
    ratios = [np.abs(a).max() / np.abs(b).max() for a, b in zip(found["control"], found["twice"], strict=True)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)
    assert "as16.wav goes up to " in caplog.text and "all of it is divided by 32768" in caplog.text
    assert "control.wav" not in caplog.text and "twice.wav" not in caplog.text


def test_a_recording_longer_than_ten_minutes_is_heard_to_its_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(audio_reading, "MAX_SECONDS", 4)
    (tmp_path / "long.m4a").write_bytes(muxed(chirp(9.0), "mp4", "aac"))
    ends = [end for _, end, _ in Windows(tmp_path / "long.m4a", 2.0, 2.0)]
    assert ends[-1] == pytest.approx(9, abs=0.15) and "long.m4a" not in caplog.text
    (tmp_path / "unfinished.wav").write_bytes(unfinished_wav())
    assert [end for _, end, _ in Windows(tmp_path / "unfinished.wav", 2.0, 1.0)] == [2.0, 3.0]
    assert "unfinished.wav is without its length in the header" in caplog.text


# The cache


def test_notes_are_repeated_by_a_later_run(tmp_path, encoder, caplog):
    sounds = {"a.wav": unfinished_wav(), "b.wav": flac(chirp(), format="WAV"), "c.flac": damaged_flac()}
    for name, data in sounds.items():
        (tmp_path / name).write_bytes(data)
    wanted = {readers.NO_LENGTH: ["a.wav"], readers.DAMAGED: ["c.flac"]}
    for _ in range(2):
        cache = EmbeddingCache(tmp_path / "cache", encoder.audio_fingerprint)
        before = len(cached(tmp_path / "cache"))
        embedder = SimpleNamespace(encoder=encoder, cache=cache)
        files, _, skipped = embed_files([tmp_path / name for name in sounds], embedder)
        report = skipped.noted.report()
        assert {note: [n.rpartition("/")[2] for n in entry["first"]] for note, entry in report.items()} == wanted
        skipped.tell()
        assert f"warning: 1 clip is damaged, read without the damaged parts ({tmp_path / 'c.flac'})" in caplog.text
        caplog.clear()
    assert len(files) == before == 3
    note, *_ = (tmp_path / "cache").rglob("notes-*.json")
    note.write_text("[")
    EmbeddingCache(tmp_path / "cache", encoder.audio_fingerprint)
    assert "is damaged" in caplog.text


def test_a_large_file_is_read_from_its_path(tmp_path, encoder, monkeypatch):
    data = muxed(tone(440, 8.0), "mp4", "aac")
    for name in ("plain.mp4", "large.mp4"):
        (tmp_path / name).write_bytes(data)
    embedder = SimpleNamespace(encoder=encoder, cache=EmbeddingCache(None, encoder.audio_fingerprint))
    _, plain, _ = embed_files([tmp_path / "plain.mp4"], embedder)
    monkeypatch.setattr("data.MAX_BYTES", len(data) // 2)
    monkeypatch.setattr(cells, "MAX_BYTES", len(data) // 2)
    (used,), large, _ = embed_files([tmp_path / "large.mp4"], embedder)
    np.testing.assert_array_equal(plain.numpy(), large.numpy())
