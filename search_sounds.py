"""Find sounds by text or by a sound: the clips of a parquet folder that are nearest to a query.

    python search_sounds.py "glass breaking" "rain on a roof" --parquet-dir ./Datasets/AudioSet/eval

    python search_sounds.py Animal --like my_dog.wav --parquet-dir ./Datasets/AudioSet/eval --use-hyperbolic \\
        --projection-checkpoint ./checkpoints_hyperbolic --save-audio found

A text goes into the prompt as a class name does. A superclass of AudioSet's tree, such as Animal, is answered by
all the texts of its subtree (--no-branches: by its own). --like takes a sound file, or the id of a row. The search is
exact. Clips need no labels; clips that the embedding cache knows are not encoded again.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from functools import partial
from pathlib import Path

from hyperbolic_clap.plumbing.errors import RowError, UserError, log, warn
from hyperbolic_clap.plumbing.files import require_outputs, write_atomic, write_json
from hyperbolic_clap.plumbing.flags import (
    Parser,
    add_projector_flags,
    add_shared_flags,
    arguments,
    at_least,
    data_config,
    encoder_config,
    files_read,
    is_utf8,
    projector_config,
)
from hyperbolic_clap.plumbing.run import describe_run, run

MAX_QUERY = 1000  # characters; CLAP's text tower reads far fewer


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("query", nargs="*", help="texts to search by")
    add_shared_flags(parser)
    add_projector_flags(parser)
    add = parser.add_argument
    add("--like", action="append", default=[], metavar="FILE", help="a sound to search by, or the id of a row of "
        "--parquet-dir; several times")
    add("--num-samples", type=at_least(1), default=None, help="search among the first N usable clips (default: all)")
    add("--top-k", type=at_least(1), default=10, help="clips found for each query (default: 10)")
    add("--branches", action=argparse.BooleanOptionalAction, default=True,
        help="answer a superclass of AudioSet's tree by the texts of its subtree (default: on)")
    add("--output-json", type=Path, default=None, help="also write what was found as JSON")
    add("--save-audio", type=Path, default=None, metavar="DIR", help="also write the found clips as WAV files")
    return parser


def main(args: argparse.Namespace) -> None:
    check_queries(args)
    from hyperbolic_clap.embedding.pipeline import use_all
    from hyperbolic_clap.inference.search import nearest
    from hyperbolic_clap.projector.blocks import project
    from hyperbolic_clap.projector.opening import open_pipeline

    data, encoder, chosen = data_config(args), encoder_config(args), projector_config(args)
    model, pipeline = open_pipeline(data, encoder, chosen, labelled=False)
    projector = model.projector
    saved = args.save_audio and args.save_audio / "any"
    require_outputs([args.output_json, saved], [*files_read(args), *pipeline.folder.files, *map(Path, args.like)])
    if args.save_audio and pipeline.folder.given:
        raise UserError(f"--save-audio {args.save_audio} needs sound, and {args.parquet_dir} holds vectors")
    if projector.prototypes:
        warn(f"{args.projection_checkpoint} has prototypes, which search does not use: it compares with texts alone")
    require_ids(args, pipeline.folder)
    queries = {**text_queries(args, model), **sound_queries(args, model)}
    embedded = pipeline.embed_rows(use_all)
    assert embedded is not None  # one process is rank 0
    rows = embedded.rows
    if not len(rows):
        raise UserError(f"no row of {args.parquet_dir} can be used; the reasons stand above")
    queries |= {like: model.projector.audio(row_vector(args, embedded, like)) for like in ids_of(args)}
    if args.top_k > len(rows):
        warn(f"--top-k {args.top_k} is more than the {len(rows)} clips there are; all of them are listed")
    found = nearest(projector, project(projector, embedded.audio), list(queries.values()), args.top_k)
    report = [describe(query, rows, *best) for query, best in zip(queries, found, strict=True)]
    for entry in report:
        show(entry)
    if args.output_json:
        about = model.describe() | ({"prototypes": None} if projector.prototypes else {})
        info = describe_run(arguments(args), model.device, 1) | {"clips": embedded.counts}
        write_json(args.output_json, {"test_info": info, "model_info": about, "queries": report})
    if args.save_audio:
        save_audio(args.save_audio, report, pipeline.folder)


def check_queries(args: argparse.Namespace) -> None:
    """UserError for what cannot be searched by, before anything is loaded."""
    if not args.query and not args.like:
        raise UserError("nothing to search by; give one or more texts, or --like FILE")
    for text in args.query:
        if not text.strip():
            raise UserError("a query is empty; give a text such as 'glass breaking'")
        if not is_utf8(text):
            raise UserError(f"the query {text!r} is not UTF-8")
        if len(text) > MAX_QUERY:
            raise UserError(f"a query has {len(text)} characters; up to {MAX_QUERY} are accepted")


def text_queries(args: argparse.Namespace, model) -> dict:
    """{text: its (B, D) vectors}: one, or those of its subtree."""
    from hyperbolic_clap.metrics.ontology import audioset
    from hyperbolic_clap.metrics.superclasses import subtree_of

    tree = audioset()
    expands = args.branches and tree.find(model.classes.names)[0] is not None
    subtrees = {text: (subtree_of(text, tree) if expands else []) for text in args.query}
    for text, subtree in subtrees.items():
        if subtree:
            log.info("%s: a superclass, answered by the %d texts of its subtree", text, len(subtree))
    return {text: model.projector.text(model.embedder.texts_of(some or [text])) for text, some in subtrees.items()}


def sound_queries(args: argparse.Namespace, model) -> dict:
    """{path: its (1, D) vector} of --like that are files; UserError for a file that is no sound."""
    from hyperbolic_clap.embedding.files import embed_files, find_sounds

    given = [Path(like) for like in args.like if Path(like).is_file()]
    if not given:
        return {}
    files, audio, skipped = embed_files(list(find_sounds(given)), model.embedder.clap)
    for reason, entry in skipped.report().items():
        raise UserError(f"--like {entry['first'][0]} cannot be used: {reason}")
    return {str(path): model.projector.audio(vector[None]) for path, vector in zip(files, audio, strict=True)}


def ids_of(args: argparse.Namespace) -> list[str]:
    """What --like names that is no file: ids of rows."""
    return [like for like in args.like if not Path(like).is_file()]


def require_ids(args: argparse.Namespace, folder) -> None:
    """UserError for an id that no row of the folder has, before any work."""
    from data import UNREADABLE

    left = dict.fromkeys(ids_of(args))
    for span in folder.spans(0, folder.num_rows if left else 0):
        try:
            known = {*folder.columns(span).video_ids}
        except UNREADABLE:  # which is reported when the rows are read
            return
        left = {like: None for like in left if like not in known}
    for like in left:
        raise UserError(f"--like {like} is no file, and no row of {args.parquet_dir} has that id")


def row_vector(args: argparse.Namespace, embedded, like: str):
    """(1, D) embedding of the first row with an id; UserError if that cannot be used."""
    ids = embedded.rows.video_ids
    if like not in ids:
        raise UserError(f"--like {like} is a row of {args.parquet_dir} that cannot be used; the reasons stand above")
    return embedded.audio[ids.index(like)][None]


def describe(query: str, rows, positions, similarities) -> dict:
    """A query and what was found, for the JSON."""
    found = rows.take(positions)
    columns = zip(found.sample_ids.tolist(), found.video_ids, found.human_labels.to_pylist(), similarities, strict=True)
    return {
        "query": query,
        "results": [
            {"rank": rank, "similarity": float(value), "video_id": video, "sample_id": sample, "human_labels": labels}
            for rank, (sample, video, labels, value) in enumerate(columns, 1)
        ],
    }


def show(entry: dict) -> None:
    """What was found for a query, as a table on the terminal."""
    log.info("\n%s", entry["query"])
    log.info("rank  similarity  video_id     labels")
    for found in entry["results"]:
        labels = "; ".join(found["human_labels"])
        log.info("%4d  %10.4f  %-11s  %s", found["rank"], found["similarity"], found["video_id"], labels)


def save_audio(folder: Path, report: list[dict], source) -> None:
    """The found clips as 48 kHz mono WAV files, as the model hears them: FOLDER/<query>/<rank>_<video_id>.wav."""
    import soundfile

    from CLAP import SAMPLE_RATE
    from data import decode

    for number, entry in enumerate(report, 1):
        inside = folder / f"{number:02d}_{file_name(Path(entry['query']).name)}"
        inside.mkdir(parents=True, exist_ok=True)
        for found in entry["results"]:
            path = inside / f"{found['rank']:02d}_{file_name(found['video_id'])}.wav"
            try:
                for clip in source.rows(found["sample_id"], found["sample_id"] + 1):
                    sound = io.BytesIO()
                    soundfile.write(sound, decode(clip), SAMPLE_RATE, format="WAV")
                    write_atomic(path, partial(Path.write_bytes, data=sound.getvalue()))
            except RowError as error:  # known to the cache, but changed since
                warn(f"{found['video_id']} is not written: {error}")
        log.info("%s", inside)


def file_name(text: str) -> str:
    """A text as part of a file's name on any system."""
    encoding = sys.getfilesystemencoding()
    writable = text.encode(encoding, "replace").decode(encoding)  # what the locale lacks becomes a question mark
    return re.sub(r"[^\w.-]+", "_", writable)[:60].strip("._") or "query"


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
