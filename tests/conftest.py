"""Shared material of the tests: the embedded checkpoint, real sounds where they exist, small parquet folders."""

import contextlib
import gc
import io
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

# Before torch is loaded: threads that wait by spinning make the suite many times slower beside other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are taken by as many tests at once
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from safetensors.numpy import load_file

gc.set_threshold(100_000)  # as a script's run does
os.fsync = lambda handle: None  # no test cuts the power, and thousands of files would be waited for

# Started where Ctrl-C is ignored (`make test &` in a script), every process that a test starts would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "CLAP" / "tiny"
SHARED = Path(os.environ.get("HYPERBOLIC_CLAP_SHARED", ROOT.parent / "shared")) / "data"
sys.path.insert(0, str(ROOT))

# Hypothesis draws the same wherever it runs: from no database, and without the numbers that it would gather from the
# sources of whatever modules are loaded, which are others where a file runs alone.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
NOTHING_GATHERED = providers.Constants()
providers._get_local_constants = lambda: NOTHING_GATHERED


def pytest_unconfigure():
    if "forks" in sys.modules:
        sys.modules["forks"].stop()


def finish(command, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    """subprocess.run with captured text, of which nothing is left running, its children included, whatever happens."""
    command = [str(part) for part in command]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:  # torchrun must be asked to end: its ranks have sessions of their own
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture(scope="session")
def realsounds():
    folder = SHARED / "realsounds"
    if not folder.is_dir():
        pytest.skip("the real recordings are not part of the project")
    return folder


@pytest.fixture(scope="session")
def hostile():
    folder = SHARED / "hostile"
    if not folder.is_dir():
        pytest.skip("the hostile files are not part of the project")
    return folder


@pytest.fixture(scope="session")
def encoder():
    import torch  # not above: pytest's own process needs none of it

    from CLAP.encoder import Encoder

    return Encoder(str(TINY), torch.device("cpu"))


def flac(samples, rate=16_000, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=options.pop("format", "FLAC"), **options)
    return buffer.getvalue()


def tone(frequency: float, seconds: float = 1.5, rate: int = 16_000) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def write_rows(folder: Path, rows: list[dict], name: str = "00.parquet", **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
    return folder


def tone_rows(count: int, labels=("Sine wave", "Chirp tone", "Music")) -> list[dict]:
    return [
        {
            "video_id": f"tone{i}",
            "audio": {"bytes": flac(tone(150 * (i + 1))), "path": None},
            "labels": ["/m/01v_m0"],
            "human_labels": [labels[i % len(labels)]],
        }
        for i in range(count)
    ]


def few_classes(folder: Path, of_audioset: slice = slice(0)) -> Path:
    """A class list of the tones' three labels and some of AudioSet's, where all 527 would only cost time."""
    labels = ROOT / "CLAP" / "class_labels" / "audioset_class_labels_indices.json"
    every = list(json.loads(labels.read_text(encoding="utf-8")))
    names = dict.fromkeys(["Sine wave", "Chirp tone", "Music", *every[of_audioset]])
    path = folder / "classes.json"
    path.write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    return path


@pytest.fixture
def tones(tmp_path):
    """A folder of 24 tones in two parquet files."""
    rows = tone_rows(24)
    write_rows(tmp_path / "tones", rows[:12], "00.parquet")
    return write_rows(tmp_path / "tones", rows[12:], "01.parquet")


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB, and a function that changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs Linux and its rights")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


def cached(folder: Path, once: bool = True) -> dict[bytes, bytes]:
    """{key: vector} of every file of an embedding cache, as they lie on the disk; once: fails if a key occurs twice."""
    known: dict[bytes, bytes] = {}
    for piece in folder.rglob("*.safetensors"):
        content = load_file(piece)
        if "embeddings" in content:
            for key, vector in zip(content["keys"], content["embeddings"], strict=True):
                assert not once or key.tobytes() not in known, "a clip was encoded twice"
                known[key.tobytes()] = vector.tobytes()
    return known


ENCODED: dict[tuple, np.ndarray] = {}  # by the encoder's fingerprint and what it was given


@contextlib.contextmanager
def encoded_once():
    """What the encoder has met in any test is not encoded again: hundreds of runs are of the same few tones."""
    from CLAP.encoder import Encoder

    audio, text = Encoder.encode_waveform, Encoder.encode_texts

    def encode_waveform(encoder, waveform):
        key = encoder.audio_fingerprint, waveform.tobytes()
        if key not in ENCODED:
            ENCODED[key] = audio(encoder, waveform)
        return ENCODED[key].copy()

    def encode_texts(encoder, texts):
        key = encoder.text_fingerprint, *texts
        if key not in ENCODED:
            ENCODED[key] = text(encoder, texts)
        return ENCODED[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "encode_waveform", encode_waveform)
        patch.setattr(Encoder, "encode_texts", encode_texts)
        yield


@pytest.fixture
def encoded_anew(monkeypatch):
    """For tests of the encoding itself: every script encodes what it is given."""
    monkeypatch.setattr(sys.modules[__name__], "encoded_once", contextlib.nullcontext)


def script(name: str, *flags, check: bool = True, cwd: Path | None = None) -> SimpleNamespace:
    """Run an entry script in this process, with the tiny checkpoint on the CPU unless the flags say else.

    Loading torch anew for each of dozens of runs would take minutes; test_scripts.py also runs some for real.
    """
    flags = [str(flag) for flag in flags]
    for flag, value in (("--checkpoint", TINY), ("--device", "cpu")):
        if flag not in flags:
            flags += [flag, str(value)]
    with encoded_once():
        return here(name, *flags, check=check, cwd=cwd)


def here(name: str, *flags, check: bool = True, cwd: Path | None = None) -> SimpleNamespace:
    """Run any of the project's scripts in this process, with these flags alone."""
    stdout, stderr, code, before = io.StringIO(), io.StringIO(), 0, Path.cwd()
    arguments, sys.argv = sys.argv, [str(ROOT / name), *map(str, flags)]
    os.chdir(cwd or before)
    sys.path.insert(0, str((ROOT / name).parent))  # as Python does
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = arguments
        sys.path.pop(0)
        os.chdir(before)
    done = SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())
    if check:
        assert code == 0, done.stdout + done.stderr
    return done
