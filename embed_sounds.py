"""Embed the clips of a parquet folder once, and write a folder with vectors in the place of the audio.

    python embed_sounds.py --parquet-dir ./Datasets/AudioSet/train_balanced --output-dir vectors/train_balanced

    python train_hyperbolic_clap.py --parquet-dir vectors/train_balanced

    python train_hyperbolic_clap.py --parquet-dir vectors/train_balanced \\
        --text-embeddings vectors/train_balanced/text_embeddings.safetensors

The folder stands for the clips in every script but where sound is played, and gives the same results to the last bit
(without --float16). The last command needs no CLAP model. A file is written for each file that is read, with all
columns but the audio, and: embedding, content_sha256 (of the clip), skip_reason (why a clip has no embedding). Its
metadata names the model. text_embeddings.safetensors holds the vectors of the class list in the prompts, and of the
superclasses of its tree. torchrun shares the clips over processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.files import require_writable
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_shared_flags,
    add_taxonomy_flag,
    data_config,
    encoder_config,
)
from hyperbolic_clap.plumbing.run import run


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_shared_flags(parser)
    add_taxonomy_flag(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="the folder to write")
    parser.add_argument("--float16", action="store_true", help="write vectors in half the bytes, rounded to float16")
    parser.set_defaults(num_samples=None)
    return parser


def main(args: argparse.Namespace) -> None:
    from hyperbolic_clap.embedding.pipeline import use_all
    from hyperbolic_clap.embedding.vector_folder import TEXTS, require_free, write_folder, write_texts
    from hyperbolic_clap.plumbing.config import ProjectorConfig
    from hyperbolic_clap.plumbing.ranks import open_ranks
    from hyperbolic_clap.projector.opening import open_pipeline

    ranks = open_ranks()
    model, pipeline = open_pipeline(data_config(args), encoder_config(args), ProjectorConfig(), False, ranks)
    names = texts(args.taxonomy, model)
    if not ranks.rank:
        require_free(args.output_dir, pipeline)
        require_writable(args.output_dir / TEXTS)
    embedded = pipeline.embed_rows(use_all)
    if embedded is None:  # a rank above 0, whose vectors rank 0 has now
        return ranks.close()
    if not len(embedded.rows):
        raise UserError(f"no row of {args.parquet_dir} can be used; the reasons stand above")
    write_texts(args.output_dir, pipeline, names, len(model.classes))
    write_folder(args.output_dir, pipeline, embedded, args.float16)
    ranks.close()
    log.info("%d clips and %d texts of %d dimensions: %s", len(embedded.rows), len(names), embedded.audio.shape[1],
             args.output_dir)  # fmt: skip


def texts(taxonomy: Path | None, model) -> list[str]:
    """The class list, and the superclasses of its tree if it has one."""
    from hyperbolic_clap.embedding.given import GivenVectors
    from hyperbolic_clap.metrics.ontology import Ontology, audioset

    names = model.classes.names
    tree = Ontology.above(taxonomy, names) if taxonomy else audioset()
    nodes, _ = tree.find(names)
    above = [] if nodes is None else [name for i, name in enumerate(tree.names) if i and i not in nodes]
    of_file = model.embedder.texts if isinstance(model.embedder, GivenVectors) else None
    return [*names, *(name for name in above if not of_file or not of_file.missing([name]))]


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
