"""A model card for a projector: English and Chinese, with the metadata that ModelScope and Hugging Face read."""

from __future__ import annotations

import json
from pathlib import Path

from hyperbolic import SIMILARITIES
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.projector import checkpoints, exported
from hyperbolic_clap.results.files import Results

SHOWN = ("acc@1", "acc@5", "map", "map_samples")
METADATA = """---
license: {license}
language:
- en
base_model:
- {base_model}
base_model_relation: adapter
pipeline_tag: zero-shot-audio-classification
frameworks:
- pytorch
tasks:
- zero-shot-classification
domain:
- audio
tags:
- audio
- clap
- hyperbolic
- safetensors
metrics:
- accuracy
- mAP
{datasets}{index}---
"""
ENGLISH = """
# {name}

A small trained projector on top of the frozen CLAP model `{clap_model}`. It is one linear layer from its
{embed_dim}-dimensional embeddings of audio and text to {output_dim} dimensions.

- similarity: {geometry}, divided by {temperature:g}
- class texts: {prompts}
- epoch {epoch} of its training
- SHA-256 of the CLAP model's files: `{clap_sha256}`

## Use

With the Hyperbolic CLAP project:

    python test_clap_modelscope.py --parquet-dir DATA --checkpoint {clap_model} \\
        {flag}--projection-checkpoint THIS_FOLDER

`model.safetensors` holds the layer and the learned logit scale and bias, `config.json` everything else; the project's
`docs/sharing.md` loads both with torch and transformers alone.

## Results

"""
NO_RESULTS = "None were given when this card was written.\n"
MEASURED = """
Measured by the project's test script. A projector is supervised by the labels it was trained with, so these figures
are not zero-shot in the strict sense.
"""
CHINESE = """
## 中文说明

冻结的 CLAP 模型 `{clap_model}` 之上的一个可训练的小投影层：一个线性层，把音频和文本的 {embed_dim} 维嵌入映射到
{output_dim} 维。相似度：{geometry}，再除以 {temperature:g}。

用法：`--projection-checkpoint` 指向本文件夹，`--checkpoint` 为上述 CLAP 模型。`model.safetensors` 含线性层、
logit scale 与偏置，`config.json` 含其余全部参数。

"""
MEASURED_CHINESE = """
由本项目的测试脚本测得。训练时使用了标签，因此这些数字不是严格意义上的零样本结果。
"""


def require_own(content: dict, results: list[Results]) -> None:
    """UserError unless every results file is of this projector, or of the untrained cosine of the same CLAP model."""
    own = exported.sha256(content)
    for file in results:
        model = file.info["model"]
        if model.get("clap_sha256") != content["clap_sha256"]:
            other = model.get("clap_model")
            raise UserError(f"--results {file.path} is of another CLAP model ({other}) than the projector")
        tested = model.get("projection_checkpoint")
        if tested and model.get("projection_sha256") != own:
            raise UserError(
                f"--results {file.path} is of another projector ({tested}); test this one, or leave the file out"
            )


def earlier_results(folder: Path, content: dict) -> list[dict]:
    """The rows that an earlier export of this projector shows: the one in the folder, else the one that is exported.

    UserError if the folder holds rows that are of another projector, or of a version that kept them in the card alone.
    """
    if not (folder / exported.CONFIG).is_file():
        return content.get("results", [])
    earlier, readme = checkpoints.load(folder, "--output-dir"), folder / "README.md"
    shown = readme.is_file() and NO_RESULTS not in readme.read_text(encoding="utf-8", errors="replace")
    own = exported.sha256(earlier) == exported.sha256(content)
    if earlier.get("results", shown) and not (own and "results" in earlier):
        whose = "that only its card holds" if own else "of another projector"
        raise UserError(f"--output-dir {folder} holds results {whose}, which an export without --results would throw "
                        "away; give --results, or name a new folder")  # fmt: skip
    return earlier.get("results") or content.get("results", [])


def card(content: dict, name: str, clap_model: str, rows: list[dict], license: str, datasets: list[str]) -> str:
    """The text of README.md. clap_model: id or name of the base model. rows: results. datasets: ids for training."""
    prompts = ", ".join(f"`{prompt}`" for prompt in content["prompt"].split("\n"))
    facts = content | {"name": name, "clap_model": clap_model, "prompts": prompts}
    kind, ball = SIMILARITIES[content["similarity"]], {"c": content["c"], "curvature": -1 / content["c"]}
    english, chinese = kind.meaning.format(**ball), kind.meaning_zh.format(**ball)
    parts = [
        _metadata(name, clap_model, rows, license, datasets),
        ENGLISH.format(**facts | {"geometry": english, "flag": "--use-hyperbolic " if kind.curved else ""}),
        _table(rows, ("", "data", "clips", "classes"), ("CLAP's own cosine, untrained", "this projector")) + MEASURED
        if rows
        else NO_RESULTS,
        CHINESE.format(**facts | {"geometry": chinese}),
        _table(rows, ("", "数据", "片段", "类别"), ("CLAP 自身的余弦（未训练）", "本模型")) + MEASURED_CHINESE
        if rows
        else "写本卡片时没有给出结果。\n",
    ]
    return "".join(parts)


def row(file: Results) -> dict:
    """What the card shows of a results file: whose, on what, how many clips and classes, the metrics of SHOWN."""
    arguments = file.info.get("arguments")
    given = arguments.get("parquet_dir") if isinstance(arguments, dict) else None
    # The folder's name alone: where it lies on somebody's disk is nobody's business.
    data = Path(str(given or "").replace("\\", "/")).name or file.label
    metrics = {name: file.metrics[name] for name in SHOWN if file.metrics.get(name) is not None}
    trained = bool(file.info["model"].get("projection_checkpoint"))
    clips = int(file.metrics.get("valid_samples", file.valid.sum()))
    return {"trained": trained, "data": data, "clips": clips, "classes": len(file.names), "metrics": metrics}


def _metadata(name: str, clap_model: str, rows: list[dict], license: str, datasets: list[str]) -> str:
    quote = json.dumps  # a JSON string is a YAML string
    index = ""
    for row in rows:
        if not (row["trained"] and row["metrics"]):
            continue
        index = index or f"model-index:\n- name: {quote(name)}\n  results:\n"
        index += "  - task:\n      type: zero-shot-audio-classification\n    dataset:\n"
        index += f"      type: {quote(row['data'])}\n      name: {quote(row['data'])}\n    metrics:\n"
        for metric, value in row["metrics"].items():
            kind = "mAP" if metric.startswith("map") else "accuracy"
            index += f"    - type: {kind}\n      name: {quote(metric)}\n      value: {value:.4f}\n"
    listed = "".join(["datasets:\n", *(f"- {quote(dataset)}\n" for dataset in datasets)]) if datasets else ""
    return METADATA.format(license=quote(license), base_model=quote(clap_model), datasets=listed, index=index)


def _table(rows: list[dict], columns: tuple[str, ...], who: tuple[str, str]) -> str:
    lines = ["| " + " | ".join([*columns, *SHOWN]) + " |", "|---" * 2 + "|---:" * (len(columns) + len(SHOWN) - 2) + "|"]
    for row in rows:
        values = [f"{row['metrics'][name]:.4f}" if name in row["metrics"] else "" for name in SHOWN]
        cells = [who[row["trained"]], row["data"].replace("|", "\\|"), str(row["clips"]), str(row["classes"]), *values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
