"""Speed on a GPU: encoding against the bare forward pass, what bounds it, the training step and its device waits.

    python benchmarks/cuda_speed.py
    python benchmarks/cuda_speed.py --device cpu --checkpoint CLAP/tiny --clips 8 --rounds 1    (a trial of the script)

Random weights in the architecture of larger_clap_general unless --checkpoint names others; 10-second 44.1 kHz stereo
FLAC clips made here. Encoding is everything from the parquet file to the vectors; the bare forward pass runs over
finished log-mels that lie on the device, in the same batches and precision. About 5 minutes on a GPU.
"""

import multiprocessing
import statistics
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from material import ROOT, alternate, make_checkpoint, make_clips, parse, print_table, quiet, seconds


def main(args) -> None:
    import torch

    from CLAP.encoder import Encoder
    from data import ParquetFolder
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.plumbing.device import choose_device
    from hyperbolic_clap.reading.labels import ClassList

    device = choose_device(args.device)
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU, no GPU'}\n")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        checkpoint = args.checkpoint or str(make_checkpoint(home / "model"))
        folder = ParquetFolder(make_clips(home / "clips", args.clips), ClassList.read(CLASS_LABELS))
        encoding(Encoder(checkpoint, device), folder, args)
        decoding(folder, args)
    training(device, args)


def wait(device) -> None:
    """Until the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def encoding(encoder, folder, args) -> None:
    """Clips a second of the whole way, of its parts on the device, and which of them bounds it."""
    import torch

    from data import decode
    from hyperbolic_clap.embedding.store import EmbeddingCache

    device, size = encoder.device, args.encode_batch_size
    waveforms = [decode(clip) for clip in folder]
    windows = torch.stack([torch.from_numpy(encoder.windows(waveform)[0]) for waveform in waveforms]).to(device)

    def whole():
        with quiet():
            embed(folder, encoder, EmbeddingCache(None, ""), size)
        wait(device)

    @torch.inference_mode()
    def forward():
        with torch.autocast(device.type, torch.bfloat16, enabled=encoder.autocast):
            for batch in mels.split(size):
                encoder.model.get_audio_features(input_features=batch)
        wait(device)

    @torch.inference_mode()
    def log_mel():
        for batch in windows.split(size):
            encoder.log_mel(batch)
        wait(device)

    def on_device():
        for batch in windows.split(size):
            encoder.encode_windows(batch)
        wait(device)

    def host():
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda clip: encoder.windows(decode(clip)), folder))

    with torch.inference_mode():
        mels = torch.cat([encoder.log_mel(batch) for batch in windows.split(size)])
    names = ("parquet to vectors", "bare forward pass", "log-mel on the device", "log-mel and forward pass", "decoding")
    times = alternate(whole, forward, log_mel, on_device, host, rounds=args.rounds)
    precision = "bfloat16" if encoder.autocast else "float32"
    rows = [[n, f"{len(waveforms) / time:.1f}", f"{time / times[1]:.2f}"] for n, time in zip(names, times, strict=True)]
    print_table([f"encoding, {precision}, batches of {size}", "clips per second", "time, bare forward passes"], rows)
    by_host = times[4] > times[3]
    print(f"bound by {'the host: decoding, resampling' if by_host else 'the device: log-mel and forward pass'}\n")


def embed(folder, encoder, cache, size) -> None:
    """The product's own way over a folder."""
    from hyperbolic_clap.embedding.clips import embed_clips

    for _ in embed_clips(folder, encoder, cache, batch_size=size):
        pass


def decode_one(clip) -> object:
    """In a thread or a process: a clip's waveform."""
    from data import decode

    return decode(clip)


def decoding(folder, args) -> None:
    """Threads against processes on all cores."""
    from hyperbolic_clap.plumbing.device import cores

    clips = list(folder)

    def threads():
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(decode_one, clips))

    # spawn: a fork of a process that has CUDA and threads may hang.
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        times = alternate(threads, lambda: list(pool.map(decode_one, clips, chunksize=4)), rounds=args.rounds)
    names = zip(("threads", "processes"), times, strict=True)
    rows = [[name, f"{len(clips) / time:.1f}", f"{times[0] / time:.2f}"] for name, time in names]
    print_table([f"decoding on {cores()} cores", "clips per second", "times threads"], rows)


def training(device, args) -> None:
    """Microseconds of a training step, the device waits in it, and 10 epochs over 10,000 clips."""
    import torch

    from hyperbolic_clap.plumbing.config import TrainConfig
    from hyperbolic_clap.training.trainer import Trainer

    draw = torch.Generator().manual_seed(0)
    count = args.training_clips
    unit = [torch.nn.functional.normalize(torch.randn(n, 512, generator=draw), dim=1).to(device) for n in (count, 527)]
    targets = (torch.rand(count, 527, generator=draw) < 0.005).to(device)
    targets[:, 0] = True
    order = torch.arange(count)
    rows = []
    for similarity in ("hyperbolic", "cosine"):
        for dim in (512, 64):
            settings = TrainConfig(similarity=similarity, output_dim=dim, epochs=1)
            trainer = Trainer(settings, unit[0], targets, unit[1], order, order[:1024])
            steps = -(-count // settings.batch_size)
            with quiet():
                list(trainer.epochs())  # kernels are chosen and loaded in the first
                times = [seconds(lambda t=trainer: t._train_epoch(1)) for _ in range(args.rounds)]
            step = statistics.median(times) / steps
            waits = "" if device.type != "cuda" else f"{device_waits(trainer) / steps:.2f}"
            rows.append([similarity, str(dim), f"{step * 1e6:.0f}", waits, f"{step * 10 * 10_000 / 16:.1f} s"])
    print_table(["similarity", "dimensions", "microseconds per step", "device waits per step",
                 "10 epochs over 10,000 clips"], rows)  # fmt: skip


def device_waits(trainer) -> int:
    """How often one epoch waits for the device, as torch's own mode reports it."""
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told, quiet():
            warnings.simplefilter("always")
            trainer._train_epoch(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(entry.message) for entry in told)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--device", {"default": "cuda:0"}),
            ("--checkpoint", {"default": None, "help": f"for example {ROOT.name}/CLAP/tiny"}),
            ("--clips", {"type": int, "default": 512}),
            ("--encode-batch-size", {"type": int, "default": 32}),
            ("--training-clips", {"type": int, "default": 10_000}),
            ("--rounds", {"type": int, "default": 5}),
        )
    )
