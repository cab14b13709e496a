"""Every flag of every script and what it changes. A flag without its line here fails.

A line names the test that shows what the flag does, or it is a `Run`: the script runs without and with the flag, and
what the line says differs, or is there afterwards.
"""

import argparse
import importlib
import json
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from conftest import ROOT, here, script, tone, tone_rows, write_rows


class Run(NamedTuple):
    """given: what is added to the command. differs: dotted names in the JSON that must be others; there: new files."""

    given: tuple
    differs: tuple = ()
    there: tuple = ()


MODEL = {  # flags of scripts that embed sounds
    "--device": "test_scripts.py::test_without_cuda_a_visible_warning_and_the_cpu",
    "--checkpoint": "test_cache.py::test_another_model_or_preprocessing_misses",
    "--class-labels": "test_scripts.py::test_another_class_list",
    "--prompt": "test_prompts.py::test_training_and_testing_agree_on_the_prompt",
    "--prompt-file": "test_prompts.py::test_a_file_of_prompts",
    "--encode-batch-size": "test_batcher.py::test_memory_for_not_even_one_window_is_one_sentence",
    "--workers": "test_cache.py::test_the_number_of_workers_does_not_matter",
    "--no-autocast": "test_keys.py::test_device_and_precision_are_in_the_fingerprint",
    "--cache-dir": "test_cache.py::test_two_runs_share_a_cache",
    "--no-cache": "test_cache.py::test_cold_warm_and_without_cache_are_bit_equal",
    "--verify-cache": "test_known.py::test_a_lie_is_found_by_verifying",
}
SHARED = MODEL | {
    "--parquet-dir": "test_cache.py::test_changed_content_misses_and_renamed_files_hit",
    "--text-embeddings": "test_vectors.py::test_training_testing_and_search_give_the_same_bits",
    "--skip-bad-files": "test_scripts.py::test_skipped_files_are_in_the_log_and_the_json",
    "--audio-column": "test_columns.py::test_the_flags_reach_every_script_and_the_table_of_files",
    "--label-column": "test_columns.py::test_the_flags_reach_every_script_and_the_table_of_files",
    "--id-column": "test_columns.py::test_the_flags_reach_every_script_and_the_table_of_files",
}
NAMED = {"--classes": "test_tagging.py::test_plain_clap_tags_as_it_tests"}
TAXONOMY = {"--taxonomy": "test_report.py::test_a_taxonomy_takes_the_place_of_the_tree"}
PROJECTOR = {
    "--use-hyperbolic": "test_scripts.py::test_both_ways_to_hyperbolic_agree_and_repeat",
    "--projection-checkpoint": "test_scripts.py::test_both_ways_to_hyperbolic_agree_and_repeat",
    "--c": "test_scripts.py::test_contradicting_flags",
    "--temperature": "test_scripts.py::test_contradicting_flags",
    "--prototypes": "test_training_flags.py::test_prototypes_from_training_to_results",
}
SECOND = "test_second_training.py::test_equals_the_second_training"
TESTING = SHARED | PROJECTOR | NAMED | TAXONOMY | {
    "--class-labels": Run(("--class-labels", "{home}/four.json"), ("predictions",)),
    "--prompt": Run(("--prompt", "The noise of {label}"), ("model_info.prompt", "similarity_stats.mean")),
    "--prompt-file": Run(("--prompt-file", "{home}/prompts.txt"), ("model_info.prompt", "similarity_stats.mean")),
    "--num-samples": Run(("--num-samples", 3), ("predictions", "metrics.total_samples")),
    "--output-json": Run((), (), ("out.json",)),
    "--save-scores": Run(("--save-scores", "{home}/new.safetensors"), (), ("new.safetensors",)),
    "--top-k": Run(("--top-k", 1), ("predictions", "metrics.f1_micro")),
}  # fmt: skip
PICTURE = {
    "--output": "test_pictures.py::test_gains_show_the_comparison",
    "results": "test_pictures.py::test_gains_show_the_comparison",
    "--class-labels": "test_pictures.py::test_wrong_input_is_named_in_one_sentence",
}
COMPARED = TAXONOMY | {
    "results": "test_compare.py::test_same_clips_are_paired_and_repeatable",
    "--output-json": Run((), (), ("out.json",)),
    "--markdown": Run(("--markdown", "{home}/new.md"), (), ("new.md",)),
    "--report": "test_report.py::test_what_cannot_be_had_is_left_out_with_a_sentence",
    "--audio-clips": "test_report.py::test_what_cannot_be_had_is_left_out_with_a_sentence",
    "--no-audio": "test_report.py::test_what_cannot_be_had_is_left_out_with_a_sentence",
    "--seed": Run(("--seed", 1), ("seed", "tables")),
    "--resamples": Run(("--resamples", 101), ("resamples", "tables")),
    "--classes": "test_compare.py::test_classes_that_changed_are_listed_with_their_clips",
    "--min-clips": Run(("--min-clips", 1), ("classes",)),
    "--class-labels": "test_compare.py::test_a_file_of_another_program_is_recomputed_where_it_can_be",
    "--group-by": "test_compare_many.py::test_means_over_seeds_by_hand",
    "--baseline": "test_compare_many.py::test_another_baseline_comes_first",
    "--csv": "test_compare_many.py::test_a_row_for_each_file_as_csv",
}
FLAGS = {
    "train_hyperbolic_clap.py": SHARED | dict.fromkeys(
        "--epochs --batch-size --learning-rate --c --temperature --train-ratio --seed --text --loss --similarity "
        "--output-dim --audio-radius --logit-scale --text-radius --lr-schedule --average-with-start --prototypes "
        "--learn-c".split(), SECOND
    ) | {
        "--num-samples": "test_retrieval_captions.py::test_num_samples_counts_clips_with_captions",
        "--output-dir": "test_scripts.py::test_an_earlier_run_is_kept_aside",
        "--select-by": "test_selection.py::test_select_by_names_the_best_epoch_and_changes_no_weights",
        "--keep": "test_selection.py::test_keep_best_leaves_the_best_and_the_last_and_resumes",
        "--patience": "test_training_flags.py::test_patience_stops_and_a_resumed_run_stays_stopped",
        "--split-by": "test_training_flags.py::test_a_split_by_a_column_keeps_each_value_on_one_side",
        "--resume": "test_scripts.py::test_resume_ends_with_the_same_weights",
        "--log-to": "test_tracking.py::test_tensorboard_holds_every_figure",
    },
    "sweep.py": SHARED | dict.fromkeys(
        "--epochs --batch-size --learning-rate --c --temperature --train-ratio --seed --text --loss --similarity "
        "--output-dim --audio-radius --logit-scale --text-radius --lr-schedule --average-with-start --prototypes "
        "--learn-c --patience --split-by --select-by".split(), "test_sweep.py::test_every_setting_travels"
    ) | {
        "--num-samples": "test_sweep.py::test_limits_and_kept_checkpoints",
        "--eval-dir": "test_sweep.py::test_one_folder_named_twice_and_two_of_one_name",
        "--eval-num-samples": "test_sweep.py::test_limits_and_kept_checkpoints",
        "--top-k": "test_sweep.py::test_limits_and_kept_checkpoints",
        "--output-dir": "test_sweep.py::test_a_setting_without_effect_runs_once_and_each_run_has_a_row",
        "--keep": "test_sweep.py::test_limits_and_kept_checkpoints",
        "--jobs": "test_sweep.py::test_two_jobs_make_the_same_bits",
        "--baseline": "test_sweep.py::test_the_table_has_means_deviations_and_intervals",
        "--choose-by": "test_sweep.py::test_choose_by_tests_only_the_best_setting_of_each_similarity",
        "--choose-each": "test_sweep.py::test_finalists_of_a_file_of_settings_are_trained_with_all_seeds",
        "--finalists": "test_sweep.py::test_finalists_of_a_file_of_settings_are_trained_with_all_seeds",
        "--settings": "test_sweep.py::test_finalists_of_a_file_of_settings_are_trained_with_all_seeds",
        "--skip-bad": "test_sweep.py::test_contradicting_runs_are_named_before_any_work",
        "--resamples": "test_sweep.py::test_limits_and_kept_checkpoints",
    },
    "test_clap_modelscope.py": TESTING,
    "test_hyperbolic_clap_modelscope.py": {n: v for n, v in (SHARED | PROJECTOR | NAMED | TAXONOMY | {
        "--num-samples": "test_scripts.py::test_num_samples_takes_the_first_usable_clips",
        "--output-json": "test_scripts.py::test_results_json",
        "--save-scores": "test_training_flags.py::test_prototypes_from_training_to_results",
        "--top-k": "test_scripts.py::test_results_json",
    }).items() if n != "--use-hyperbolic"},
    "test_retrieval.py": SHARED | PROJECTOR | {
        "--num-samples": "test_retrieval_captions.py::test_num_samples_counts_clips_with_captions",
        "--output-json": "test_retrieval_captions.py::test_from_training_to_a_comparison",
    },
    "compare_results.py": COMPARED,
    "plot_results.py losses": {"--setup": "test_pictures.py::test_losses_show_the_numbers_of_setup_json",
                               "--output": "test_pictures.py::test_losses_show_the_numbers_of_setup_json"},
    "plot_results.py disk": SHARED | {
        "--taxonomy": "test_report.py::test_the_tree_as_a_picture",
        "--layout": "test_report.py::test_the_tree_as_a_picture",
    } | dict.fromkeys(
        ("--projection-checkpoint", "--num-samples", "--output"),
        "test_pictures.py::test_the_disk_shows_what_was_fitted",
    ),
    "plot_results.py gains": PICTURE | {
        "--classes": "test_pictures.py::test_gains_show_the_comparison",
        "--min-clips": "test_results_laws.py::test_classes_with_as_many_clips_as_asked_for_are_compared",
    },
    "plot_results.py similarities": PICTURE | {"results": "test_pictures.py::test_similarities_show_every_pair_once"},
    "plot_results.py reliability": PICTURE | {
        "results": "test_pictures.py::test_reliability_shows_the_figures_of_the_results_files",
    },
    "embed_sounds.py": SHARED | dict.fromkeys(
        ("--output-dir", "--float16", "--taxonomy"), "test_vectors.py::test_float16_a_taxonomy_and_vectors_written_anew"
    ),
    "search_sounds.py": SHARED | PROJECTOR | {
        "query": Run(("a bell",), ("queries",)),
        "--like": Run(("--like", "{home}/a.wav"), ("queries",)),
        "--num-samples": Run(("--num-samples", 2), ("queries",)),
        "--top-k": Run(("--top-k", 1), ("queries",)),
        "--branches": "test_search.py::test_a_branch_can_be_left_out",
        "--output-json": Run((), (), ("out.json",)),
        "--save-audio": Run(("--save-audio", "{home}/found"), (), ("found",)),
    },
    "tag_sounds.py": MODEL | PROJECTOR | NAMED | {
        "sounds": Run(("{home}/b.wav",), ("files",)),
        "--top-k": Run(("--top-k", 1), ("files",)),
        "--branches": "test_tagging.py::test_tags_of_a_folder",
        "--output-json": Run((), (), ("out.json",)),
        "--timeline": Run(("--timeline", "--output-dir", "{home}/lines"), ("files",), ("lines/a.csv",)),
        "--output-dir": Run(("--timeline", "--output-dir", "{home}/lines"), (), ("lines/a.txt",)),
        "--window": Run(("--timeline", "--output-dir", "{home}/lines", "--threshold", 1e-5, "--window", 1.5),
                        ("than --timeline --threshold 1e-5",)),
        "--hop": Run(("--timeline", "--output-dir", "{home}/lines", "--threshold", 1e-5, "--hop", 0.5),
                     ("than --timeline --threshold 1e-5",)),
        "--threshold": Run(("--timeline", "--output-dir", "{home}/lines", "--threshold", 0.9999),
                           ("than --timeline --threshold 1e-5",)),
        "--background": "test_tagging.py::test_bad_input",
        "--no-gate": "test_tagging.py::test_silence_a_second_and_an_hour_of_noise",
        "--min-duration": "test_tagging.py::test_labels_by_hand",
    },
    "export_projector.py": {
        "checkpoint": "test_sharing.py::test_the_folder_gives_the_same_bits",
        "--output-dir": "test_sharing.py::test_the_folder_gives_the_same_bits",
        "--results": "test_sharing.py::test_the_card",
        "--name": Run(("--name", "A Name"), ("card",)),
        "--base-model": Run(("--base-model", "somebody/clap"), ("card",)),
        "--license": Run(("--license", "cc0-1.0"), ("card",)),
        "--dataset": Run(("--dataset", "x/y"), ("card",)),
        "--push": "test_sharing.py::test_push_uploads_only_when_asked",
    },
}  # fmt: skip


def parsers():
    """{script, with its sub-command: parser}."""
    found = {}
    for path in sorted(ROOT.glob("*.py")):
        source = path.read_text()
        if "parser" not in source or "__main__" not in source:
            continue
        module = importlib.import_module(path.stem)
        doc = {"doc": module.__doc__, "always_hyperbolic": True} if path.stem.startswith("test_hyper") else {}
        parser = module.parser(**doc)
        subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        choices = {f"{path.name} {name}": sub for name, sub in subs[0].choices.items()} if subs else {path.name: parser}
        found |= choices
    return found


def test_every_flag_has_its_line():
    for name, parser in parsers().items():
        flags = {a.option_strings[0] if a.option_strings else a.dest for a in parser._actions} - {"-h"}
        assert flags == FLAGS[name].keys(), f"{name}: {flags ^ FLAGS[name].keys()}"
    assert FLAGS.keys() == parsers().keys()


def test_every_named_test_is_there():
    for flags in FLAGS.values():
        for flag, line in flags.items():
            if isinstance(line, str):
                file, _, test = line.partition("::")
                assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{flag}: {line}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Tones of three classes, a trained projector, two results and two sound files."""
    home = tmp_path_factory.mktemp("flags")
    names = ["Sine wave", "Chirp tone", "Music", "Bell"]
    rows = tone_rows(9, names)
    for row in rows[::2]:
        row["human_labels"].append("Bell")
    write_rows(home / "data", rows)
    for name, count in (("three", 3), ("four", 4)):
        (home / f"{name}.json").write_text(json.dumps({label: i for i, label in enumerate(names[:count])}))
    (home / "prompts.txt").write_text("a {label}\n\nsome {label}\n")
    for name, pitch in (("a", 300), ("b", 900)):
        sound = np.concatenate([tone(pitch, 2.0), tone(pitch * 4, 2.0) * np.linspace(0, 1, 32_000)])
        soundfile.write(home / f"{name}.wav", sound, 16_000)
    script("train_hyperbolic_clap.py", "--parquet-dir", home / "data", *shared(home), "--epochs", 1,
           "--output-dir", home / "run")  # fmt: skip
    for name, flags in (("a", ()), ("b", ("--use-hyperbolic", "--projection-checkpoint", home / "run" / BEST))):
        script("test_clap_modelscope.py", "--parquet-dir", home / "data", "--class-labels", home / "three.json",
               "--cache-dir", home / "cache", *flags, "--output-json", home / f"{name}.json", "--save-scores",
               home / f"{name}.safetensors")  # fmt: skip
    return home


BEST = "best_projection_epoch_1.pth"


def shared(home):
    return "--class-labels", home / "three.json", "--cache-dir", home / "cache"


def base(name, home):
    """What a script is given in any case."""
    trained = ("--use-hyperbolic", "--projection-checkpoint", home / "run" / BEST)
    return {
        "test_clap_modelscope.py": ("--parquet-dir", home / "data", *shared(home)),
        "compare_results.py": (home / "a.json", home / "b.json", "--resamples", 100),
        "search_sounds.py": ("music", "--parquet-dir", home / "data", *shared(home)),
        "tag_sounds.py": (home / "a.wav", *shared(home), *trained),
        "export_projector.py": (home / "run" / BEST,),
    }[name]


KEPT = {}  # what a command without further flags gives


def found(name, home, *flags):
    """The JSON of a run; of an export its card."""
    first = [flag for flag in flags[:1] if not str(flag).startswith("--")]  # beside what else stands without a flag
    flags = flags[len(first) :]
    if name == "export_projector.py":
        here(name, *first, *base(name, home), "--output-dir", home / "exported", *flags)
        return {"card": (home / "exported" / "README.md").read_text()}
    (home / "out.json").unlink(missing_ok=True)
    run = here if name == "compare_results.py" else script
    run(name, *first, *base(name, home), *flags, "--output-json", home / "out.json")
    return json.loads((home / "out.json").read_text())


RUNS = [(name, flag) for name, flags in FLAGS.items() for flag, line in flags.items() if isinstance(line, Run)]


@pytest.mark.parametrize(("name", "flag"), RUNS)
def test_the_flag_changes_what_it_says(name, flag, home):
    given, differs, there = FLAGS[name][flag]
    given = [str(part).replace("{home}", str(home)) for part in given]
    other = ()
    if differs and differs[0].startswith("than "):
        other, differs = (*differs[0].split()[1:], "--output-dir", home / "lines"), ("files",)
    if (name, other) not in KEPT:
        KEPT[name, other] = found(name, home, *other)
    for path in there:
        assert path == "out.json" or not (home / path).exists() or path.startswith("lines")
    before, after = KEPT[name, other], found(name, home, *given)
    for place in differs:
        one, two = before, after
        for part in place.split("."):
            one, two = one[part], two[part]
        assert one != two, place
    for path in there:
        assert (home / path).exists()
    if flag == "--top-k" and name == "test_clap_modelscope.py":
        assert {len(entry["top_k_predictions"]) for entry in after["predictions"]} == {1}
    if flag == "--num-samples" and name == "test_clap_modelscope.py":
        assert len(after["predictions"]) == 3
