"""Vectors in the place of audio: bytes and seconds to embed, write, read, train and test, against the cache's way.

    python benchmarks/vectors_speed.py --train-dir TRAIN --eval-dir EVAL --output-csv docs/results/vectors.csv \\
        --docs docs/vectors.md

TRAIN and EVAL are parquet folders with audio. Each command is a process as a user starts it, start included, on
CLAP/tiny and the CPU; the first of each way embeds with an empty cache.
"""

import csv
import tempfile
from pathlib import Path

from material import ROOT, machine, parse, run_script

TINY = ROOT / "CLAP" / "tiny"
MARKS = "<!-- vectors.csv -->", "<!-- end of vectors.csv -->"
HEADER = ["what", "seconds", "MB of the folder"]


def megabytes(*paths: Path) -> str:
    """The size of files, and of all below folders, in 10^6 bytes."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.2f}"


def rows(train: Path, evaluation: Path, home: Path) -> list[list[str]]:
    """The table."""
    clap, found = ("--checkpoint", TINY, "--device", "cpu", "--cache-dir", home / "cache"), []

    def measure(what: str, *command, of: tuple[Path, ...]) -> None:
        found.append([what, f"{run_script(*command):.1f}", megabytes(*of)])
        print(*found[-1], sep=" | ", flush=True)

    made = {folder: home / folder.name for folder in (train, evaluation)}
    for folder in made:
        measure(f"embed_sounds.py {folder.name}, new clips", "embed_sounds.py", "--parquet-dir", folder, *clap,
                "--output-dir", made[folder], of=(made[folder],))  # fmt: skip
    measure(f"the same of {evaluation.name} from the cache", "embed_sounds.py", "--parquet-dir", evaluation, *clap,
            "--output-dir", home / "again", of=(home / "again",))  # fmt: skip
    measure("the same with --float16", "embed_sounds.py", "--parquet-dir", evaluation, *clap, "--float16",
            "--output-dir", home / "half", of=(home / "half",))  # fmt: skip
    texts = ("--text-embeddings", made[train] / "text_embeddings.safetensors", "--device", "cpu")
    ways = {"audio, from the cache": (train, evaluation, clap), "vectors": (made[train], made[evaluation], texts)}
    for way, (one, other, flags) in ways.items():
        measure(f"train 10 epochs, {way}", "train_hyperbolic_clap.py", "--parquet-dir", one, *flags, "--output-dir",
                home / "run", of=(one,))  # fmt: skip
        measure(f"test, {way}", "test_clap_modelscope.py", "--use-hyperbolic", "--parquet-dir", other, *flags,
                "--num-samples", 10**6, "--projection-checkpoint", home / "run", "--output-json", home / "out.json",
                of=(other,))  # fmt: skip
    return found


def main() -> None:
    arguments = parse(__doc__, ("--train-dir", {"type": Path, "required": True}),
                      ("--eval-dir", {"type": Path, "required": True}),
                      ("--output-csv", {"type": Path, "default": Path("vectors.csv")}),
                      ("--docs", {"type": Path, "default": None}))  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        table = rows(arguments.train_dir, arguments.eval_dir, Path(home))
    with arguments.output_csv.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *table])
    if arguments.docs:
        before, rest = arguments.docs.read_text(encoding="utf-8").split(MARKS[0])
        lines = "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, ["---", "---:", "---:"], *table))
        made = f"{before}{MARKS[0]}\n{lines}\n\n{machine()}\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}"
        arguments.docs.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
