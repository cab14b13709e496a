"""A trained projector as a folder to share: safetensors, config.json, a model card; nothing else of the training.

    python export_projector.py checkpoints_hyperbolic --output-dir my_head \\
        --results results_original.json results_hyperbolic.json

    python export_projector.py checkpoints_hyperbolic --output-dir my_head \\
        --dataset agkphysics/AudioSet --push OWNER/NAME

Wherever a script takes --projection-checkpoint FILE.pth it also takes such a folder, or its id on ModelScope, and gives
the same results to the last bit.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError, first_line, log, warn
from hyperbolic_clap.plumbing.files import write_atomic
from hyperbolic_clap.plumbing.flags import Parser
from hyperbolic_clap.plumbing.run import run


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a .pth file of train_hyperbolic_clap.py, its output folder, or an "
        "earlier export")
    add("--output-dir", type=Path, required=True, help="the folder to write")
    add("--results", type=Path, nargs="+", default=[], help="results JSON files of this projector, and of plain "
        "cosine to compare, for the card (default: those of an earlier export of it)")
    add("--name", default=None, help="title of the card (default: the name of --output-dir)")
    add("--base-model", default=None, help="id of the CLAP model (default: as the checkpoint names it)")
    add("--license", default="mit", help="of the projector, for the card (default: mit)")
    add("--dataset", nargs="+", default=[], help="ids of the training data, for the card")
    add("--push", default=None, metavar="OWNER/NAME", help="upload to ModelScope with the login of its own client")
    return parser


def main(args: argparse.Namespace) -> None:
    from hyperbolic_clap.projector import checkpoints, exported
    from hyperbolic_clap.reporting import card
    from hyperbolic_clap.results import files
    from hyperbolic_clap.results.retrieval import is_retrieval

    if args.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", args.push):
        raise UserError(f"--push {args.push} is no ModelScope id of the form OWNER/NAME")
    content = checkpoints.load(args.checkpoint, "the checkpoint")
    for path in args.results:
        if is_retrieval(files.load(path)):
            raise UserError(f"--results {path} holds results of retrieval; the card shows those of classification")
    results = [files.read(path, path.stem, None, CLASS_LABELS) for path in args.results]
    card.require_own(content, results)
    if not exported.is_free(args.output_dir):
        raise UserError(f"--output-dir {args.output_dir} holds other files than an earlier export; name a new or an "
                        "empty folder")  # fmt: skip
    rows = list(map(card.row, results)) or card.earlier_results(args.output_dir, content)
    if not results:
        tell_kept(rows)
    clap_model = base_model(content["clap_model"], args.base_model)
    older = {"training": checkpoints.training(content)}  # of a checkpoint without this field
    exported.write(args.output_dir, older | content | {"results": rows}, clap_model)
    name = args.name or args.output_dir.resolve().name
    text = card.card(content, name, clap_model, rows, args.license, args.dataset)
    readme = text.encode("utf-8", "replace")  # a name from the command line may be no UTF-8
    write_atomic(args.output_dir / "README.md", lambda temporary: temporary.write_bytes(readme))
    log.info("exported: %s", args.output_dir)
    if args.push:
        push(args.output_dir, args.push)


def tell_kept(rows: list[dict]) -> None:
    """What the card shows where no --results were given: those of an earlier export, or none."""
    if not rows:
        warn("no --results were given, so the card says that there are none")
        return
    who = ("untrained", "the projector")
    kept = "; ".join(f"{who[row['trained']]} on {row['data']}, {row['clips']} clips" for row in rows)
    log.info("no --results were given, so those of the earlier export are kept: %s", kept)


def base_model(trained_on: str, given: str | None) -> str:
    """The id of the CLAP model, or of a local folder the last part of its path alone."""
    if given or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", trained_on):
        return given or trained_on
    name = trained_on.replace("\\", "/").rstrip("/").rpartition("/")[2]
    warn(f"the checkpoint was trained on the local folder {trained_on}; give its id with --base-model, so that others "
         f"find the model (the card says {name})")  # fmt: skip
    return name


def push(folder: Path, name: str) -> None:
    """Upload the folder as a model; UserError in one sentence without network, login or permission."""
    from modelscope.hub.api import HubApi

    log.info("uploading to ModelScope: %s", name)
    try:
        api = HubApi()
        api.create_repo(name, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="A projector of Hyperbolic CLAP")
    except Exception as error:  # its client raises errors of many libraries
        raise UserError(
            f"--push {name}: ModelScope did not take the upload ({first_line(error)[:200]}); the folder {folder} is "
            "whole, and `modelscope login` gives its client a login"
        ) from None
    log.info("uploaded: https://modelscope.cn/models/%s", name)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
