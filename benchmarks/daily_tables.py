"""The tables of the daily work: retrieval, prompts, inner classes and calibration.

    python benchmarks/daily_tables.py --sounds realsounds --esc10 esc10

--sounds holds train_balanced/ and eval/ with parquet files, --esc10 audio/ and meta.csv. Runs the product's own scripts
with CLAP/tiny on the CPU and writes retrieval.csv, retrieval_differences.csv, prompts.csv, inner.csv and
calibration.csv to --output-dir. Captions are made of labels by demo/captions.py (seed 0). About 6 minutes on 2 cores.
"""

import json
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from geometry_runs import METRICS, write_csv
from material import ROOT, parse, run_main, run_script

SIDES = {  # flags of the training
    "trained cosine": ["--similarity", "cosine"],
    "trained flat": ["--c", "1e6"],
    "trained hyperbolic": [],
}
UNTRAINED = "untrained cosine"
SEEDS = 3
CAPTIONS = ["--text", "captions", "--batch-size", 64, "--learning-rate", 1e-3]
SEVEN = (
    "This is a sound of {label}.",
    "{label}",
    "The sound of {label}.",
    "A recording of {label}.",
    "An audio clip of {label}.",
    "{label} can be heard.",
    "We hear {label}.",
)


@dataclass
class Home:
    """The folder that everything is made in, and the flags of every script."""

    folder: Path

    @property
    def flags(self) -> list:
        return ["--checkpoint", ROOT / "CLAP" / "tiny", "--device", "cpu", "--cache-dir", self.folder / "cache"]

    def train(self, name: str, data: Path, *flags) -> Path:
        """Train; -> the best checkpoint."""
        output = self.folder / name
        run_main("train_hyperbolic_clap", *self.flags, "--parquet-dir", data, "--output-dir", output, *flags)
        return next(output.glob("best_projection_epoch_*.pth"))

    def test(self, script: str, name: str, data: Path, head: Path | None = None, *flags) -> Path:
        """Test, with a head if there is one; -> the results JSON."""
        path = self.folder / f"{name}.json"
        head_flags = ["--projection-checkpoint", head] if head else []
        head_flags += ["--use-hyperbolic"] if head and "cosine" not in name else []
        run_main(script, *self.flags, "--parquet-dir", data, "--output-json", path, *head_flags, *flags)
        return path

    def compare(self, *paths: Path) -> dict:
        """Results, the baseline first -> the comparison."""
        run_main("compare_results", *paths, "--output-json", self.folder / "comparison.json")
        return read(self.folder / "comparison.json")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def differences(comparison: dict) -> dict[str, list[dict]]:
    """{metric: for each file but the first its difference with low and high}."""
    return {row["metric"]: row["differences"] for row in comparison["tables"][0]["rows"]}


def signed(entry: dict) -> list[str]:
    return [f"{entry[end]:+.4f}" for end in ("difference", "low", "high")]


def retrieval(home: Home, args) -> None:
    """Both directions of every side, and every pair of sides that a sentence is about."""
    from hyperbolic_clap.metrics.retrieval import METRICS as ORDER
    from hyperbolic_clap.results.retrieval import WAYS

    for part in ("train_balanced", "eval"):
        captioned = home.folder / "captioned" / part
        run_script("demo/captions.py", "--parquet-dir", args.sounds / part, "--output-dir", captioned)
    tested = {(UNTRAINED, ""): home.test("test_retrieval", "untrained", captioned)}
    for seed, (side, flags) in product(range(SEEDS), SIDES.items()):
        name = f"{side} {seed}".replace(" ", "_")
        head = home.train(name, captioned.parent / "train_balanced", *CAPTIONS, "--seed", seed, *flags)
        tested[side, seed] = home.test("test_retrieval", name, captioned, head)
    rows = []
    for (side, seed), path in tested.items():
        metrics = read(path)["metrics"]
        rows += [[side, seed, way, *(round(metrics[way][name], 4) for name in ORDER)] for way in WAYS]
    write_csv(args.output_dir / "retrieval.csv", ["side", "seed", "direction", *ORDER], rows)
    rows, cosine, flat, hyperbolic = [], *SIDES
    for seed in range(SEEDS):
        for base, others in ((UNTRAINED, (*SIDES,)), (flat, (hyperbolic, cosine)), (cosine, (hyperbolic,))):
            first = tested[base, "" if base == UNTRAINED else seed]
            found = differences(home.compare(first, *(tested[other, seed] for other in others)))
            for way, name, (i, side) in product(WAYS, ORDER, enumerate(others)):
                rows.append([side, base, seed, way, name, *signed(found[f"{way} {name}"][i])])
    header = ["side", "baseline", "seed", "direction", "metric", "difference", "low", "high"]
    write_csv(args.output_dir / "retrieval_differences.csv", header, rows)


def esc10(home: Home, args, name: str, *where: str) -> list:
    """ESC-10, or some folds of it, as parquet: -> the folder and the flags of its class list."""
    folder = home.folder / name
    flags = ["--audio-dir", args.esc10 / "audio", "--csv", args.esc10 / "meta.csv", "--label-column", "category"]
    run_script("demo/wav_folder_to_parquet.py", *flags, "--output-dir", folder, *where)
    return [folder, "--class-labels", folder / "class_labels.json"]


def prompts(home: Home, args) -> None:
    """One template against seven, untrained."""
    templates, rows = [flag for template in SEVEN for flag in ("--prompt", template)], []
    for name, (data, *flags) in {
        "realsounds eval": [args.sounds / "eval"],
        "ESC-10": esc10(home, args, "esc10"),
    }.items():
        flags += ["--num-samples", 1000]
        paths = []
        for kind, prompt in (("one", []), ("seven", templates)):
            scores = ["--save-scores", home.folder / f"prompts_{kind}.safetensors"]
            paths.append(home.test("test_clap_modelscope", f"prompts_{kind}", data, None, *flags, *prompt, *scores))
        found, (one, seven) = differences(home.compare(*paths)), [read(path)["metrics"] for path in paths]
        rows += [[name, m, f"{one[m]:.4f}", f"{seven[m]:.4f}", *signed(found[m][0])] for m in METRICS]
    header = ["data", "metric", "one_prompt", "seven_prompts", "difference", "low", "high"]
    write_csv(args.output_dir / "prompts.csv", header, rows)


def heads(home: Home, args) -> None:
    """Inner classes by their own text and by their branch, and the calibration, of heads trained at the defaults."""
    import numpy as np

    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.metrics.superclasses import INNER
    from hyperbolic_clap.plumbing.config import CLASS_LABELS
    from hyperbolic_clap.results import files
    from hyperbolic_clap.results.measures import Measures, gain_of_subtrees

    inner = []
    for side, flags in {UNTRAINED: None, **SIDES}.items():
        if side == "trained flat":
            continue
        name = "head_" + side.replace(" ", "_")
        head = home.train(name, args.sounds / "train_balanced", *flags) if flags is not None else None
        scores = ["--num-samples", 1000, "--save-scores", home.folder / f"{name}.safetensors"]
        path = home.test("test_clap_modelscope", name, args.sounds / "eval", head, *scores)
        file = files.read(path, name, None, CLASS_LABELS)
        measures = Measures(file, np.flatnonzero(file.valid), file.depth, audioset())
        gain = gain_of_subtrees(measures.values(), measures.resample(10_000, 0))
        found = read(path)
        values = [found["ontology"][m] for m in INNER]
        row = [side if head is None else f"{side} (defaults)", found["ontology"]["inner_classes"]]
        inner.append([*row, *(f"{x:.4f}" for x in (*values, *gain.values()))])
    header = ["side", "inner_classes", "map_inner", "map_inner_descendants", "gain", "low", "high"]
    write_csv(args.output_dir / "inner.csv", header, inner)
    errors = found["calibration"]  # of the last one, hyperbolic
    kinds = {"all pairs of a clip and a class": "error", "each clip's most probable class": "error_top1"}
    rows = [[over, *(f"{errors[f'{kind}_{name}']:.3g}" for kind in ("uncalibrated", "calibrated"))]
            for over, name in kinds.items()]  # fmt: skip
    write_csv(args.output_dir / "calibration.csv", ["over", "uncalibrated_error", "calibrated_error"], rows)


PARTS = {"retrieval": retrieval, "prompts": prompts, "heads": heads}


def main(args) -> None:
    from hyperbolic_clap.plumbing.device import wait_gently

    wait_gently()  # before torch is loaded, as the scripts do
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        for part in args.parts:
            PARTS[part](Home(Path(name)), args)


if __name__ == "__main__":
    main(
        parse(
            __doc__,
            ("--sounds", {"type": Path, "required": True}),
            ("--esc10", {"type": Path, "required": True}),
            ("--parts", {"nargs": "+", "choices": [*PARTS], "default": [*PARTS], "help": "default: all"}),
            ("--output-dir", {"type": Path, "default": ROOT / "docs" / "results", "help": "the tables"}),
            ("--dir", {"type": Path, "help": "where to work (default: a temporary folder)"}),
        )
    )
