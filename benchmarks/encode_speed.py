"""Encoding a parquet folder, against the bare forward passes of the audio encoder; log-mel against transformers'.

    python benchmarks/encode_speed.py

Encoding is everything from the parquet file to the cached vector. The bare forward passes run over the same clips'
finished log-mels in batches of 8, all cores on one batch, as one would write them. About 3 minutes.
"""

import tempfile
from pathlib import Path

from material import alternate, make_checkpoint, make_clips, parse, print_table, quiet

CLIPS, BATCH = 16, 8


def main() -> None:
    import torch
    from transformers import ClapFeatureExtractor

    from CLAP.encoder import Encoder
    from data import ParquetFolder, decode
    from hyperbolic_clap.embedding.clips import embed_clips
    from hyperbolic_clap.embedding.store import EmbeddingCache
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.reading.labels import ClassList

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        encoder = Encoder(str(make_checkpoint(home / "model")), torch.device("cpu"))
        folder = ParquetFolder(make_clips(home / "clips", CLIPS), ClassList.read(CLASS_LABELS))
        waveforms = [decode(clip) for clip in folder]
        windows = [torch.from_numpy(window) for waveform in waveforms for window in encoder.windows(waveform)]
        mels = torch.cat([encoder.log_mel(window[None]) for window in windows])

        def encode():
            with quiet():
                list(embed_clips(folder, encoder, EmbeddingCache(None, "")))

        @torch.inference_mode()
        def forward():
            for batch in mels.split(BATCH):
                encoder.model.get_audio_features(input_features=batch)

        @torch.inference_mode()
        def forward_alone():
            for mel in mels:
                encoder.model.get_audio_features(input_features=mel[None])

        encoding, bare, alone = alternate(encode, forward, forward_alone)
        rows = [
            ["parquet to vectors", f"{encoding / CLIPS * 1e3:.0f} ms", "1"],
            [f"bare forward passes, batches of {BATCH}", f"{bare / CLIPS * 1e3:.0f} ms", f"{encoding / bare:.2f}"],
            ["bare forward passes, one clip each", f"{alone / CLIPS * 1e3:.0f} ms", f"{encoding / alone:.2f}"],
        ]
        print_table(["encoding", "per clip", "encoding takes, times this"], rows)

        torch.set_num_threads(1)
        extractor = ClapFeatureExtractor(**encoder.preprocessor)
        some = waveforms[:8]

        def theirs():
            return [extractor(w, sampling_rate=48_000, return_tensors="pt")["input_features"] for w in some]

        def ours():
            return [encoder.log_mel(torch.from_numpy(encoder.windows(w)[0])[None]) for w in some]

        slow, fast = alternate(theirs, ours)
        difference = max(float((a - b).abs().max()) for a, b in zip(theirs(), ours(), strict=True))
        rows = [
            ["transformers' extractor", f"{slow / len(some) * 1e3:.1f} ms", "1"],
            ["torch, here", f"{fast / len(some) * 1e3:.1f} ms", f"{slow / fast:.1f}x"],
        ]
        print_table(["log-mel of a clip, one thread", "time", "faster by"], rows)
        print(f"largest difference: {difference:.1e} dB")


if __name__ == "__main__":
    parse(__doc__)
    main()
