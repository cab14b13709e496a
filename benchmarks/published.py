"""Figures that others have published of data sets as a whole (published.tsv), and how far ours lie from them."""

from __future__ import annotations

import csv
from pathlib import Path

from material import LARGER_CLAP_GENERAL

from hyperbolic_clap.plumbing.errors import UserError

TABLE = Path(__file__).resolve().parent / "published.tsv"
CAPTIONS = "captions"  # in place of a prompt
GENERAL = "laion/larger_clap_general"
SIZES = {GENERAL: LARGER_CLAP_GENERAL["audio_config"]}  # by which another model under this name is known


def published(name: str) -> list[dict]:
    """What is published of a data set: {model, revision, prompt, clips, source, a value for each metric}, "-" as None.

    acc@1_by_fold is a list.
    """
    found: dict[tuple, dict] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row.pop("set") != name:
                continue
            metric, values = row.pop("metric"), [float(value) for value in row.pop("value").split()]
            facts: dict = {key: None if value == "-" else value for key, value in row.items()}
            facts["clips"] = facts["clips"] and int(facts["clips"])
            entry = found.setdefault(tuple(facts.values()), facts)
            entry[metric] = values if len(values) > 1 else values[0]
    return list(found.values())


def model_of(encoder, same_as: str | None) -> str:
    """The hub's id of the model that is measured: same_as, or what it was opened as, a local folder's path included.

    UserError if the model has another size than the one that it is said to be.
    """
    name = same_as or ("" if Path(encoder.name).expanduser().is_dir() else encoder.name)
    audio = encoder.config.get("audio_config") or {}
    wrong = [key for key, value in SIZES.get(name, {}).items() if audio.get(key) != value]
    if wrong:
        raise UserError(f"{encoder.name} is not {name}: its {wrong[0]} is {audio.get(wrong[0])}, not "
                        f"{SIZES[name][wrong[0]]}")  # fmt: skip
    return name or encoder.name


def distances(rows: list[dict], others: list[dict], model: str, clips: int) -> list[dict]:
    """Ours minus the published figure for each row, published entry of the very model, and metric that both have.

    prompt and clips: "the same", what is published where it is another, or None where that is not told.
    """
    found = []
    for row in rows:
        for other in others:
            prompt = other["prompt"] and ("the same" if other["prompt"] == row["prompt"] else other["prompt"])
            count = other["clips"] and ("the same" if other["clips"] == clips else other["clips"])
            found += [
                {"metric": metric, "ours": row[metric], "published": other[metric], "prompt": prompt, "clips": count,
                 "difference": row[metric] - other[metric], "our_prompt": row["prompt"], "our_clips": clips,
                 "model": model, "revision": other["revision"], "source": other["source"]}
                for metric in other
                if other["model"] == model and isinstance(other[metric], float) and metric in row
            ]  # fmt: skip
    return found


def sentences(found: list[dict], others: list[dict], model: str) -> list[str]:
    """What a report says of `distances`, one line each; why there is none; nothing where nothing is published."""
    if not others:
        return []
    if not found:
        whose = ", ".join(dict.fromkeys(f"`{other['model']}`" for other in others))
        return [f"No distance to the published figures: they are of {whose}, and what was measured is `{model}`."]
    return [_sentence(entry) for entry in found]


def _sentence(entry: dict) -> str:
    how = f"`{entry['our_prompt']}`"
    if entry["our_prompt"] == CAPTIONS:
        prompt = "captions as they are"
    elif entry["prompt"] == "the same":
        prompt = f"the same prompt {how}"
    else:
        prompt = f"**another prompt**, {how}" if entry["prompt"] else f"prompt {how}, theirs is not told"
    if entry["clips"] == "the same":
        clips = f"as many clips, {entry['our_clips']}"
    elif entry["clips"]:
        clips = f"**other clips**, {entry['our_clips']} of {entry['clips']}"
    else:
        clips = f"{entry['our_clips']} clips, theirs are not told"
    revision = f" (revision {entry['revision']})" if entry["revision"] else ""
    return (f"- {entry['metric']} {100 * entry['ours']:.1f}, {100 * entry['difference']:+.1f} from the published "
            f"{100 * entry['published']:.1f} of `{entry['model']}`{revision}: {prompt}; {clips}; {entry['source']}.")
