"""What a sweep found: sweep.csv, a row for each run and folder; sweep.md, a row for each setting, with intervals."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hyperbolic_clap.metrics.bootstrap import affordable, draw
from hyperbolic_clap.metrics.classification import hit_ratios, rank_classes, score_ratios
from hyperbolic_clap.metrics.weighted import Ranking, mean_of_classes, plain, ratio
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.plumbing.progress import bar
from hyperbolic_clap.results.groups import interval_over_seeds
from hyperbolic_clap.results.sweep import UNTRAINED, Outcome, Plan, effective, settings_of
from hyperbolic_clap.results.tables import grid, heading

METRICS = ("acc@1", "acc@5", "map", "map_samples")
Draws = dict[str, np.ndarray]  # {metric: (1 + B,) its value, then those of resampled clips}


def write_csv(path: Path, plan: Plan, outcomes: list[Outcome], skipped: list[tuple[dict, str]]) -> None:
    """A row for each run and folder: settings, best epoch, validation and test metrics, or the reason of a failure.

    skipped: (settings, reason) of runs that were left out beforehand.
    """
    import pandas

    rows = []
    for outcome in outcomes:
        training = outcome.record.get("training", {})
        known = {"run": outcome.name} | asdict(outcome.config)
        known |= {"best_epoch": training.get("epoch"), "train_loss": training.get("train_loss")}
        known |= {f"{part}_clips": number for part, number in training.get("clips", {}).items()}
        for folder in plan.folders:
            facts = {"folder": folder, "reason": outcome.reason} | training.get("validation", {})
            rows.append(known | facts | outcome.metrics.get(folder, {}))
    rows += [{"run": "skipped"} | settings | {"folder": f, "reason": why} for settings, why in skipped
             for f in plan.folders]  # fmt: skip
    text = pandas.DataFrame(rows).convert_dtypes().to_csv(index=False, lineterminator="\n")
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "backslashreplace")))


def resampled(path: Path, resamples: int, seed: int) -> Draws:
    """`resampled_metrics` of the similarities beside a results file."""
    from safetensors.numpy import load_file

    content = load_file(path.with_suffix(".safetensors"))
    return resampled_metrics(content["scores"], content["targets"].astype(bool), resamples, seed)


def resampled_metrics(scores: np.ndarray, targets: np.ndarray, resamples: int, seed: int) -> Draws:
    """METRICS of (N, M) scores against (N, M) bool targets: as they are, and of resampled clips.

    The same resamples for the same N and seed. Rankings that would take minutes get fewer resamples.
    """
    valid = targets.any(axis=1)
    scores, targets = scores[valid], targets[valid]
    order, ranking = rank_classes(scores), Ranking(scores, targets)
    parts = hit_ratios(order, targets, 5) | score_ratios(scores, order, targets)
    count = affordable(resamples, ranking.cost)
    found: dict[str, list] = {name: [] for name in METRICS}
    for weights in (plain(len(scores)), *draw(len(scores), count, seed, targets.shape[1])):
        values = {name: ratio(weights, *parts[name]) for name in METRICS if name != "map"}
        values["map"] = mean_of_classes(ranking.precision(weights))
        for name in METRICS:
            found[name].append(values[name])
    return {name: np.concatenate(some) for name, some in found.items()}


def by_setting(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """{setting in words: its tested runs, by seed}, in the order of the first of each."""
    tested = [outcome for outcome in outcomes if outcome.metrics]
    shown = [settings_of(outcome.config) for outcome in tested]
    varying = [name for name in dict.fromkeys(name for one in shown for name in one)
               if name != "similarity" and len({json.dumps(one.get(name)) for one in shown}) > 1]  # fmt: skip
    groups: dict[str, list[Outcome]] = {}
    for outcome in tested:
        own = asdict(outcome.config)
        curved = effective(replace(outcome.config, c=2.0)).c == 2.0  # else c says nothing
        words = [f"{name}={own[name]}" for name in varying if name != "c" or curved]
        groups.setdefault(" ".join([outcome.config.similarity, *words]), []).append(outcome)
    return {label: sorted(some, key=lambda one: one.config.seed) for label, some in groups.items()}


def parse_baseline(given: list[str] | None, configs: list[TrainConfig]) -> dict:
    """NAME=VALUE texts -> {setting: value}; UserError for a setting that is none, or that no run has."""
    known = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        values = {str(asdict(config)[name]): asdict(config)[name] for config in configs} if (
            configs and name in asdict(configs[0])) else {}  # fmt: skip
        match = [own for shown, own in values.items() if shown == value or _number(shown) == _number(value) is not None]
        if not equals or name == "seed" or not match:
            has = f"runs have {name} {', '.join(values)}" if values else "settings are named as the flags are"
            raise UserError(f"--baseline {text} is no setting of these runs, as similarity=cosine is; {has}")
        known[name] = match[0]
    return known


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def write_markdown(
    path: Path, plan: Plan, outcomes: list[Outcome], baseline: dict, resamples: int, seed: int, command: str
) -> None:
    """Means and deviations over seeds of each setting; differences to untrained cosine, and to the baseline setting.

    A setting is compared with the one that has the baseline's values and is else the same.
    """
    groups = by_setting(outcomes)
    parts = [f"`{command}`", ""]
    failed = sum(outcome.reason is not None for outcome in outcomes)
    if failed:
        parts += [f"{failed} of {len(outcomes)} runs failed; their reasons are in sweep.csv.", ""]
    with bar("intervals", "file", len(plan.folders) * (1 + sum(map(len, groups.values())))) as progress:
        for folder in plan.folders:
            def drawn(name: str, folder: str = folder) -> Draws:
                found = resampled(plan.results(name, folder), resamples, seed)
                progress.update()
                return found

            plain_draws = drawn(UNTRAINED)
            draws = {label: [drawn(one.name) for one in some] for label, some in groups.items()}
            parts += of_folder(folder, groups, draws, plain_draws, baseline, seed)
    parts.append(f"+- is the deviation over seeds. [...] is the 95 % interval over clips and seeds, {resamples} "
                 "resamples, the same clips and seeds of both sides; * where it excludes 0.")
    text = ("\n".join(parts) + "\n").encode("utf-8", "backslashreplace")
    write_atomic(path, lambda temporary: temporary.write_bytes(text))


def of_folder(
    folder: str, groups: dict[str, list[Outcome]], draws: dict[str, list[Draws]], plain_draws: Draws, baseline: dict,
    seed: int,
) -> list[str]:  # fmt: skip
    """The tables of one folder, in lines."""
    rows = [[UNTRAINED, "", *(f"{plain_draws[name][0]:.4f}" for name in METRICS)]]
    for label, drawn in draws.items():
        rows.append([label, str(len(drawn)), *(spread([one[name][0] for one in drawn]) for name in METRICS)])
    parts = [heading(f"{folder}: means over seeds", True), grid(["setting", "seeds", *METRICS], rows, True)]
    rows = [[label, *(difference([plain_draws], drawn, name, False, seed) for name in METRICS)]
            for label, drawn in draws.items()]  # fmt: skip
    parts += [heading(f"{folder}: difference to {UNTRAINED}", True), grid(["setting", *METRICS], rows, True)]
    rows = []
    for label, some in groups.items() if baseline else ():
        other = other_side(label, groups, baseline)
        if other is None:
            continue
        paired = [one.config.seed for one in groups[other]] == [one.config.seed for one in some]
        rows.append([f"{label} - {other}", *(difference(draws[other], draws[label], name, paired, seed)
                                             for name in METRICS)])  # fmt: skip
    if rows:
        parts += [heading(f"{folder}: difference to the baseline", True), grid(["settings", *METRICS], rows, True)]
    return parts


def other_side(label: str, groups: dict[str, list[Outcome]], baseline: dict) -> str | None:
    """The setting that a setting is compared with; None for the baseline's own, or if it was not run."""
    wanted = effective(replace(groups[label][0].config, **baseline, seed=0))
    for other, some in groups.items():
        if other != label and effective(replace(some[0].config, seed=0)) == wanted:
            return other
    matching = [other for other, some in groups.items()
                if all(asdict(some[0].config)[n] == v for n, v in baseline.items())]  # fmt: skip
    return matching[0] if len(matching) == 1 and matching[0] != label else None


def spread(values: list[float]) -> str:
    """Mean +- deviation over seeds."""
    return f"{np.mean(values):.4f}" + (f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def difference(a: list[Draws], b: list[Draws], name: str, paired: bool, seed: int) -> str:
    """The mean of b minus the mean of a with its interval, in words."""
    value = np.mean([one[name][0] for one in b]) - np.mean([one[name][0] for one in a])
    ends = interval_over_seeds([one[name][1:] for one in a], [one[name][1:] for one in b], paired, seed)
    if ends is None:
        return f"{value:+.4f}"
    return f"{value:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]{'*' if ends[0] > 0 or ends[1] < 0 else ''}"
