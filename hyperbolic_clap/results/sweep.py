"""Many trainings of one folder, each tested on others: embedded once, resumed, and to the bit what single scripts make.

    OUTPUT/runs/NAME/             a training's output folder, and run.json, which says that it is done
    OUTPUT/results/NAME_EVAL.json a test's results, with its similarities beside it
    OUTPUT/results/original_EVAL.json the same of untrained cosine
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hyperbolic import SIMILARITIES
from hyperbolic_clap.embedding.clips import SkipReason
from hyperbolic_clap.embedding.pipeline import EmbeddedClips, EmbeddingPipeline, skip_unlabelled, skip_untrainable
from hyperbolic_clap.plumbing.config import DataConfig, EncoderConfig, ProjectorConfig, RunConfig, TrainConfig
from hyperbolic_clap.plumbing.device import out_of_memory
from hyperbolic_clap.plumbing.errors import UserError, first_line, log
from hyperbolic_clap.plumbing.files import write_json
from hyperbolic_clap.plumbing.run import describe_run, describe_test
from hyperbolic_clap.projector.exported import best_of
from hyperbolic_clap.projector.opening import beside, open_pipeline
from hyperbolic_clap.projector.projector import Projector
from hyperbolic_clap.results.evaluation import evaluate_to_files
from hyperbolic_clap.training.fit import fit, open_output, require_trainable, split_clips
from hyperbolic_clap.training.split import fingerprint
from hyperbolic_clap.training.trackers import NoTracker

UNTRAINED = "original"


@dataclass(frozen=True)
class Plan:
    """What a sweep works on; it can be sent to other processes.

    folders: those that are tested on, by a name each. arguments: the flags that a results file records. choose_by: of
    SELECT_BY, then only the best setting of each combination of choose_each is tested; None: all are. finalists: how
    many of each are trained with more than their first seed; None: all are. dim_given: whether the output dimensions
    were asked for; else they are fewer where the vectors have fewer.
    """

    train: DataConfig
    folders: dict[str, DataConfig]
    encoder: EncoderConfig
    output_dir: Path
    arguments: dict
    keep: str = "all"
    top_k: int = 5
    choose_by: str | None = None
    choose_each: tuple[str, ...] = ("similarity",)
    finalists: int | None = None
    dim_given: bool = True

    def results(self, name: str, folder: str) -> Path:
        """The results file of a run, or of UNTRAINED, on a folder."""
        return self.output_dir / "results" / f"{name}_{folder}.json"


@dataclass(frozen=True)
class Outcome:
    """A run: its name and config, what run.json holds ({} if it failed), {folder: metrics}, and why it failed."""

    name: str
    config: TrainConfig
    record: dict
    metrics: dict[str, dict]
    reason: str | None = None


def effective(config: TrainConfig) -> TrainConfig:
    """The config with settings that have no effect at their defaults: two configs that train alike become one."""
    return config if SIMILARITIES[config.similarity].curved else replace(config, c=TrainConfig.c)


def settings_of(config: TrainConfig) -> dict:
    """What differs from the defaults, the similarity always and the seed never: the setting of runs over seeds."""
    default = asdict(TrainConfig())
    changed = {n: v for n, v in asdict(config).items() if v != default[n] and n not in ("similarity", "seed")}
    return {"similarity": config.similarity} | changed


def name_of(config: TrainConfig) -> str:
    """A run's name for files, the same in every sweep: similarity, what differs from the defaults, seed."""
    parts = [f"{n}{v:g}" if type(v) in (int, float) else f"{n}-{v}" for n, v in settings_of(config).items()][1:]
    return "_".join(re.sub(r"[^\w.+-]", "-", part) for part in (config.similarity, *parts, f"seed{config.seed}"))


def _embedded(pipeline: EmbeddingPipeline, skip_reason: SkipReason) -> EmbeddedClips:
    clips = pipeline.embed(skip_reason)
    assert clips is not None  # one process is rank 0
    return clips


class Workplace:
    """The embedded folders and the model of a Plan, in this process, and the work on one run."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.model, self.pipeline = open_pipeline(plan.train, plan.encoder, ProjectorConfig())
        # Unusable ones end it here.
        pipelines = {name: beside(self.model, data, plan.encoder) for name, data in plan.folders.items()}
        self.clips = _embedded(self.pipeline, skip_untrainable)
        self.tested = {name: _embedded(pipeline, skip_unlabelled) for name, pipeline in pipelines.items()}
        self.data = fingerprint(*self.clips.tensors())
        self.tested_data = {name: fingerprint(*clips.tensors()) for name, clips in self.tested.items()}

    def _key(self, *parts) -> str:
        embedder = self.model.embedder
        known = [embedder.origin.sha256, embedder.prompt, self.clips.classes.names, *parts]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def train(self, config: TrainConfig) -> dict:
        """Train a config, or go on where an earlier sweep stopped -> the content of run.json. UserError if it fails."""
        folder = self.plan.output_dir / "runs" / name_of(config)
        config = require_trainable(config, self.pipeline, self.plan.dim_given)
        key, record = self._key(self.data, asdict(config)), read_record(folder / "run.json")
        with contextlib.suppress(UserError):
            if record.get("key") == key and best_of(folder, "").is_file():
                return record
        arguments = self.plan.arguments | asdict(config) | {"parquet_dir": str(self.plan.train.parquet_dir)}
        told = describe_run(arguments, self.model.device, 1)
        refused = ""
        try:
            self._fit(config, folder, told, any(folder.glob("projection_epoch_*.pth")))
        except UserError as error:
            if not (refused := str(error)).startswith("--resume"):
                raise
        if refused:  # only now, since the error holds the frames that hold the folder's lock
            log.warning("%s cannot be gone on with, so what it holds is moved aside: %s", folder, refused)
            self._fit(config, folder, told, False)
        best = best_of(folder, "--output-dir")
        about = Projector(best, self.model.device).describe(self.model.embedder.origin, self.model.embedder.prompt)
        record = {"key": key, "checkpoint": best.name, "projection_sha256": about["projection_sha256"],
                  "training": about["training"], "tests": {}}  # fmt: skip
        write_json(folder / "run.json", record)
        return record

    def _fit(self, config: TrainConfig, folder: Path, told: dict, resume: bool) -> None:
        output = open_output(RunConfig(folder, resume, keep=self.plan.keep), config, told, self.model)
        fit(config, self.clips, split_clips(config, self.pipeline, self.clips), self.model, output, NoTracker())

    def test(self, config: TrainConfig) -> dict[str, dict]:
        """Test a trained config on each folder -> {folder: metrics}, from the files where they are there already."""
        folder = self.plan.output_dir / "runs" / name_of(config)
        record = read_record(folder / "run.json")
        found = {}
        for name, clips in self.tested.items():
            key = self._key(self.tested_data[name], record["projection_sha256"], self.plan.top_k)
            output = self.plan.results(name_of(config), name)
            known = record["tests"].get(name, {})
            if known.get("key") != key or not (output.is_file() and output.with_suffix(".safetensors").is_file()):
                known = {"key": key, "metrics": self._test(clips, folder / record["checkpoint"], name, output)}
                record["tests"][name] = known
                write_json(folder / "run.json", record)
            found[name] = known["metrics"]
        return found

    def untrained(self) -> dict[str, dict]:
        """Test untrained cosine on each folder -> {folder: metrics}."""
        return {name: self._test(clips, None, name, self.plan.results(UNTRAINED, name))
                for name, clips in self.tested.items()}  # fmt: skip

    def _test(self, clips: EmbeddedClips, path: Path | None, name: str, output: Path) -> dict:
        started, scores, data = time.time(), output.with_suffix(".safetensors"), self.plan.folders[name]
        model = replace(self.model, projector=Projector(path, self.model.device))
        told = {"parquet_dir": data.parquet_dir, "num_samples": data.num_samples, "top_k": self.plan.top_k,
                "projection_checkpoint": path, "use_hyperbolic": model.projector.kind.curved, "output_json": output,
                "save_scores": scores, "c": None, "temperature": None, "prototypes": None}  # fmt: skip
        arguments = self.plan.arguments | {n: str(v) if isinstance(v, Path) else v for n, v in told.items()}
        evaluation = evaluate_to_files(clips, model, self.plan.top_k, output, scores, lambda **facts: describe_test(
            arguments, self.model.device, 1, started, **facts))  # fmt: skip
        return evaluation["metrics"] or {}


def read_record(path: Path) -> dict:
    """run.json, {} if it is not there or not whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and isinstance(record.get("tests"), dict) else {}
    except (OSError, ValueError):
        return {}


def sweep(
    plan: Plan, configs: list[TrainConfig], jobs: int, done: Callable[[list[Outcome]], None]
) -> tuple[list[Outcome], dict[str, dict]]:
    """Train and test all configs -> their outcomes in that order, and {folder: metrics} of untrained cosine.

    A run that fails ends no other. Seeds of settings that are no finalists have no outcome. done: called with all
    outcomes so far whenever another is finished.
    """
    place = Workplace(plan)
    with quiet():
        plain = place.untrained()
    found: dict[TrainConfig, Outcome] = {}

    def work(some: list[TrainConfig], test: bool, verb: str) -> None:
        started = time.monotonic()
        for count, outcome in enumerate(outcomes(place, some, test, jobs), 1):
            found[outcome.config] = outcome
            done([found[config] for config in configs if config in found])
            left = (time.monotonic() - started) / count * (len(some) - count)
            log.info("%d of %d runs %s, about %s left: %s", count, len(some), verb, duration(left), told(outcome))

    if plan.choose_by is None:
        work(configs, True, "done")
    else:
        seeds = over_seeds(configs)
        if plan.finalists:
            work([some[0] for some in seeds], False, "trained")
            best = chosen(list(found.values()), by_validation(plan.choose_by), plan.choose_each, plan.finalists)
            seeds = [some for some in seeds if some[0] in best]
        work([config for some in seeds for config in some if config not in found], False, "trained")
        of_all = [found[config] for some in seeds for config in some]
        work(chosen(of_all, by_validation(plan.choose_by), plan.choose_each), True, "tested")
    return [found[config] for config in configs if config in found], plain


def outcomes(place: Workplace, configs: list[TrainConfig], test: bool, jobs: int) -> Iterator[Outcome]:
    """The outcomes as they come, of this process or of others, which find the embeddings in the cache."""
    if min(jobs, len(configs)) < 2:
        for config in configs:
            yield outcome_of(place, config, test)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process whose threads have computed may wait forever
    executor = ProcessPoolExecutor(min(jobs, len(configs)), context, _begin, (place.plan,))
    try:
        futures = {executor.submit(_run, config, test): config for config in configs}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                config = futures[future]
                yield Outcome(name_of(config), config, {}, {}, "a process of --jobs was killed or could not begin")
    finally:
        executor.shutdown(cancel_futures=True)


def outcome_of(place: Workplace, config: TrainConfig, test: bool) -> Outcome:
    """One run; what goes wrong in it becomes its reason."""
    name, record = name_of(config), {}
    try:
        with quiet():
            record = place.train(config)
            return Outcome(name, config, record, place.test(config) if test else {})
    except UserError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except (MemoryError, RuntimeError) as error:
        reason = f"{'out of memory: ' if out_of_memory(error) else ''}{first_line(error)}"
    return Outcome(name, config, record, {}, reason)


PLACE: Workplace | None = None  # of a process of --jobs


def _begin(plan: Plan) -> None:
    """As a single script begins, so that every bit is the same: torch with as many threads."""
    global PLACE
    logging.basicConfig(level=logging.WARNING)
    PLACE = Workplace(plan)


def _run(config: TrainConfig, test: bool) -> Outcome:
    assert PLACE is not None  # _begin has run
    return outcome_of(PLACE, config, test)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it the log only warns, and no bar is drawn: a line for each epoch of each run says too much."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def over_seeds(configs: list[TrainConfig]) -> list[list[TrainConfig]]:
    """The configs that differ in their seed alone, together, in the order of the first of each."""
    settings: dict[TrainConfig, list[TrainConfig]] = {}
    for config in configs:
        settings.setdefault(replace(config, seed=0), []).append(config)
    return list(settings.values())


def by_validation(figure: str) -> Callable[[Outcome], float]:
    """The score of a run by a validation figure of its best epoch, of SELECT_BY; higher is better.

    UserError if an earlier version has trained it, which did not keep that figure.
    """

    def score(outcome: Outcome) -> float:
        value = outcome.record["training"]["validation"].get(figure)
        if value is None:
            raise UserError(f"{outcome.name} was trained by an earlier version, which kept no {figure}; choose by "
                            "another figure, or give another --output-dir")
        return -value if figure == "val_loss" else value

    return score


def chosen(
    outcomes: list[Outcome], score: Callable[[Outcome], float], each: tuple[str, ...] = ("similarity",), count: int = 1
) -> list[TrainConfig]:
    """The runs of the best settings: `count` of each combination of the settings `each`, by the mean score over seeds.

    A setting counts if all its seeds were trained; of equal ones the first that was named.
    """
    of = {outcome.config: outcome for outcome in outcomes}
    ranked: dict[tuple, list[tuple[float, list[TrainConfig]]]] = {}
    for some in over_seeds(list(of)):
        if not any(of[config].reason for config in some):
            mean = sum(score(of[config]) for config in some) / len(some)
            ranked.setdefault(tuple(getattr(some[0], name) for name in each), []).append((mean, some))
    best = [sorted(settings, key=lambda one: -one[0])[:count] for settings in ranked.values()]
    return [config for settings in best for _, some in settings for config in some]


def told(outcome: Outcome) -> str:
    """An outcome in a few words."""
    if outcome.reason:
        return f"{outcome.name} failed: {outcome.reason}"
    figures = outcome.record["training"]["validation"] if not outcome.metrics else {}
    shown = {f"{folder} {name}": metrics.get(name) for folder, metrics in outcome.metrics.items() for name in (
        "acc@1", "map")} | {name: figures.get(name) for name in ("val_loss", "val_map") if figures}  # fmt: skip
    return ", ".join([outcome.name, *(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
