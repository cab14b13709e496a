"""Compare result files side by side: the first is the baseline, the others are shown with their difference to it.

    python compare_results.py results_original.json results_hyperbolic.json

    python compare_results.py results_original.json results_cosine.json results_hyperbolic.json \\
        --markdown comparison.md --output-json comparison.json

    python compare_results.py results_original.json results_hyperbolic.json --report report.html

    python compare_results.py sweep/*.json --group-by seed --baseline cosine --csv comparison.csv

A difference comes with its 95 % interval, from a paired bootstrap over the clips, where both files evaluated the same
clips (the same video_id and true classes) against the same class list; otherwise it is marked unpaired. Metrics that
a file lacks are recomputed from its predictions where these suffice. Intervals for map, map_samples, auc and d_prime
need the similarities: run the test scripts with --save-scores FILE.safetensors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperbolic_clap.plumbing.config import CLASS_LABELS
from hyperbolic_clap.plumbing.errors import UserError, log
from hyperbolic_clap.plumbing.files import require_outputs, write_atomic, write_json
from hyperbolic_clap.plumbing.flags import Parser, add_taxonomy_flag, at_least
from hyperbolic_clap.plumbing.run import run


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("results", type=Path, nargs="+", help="two or more results JSON files, the baseline first")
    add("--baseline", default=None, metavar="NAME", help="the file that others are compared with, by its name in the "
        "table or its path; with --group-by by the name of a group or of a file in it (default: the first file)")
    add("--group-by", choices=["seed"], default=None, help="means and deviations over trainings that differ in their "
        "seed alone, with intervals over clips and seeds")
    add("--csv", type=Path, default=None, metavar="FILE", help="also write a row for each file: its settings, metrics, "
        "differences and intervals")
    add("--output-json", type=Path, default=None, help="also write the comparison as JSON")
    add("--markdown", default=None, metavar="FILE", help="also write it as Markdown (- for stdout, instead of text)")
    add("--report", type=Path, default=None, metavar="FILE", help="also write one page for a browser, with clips "
        "to listen to, the classes, the Poincare disk and the traversal to the root (.html)")
    add("--audio-clips", type=at_least(1), default=1000, help="clips of the report that can be played (default: 1000)")
    add("--no-audio", action="store_true", help="a report without sound")
    add("--seed", type=at_least(0), default=0, help="of the bootstrap (default: 0)")
    add("--resamples", type=at_least(100), default=10_000, help="of the bootstrap (default: 10000)")
    add("--classes", type=at_least(0), default=10, help="classes shown that gained and lost most (default: 10)")
    add("--min-clips", type=at_least(1), default=3, help="leave out classes with fewer clips there (default: 3)")
    add("--class-labels", type=Path, default=None, help="the class list of files that do not name theirs "
        "(default: the 527 AudioSet classes)")
    add_taxonomy_flag(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    if len(args.results) < 2:
        raise UserError("one result file cannot be compared; name two or more, the baseline first")
    markdown = Path(args.markdown) if args.markdown and args.markdown != "-" else None
    require_outputs((args.output_json, markdown, args.csv, args.report), [*args.results, args.taxonomy])
    from hyperbolic_clap.results.tables import render, write_csv

    paths = labelled(args.results)
    if args.baseline and not args.group_by:
        paths = baseline_first(paths, args.baseline)
    files, report = compare_files(args, paths)
    log.info(render(report, markdown=args.markdown == "-").rstrip())
    if args.output_json:
        write_json(args.output_json, report)
    if markdown:
        text = render(report, markdown=True).encode("utf-8", "backslashreplace")
        write_atomic(markdown, lambda temporary: temporary.write_bytes(text))
    if args.csv:
        write_csv(args.csv, report)
    if args.report:
        from hyperbolic_clap.reporting.page import write_report

        write_report(args.report, files, report, 0 if args.no_audio else args.audio_clips)
        log.info("report: %s", args.report)


def labelled(results: list[Path]) -> dict[str, Path]:
    """{label: path}: the files' names without what they share, or their paths where two names are alike."""
    labels = [path.stem.removeprefix("results_") for path in results]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in results]
    for label, path in zip(labels, results, strict=True):
        if labels.count(label) > 1:
            raise UserError(f"{path} is named twice; name each results file once")
    return dict(zip(labels, results, strict=True))


def baseline_first(paths: dict[str, Path], name: str) -> dict[str, Path]:
    """The files with the one of that label or path first; UserError if there is none."""
    for label, path in paths.items():
        if name in (label, str(path)):
            return {label: path} | paths
    raise UserError(f"--baseline {name} is none of the files; they are: {', '.join(paths)}")


def compare_files(args: argparse.Namespace, paths: dict[str, Path]) -> tuple[list, dict]:
    """Results files of classification, or of retrieval, and their comparison; UserError if they are of both."""
    from hyperbolic_clap.metrics.ontology import Ontology
    from hyperbolic_clap.results.compare import CompareConfig, compare
    from hyperbolic_clap.results.files import load, read
    from hyperbolic_clap.results.retrieval import compare_retrieval, is_retrieval, read_retrieval

    by_seed = args.group_by == "seed"
    config = CompareConfig(args.resamples, args.seed, args.classes, args.min_clips, by_seed, args.baseline)
    contents = {label: (path, load(path)) for label, path in paths.items()}
    kinds = {label: is_retrieval(content) for label, (_, content) in contents.items()}
    if len({*kinds.values()}) > 1:
        one, other = (next(label for label, kind in kinds.items() if kind is way) for way in (True, False))
        raise UserError(f"{one} holds results of retrieval and {other} of classification, which cannot be compared")
    if all(kinds.values()):
        retrievals = [read_retrieval(path, label, content) for label, (path, content) in contents.items()]
        return retrievals, compare_retrieval(retrievals, config)
    files = [read(path, label, args.class_labels, CLASS_LABELS) for label, (path, _) in contents.items()]
    if args.taxonomy:
        for file in files:
            file.taxonomy = Ontology.above(args.taxonomy, file.names)
    return files, compare(files, config)


if __name__ == "__main__":
    sys.exit(run(main, parser().parse_args()))
