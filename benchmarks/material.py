"""What the benchmarks run on: a random-weight CLAP checkpoint and synthetic clips in parquet, both made here."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LARGER_CLAP_GENERAL = {
    "text_config": {},
    "audio_config": {
        "depths": [2, 2, 12, 2],
        "hidden_size": 1024,
        "num_attention_heads": [4, 8, 16, 32],
        "patch_embeds_hidden_size": 128,
    },
}
SMALL = {
    "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "audio_config": {
        "depths": [1, 1],
        "hidden_size": 32,
        "num_attention_heads": [1, 2],
        "patch_embeds_hidden_size": 16,
        "patch_size": 8,
        "patch_stride": [8, 8],
    },
}


def class_names() -> list[str]:
    """The 527 AudioSet names in the order of their indices."""
    labels = ROOT / "CLAP/class_labels/audioset_class_labels_indices.json"
    return list(json.loads(labels.read_text(encoding="utf-8")))


def make_checkpoint(folder: Path, architecture: dict = LARGER_CLAP_GENERAL, fused: bool = False, seed: int = 0) -> Path:
    """A CLAP checkpoint with random weights: the real files in the real layout, only knowing nothing."""
    import torch
    from tokenizers import ByteLevelBPETokenizer, processors
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(class_names(), vocab_size=1000, special_tokens=special, show_progress=False)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    torch.manual_seed(seed)
    fusion = {"enable_fusion": True, "fusion_type": "aff_2d"} if fused else {}
    config = ClapConfig(
        text_config=architecture["text_config"], audio_config=architecture["audio_config"] | fusion
    )
    model = ClapModel(config)
    # Statistics of a log-mel in dB; with the initial 0 and 1 every clip would saturate the same way.
    model.audio_model.audio_encoder.batch_norm.running_mean.fill_(-30.0)
    model.audio_model.audio_encoder.batch_norm.running_var.fill_(400.0)
    model.save_pretrained(folder)
    bpe.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    settings = names | {"cls_token": "<s>", "sep_token": "</s>", "tokenizer_class": "RobertaTokenizer",
                        "add_prefix_space": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(frequency_min=50, truncation=truncation, padding="repeatpad").save_pretrained(folder)
    return folder


def make_clips(folder: Path, count: int, seconds: float = 10.0, rate: int = 44_100, channels: int = 2, seed: int = 0):
    """`count` clips of filtered noise and tones as FLAC in one parquet file, two labels each."""
    import soundfile

    rng = np.random.default_rng(seed)
    names = class_names()
    time = np.arange(int(seconds * rate)) / rate
    rows = []
    for i in range(count):
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * time) * rng.uniform(0.05, 0.4)
        sound = tone[:, None] + rng.normal(0, rng.uniform(0.01, 0.1), (len(time), channels))
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(sound, -1, 1), rate, format="FLAC")
        labels = [names[j] for j in rng.choice(len(names), 2, replace=False)]
        rows.append({"video_id": f"clip{seed}_{i}", "audio": {"bytes": buffer.getvalue()}, "human_labels": labels})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00.parquet", row_group_size=64)
    return folder


def machine() -> str:
    """One line for a table's caption: cores, processor, libraries, date."""
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} cores, {model}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A Markdown table, and below it the machine and the date."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(f"\n{machine()}\n", flush=True)


def parse(doc: str, *flags: tuple[str, dict]) -> argparse.Namespace:
    """The command line of a benchmark: its docstring as help, and its flags."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, options in flags:
        parser.add_argument(name, **options)
    return parser.parse_args()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(*works: Callable[[], object], rounds: int = 5) -> list[float]:
    """Median seconds of each of several pieces of work, timed A B A B in one run after one warm-up each."""
    for work in works:
        work()
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak_bytes() -> int:
    """Peak resident bytes of this process (Linux)."""
    # VmHWM and not ru_maxrss: the latter starts from the peak of the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def as_users(*without: str) -> dict[str, str]:
    """The environment of a process as users start it: modules are compiled once, not at every start."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", *without)}


def run_script(name: str, *flags: object) -> float:
    """Seconds of an entry script as a user starts it, process start included."""
    command = [sys.executable, str(ROOT / name), *map(str, flags)]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=as_users()))


def run_main(name: str, *flags: object) -> float:
    """Seconds of an entry script's work in this process, where the libraries are already imported."""
    module = __import__(name)
    arguments = module.parser().parse_args([str(flag) for flag in flags])
    with quiet():
        return seconds(lambda: module.main(arguments))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars aside, so that only the table is printed."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
