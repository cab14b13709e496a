"""What second_run.py runs on: a million known rows, made in minutes, their store beside SQLite, a Trainer."""

import hashlib
import sqlite3
import time
from pathlib import Path

from material import ROOT, alternate, class_names, quiet

TINY = ROOT / "CLAP" / "tiny"


def make_rows(folder: Path, cache_dir: Path, count: int, files: int = 20) -> None:
    """Parquet files of small cells, and a store and a table that know them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from CLAP.encoder import Encoder
    from hyperbolic_clap.embedding.row_index import KEYED, kind_of
    from hyperbolic_clap.embedding.segments import write
    from hyperbolic_clap.embedding.store import SEGMENT_ROWS
    from hyperbolic_clap.plumbing.file_index import FileIndex, stat_token

    encoder = Encoder(str(TINY), torch.device("cpu"))
    store, names, rng = cache_dir / encoder.audio_fingerprint[:32] / "store", class_names(), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    found, waiting = [], []
    for number in range(files):
        rows = range(number * count // files, (number + 1) * count // files)
        cells = [row.to_bytes(64, "little") for row in rows]
        keys = [hashlib.sha256(b"encoded\n" + cell).digest() for cell in cells]
        waiting.append(keys := np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32))
        chosen = rng.integers(0, len(names), (len(rows), 3))
        table = pa.table({
            "video_id": [f"row{row}" for row in rows],
            "audio": cells,
            "human_labels": [[names[j] for j in some] for some in chosen],
        })  # fmt: skip
        path = folder / f"{number:03}.parquet"
        pq.write_table(table, path, row_group_size=10_000)
        found.append((path, keys))
        while waiting and (sum(map(len, waiting)) >= SEGMENT_ROWS or number == files - 1):
            together = np.concatenate(waiting)
            part, waiting = together[:SEGMENT_ROWS], [together[SEGMENT_ROWS:]] if len(together) > SEGMENT_ROWS else []
            vectors = rng.standard_normal((len(part), encoder.embed_dim), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            write(store / f"{number}_{len(waiting)}.safetensors", encoder.audio_fingerprint, part, vectors)
    time.sleep(4)  # until no file is young
    known = FileIndex(cache_dir)
    for path, keys in found:
        arrays = {"keys": keys, "state": np.full(len(keys), KEYED, np.uint8)}
        known.put(path, kind_of(encoder), stat_token(path), arrays, reasons=[])


def trainer(train: int):
    """A Trainer on random unit vectors with 527 classes, 512 dimensions and batches of 16."""
    import torch

    from hyperbolic_clap.plumbing.config import TrainConfig
    from hyperbolic_clap.training.trainer import Trainer

    draw = torch.Generator().manual_seed(0)
    audio, text = (torch.nn.functional.normalize(torch.randn(n, 512, generator=draw), dim=1)
                   for n in (train + train // 4, 527))  # fmt: skip
    targets = torch.rand(len(audio), 527, generator=draw) < 0.005
    rows = torch.arange(len(audio))
    with quiet():
        return Trainer(TrainConfig(), audio, targets, text, rows[:train], rows[train:])


def stores(home: Path, table, args) -> None:
    """The store's own vectors, put into SQLite as well: 100 and all of them, in an order drawn at random."""
    import numpy as np
    from safetensors.numpy import load_file

    from hyperbolic_clap.embedding.store import EmbeddingCache

    folder = next(home.glob("cache/*/store"))
    fingerprint = _fingerprint(next(folder.glob("*.safetensors")))
    base = sqlite3.connect(home / "vectors.sqlite")
    base.execute("pragma cache_size = -200000")  # in KiB: the index of all keys
    base.execute("create table vectors (key blob primary key, vector blob)")
    keys, dim = [], 0
    for path in sorted(folder.glob("*.safetensors")):
        content = load_file(path)
        part, dim = [key.tobytes() for key in content["keys"]], content["embeddings"].shape[1]
        keys += part
        base.executemany("insert into vectors values (?, ?)", zip(part, map(bytes, content["embeddings"]), strict=True))
    base.commit()
    base.close()
    order = np.random.default_rng(1).permutation(len(keys))
    keys = [keys[i] for i in order]

    def sqlite(wanted: list[bytes]) -> None:
        base = sqlite3.connect(home / "vectors.sqlite")
        out = np.empty((len(wanted), dim), np.float32)
        for i, key in enumerate(wanted):
            row = base.execute("select vector from vectors where key = ?", (key,)).fetchone()
            out[i] = np.frombuffer(row[0], np.float32)
        base.close()

    def segments(wanted: list[bytes]) -> None:
        assert EmbeddingCache(home / "cache", fingerprint).take(wanted, dim)[1].all()

    for what, wanted, rounds in (("100", keys[:100], 7), ("all", keys, 3)):
        ours, theirs = alternate(lambda w=wanted: segments(w), lambda w=wanted: sqlite(w), rounds=rounds)
        table.add("stores", f"{what} of {len(keys):,} vectors out of a store just opened: segments, SQLite",
                  f"{ours * 1e3:.0f} ms, {theirs * 1e3:.0f} ms")  # fmt: skip


def _fingerprint(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.metadata()["fingerprint"]
