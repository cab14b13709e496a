"""Under torchrun: the same results as one process, nothing read twice or left out, and a lost rank ends the run."""

import contextlib
import json
import os
import signal
import sys
import time

import forks
import pytest
import torch
from conftest import ROOT, TINY, cached, finish, flac, script, tone, tone_rows, write_rows

from data import ParquetFolder
from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.ranks import Alone, Progress
from hyperbolic_clap.reading.labels import ClassList

# Pieces of 4 clips; a log of every clip that passes the network; rank 1 is lost after its sixth unless it comes back.
WRAPPER = """
import os, signal, sys
sys.path.insert(0, {root!r})
import hyperbolic_clap.embedding.store, CLAP.encoder
hyperbolic_clap.embedding.store.PIECE_ROWS = 4
plain, log = CLAP.encoder.Encoder.encode_waveform, {log!r}

def encode_waveform(self, waveform):
    with open(log, "a") as file:
        file.write(f"{{os.environ['RANK']}} {{waveform[:99].tobytes().hex()}}\\n")
    count = sum(line.startswith("1 ") for line in open(log))
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and count == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, waveform)

CLAP.encoder.Encoder.encode_waveform = encode_waveform
import train_hyperbolic_clap as script
from hyperbolic_clap.plumbing.run import run
sys.exit(run(script.main, script.parser().parse_args()))
"""


def torchrun(count, name, *flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [str(name), "--checkpoint", str(TINY), "--device", "cpu", *map(str, flags)]
    clean = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return finish(command, cwd=ROOT, env=clean)


@pytest.fixture(scope="module")
def as_ranks():
    """Ranks as torchrun starts them, without its start: -> what they print and say of errors."""
    server = forks.server()

    def run(count, name, *flags, home):
        flags = [str(flag) for flag in (*flags, "--checkpoint", TINY, "--device", "cpu")]
        return forks.as_ranks(server, count, name, flags, home)

    return run


@pytest.fixture
def elastic(tmp_path):
    """Two ranks under torchrun's own agent, without its start: -> its exit code and what was said."""

    def run(path, *flags, restarts):
        flags = [str(flag) for flag in (*flags, "--checkpoint", TINY, "--device", "cpu")]
        said = tmp_path / f"said{restarts}"
        process = forks.start(forks.server(), forks.agent, (str(path), flags, (said, said), 2, restarts))
        process.join(100)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return process.exitcode, said.read_text()

    return run


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Three files of 1, 20 and 3 rows in row groups of 5; one row is broken and one has no label."""
    folder = tmp_path_factory.mktemp("uneven") / "data"
    rows = tone_rows(24)
    rows[2]["audio"]["bytes"] = b"broken"
    rows[20]["human_labels"] = []
    for name, part in (("00", rows[:1]), ("01", rows[1:21]), ("02", rows[21:])):
        write_rows(folder, part, f"{name}.parquet", row_group_size=5)
    return folder


def without_times(path):
    content = json.loads(path.read_text())
    for part in (content, content.get("test_info", {})):
        for name in ("command", "arguments", "time", "started", "seconds", "world_size"):
            part.pop(name, None)
    content.get("model_info", {}).pop("projection_checkpoint", None)
    return content


@pytest.mark.parametrize("count", [3])
def test_ranks_change_nothing(uneven, as_ranks, tmp_path, count):
    flags = ["--parquet-dir", uneven, "--epochs", 2]
    script("train_hyperbolic_clap.py", *flags, "--cache-dir", tmp_path / "c1", "--output-dir", tmp_path / "o1")
    flags += ["--cache-dir", tmp_path / "c", "--output-dir", tmp_path / "o"]
    as_ranks(count, "train_hyperbolic_clap.py", *flags, home=tmp_path)
    for name in ("projection_epoch_1.pth", "projection_epoch_2.pth"):
        assert (tmp_path / "o" / name).read_bytes() == (tmp_path / "o1" / name).read_bytes()
    assert without_times(tmp_path / "o" / "setup.json") == without_times(tmp_path / "o1" / "setup.json")
    assert json.loads((tmp_path / "o" / "setup.json").read_text())["world_size"] == count
    assert cached(tmp_path / "c") == cached(tmp_path / "c1")


def test_testing_with_more_ranks_than_files_and_a_limit(uneven, as_ranks, tmp_path):
    flags = ["--parquet-dir", uneven, "--num-samples", 5]
    script("test_clap_modelscope.py", *flags, "--cache-dir", tmp_path / "c1", "--output-json", tmp_path / "one.json")
    flags += ["--cache-dir", tmp_path / "c4", "--output-json", tmp_path / "four.json"]
    printed, errors = as_ranks(4, "test_clap_modelscope.py", *flags, home=tmp_path)
    one, four = without_times(tmp_path / "one.json"), without_times(tmp_path / "four.json")
    assert one == four
    assert [entry["sample_id"] for entry in four["predictions"]] == [0, 1, 3, 4, 5]
    assert four["test_info"]["clips"]["skipped"]["undecodable audio"] == {"count": 1, "first": ["tone2"]}
    assert cached(tmp_path / "c4") == cached(tmp_path / "c1")
    assert printed.count("results: ") == 1, "one log"
    assert errors.count("embedding:   0%") == 1, "one bar"


@pytest.fixture
def wrapper(tmp_path):
    path = tmp_path / "wrapper.py"
    path.write_text(WRAPPER.format(root=str(ROOT), log=str(tmp_path / "log")))
    return path


def test_a_lost_rank_ends_the_run_and_a_restart_goes_on(elastic, wrapper, tmp_path):
    rows = [{"video_id": f"v{i}", "audio": flac(tone(100 + 9 * i)), "human_labels": ["Music"]} for i in range(40)]
    data = write_rows(tmp_path / "data", rows, row_group_size=8)
    flags = ["--parquet-dir", data, "--epochs", 1, "--cache-dir", tmp_path / "c", "--output-dir", tmp_path / "o"]
    started = time.monotonic()
    code, said = elastic(wrapper, *flags, "--workers", 1, restarts=0)
    assert code != 0 and "SIGKILL" in said
    assert time.monotonic() - started < 60, "the other rank waited for the lost one"
    assert not list((tmp_path / "o").glob("*.pth"))
    kept = len(cached(tmp_path / "c"))
    assert kept >= 4
    (tmp_path / "log").rename(tmp_path / "first")
    code, said = elastic(wrapper, *flags, "--workers", 1, restarts=1)
    assert code == 0, said
    script("train_hyperbolic_clap.py", *flags[:4], "--no-cache", "--output-dir", tmp_path / "plain")
    name = "projection_epoch_1.pth"
    assert (tmp_path / "o" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    encoded = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert len(set(encoded)) == 40 - kept, "what an earlier run had in its pieces was encoded again"
    # What a killed rank can lose: what it has not written as a piece, and what is in flight.
    assert len(encoded) - len(set(encoded)) <= 2 * (4 + 3)


def test_each_rank_tells_an_error_at_most_once(tmp_path):
    done = torchrun(2, "test_clap_modelscope.py", "--parquet-dir", tmp_path / "nowhere")
    told = [line for line in done.stderr.splitlines() if "error: --parquet-dir" in line]
    # torchrun ends the others when the first has failed, perhaps before they have spoken.
    assert done.returncode != 0 and 1 <= len(told) == len(set(told)) <= 2
    assert all(line.startswith(("error: ", "rank 1: error: ")) for line in told)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_shares_have_no_overlap_and_no_gap(size):
    for start, stop in ((0, 24), (3, 4), (5, 5), (7, 30)):
        parts = []
        for rank in range(size):
            ranks = Alone()
            ranks.rank, ranks.size = rank, size
            parts.append(range(*ranks.share(start, stop)))
        assert [row for part in parts for row in part] == list(range(start, stop))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_any_part_of_a_folder_is_that_part_of_its_rows(uneven):
    folder = ParquetFolder(uneven, ClassList.read(CLASS_LABELS))
    whole = [(clip.sample_id, clip.video_id) for clip in folder]
    assert len(whole) == folder.num_rows == 24
    for start in range(0, 25, 3):
        for stop in range(start, 25, 4):
            assert [(c.sample_id, c.video_id) for c in folder.rows(start, stop)] == whole[start:stop]


def test_the_bar_ends_also_if_rows_of_the_share_are_lost():
    with Progress(Alone(), 10) as progress:
        progress.begin(10, 10)
        for _ in range(4):
            progress.update()
        progress.finish()
        assert progress.bar.n == 10


def test_plain_python_imports_nothing_for_it():
    code = "import sys; from hyperbolic_clap.plumbing import ranks; assert type(ranks.open_ranks()) is ranks.Alone; "
    code += "assert 'torch' not in sys.modules"
    assert finish([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_use_all_cores_undoes_only_what_torchrun_did(monkeypatch):
    from hyperbolic_clap.plumbing.ranks import use_all_cores

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    use_all_cores()
    assert "OMP_NUM_THREADS" not in os.environ


def test_cuda_becomes_each_ranks_own_device(monkeypatch):
    from hyperbolic_clap.plumbing.device import choose_device

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:0") == choose_device("cuda") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0") == torch.device("cuda:0")  # two ranks share one device
