"""Real weights and real data in one command, on ESC-50, UrbanSound8K, FSD50K, AudioSet, AudioCaps and Clotho.

    python benchmarks/real_clap.py --checkpoint laion/larger_clap_general --output-dir real_clap \\
        --esc50 ESC-50-master --urbansound8k UrbanSound8K --fsd50k FSD50K --audioset Datasets/AudioSet \\
        --audiocaps data/audiocaps/test --clotho data/clotho/test

Any subset of the data sets will do, each as it is unpacked (AudioSet: parquet files in train_balanced/ and eval/, or in
the hub's data/bal_train/ and data/eval/). Each gets the official folds or split, zero-shot cosine with the stated
prompts, and cosine, flat and hyperbolic projectors at 512 and 16 dimensions. A projector's learning rate is chosen on
validation clips (another fold, the official split, or a fifth of the videos) by the same search for every similarity;
the tested clips choose nothing. Differences carry the 95 % interval of a bootstrap over clips and seeds. Of AudioCaps
and Clotho (parquet files with captions, the test split) there is zero-shot retrieval alone. OUTPUT_DIR gets
real_clap.json, real_clap.md to paste, and what was trained.

Where figures of the very checkpoint are published (benchmarks/published.tsv), the report says how far ours lie from
them, and whether the prompt and the number of clips were the same. What a local folder is a copy of, --same-as says.

It works unattended: embeddings and trained projectors are kept, so the same command goes on where it was after an
interruption. benchmarks/sound_sets.py says what each data set must look like.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from material import machine, quiet

from hyperbolic_clap.plumbing.config import DEFAULT_CHECKPOINT
from hyperbolic_clap.plumbing.device import choose_device
from hyperbolic_clap.plumbing.errors import RowError, UserError, log
from hyperbolic_clap.plumbing.files import require_writable, write_atomic, write_json
from hyperbolic_clap.plumbing.flags import Parser, at_least, template
from hyperbolic_clap.plumbing.run import run
from hyperbolic_clap.plumbing.versions import versions

METRICS = ("acc@1", "acc@5", "map", "map_samples")
SIDES = {"cosine": {"similarity": "cosine"}, "flat": {"c": 1e6}, "hyperbolic": {}}
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
TELL_SECONDS = 15.0
WITHOUT_STOP = "This is a sound of {label}"  # as LAION's own evaluation writes it


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", default=DEFAULT_CHECKPOINT, help=f"the CLAP model (default: {DEFAULT_CHECKPOINT})")
    add("--esc50", type=Path, default=None, help="folder with audio/ and meta/esc50.csv")
    add("--urbansound8k", type=Path, default=None, help="folder with audio/fold1 ... and metadata/UrbanSound8K.csv")
    add("--fsd50k", type=Path, default=None, help="folder with FSD50K.ground_truth/, FSD50K.dev_audio/, ...")
    add("--audioset", type=Path, default=None, help="folder with parquet files in train_balanced/ and eval/, or in "
        "data/bal_train/ and data/eval/ as on the hub")
    add("--audiocaps", type=Path, default=None, help="folder of parquet files with captions, of the test split")
    add("--clotho", type=Path, default=None, help="the same")
    add("--same-as", default=None, help="the hub's id of the model that a local --checkpoint is a copy of, such as "
        "laion/larger_clap_general; without it no distance to published figures is given")
    add("--output-dir", type=Path, default=Path("real_clap"), help="default: ./real_clap")
    add("--device", default="cuda:0", help="default: cuda:0; the CPU if there is no CUDA")
    add("--prompt", type=template, default="This is a sound of {label}.", help="default: 'This is a sound of {label}.'")
    add("--seeds", type=at_least(1), default=3, help="trainings of each projector (default: 3)")
    add("--dims", type=at_least(2), nargs="+", default=[512, 16], help="default: 512 16")
    add("--epochs", type=at_least(1), default=10, help="default: 10")
    add("--limit", type=at_least(1), default=None, help="only the first N clips of each class of a fold, for a trial")
    add("--encode-batch-size", type=at_least(1), default=32, help="windows per encoder batch on CUDA (default: 32)")
    add("--no-autocast", action="store_true", help="encode in float32 on CUDA instead of bfloat16 autocast")
    add("--cache-dir", type=Path, default=None, help="embedding cache (default: the user's cache folder)")
    return parser


def main(args: argparse.Namespace) -> None:
    from published import model_of
    from real_clap_retrieval import SETS, Retrieval
    from sound_sets import READERS, shorten

    given = {name: folder for name in (*READERS, *SETS) if (folder := getattr(args, name))}
    chosen, captioned = ({name: folder for name, folder in given.items() if name in some} for some in (READERS, SETS))
    if not given:
        flags = ", ".join(f"--{name}" for name in (*READERS, *SETS))
        raise UserError(f"no data set was given; name one or more of {flags}")
    if captioned and args.limit:
        raise UserError(f"--limit does not apply to --{next(iter(captioned))}; give it a folder with fewer rows")
    require_writable(args.output_dir / "real_clap.json")
    device = choose_device(args.device)
    from real_clap_figures import render

    from CLAP.encoder import Encoder
    from hyperbolic_clap.embedding.store import EmbeddingCache, default_folder

    sets = {name: READERS[name](folder) for name, folder in chosen.items()}  # all layouts before any work
    retrievals = [Retrieval(SETS[name], folder) for name, folder in captioned.items()]
    encoder = Encoder(args.checkpoint, device, autocast=not args.no_autocast)
    report = describe(args, encoder) | {"measured_model": model_of(encoder, args.same_as)}
    cache = EmbeddingCache(args.cache_dir or default_folder(), encoder.audio_fingerprint)

    def keep() -> None:
        write_json(args.output_dir / "real_clap.json", report)
        text = render(report)
        write_atomic(args.output_dir / "real_clap.md", lambda file: file.write_text(text, encoding="utf-8"))

    for given in sets.values():
        if args.limit:
            shorten(given, args.limit)
        work = Work(args, given, encoder, cache)
        if "parity" not in report:
            prompts = [args.prompt.replace("{label}", name) for name in given.classes.names]
            report["parity"] = near_transformers(encoder, next(iter(given.parts.values())), prompts)
        report["sets"][given.name] = work.report(report["measured_model"])
        keep()
    for given in retrievals:
        if "parity" not in report:
            report["parity"] = near_transformers(encoder, given.folder, given.captions)
        report["retrieval"][given.name] = given.report(encoder, cache, report["measured_model"], args.encode_batch_size)
        keep()
    log.info(render(report).rstrip())
    log.info("results: %s", args.output_dir / "real_clap.json")


def near_transformers(encoder, rows, texts: list[str], count: int = 20) -> dict:
    """The largest cosine distance of the first clips and texts to transformers' own way."""
    from real_clap_parity import parity

    near = parity(encoder, [clip for clip, _ in zip(rows, range(count), strict=False)], texts[:count])
    log.info("cosine distance to transformers' own: audio %.1e, text %.1e", near["audio"] or 0, near["text"])
    return near


def describe(args: argparse.Namespace, encoder) -> dict:
    """What the numbers depend on besides the data."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": machine(),
        "versions": versions(),
        "device": str(encoder.device),
        "clap_model": encoder.name,
        "clap_sha256": encoder.sha256,
        "prompt": args.prompt,
        "learning_rates": list(RATES),
        "epochs": args.epochs,
        "seeds": args.seeds,
        "sets": {},
        "retrieval": {},
    }


def needs_class(labels: int, classes: int) -> str | None:
    """Why a clip is not used: none of its labels is a class."""
    return None if classes else "no label of the class list"


@dataclass
class Part:
    """The embedded clips of a fold or split. audio (N, D), targets (N, M) bool, videos N."""

    audio: object
    targets: object
    videos: list


class Work:
    """One data set: embedding, training, testing."""

    def __init__(self, args: argparse.Namespace, given, encoder, cache):
        from hyperbolic_clap.embedding.skipped import Skipped

        self.args, self.given, self.encoder, self.cache = args, given, encoder, cache
        self.started, self.trained, self.again, self.told = time.monotonic(), 0, 0, 0.0
        self.skipped = Skipped()
        self.parts = self._embed()
        self.skipped.tell()
        self.encoded = time.monotonic() - self.started
        self.text = self._texts(args.prompt)
        self.dims = sorted({min(dim, encoder.embed_dim) for dim in args.dims}, reverse=True)
        searched = len(given.rounds) * len(SIDES) * len(self.dims)
        self.trainings = searched * (len(RATES) + args.seeds - 1)

    def _texts(self, prompt: str):
        from hyperbolic_clap.embedding.texts import embed_classes

        return embed_classes(self.given.classes.names, self.encoder, self.cache, [prompt])

    def _embed(self) -> dict[str, Part]:
        import numpy as np
        import torch
        from tqdm import tqdm

        from hyperbolic_clap.embedding.clips import embed_clips

        parts = {}
        with tqdm(total=sum(self.given.sizes.values()), desc=f"{self.given.name}: embedding", unit="clip") as bar:
            for name, rows in self.given.parts.items():
                embedded = embed_clips(rows, self.encoder, self.cache, needs_class, None, self.args.encode_batch_size,
                                       bar.update)  # fmt: skip
                keys = []
                for clip, key in embedded:
                    if isinstance(key, RowError):
                        self.skipped.add(key.reason, 1, [clip.video_id])
                    else:
                        keys.append((key, clip))
                used = [(self.cache.get(key), clip.video_id, clip.positions) for key, clip in keys]
                if not used:
                    raise UserError(f"no clip of {self.given.name}, part {name}, can be used")
                audio = torch.from_numpy(np.stack([vector for vector, _, _ in used]))
                targets = torch.zeros(len(used), len(self.given.classes.names), dtype=torch.bool)
                for row, (_, _, places) in zip(targets, used, strict=True):
                    row[places] = True
                parts[name] = Part(audio, targets, [video for _, video, _ in used])
        return parts

    def report(self, model: str) -> dict:
        """The figures of this data set, with their intervals, for the JSON. model: as of published.model_of."""
        from published import distances
        from real_clap_figures import by_part, differences, figures

        parts = [self.parts[turn.test] for turn in self.given.rounds]
        targets = [part.targets.numpy() for part in parts]
        plain = {prompt: [self._cosine(part, self._texts(prompt)) for part in parts]
                 for prompt in dict.fromkeys((self.args.prompt, WITHOUT_STOP))}  # fmt: skip
        rows = [{"head": "zero-shot cosine", "prompt": prompt, "dims": self.encoder.embed_dim, "seeds": 1}
                | figures([scores], targets) | {"acc@1_by_part": by_part(scores, targets)}
                for prompt, scores in plain.items()]  # fmt: skip
        apart = distances(rows, self.given.published, model, sum(map(len, targets)))
        scores, rates = {}, {}
        for dim in self.dims:
            for side in SIDES:
                found = [self._head(i, side, dim) for i in range(len(self.given.rounds))]
                rates[side, dim] = [rate for rate, _ in found]
                scores[side, dim] = [[seeds[s] for _, seeds in found] for s in range(self.args.seeds)]
                row = {"head": f"trained {side}", "prompt": self.args.prompt, "dims": dim, "seeds": self.args.seeds}
                rows.append(row | figures(scores[side, dim], targets) | {"learning_rates": rates[side, dim]})
        drawn: dict = {}
        first = [plain[self.args.prompt]] * self.args.seeds
        pairs = [(f"{side} {dim}", "zero-shot", scores[side, dim], first) for side, dim in scores]
        for dim in self.dims:
            pairs += [(f"hyperbolic {dim}", f"{other} {dim}", scores["hyperbolic", dim], scores[other, dim])
                      for other in ("cosine", "flat")]  # fmt: skip
        return {
            "classes": len(self.given.classes.names),
            "clips": {name: len(part.audio) for name, part in self.parts.items()},
            "files_missing": self.given.missing,
            "skipped": self.skipped.report(),
            "rows": rows,
            "differences": [differences(*pair, targets, drawn) for pair in pairs],
            "published": self.given.published,
            "distances": apart,
            "seconds": {"embedding": round(self.encoded, 1), "all": round(time.monotonic() - self.started, 1)},
        }

    def _cosine(self, part: Part, text):
        from hyperbolic import cosine_similarity

        return cosine_similarity(part.audio, text).numpy()

    def _head(self, number: int, side: str, dim: int) -> tuple[float, list]:
        """The learning rate that validation chooses for a projector in a round, and its test scores for each seed."""
        from hyperbolic_clap.plumbing.config import TrainConfig

        base = TrainConfig(epochs=self.args.epochs, output_dim=dim, **SIDES[side])
        tried = {rate: self._fit(number, replace(base, learning_rate=rate, seed=0)) for rate in RATES}
        rate = max(tried, key=lambda rate: tried[rate][0])
        others = [self._fit(number, replace(base, learning_rate=rate, seed=s)) for s in range(1, self.args.seeds)]
        return rate, [tried[rate][1], *(scores for _, scores in others)]

    def _fit(self, number: int, settings) -> tuple[float, object]:
        """(validation score, (N, M) test scores) of one training, from the disk if it was done before."""
        import torch
        from safetensors import safe_open
        from safetensors.numpy import save

        from hyperbolic_clap.training.split import fingerprint, split_by_video

        turn, device = self.given.rounds[number], self.encoder.device
        names = [*turn.train, *turn.validation]
        audio, targets = (torch.cat([getattr(self.parts[n], kind) for n in names]) for kind in ("audio", "targets"))
        test = self.parts[turn.test]
        data = fingerprint(audio, targets, self.text, test.audio)
        key = hashlib.sha256(f"{settings} {data} {names} {versions()['torch']}".encode()).hexdigest()[:32]
        path = self.args.output_dir / "trained" / f"{key}.safetensors"
        self.trained += 1
        if path.is_file():
            self.again += 1
            with safe_open(path, framework="numpy") as file:
                return float(file.metadata()["validation"]), file.get_tensor("scores")
        if turn.validation:
            size = sum(len(self.parts[n].audio) for n in turn.train)
            train, validation = torch.arange(size), torch.arange(size, len(audio))
        else:
            train, validation = split_by_video([v for n in names for v in self.parts[n].videos], 0.8, 0)
        on_device = [tensor.to(device) for tensor in (audio, targets, self.text)]
        score, scores = fit(settings, *on_device, train, validation, test.audio.to(device))
        content = save({"scores": scores}, {"validation": repr(score)})
        write_atomic(path, lambda temporary: temporary.write_bytes(content), tidy=False)
        self._tell()
        return score, scores

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self.told < TELL_SECONDS:
            return
        done, spent, self.told = self.trained - self.again, now - self.started - self.encoded, now
        left = spent / max(done, 1) * (self.trainings - self.trained)
        counts = self.given.name, self.trained, self.trainings
        log.info("%s: %d of %d trainings, about %.0f min left", *counts, left / 60)


def fit(settings, audio, targets, text, train, validation, tested) -> tuple[float, object]:
    """(mean of the validation clips' metrics, scores of the tested clips), at the epoch of least validation loss."""
    import numpy as np
    import torch

    from hyperbolic_clap.metrics.classification import metrics
    from hyperbolic_clap.training.trainer import Trainer

    trainer, best, kept = Trainer(settings, audio, targets, text, train, validation), None, None
    with quiet():
        for record in trainer.epochs():
            if best is None or record["val_loss"] < best:
                best, kept = record["val_loss"], copy.deepcopy(trainer.projector)
    with torch.no_grad():
        chosen = kept(audio[validation], text).cpu().numpy()
        scores = kept(tested, text).cpu().numpy()
    found = metrics(chosen, targets[validation].cpu().numpy(), 1)
    return float(np.mean([found[name] for name in METRICS])), scores


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
