"""The figures of real_clap.py: metrics with their spread over seeds, differences with intervals, the Markdown table."""

from __future__ import annotations

import numpy as np
from published import sentences
from real_clap_retrieval import render_retrieval

from hyperbolic_clap.metrics.bootstrap import draw, interval
from hyperbolic_clap.metrics.classification import metrics, rank_classes
from hyperbolic_clap.metrics.weighted import Ranking, mean_of_classes

METRICS = ("acc@1", "acc@5", "map", "map_samples")
PUBLISHED_TOO = "f1_macro"  # of the best class alone
BY_FOLD = "acc@1_by_fold"
RESAMPLES, LEAST = 2000, 200
RANKING_COST = 2e10  # above it there are fewer resamples, for time


def figures(seeds: list[list], targets: list) -> dict:
    """{metric: mean over seeds, metric_std}: seeds holds for each seed the scores of every tested part."""
    joined = np.concatenate(targets)
    found = [metrics(np.concatenate(parts), joined, 1) for parts in seeds]
    values = {name: [one[name] for one in found] for name in (*METRICS, PUBLISHED_TOO)}
    return {n: float(np.mean(v)) for n, v in values.items()} | {f"{n}_std": float(np.std(v)) for n, v in values.items()}


def by_part(scores: list, targets: list) -> list[float]:
    """acc@1 of each tested part."""
    return [float(np.take_along_axis(t, s.argmax(1)[:, None], 1).mean()) for s, t in zip(scores, targets, strict=True)]


def differences(name: str, other: str, b: list[list], a: list[list], targets: list, drawn: dict) -> dict:
    """b - a in every metric, averaged over seeds, with the 95 % interval of a bootstrap over clips and seeds.

    drawn: remembers the metrics and resampled metrics of scores that occur in several differences.
    """
    joined = np.concatenate(targets)

    def of(parts: list) -> np.ndarray:
        if id(parts[0]) not in drawn:
            drawn[id(parts[0])] = _resampled(np.concatenate(parts), joined)
        return drawn[id(parts[0])]

    apart = np.stack([of(y) - of(x) for x, y in zip(a, b, strict=True)])  # (S, B, 4)
    picked = np.random.default_rng(1).integers(len(apart), size=apart.shape[1::-1])
    mixed = apart[picked, np.arange(len(picked))[:, None]].mean(axis=1)
    ends = [interval(column) or (None, None) for column in mixed.T]
    values = []
    for side in (b, a):
        key = tuple(id(parts[0]) for parts in side)
        drawn[key] = drawn.get(key) or figures(side[:1] if len(set(key)) == 1 else side, targets)
        values.append(drawn[key])
    found = {"resamples": len(mixed)}
    for metric, (low, high) in zip(METRICS, ends, strict=True):
        found[metric] = {"value": values[0][metric] - values[1][metric], "low": low, "high": high}
    return {"difference": f"{name} - {other}"} | found


def _resampled(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(B, 4): METRICS of resampled clips; the same clips for all scores."""
    ranking = Ranking(scores, targets)
    count = int(np.clip(RANKING_COST / max(ranking.cost, 1), LEAST, RESAMPLES))
    hits = np.take_along_axis(targets, rank_classes(scores), axis=1)
    precision = [average_precision(row) for row in hits]
    linear = np.stack([hits[:, :1].any(1), hits[:, :5].any(1), precision], axis=1).astype(np.float32)
    parts = []
    for weights in draw(len(scores), count, 0):
        means = weights @ linear / len(scores)
        parts.append(np.insert(means, 2, mean_of_classes(ranking(weights)[0]), axis=1))
    return np.concatenate(parts)


def average_precision(hits: np.ndarray) -> float:
    """Average precision of one clip's classes in the order of their scores."""
    places = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def render(report: dict) -> str:
    """The report as Markdown, to paste."""
    parity, libraries = report["parity"], report["versions"]
    near = f"{parity['clips']} clips {_tiny(parity['audio'])}, {parity['texts']} texts {_tiny(parity['text'])}"
    where = f"{report['device']}, {report['machine']}, transformers {libraries['transformers']}"
    lines = [f"`{report['clap_model']}` on {where}. Cosine distance to ClapProcessor and ClapModel: {near}.", ""]
    for name, found in report["sets"].items():
        clips = ", ".join(f"{part}: {count}" for part, count in found["clips"].items())
        spent = found["seconds"]
        lines += [f"**{name}**, {found['classes']} classes, clips {clips}; embedding {spent['embedding']:.0f} s, all "
                  f"{spent['all']:.0f} s. Percent, mean +- deviation over seeds; learning rates chosen on validation "
                  "clips.", "", "| projector | prompt | dimensions | acc@1 | acc@5 | map | map_samples |",
                  "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
        for row in found["rows"]:
            lines.append(_line(row["head"], f"`{row['prompt']}`", row["dims"], *(_spread(row, m) for m in METRICS)))
        for other in found["published"]:
            prompt = f"`{other['prompt']}`" if other["prompt"] else "not stated"
            lines.append(_line(f"published: {other['model']} ({other['source']})", prompt, "", _percent(other["acc@1"]),
                               "", "", ""))  # fmt: skip
        lines += ["", "| difference | acc@1 | acc@5 | map | map_samples |", "|---|---:|---:|---:|---:|"]
        lines += [_line(d["difference"], *(_interval(d[metric]) for metric in METRICS)) for d in found["differences"]]
        by_part = [(r["prompt"], r["acc@1_by_part"]) for r in found["rows"] if len(r.get("acc@1_by_part", [])) > 1]
        by_part += [(o["model"], o[BY_FOLD]) for o in found["published"] if BY_FOLD in o]
        if by_part:
            folds = [f"{who}: {' '.join(_percent(value) for value in values)}" for who, values in by_part]
            lines += ["", f"Zero-shot acc@1 by fold: {'; '.join(folds)}."]
        told = sentences(found["distances"], found["published"], report["measured_model"])
        lines += ["", *told, ""] if told else [""]
    for name, found in report["retrieval"].items():
        lines += render_retrieval(name, found, report["measured_model"])
    return "\n".join(lines)


def _line(*cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _spread(row: dict, metric: str) -> str:
    spread = f" +- {100 * row[f'{metric}_std']:.1f}" if row["seeds"] > 1 else ""
    return _percent(row[metric]) + spread


def _interval(entry: dict) -> str:
    if entry["low"] is None:
        return f"{100 * entry['value']:+.1f}"
    mark = "*" if entry["low"] > 0 or entry["high"] < 0 else ""
    return f"{100 * entry['value']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]{mark}"


def _tiny(value: float | None) -> str:
    return "none" if value is None else f"{value:.1e}"
