"""Mistakes that people make, put into the code one at a time: each must be noticed by the tests named beside it.

    python tests/mutants.py [--room training] [--jobs 2] [--anew]      the list below
    python tests/mutants.py --tool 12 [--room training]               12 of each room that cosmic-ray makes

cosmic-ray turns every operator and number, but does not swap training clips for validation clips; the list does. Each
mutant is an edit that must apply, in a copy of the tree, and its tests run until the first fails. What was found is
kept in .mutants/found.json for as long as neither the edited file nor the tests change, so a run can be broken off.
It ends with a table by room, and with exit code 1 if a mutant of the list survives that is not known to change nothing,
or more than a tenth of a room of the tool's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".mutants" / "found.json"
SECONDS = 300  # of a core that the tests of one mutant may take; what loops for ever is noticed too


class Mutant(NamedTuple):
    """An edit of a file. tests: files or tests that must notice it. changes_nothing: why nothing can, '' else."""

    room: str
    file: str
    old: str
    new: str
    tests: str
    changes_nothing: str = ""


H = "hyperbolic_clap"
SECOND, GEOMETRY, TRAINING = "test_second_training.py", "test_geometry.py", "test_training.py"
LAWS, KEYS, GUARDS, FLAGS = "test_results_laws.py", "test_keys.py", "test_guards.py", "test_training_flags.py"
CHOICES, COUNTING = "test_training_laws.py", "test_counting_laws.py"
MUTANTS = [Mutant(*line) for line in (
    # Geometry
    ("hyperbolic", "hyperbolic.py", "edge, radius = c * 2**-52", "edge, radius = 2**-52 * c / c", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "ratio.clamp(max=1 - 2**-53)", "ratio.clamp(max=1 - 2**-50)", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "near[k : k + PAIRS]", "near[k : k + PAIRS - 1]", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "NEAR = 1e-6", "NEAR = 1e-30", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "result = 2 * radius * (radius", "result = 2 * (radius", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "room = (c - a.square()", "room = (1 - a.square()", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "return length, length * 2 / radius", "return length, length / radius", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "return length, length * 2 / radius", "return length, length * 2 / radius**2",
     GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "return -tangent_pairwise_distance(u, v, c) / temperature",
     "return -tangent_pairwise_distance(u, v, c) * temperature", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "twist, near = turn - bend, None", "twist, near = turn + bend, None", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "along = (step * unit)", "along = 2 * (step * unit)", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "/ (2 * radius)).to(c.device)", "/ radius).to(c.device)", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "torch.finfo(dtype).max).clamp(min=1)", "torch.finfo(dtype).max).clamp(max=1)",
     GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "near, log, span = a + b <= 600", "near, log, span = a + b <= 1600", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "LIMIT = 1 / 0.07, 100.0", "LIMIT = 1 / 0.07, math.exp(100.0)", SECOND),
    ("hyperbolic", "hyperbolic.py", "return loss / len(logits)", "return loss / logits.numel()", SECOND),
    ("hyperbolic", "hyperbolic.py", "by_text.sum() / present.sum()", "by_text.sum() / len(present)", SECOND),
    ("hyperbolic", "hyperbolic.py", "weights / weights.sum(1, keepdim=True)", "weights", SECOND),
    ("hyperbolic", "hyperbolic.py", "self.bias.copy_(rate.logit() - ", "self.bias.copy_(rate.logit() + ", SECOND),
    ("hyperbolic", "hyperbolic.py", "return self.audio_radius * projected", "return projected", SECOND),
    # Training
    ("training", f"{H}/training/calibration.py", "trainer.validation[:CLIPS]", "trainer.train[:CLIPS]", SECOND),
    ("training", f"{H}/training/fit.py", "clips.audio[train], clips.targets[train]", "clips.audio, clips.targets",
     SECOND),
    ("training", f"{H}/training/trainer.py", "* 1_000_003 + epoch", "* 1_000_003", SECOND),
    ("training", f"{H}/training/trainer.py", "            self.logit_scale.limit()\n", "", SECOND),
    ("training", f"{H}/training/trainer.py", "total += loss.detach() * len(rows)",
     "total += loss.detach() * self.config.batch_size", SECOND),
    ("training", f"{H}/training/trainer.py",
     'self.config.batch_size if self.config.loss == "contrastive" else VALIDATION_ROWS', "VALIDATION_ROWS", SECOND),
    ("training", f"{H}/training/trainer.py", "targets) * len(rows)", "targets)", SECOND),
    ("training", f"{H}/training/trainer.py", "2 * text.norm(dim=1)", "text.norm(dim=1)", f"{SECOND} {TRAINING}"),
    ("training", f"{H}/training/trainer.py", "2 * math.sqrt(float(projector.c))", "2 * float(projector.c)", SECOND),
    ("training", f"{H}/training/trainer.py", "temperature=config.temperature,", "", SECOND),
    ("training", f"{H}/training/trainer.py", "            c=config.c,\n", "", SECOND),
    ("training", f"{H}/training/trainer.py", "audio_radius=config.audio_radius,\n            learn", "learn", SECOND),
    ("training", f"{H}/training/trainer.py", "(epoch - 1 + (step - 1) / len(batches))", "(epoch + step / len(batches))",
     SECOND),
    ("training", f"{H}/training/trainer.py", "torch.lerp(*both, share)", "torch.lerp(*both, 1 - share)", SECOND),
    ("training", f"{H}/training/trainer.py", "max(config.learning_rate, SCALE_LEARNING_RATE)", "config.learning_rate",
     SECOND),
    ("training", f"{H}/training/trainer.py", "self._restore_rates()  #", "self._set_rates(1)  #", FLAGS),
    ("training", f"{H}/training/trainer.py", "for i, chosen in enumerate((targets, ~targets))",
     "for i, chosen in enumerate((~targets, targets))", SECOND),
    ("training", f"{H}/training/adam.py", '"betas": (0.9, 0.999)', '"betas": (0.9, 0.99)', SECOND),
    ("training", f"{H}/training/adam.py", '"eps": 1e-8', '"eps": 1e-4', SECOND),
    ("training", f"{H}/training/run_folder.py", "self._order(figures) >= self._order(self.best)",
     "self._order(figures) > self._order(self.best)", SECOND),
    ("training", f"{H}/training/run_folder.py", "return -(chosen if", "return (chosen if", SECOND),
    ("training", f"{H}/training/run_folder.py", '- self.best["epoch"] >= patience', '- self.best["epoch"] > patience',
     FLAGS),
    ("training", f"{H}/training/split.py", "taken - sizes[order] / 2 <=", "taken <=", SECOND),
    ("training", f"{H}/training/split.py", "manual_seed(seed)", "manual_seed(42)", SECOND),
    ("training", f"{H}/training/split.py", "digest.update(part.contiguous().cpu().numpy())",
     "digest.update(part.contiguous().cpu().numpy()[:1])", KEYS),
    ("training", f"{H}/training/caption_trainer.py", "return self.config.batch_size", "return 1024", SECOND),
    ("training", f"{H}/metrics/calibration.py", "(positive + 1) / (positive + 2), 1 / (negative + 2)", "1, 0", SECOND),
    # Projector
    ("projector", f"{H}/projector/prototypes.py", "targets[:, has].double().T @ directions",
     "targets[:, has].double().T @ audio.double() ** 2", SECOND),
    ("projector", f"{H}/projector/prototypes.py", "directions = torch.nn.functional.normalize(audio.double(), dim=1)",
     "directions = audio.double() * torch.arange(1, 1 + len(audio))[:, None]", SECOND),
    ("projector", f"{H}/projector/prototypes.py", "content[WEIGHT] * cosine", "cosine", FLAGS),
    ("projector", f"{H}/projector/projector.py", 'self.calibration["slope"] * logits +', "logits +",
     CHOICES),
    ("projector", f"{H}/projector/checkpoints.py", 'content["base_c"],\n', "1.0,\n", CHOICES),
    ("projector", f"{H}/projector/checkpoints.py", 'content["audio_radius"],\n    )', "0.5,\n    )", CHOICES),
    # Metrics
    ("metrics", f"{H}/metrics/classification.py", "if not np.isfinite(scores).all():", "if np.isnan(scores).any():",
     LAWS),
    ("metrics", f"{H}/metrics/weighted.py", "np.flatnonzero(targets.any(axis=0))",
     "np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))", LAWS),
    ("metrics", f"{H}/metrics/bootstrap.py", "return min(resamples, FEWER, ", "return max(resamples, FEWER, ", LAWS),
    ("metrics", f"{H}/metrics/bootstrap.py", "default_rng(seed)", "default_rng(0)", LAWS),
    ("metrics", f"{H}/metrics/bootstrap.py", "[2.5, 97.5]", "[5, 95]", LAWS),
    ("metrics", f"{H}/metrics/retrieval.py", "np.floor((total - 1) / 2), np.ceil((total - 1) / 2)",
     "np.floor(total / 2), np.floor(total / 2)", LAWS),
    ("metrics", f"{H}/metrics/retrieval.py", "(self.rank <= k)", "(self.rank < k)", LAWS),
    ("metrics", f"{H}/metrics/retrieval.py", "(before < item[:, None])", "(before <= item[:, None])",
     "test_retrieval_captions.py"),
    ("metrics", f"{H}/metrics/classification.py", "np.where(first <= k, 1 / first, 0)", "1 / first", LAWS),
    ("metrics", f"{H}/metrics/weighted.py", "where=b > 0", "where=b > 1", LAWS),
    ("metrics", f"{H}/metrics/weighted.py", "share.sum(axis=1) / classes", "share.mean(axis=1)",
     "test_evaluation.py"),
    ("metrics", f"{H}/metrics/calibration.py", "np.minimum((probabilities * BINS)", "np.maximum((probabilities * BINS)",
     "test_tagging.py test_pictures.py test_grounds.py"),
    # Results
    ("results", f"{H}/results/retrieval.py", "for key in base.keys if key in place]",
     "for key in place if key in base.keys]", LAWS),
    ("results", f"{H}/results/retrieval.py", "if not clips or len(set(keys)) < len(keys):", "if not clips:", LAWS),
    ("results", f"{H}/results/retrieval.py", "config.resamples, config.seed, width",
     "config.resamples, 0, width", LAWS),
    ("results", f"{H}/results/compare.py", "measures.resample(config.resamples, config.seed, done)",
     "measures.resample(config.resamples, 0, done)", LAWS),
    ("results", f"{H}/results/measures.py", "if a.keys[i][0]]  #", "]  #", LAWS),
    ("results", f"{H}/results/measures.py", "if times[1][key] == 1}", "}", "test_compare.py"),
    ("results", f"{H}/results/measures.py", "b[name][:count] - a[name][:count]",
     "b[name][:count] - a[name][:count][::-1]", LAWS),
    ("results", f"{H}/results/compare.py", "counts >= config.min_clips", "counts > config.min_clips", LAWS),
    ("results", f"{H}/results/compare.py", "intervals.append(change if pair.whole else None)",
     "intervals.append(change)", LAWS),
    # Store
    ("store", f"{H}/embedding/store.py", "            self.last_write = time.monotonic()\n            if",
     "            if", GUARDS),
    ("store", f"{H}/embedding/store.py", "np.empty((len(keys), dim), np.float32), np.zeros(len(keys), bool)",
     "np.zeros((len(keys), dim), np.float32), np.ones(len(keys), bool)", "test_cache.py"),
    ("store", f"{H}/embedding/row_index.py", "(part.state == number) & ~part.transient", "part.state == number",
     GUARDS),
    ("store", f"{H}/embedding/row_index.py", 'if stat_token(span.file)["token"] == part.seen["token"]:', "if True:",
     GUARDS),
    ("store", f"{H}/embedding/segments.py", "(keys[order[1:]] != keys[order[:-1]]).any(axis=1)",
     "(keys[order[1:]] != keys[order[:-1]]).all(axis=1)", "test_cache.py"),
    ("reading", f"{H}/reading/sound_files.py", "path.suffix.lower() in", "path.suffix in", GUARDS),
    ("store", f"{H}/plumbing/file_index.py", "stat.st_ctime_ns, stat.st_ino", "stat.st_ctime_ns, 0", KEYS),
    ("store", f"{H}/plumbing/file_index.py", "stat.st_mtime_ns, stat.st_ctime_ns", "stat.st_mtime_ns, 0", KEYS),
    # Fingerprints
    ("fingerprints", "CLAP/encoder.py", """f"soxr {version('soxr')}",""", "", KEYS),
    ("fingerprints", "CLAP/encoder.py", 'f"libsndfile {soundfile.__libsndfile_version__}",', "", KEYS),
    ("fingerprints", "CLAP/encoder.py", """, f"tokenizers {version('tokenizers')}")""", ")", KEYS),
    ("fingerprints", "CLAP/encoder.py", 'for library in ("torch", "transformers")', 'for library in ("torch",)', KEYS),
    ("fingerprints", "CLAP/encoder.py", "facts += (self.device.type, ", 'facts += ("", ', KEYS),
    ("fingerprints", "CLAP/encoder.py", ', f"autocast {self.autocast}")', ",)", KEYS),
    ("fingerprints", "CLAP/encoder.py", 'f"preprocessing {PREPROCESSING}", ', "", KEYS),
    ("fingerprints", "CLAP/checkpoint.py",
     'self._sha256("config.json", self.settings_file, self.weights, *self.shards)',
     'self._sha256("config.json", self.weights, *self.shards)', KEYS),
    ("fingerprints", "CLAP/checkpoint.py", 'self._sha256("config.json", self.weights, *self.shards, *TEXT_FILES)',
     'self._sha256("config.json", self.weights, *self.shards)', KEYS),
    ("fingerprints", "data.py", "{self.audio.shape} {self.rate}", "{self.audio.shape}", KEYS),
    ("fingerprints", "data.py", "{self.audio.shape} {self.rate}", "{self.rate}", KEYS),
    ("fingerprints", "data.py", "{self.audio.dtype.str} ", "", KEYS),
    ("fingerprints", f"{H}/embedding/texts.py", r'f"text\n{fingerprint}\n{text}"', r'f"text\n{text}"', KEYS),
    ("fingerprints", f"{H}/embedding/texts.py", r'f"text\n{fingerprint}\n{text}"', r'f"encoded\n{text}"', KEYS),
    ("fingerprints", f"{H}/plumbing/config.py", 'elsewhere = ("text", ', 'elsewhere = ("text", "seed", ', KEYS),
    # Labels and rows
    ("labels", f"{H}/reading/labels.py", ".casefold()", "", "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", "self.most_parts = 1 + max(", "self.most_parts = max(", "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", "range(min(len(parts), start + self.most_parts), start, -1)",
     "range(start + 1, min(len(parts), start + self.most_parts) + 1)", "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", "key=lambda pair: pair[1])", "key=lambda pair: pair[0])", "test_labels.py "
     "test_scripts.py"),
    ("labels", f"{H}/reading/labels.py", "waiting += reversed(value)", "waiting += value", "test_labels.py"),
    ("labels", f"{H}/reading/columns.py", "not given.null_count and numbers(compute(\"binary_length\", given)).all():",
     "not given.null_count:", GUARDS),
    # Plumbing and the page
    ("plumbing", f"{H}/plumbing/files.py", "                os.fsync(file.fileno())", "                pass", GUARDS),
    ("plumbing", f"{H}/plumbing/files.py", "            os.fsync(handle)\n", "            pass\n", GUARDS),
    ("plumbing", f"{H}/plumbing/run.py", "    except BrokenPipeError:\n        return 1",
     "    except BrokenPipeError:\n        return 0", GUARDS),
    ("plumbing", f"{H}/plumbing/run.py", "kept\", 130)", "kept\", 1)", GUARDS),
    ("page", f"{H}/reporting/page_assets/verdict.js", "!== less(row.metric) : null", "!== false : null",
     GUARDS),
    ("page", f"{H}/reporting/page_assets/verdict.js", "entry.low > 0 || entry.high < 0", "entry.low > 0", GUARDS),
    # More of hyperbolic
    ("hyperbolic", "hyperbolic.py", "return audio * (1 - steps[:, None, None])", "return audio * steps[:, None, None]",
     CHOICES),
    ("hyperbolic", "hyperbolic.py", "root = unit(unit(text, dim=-1).mean(0, keepdim=True), dim=-1)",
     "root = unit(text.mean(0, keepdim=True), dim=-1)", CHOICES),
    ("hyperbolic", "hyperbolic.py", "cosine_similarity(u, v) / temperature", "cosine_similarity(u, v)", CHOICES),
    ("hyperbolic", "hyperbolic.py", ".double().norm(dim=1).mean())\n\n    def audio",
     ".double().norm(dim=1).max())\n\n    def audio",
     "test_training_flags.py::test_scale_and_texts_start_where_they_are_told_to"),
    ("hyperbolic", "hyperbolic.py", "return self.base_c * math.exp(self.log_c_change.item())", "return self.base_c",
     CHOICES),
    ("hyperbolic", "hyperbolic.py", "pairs[:, 0] += start", "pairs[:, 0] += 0", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "return expmap0(tangent, self.c)", "return expmap0(tangent, self.base_c)", CHOICES),
    ("hyperbolic", "hyperbolic.py", "(a > 300).any() or (b > 300).any()", "(a > 700).any() or (b > 700).any()",
     GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "grad.abs().amax(1, keepdim=True)", "grad.abs().amax()", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "inside = ratio.clamp(max=1 - 2**-53)", "inside = ratio.clamp(max=1 - 2**-24)",
     GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "/ targets.sum(1)\n", "/ targets.sum(1).clamp(min=2)\n", SECOND),
    ("hyperbolic", "hyperbolic.py", "(log_total + 2 * LOG2)", "(log_total + LOG2)", GEOMETRY),
    ("hyperbolic", "hyperbolic.py", "- a @ along_a - b @ along_b)", "- a @ along_a)", GEOMETRY),
    # More of training
    ("training", f"{H}/training/calibration.py", "thresholds(scaled, targets)",
     "thresholds(1 / (1 + np.exp(-logits)), targets)", CHOICES),
    ("training", f"{H}/training/calibration.py", "precision >= PRECISION", "precision > PRECISION", CHOICES),
    ("training", f"{H}/training/calibration.py", "enough + 1 >= LEAST", "enough + 1 > LEAST", CHOICES),
    ("training", f"{H}/training/calibration.py", "np.append(np.diff(values[order]) < 0, True)",
     "np.ones(len(order), bool)", CHOICES),
    ("training", f"{H}/training/calibration.py", "enough[-1]", "enough[0]", CHOICES),
    ("training", f"{H}/training/fit.py", "and not config.prototypes else None", "else None", f"{FLAGS} {SECOND}"),
    ("training", f"{H}/training/fit.py", "groups(pipeline.folder, clips.rows, config.split_by)",
     'groups(pipeline.folder, clips.rows, "video_id")', FLAGS),
    ("training", f"{H}/training/fit.py", "config.train_ratio, config.seed)", "0.8, config.seed)", SECOND),
    ("training", f"{H}/training/fit.py", "config.train_ratio, config.seed)", "config.train_ratio, 42)", SECOND),
    ("training", f"{H}/training/fit.py", "trainer.epochs(first=done + 1)", "trainer.epochs(first=1)",
     f"test_selection.py {FLAGS}"),
    ("training", f"{H}/training/fit.py", "> WORSE * abs(start_loss)", "> abs(start_loss)", CHOICES),
    ("training", f"{H}/training/fit.py", 'best["audio_near_boundary"] > 0.5', 'best["text_near_boundary"] > 0.5',
     CHOICES),
    ("training", f"{H}/training/fit.py", "fingerprint, *clips.tensors(), train)", "fingerprint, *clips.tensors())",
     CHOICES),
    ("training", f"{H}/training/fit.py", "RunFolder(run.output_dir, setup, resume, config.select_by, run.keep)",
     "RunFolder(run.output_dir, setup, resume, kept=run.keep)", "test_selection.py"),
    ("training", f"{H}/training/trainer.py", "with self.averaged(1.0):", "with self.averaged(0.0):",
     "test_training_flags.py::test_the_loss_of_the_start_is_that_of_an_untrained_trainer"),
    ("training", f"{H}/training/trainer.py", "float(loss) / len(self.validation)", "float(loss) / len(self.train)",
     SECOND),
    ("training", f"{H}/training/trainer.py", 'self.optimizer.load_state_dict(state["optimizer_state_dict"])', "pass",
     "test_training_flags.py::test_a_resumed_run_ends_with_the_same_weights"),
    ("training", f"{H}/training/trainer.py", 'self.logit_scale.load_state_dict(state["scale_state_dict"])', "pass",
     "test_training_flags.py::test_a_resumed_run_ends_with_the_same_weights"),
    ("training", f"{H}/training/trainer.py", 'self._set(list(state["trained_state_dict"].values()))', "pass",
     "test_training_flags.py::test_a_resumed_run_ends_with_the_same_weights"),
    ("training", f"{H}/training/trainer.py", "self.text[columns])\n            loss", "self.text)\n            loss",
     "test_retrieval_captions.py"),
    ("training", f"{H}/training/trainer.py", "config.logit_scale or LogitScale.START", "LogitScale.START", SECOND),
    ("training", f"{H}/training/trainer.py", "start_text_at(config.text_radius, text)", "start_text_at(1.0, text)",
     SECOND),
    ("training", f"{H}/training/trainer.py", "(torch.cat(some)[:RANKED_ROWS]", "(torch.cat(some)[-RANKED_ROWS:]",
     "test_selection.py::test_each_epoch_has_the_metrics_of_its_first_validation_clips"),
    ("training", f"{H}/training/trainer.py", "2 * torch.cat(radii).double()", "torch.cat(radii).double()", SECOND),
    ("training", f"{H}/training/run_folder.py", 'figures[self.select_by]), figures["val_loss"]',
     '-figures[self.select_by]), figures["val_loss"]', CHOICES),
    ("training", f"{H}/training/run_folder.py", 'chosen if self.select_by == "val_loss" else figures[self.select_by]',
     "chosen", CHOICES),
    ("training", f"{H}/training/run_folder.py", 'figures[self.select_by]), figures["val_loss"]',
     "figures[self.select_by]), 0.0", CHOICES),
    ("training", f"{H}/training/run_folder.py", 'figures[self.select_by]), figures["val_loss"]',
     'figures[self.select_by]), figures["train_loss"]', CHOICES),
    ("training", f"{H}/training/run_folder.py", "sum(figures[name] for name in RECALLS if name in figures)",
     "sum(figures[name] for name in RECALLS[:1] if name in figures)", CHOICES),
    ("training", f"{H}/training/run_folder.py", "sum(figures[name] for name in RECALLS if name in figures)",
     "sum(figures[name] for name in RECALLS[1:] if name in figures)", CHOICES),
    ("training", f"{H}/training/caption_trainer.py", "np.isin(self.pairs[:, 0], clips)",
     "np.isin(self.pairs[:, 0], clips[:-1])", SECOND),
    ("training", f"{H}/training/caption_trainer.py", "chosen = self.pairs[np.isin(self.pairs[:, 0], clips)]",
     "chosen = self.pairs", SECOND),
    ("training", f"{H}/training/groups.py", "(numbers < first + count)] - first", "(numbers < first + count)]",
     CHOICES),
    ("training", f"{H}/training/split.py", "fits[0] = True", "pass", CHOICES),
    ("training", f"{H}/training/adam.py", "weight_decay=0, eps", "weight_decay=0.01, eps", "test_adam.py"),
    ("training", f"{H}/training/trackers.py", "self.writer.add_scalar(name, value, epoch)",
     "self.writer.add_scalar(name, value, epoch - 1)", "test_tracking.py"),
    # More of projector
    ("projector", f"{H}/projector/projector.py", " + float(self.logit_scale.bias)\n", "\n", CHOICES),
    ("projector", f"{H}/projector/projector.py", "self.logit_scale_value * similarity.astype", "similarity.astype",
     CHOICES),
    ("projector", f"{H}/projector/prototypes.py", "[[place[names[i]] for i in mine]]", "[mine]",
     "test_training_flags.py::test_prototypes_add_the_cosine_to_the_mean_audio"),
    ("projector", f"{H}/projector/projector.py", 'if same is False:', "if False:", "test_sharing.py"),
    ("projector", f"{H}/projector/projector.py", "if config.use_hyperbolic not in (None, projector.kind.curved):",
     "if False:", "test_scripts.py test_protocol.py"),
    ("projector", f"{H}/projector/projector.py", "sorted(given) != sorted(trained)", "given != trained",
     "test_prompts.py"),
    ("projector", f"{H}/projector/projector.py", "normalise(name) for name in self.classes or names",
     "name for name in self.classes or names", CHOICES),
    ("projector", f"{H}/projector/opening.py", "elif encoder.class_labels is None and projector.classes and not",
     "elif False and not", "test_classes_of_projector.py"),
    ("projector", f"{H}/projector/exported.py", '("similarity", "base_c", "temperature", "audio_radius")',
     '("similarity", "base_c", "audio_radius")', CHOICES),
    ("projector", f"{H}/projector/exported.py", '("similarity", "base_c", "temperature", "audio_radius")',
     '("similarity", "temperature", "audio_radius")', CHOICES),
    ("projector", f"{H}/projector/exported.py", '("similarity", "base_c", "temperature", "audio_radius")',
     '("base_c", "temperature", "audio_radius")', CHOICES),
    ("projector", f"{H}/projector/exported.py", '("prototype_weight", "prototype_classes")', '("prototype_classes",)',
     CHOICES),
    ("projector", f"{H}/projector/blocks.py", "embeddings[start : start + block]",
     "embeddings[start : start + block - 1]", "test_retrieval_captions.py test_search.py"),
    ("projector", f"{H}/projector/checkpoints.py", '        content["temperature"],\n', "        1.0,\n",
     CHOICES),
    ("projector", f"{H}/projector/checkpoints.py", '        content["similarity"],\n', '        "hyperbolic",\n',
     "test_prompts.py test_sharing.py"),
    ("projector", f"{H}/projector/checkpoints.py", 'scale.load_state_dict(content["scale_state_dict"])', "pass",
     "test_tagging.py"),
    ("projector", f"{H}/projector/opening.py", "return projector.prompts(encoder.prompts)",
     "return encoder.prompts", "test_prompts.py"),
    # More of metrics
    ("metrics", f"{H}/metrics/calibration.py",
     'b["pairs"] * abs(b["probability"] - b["true"]) for b in bins) / sum(b["pairs"] for b in bins)',
     'abs(b["probability"] - b["true"]) for b in bins) / len(bins)', COUNTING),
    ("metrics", f"{H}/metrics/calibration.py", "found = probabilities[valid], targets[valid]",
     "found = probabilities, targets", COUNTING),
    ("metrics", f"{H}/metrics/calibration.py", "best = probabilities.argmax(axis=1)", "best = targets.argmax(axis=1)",
     COUNTING),
    ("metrics", f"{H}/metrics/bootstrap.py", "    known = differences[np.isfinite(differences)]",
     "    known = differences", COUNTING),
    ("metrics", f"{H}/metrics/bootstrap.py", "len(differences) // 2", "len(differences)", COUNTING),
    ("metrics", f"{H}/metrics/bootstrap.py", "    for start in range(0, resamples, rows):\n",
     "    for start in range(0, resamples, rows):\n        generator = np.random.default_rng(seed)\n", COUNTING),
    ("metrics", f"{H}/metrics/bootstrap.py", "generator.integers(clips, size=(count, clips)",
     "generator.integers(clips, size=(count, max(1, clips - 1))", COUNTING),
    ("metrics", f"{H}/metrics/hierarchy.py", "SAME_PARENT / 2", "SAME_PARENT", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "(counts * (counts - 1))", "counts**2",
     "test_hierarchy.py test_ontology.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "return 1 - unit @ mean /", "return unit @ mean /",
     "test_hierarchy.py test_ontology.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "np.minimum.reduceat(classes.lca_height[pairs], first)",
     "np.maximum.reduceat(classes.lca_height[pairs], first)", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "np.fill_diagonal(others, -np.inf)", "pass", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "(outside.cumsum(axis=1) <= NEIGHBOURS)",
     "(outside.cumsum(axis=1) < NEIGHBOURS)", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "held * slots / np.maximum(width - shuffled[1].sum(axis=1), 1)",
     "held * slots / width", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "specific = most_specific(labels, classes)\n        for",
     "specific = labels\n        for", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/hierarchy.py", "radius_follows_depth(class_mean_radius(audio, targets), depth)",
     "radius_follows_depth(np.linalg.norm(targets.T @ audio, axis=1), depth)", "test_hierarchy.py test_ontology.py"),
    ("metrics", f"{H}/metrics/traversal.py", "np.roll(order, 1)", "order", f"test_mds.py {COUNTING}"),
    ("metrics", f"{H}/metrics/traversal.py", "best.max(axis=1, initial=0)",
     "counted.sum(axis=1)", f"test_mds.py {COUNTING}"),
    ("metrics", f"{H}/metrics/superclasses.py", "targets.astype(np.float32) @ below[nodes]",
     "targets.astype(np.float32) @ below[np.sort(nodes)]", COUNTING),
    ("metrics", f"{H}/metrics/superclasses.py", ".logsumexp(dim=1) / scale", ".logsumexp(dim=1)", "test_inner.py"),
    ("metrics", f"{H}/metrics/superclasses.py", "(similarity.double() * scale)", "similarity.double()",
     "test_inner.py"),
    ("metrics", f"{H}/metrics/weighted.py", "(above_true - before)) / 2", "(above_true - before))", LAWS),
    ("metrics", f"{H}/metrics/retrieval.py", "np.clip(right, 1, 10)", "np.clip(right, 1, None)", COUNTING),
    ("metrics", f"{H}/metrics/retrieval.py", "np.where(ranks <= 10, number", "np.where(ranks < 10, number",
     "test_retrieval_captions.py::test_figures_equal_a_second_implementation_whatever_the_blocks"),
    ("metrics", f"{H}/metrics/retrieval.py", "compare(clips, texts).T", "compare(texts, clips)", COUNTING),
    ("metrics", f"{H}/metrics/classification.py", "math.sqrt(2) * ndtri", "ndtri", "test_evaluation.py"),
    ("metrics", f"{H}/metrics/classification.py", "ratios = hit_ratios(order, targets, top_k) | score",
     "ratios = hit_ratios(order, targets, 5) | score", f"{LAWS} test_evaluation.py"),
    ("metrics", f"{H}/metrics/classification.py", 'return np.argsort(-scores, axis=1, kind="stable")',
     'return np.argsort(scores, axis=1, kind="stable")[:, ::-1]', LAWS),
    ("metrics", f"{H}/metrics/undefined.py", "not math.isfinite(value)", "math.isnan(value)", "test_grounds.py"),
    # More of results
    ("results", f"{H}/results/groups.py", "np.std(one, ddof=1)", "np.std(one)", COUNTING),
    ("results", f"{H}/results/groups.py", "picked_a = picked_b if paired else generator", "picked_a = generator",
     COUNTING),
    ("results", f"{H}/results/groups.py", "default_rng([seed, 1])", "default_rng([0, 1])", COUNTING),
    ("results", f"{H}/results/groups.py", "some.sort(key=lambda i: str(seeds[i]))", "pass", COUNTING),
    ("results", f"{H}/results/groups.py", "and group.seeds == groups[0].seeds",
     "and len(group.seeds) == len(groups[0].seeds)", COUNTING),
    ("results", f"{H}/results/groups.py", 'key = (str(model.get("clap_sha256")), str(model.get("prompt")), ',
     'key = (str(model.get("prompt")), ', COUNTING),
    ("results", f"{H}/results/groups.py", "mean(b, picked_b) - mean(a, picked_a)",
     "mean(a, picked_a) - mean(b, picked_b)", COUNTING),
    ("results", f"{H}/results/compare.py", "valid = base.valid[rows_base]", "valid = base.valid[rows_file]", LAWS),
    ("results", f"{H}/results/compare.py", "k = min(depths, default=0)", "k = max(depths, default=0)",
     f"{LAWS} test_compare.py"),
    ("results", f"{H}/results/compare.py", "order[::-1][: config.classes]", "order[::-1][:10]", COUNTING),
    ("results", f"{H}/results/retrieval.py", 'tuple(sorted(clip["captions"]))', "()", LAWS),
    ("results", f"{H}/results/evaluation.py", "projector.probability(scores, False), scaled",
     "projector.probability(scores), scaled", COUNTING),
    ("results", f"{H}/results/evaluation.py",
     "projector.with_prototypes(projector.compare(audio, text), clips.audio, names)", "projector.compare(audio, text)",
     COUNTING),
    ("results", f"{H}/results/evaluation.py", "tree, projector.logit_scale_value)", "tree, 1.0)", COUNTING),
    ("results", f"{H}/results/evaluation.py", "pairs.pairs[start:end, 1]]", "pairs.pairs[start:end, 0]]",
     "test_retrieval_captions.py"),
    ("results", f"{H}/results/sweep.py",
     "return config if SIMILARITIES[config.similarity].curved else replace(config, c=TrainConfig.c)", "return config",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep.py", 'return -value if figure == "val_loss" else value', "return value",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep.py", "sum(score(of[config]) for config in some) / len(some)",
     "max(score(of[config]) for config in some)",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep.py", "self._key(self.data, asdict(config))", "self._key(self.data, config.seed)",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep.py", "self._key(self.data, asdict(config))", "self._key(asdict(config))",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep.py", "known = [embedder.origin.sha256, embedder.prompt, ",
     "known = [embedder.origin.sha256, ",
     f"{COUNTING} test_sweep.py::test_the_choice_is_by_the_mean_over_seeds_of_whole_settings"),
    ("results", f"{H}/results/sweep_tables.py", "key=lambda one: one.config.seed", "key=lambda one: -one.config.seed",
     COUNTING),
    ("results", f"{H}/results/sweep_tables.py", "*draw(len(scores), count, seed, targets.shape[1])",
     "*draw(len(scores), count, 0, targets.shape[1])", COUNTING),
    ("results", f"{H}/results/sweep_tables.py", "np.std(values, ddof=1)", "np.std(values)", COUNTING),
    # More of store
    ("store", f"{H}/embedding/store.py", "self.notes[key] = self.new_notes[key.hex()] = notes",
     "self.notes[key] = notes", "test_cache.py test_windows.py test_readers.py"),
    ("store", f"{H}/embedding/store.py", "if key in self.recent or not self.segments:", "if not self.segments:",
     "test_cache.py", "take looks among the recent ones too; this only spares the way"),
    ("store", f"{H}/embedding/store.py", "if segment.dim != vectors.shape[1]:", "if False:", "test_cache.py"),
    ("store", f"{H}/embedding/store.py", "if not len(keys) or self._write(keys, vectors):",
     "if self._write(keys[1:], vectors[1:]):", "test_cache.py"),
    ("store", f"{H}/embedding/store.py", "one.rows < SEGMENT_ROWS // 2 or one.damaged", "one.rows < SEGMENT_ROWS // 2",
     "test_cache.py"),
    ("store", f"{H}/embedding/segments.py", "found[hits[part]] = row_checks(keys[where], block) == self.checks[wanted]",
     "found[hits[part]] = True", "test_cache.py"),
    ("store", f"{H}/embedding/segments.py", "> GAP) + 1", "> GAP + 1) + 1", "test_cache.py"),
    ("store", f"{H}/embedding/segments.py",
     'of_keys = np.einsum("ij,j->i", np.ascontiguousarray(keys).view(np.uint64), factors[:4])',
     "of_keys = np.uint64(0)", "test_cache.py"),
    ("store", f"{H}/embedding/row_index.py", "self.transient[i] = beside", "self.transient[i] = False",
     "test_columns.py"),
    ("store", f"{H}/embedding/row_index.py", "/known{names.kind}", "/known", f"test_columns.py {GUARDS}"),
    ("store", f"{H}/embedding/row_index.py", "keys[order[np.searchsorted(numbers[order], sample_ids)]]",
     "keys[np.searchsorted(numbers[order], sample_ids)]", KEYS),
    ("store", f"{H}/embedding/row_index.py", "(part.state == number) & ~part.transient", "(part.state <= number) & "
     "~part.transient", "test_known.py::"
     "test_why_one_row_is_skipped_says_nothing_of_those_that_another_class_list_left_unread"),
    ("metrics", f"{H}/metrics/hierarchy.py", "if top.shape[1] == targets.shape[1]:",
     "if top.shape[1] is targets.shape[1]:", "test_hierarchy.py::test_relatives_among_all_of_audiosets_classes"),
    ("store", f"{H}/embedding/row_index.py", "if not read or file in folder.bad or", "if not read or",
     "test_known.py::test_a_damaged_file_is_never_taken_for_known"),
    ("store", f"{H}/plumbing/file_index.py", "+ RACY_SECONDS * 1e9 < now", "< now", f"{KEYS} {GUARDS} test_cache.py"),
    ("store", f"{H}/plumbing/file_index.py", 'if stat_token(path)["token"] != seen["token"]:', "if False:",
     f"{KEYS} {GUARDS}"),
    ("store", f"{H}/plumbing/file_index.py", 'about["path"] != _name(path)', "False", f"{KEYS} {GUARDS}"),
    # More of fingerprints
    ("fingerprints", f"{H}/embedding/pipeline.py", "EmbeddingCache(folder, encoder.audio_fingerprint)",
     "EmbeddingCache(folder, encoder.sha256)", f"test_cache.py {KEYS}"),
    ("fingerprints", "CLAP/encoder.py", "files.audio_sha256, *preprocessing", "*preprocessing", KEYS),
    ("fingerprints", "CLAP/encoder.py", "self._fingerprint(files.text_sha256, ", "self._fingerprint(", KEYS),
    ("fingerprints", f"{H}/training/split.py", 'digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())',
     "pass", KEYS),
    ("fingerprints", f"{H}/plumbing/config.py", 'later = ("logit_scale", "text_radius",',
     'later = ("logit_scale", "text_radius", "batch_size",', "test_training_flags.py::test_defaults_leave_no_trace"),
    ("fingerprints", f"{H}/plumbing/config.py",
     'return kept if self.lr_schedule == "constant" else kept | {"epochs": epochs}', "return kept", KEYS),
    ("fingerprints", f"{H}/plumbing/config.py", '"" if self.audio is None else f" {self.audio.encode().hex()}"', '""',
     "test_columns.py"),
    # More of labels
    ("labels", f"{H}/reading/labels.py", '" ".join(part.split()) for part', "part.strip() for part", "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", 'for separator in ";|\\t\\n":', 'for separator in ";|\\n":', "test_labels.py"),
    ("labels", f"{H}/reading/labels.py",
     'self.position.setdefault(normalise(node["id"]), self.position[normalise(node["name"])])', "pass",
     "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", "sorted({p for p in", "list({p for p in", COUNTING),
    ("labels", f"{H}/reading/labels.py", "sorted({p for p in map(self.find, labels) if p is not None})",
     "sorted(p for p in map(self.find, labels) if p is not None)", COUNTING),
    ("labels", f"{H}/reading/labels.py", '"utf-8-sig"', '"utf-8"', "test_labels.py"),
    ("labels", f"{H}/reading/labels.py", "found.setdefault(normalise(name), ", "found.setdefault(name, ", COUNTING),
    ("labels", f"{H}/reading/labels.py", "if p is not None", "if p", COUNTING),
    ("labels", f"{H}/reading/labels.py", ", object_pairs_hook=_Pairs)",
     ", object_pairs_hook=lambda pairs: _Pairs(dict(pairs).items()))", "test_labels.py"),
    ("labels", f"{H}/reading/captions.py", "dict.fromkeys(_texts(value)) if text]", "dict.fromkeys(_texts(value))]",
     "test_retrieval_captions.py::test_cells"),
    ("labels", f"{H}/reading/captions.py", '" ".join(value.encode("utf-8", "replace").decode("utf-8").split())',
     'value.encode("utf-8", "replace").decode("utf-8")', "test_retrieval_captions.py::test_cells"),
    ("labels", f"{H}/embedding/pairs.py", "said[clip] |= dict.fromkeys(captions[number])",
     "said[clip] = dict.fromkeys(captions[number])",
     "test_retrieval_captions.py::test_one_caption_a_row_is_the_same_as_grouped"),
    ("labels", f"{H}/embedding/pairs.py", "audio[torch.from_numpy(first)]", "audio[: len(first)]",
     "test_retrieval_captions.py::test_one_caption_a_row_is_the_same_as_grouped"),
    ("labels", f"{H}/reading/columns.py", "alike[which], return_index=True)", "which, return_index=True)", COUNTING),
    ("labels", f"{H}/reading/columns.py", "first.sort()", "pass", COUNTING),
    ("labels", f"{H}/reading/rows.py", "pairs = pairs[np.diff(pairs, prepend=-1) > 0]", "pass", "test_rows.py"),
    ("labels", f"{H}/reading/rows.py", "(1 << position % 8)", "(128 >> position % 8)", "test_rows.py"),
    # More of inference
    ("inference", f"{H}/inference/timeline.py", "closed |= levels < floor + OVER_FLOOR", "closed |= levels < floor",
     COUNTING),
    ("inference", f"{H}/inference/timeline.py", "gaps > config.hop + 1e-3", "gaps > 1e-3", COUNTING),
    ("inference", f"{H}/inference/timeline.py", "end - start >= config.min_duration", "True", COUNTING),
    ("inference", f"{H}/inference/timeline.py", "heard.probability[part, column].max()",
     "heard.probability[part, column].mean()", COUNTING),
    ("inference", f"{H}/inference/timeline.py", "& heard.competing & ~closed", "& ~closed", COUNTING),
    ("inference", f"{H}/inference/tagging.py", "own.get(name, self._others if given is None else given)",
     "own.get(name, self._others)", COUNTING),
    ("inference", f"{H}/inference/tagging.py",
     'own = self.projector.thresholds.get("by_class", {}) if given is None else {}',
     'own = self.projector.thresholds.get("by_class", {})', COUNTING),
    ("inference", f"{H}/inference/tagging.py", "begins + (window - hop) / 2,", "begins,", COUNTING),
    ("inference", f"{H}/inference/tagging.py", "below, self.projector.logit_scale_value)", "below, 1.0)",
     f"test_tagging.py::test_a_branch_has_the_prototypes_of_its_members {COUNTING}"),
    ("inference", f"{H}/inference/windows.py", "part / gain if gain > 1 else part", "part",
     COUNTING),
    ("inference", f"{H}/inference/search.py", "columns, projector.logit_scale_value)", "columns, 1.0)",
     "test_search.py"),
    ("training", f"{H}/training/calibration.py", "np.isin(values[order], values[right])", "right[order]", CHOICES),
    ("fingerprints", "CLAP/checkpoint.py", 'digest.update(f"{name} ".encode() + self._hashes[name])',
     "digest.update(self._hashes[name])", KEYS),
    # Fresh mistakes of a second reader, most of which nothing had noticed
    ("projector", f"{H}/projector/projector.py", 'return self.content["c"] if', 'return self.content["base_c"] if',
     CHOICES),
    ("projector", f"{H}/projector/projector.py", "math.isclose(value, trained, rel_tol=1e-5)",
     "math.isclose(value, trained, rel_tol=1e-1)", CHOICES),
    ("projector", f"{H}/projector/projector.py", "sorted(given) != sorted(trained)", "set(given) != set(trained)",
     CHOICES),
    ("metrics", f"{H}/metrics/calibration.py", 'method="wilson"', 'method="exact"', COUNTING),
    ("metrics", f"{H}/metrics/traversal.py", "float(inside.sum() / whole.sum())", "float((inside / whole).mean())",
     COUNTING),
    ("metrics", f"{H}/metrics/hierarchy.py", "np.linspace(0, len(targets) - 1, CHANCE_DRAWS)",
     "np.linspace(0, len(targets) // 2, CHANCE_DRAWS)", "test_hierarchy.py"),
    ("metrics", f"{H}/metrics/classification.py", "min(k, top.shape[1]) * one", "k * one", "test_evaluation.py"),
    ("training", f"{H}/training/trainer.py", "boundary = 2 * math.sqrt(float(projector.c))",
     "boundary = 2 * math.sqrt(self.config.c)", CHOICES),
    ("training", f"{H}/training/fit.py", "doubts(config, output.best,", 'doubts(config, output.setup["epochs"][-1],',
     CHOICES),
    ("training", f"{H}/training/run_folder.py", '[*folder.glob("*projection_epoch_*.pth")',
     '[*folder.glob("projection_epoch_*.pth")', CHOICES),
    ("training", f"{H}/training/groups.py", "        first += count\n    own", "        first += len(wanted)\n    own",
     CHOICES),
    ("embedding", f"{H}/embedding/row_index.py", "notes_of(part.keys[mine])", "notes_of(part.keys)", COUNTING),
    ("embedding", f"{H}/embedding/row_index.py", "why[part.present]\n", "why[part.state != UNKNOWN]\n", COUNTING),
    ("embedding", f"{H}/embedding/skipped.py", "        self.noted.merge(other.noted)\n", "", COUNTING),
    ("embedding", f"{H}/embedding/given.py", "return sha256 == other_sha256\n",
     "return sha256 == other_sha256 or name == other_name\n", CHOICES),
    ("embedding", f"{H}/embedding/store.py", "            if self.new_notes and self.writable:",
     "            if self.new_notes and self.recent and self.writable:", "test_readers.py"),
    ("plumbing", f"{H}/plumbing/file_index.py", "max(token[1:3]) + RACY", "token[1] + RACY", GUARDS),
    ("plumbing", f"{H}/plumbing/files.py", "taken.setdefault(path.resolve(), path)", "taken.setdefault(path, path)",
     GUARDS),
    ("CLAP", "CLAP/checkpoint.py", "*(others if len(others) == 1 else ())", "*others", "test_checkpoint_forms.py"),
    ("CLAP", "CLAP/encoder.py", "len(waveform) - rate + 1), length)", "len(waveform) - rate), length)",
     "test_encoder.py"),
    ("results", f"{H}/results/compare.py", "len(rows_base) == len(base.keys) == len(file.keys)",
     "len(rows_base) == len(base.keys)", LAWS),
    ("results", f"{H}/results/measures.py", "weights[: ranked - finished]", "weights[:ranked]", LAWS),
    ("results", f"{H}/results/files.py",
     'entry.get("ground_truth_human_labels")) or classes.parse(entry.get("ground_truth_',
     'entry.get("ground_truth_labels")) or classes.parse(entry.get("ground_truth_human_', LAWS),
    ("results", f"{H}/results/evaluation.py", "clips.audio, names).cpu()", "audio, names).cpu()", COUNTING),
    ("results", f"{H}/results/sweep_tables.py", "difference([plain_draws], drawn, name",
     "difference([plain_draws], drawn[:1], name",
     COUNTING),
    ("results", f"{H}/results/sweep.py", '.startswith("--resume")', '.startswith("--")', COUNTING),
    ("results", f"{H}/results/sweep.py", "self._fit(config, folder, told, False)",
     "self._fit(config, folder, told, True)",
     COUNTING),
    ("results", f"{H}/results/sweep.py", 'any(folder.glob("projection_epoch_*.pth"))', "False", COUNTING),
    ("results", f"{H}/results/sweep.py", 'record["projection_sha256"], self.plan.top_k', 'record["projection_sha256"]',
     COUNTING),
    ("results", f"{H}/results/sweep.py", "replace(config, seed=0)", "replace(config, seed=0, epochs=0)", COUNTING),
    ("results", f"{H}/results/sweep.py", "key=lambda one: -one[0])", "key=lambda one: (-one[0], name_of(one[1][0])))",
     COUNTING),
    ("results", f"{H}/results/sweep.py", "work([some[0] for", "work([some[-1] for", COUNTING),
    ("results", f"{H}/results/sweep.py", "plan.choose_each, plan.finalists)", "count=plan.finalists)", COUNTING),
    ("results", f"{H}/results/sweep.py", "if not any(of[config].reason for", "if not all(of[config].reason for",
     COUNTING),
    ("inference", f"{H}/inference/tagging.py", "begins + (window - hop) / 2,", "begins + hop / 2,", COUNTING),
    ("inference", f"{H}/inference/tagging.py",
     "self.projector.with_prototypes(self.projector.compare(audio, text), embeddings, members)",
     "self.projector.compare(audio, text)", COUNTING),
    ("inference", f"{H}/inference/timeline.py", "np.mean(np.square(waveform, dtype=np.float64))",
     "np.mean(np.square(waveform, dtype=np.float64)) ** 0.5", COUNTING),
    ("inference", f"{H}/inference/windows.py", "start + self._step\n", "start + self._size\n", "test_tagging.py"),
    ("metrics", f"{H}/metrics/calibration.py", "missing if probabilities is None else", "missing if kind else",
     COUNTING),
    ("training", f"{H}/training/run_folder.py", 'if other != self._epoch_file(content["epoch"]):',
     'if other != self._epoch_file(self.best["epoch"]):', CHOICES),
    ("results", f"{H}/results/groups.py", "there if len(there) == len(found) else None", "there or None", COUNTING),
    ("inference", f"{H}/inference/timeline.py", "np.percentile(x, FLOOR)", "np.quantile(x, FLOOR / 1000)", COUNTING),
)]  # fmt: skip


# What the tool changes, by room: {a file, or some functions of it: the tests that cover it, the quickest first}.
ROOMS = {
    "hyperbolic": {"hyperbolic.py": f"{CHOICES} {GEOMETRY} {TRAINING} {SECOND}"},
    "projector": {
        f"{H}/projector/blocks.py": "test_search.py test_retrieval_captions.py",
        f"{H}/projector/checkpoints.py": f"{TRAINING} {FLAGS} test_sharing.py test_training_record.py "
        "test_tagging.py::test_thresholds_of_the_validation_clips_are_used",
        f"{H}/projector/exported.py": f"{CHOICES} test_sharing.py",
        f"{H}/projector/opening.py": "test_classes_of_projector.py test_prompts.py test_sharing.py",
        f"{H}/projector/projector.py": f"{CHOICES} {COUNTING} test_prompts.py test_classes_of_projector.py {FLAGS} "
                                       "test_scripts.py",
        f"{H}/projector/prototypes.py": FLAGS,
    },
    "metrics": {
        f"{H}/metrics/bootstrap.py": f"{COUNTING} {LAWS}",
        f"{H}/metrics/calibration.py": f"{COUNTING} test_tagging.py::test_the_fit_equals_logistic_regression {CHOICES}",
        f"{H}/metrics/classification.py": f"test_evaluation.py {LAWS}",
        f"{H}/metrics/hierarchy.py": "test_ontology.py test_hierarchy.py test_compare.py",
        f"{H}/metrics/ontology.py": "test_ontology.py test_hierarchy.py test_inner.py test_mds.py",
        f"{H}/metrics/retrieval.py": f"test_retrieval_captions.py {LAWS}",
        f"{H}/metrics/superclasses.py": f"{COUNTING} test_inner.py",
        f"{H}/metrics/traversal.py": f"test_mds.py {COUNTING}",
        f"{H}/metrics/undefined.py": "test_evaluation.py test_grounds.py",
        f"{H}/metrics/weighted.py": f"test_evaluation.py {LAWS} test_compare.py test_pictures.py",
    },
    "training": {
        f"{H}/training/adam.py": "test_adam.py",
        f"{H}/training/calibration.py": CHOICES,
        f"{H}/training/caption_trainer.py": f"test_retrieval_captions.py {SECOND}",
        f"{H}/training/fit.py": f"{CHOICES} test_selection.py {FLAGS} {SECOND}",
        f"{H}/training/groups.py": f"{CHOICES} {FLAGS}",
        f"{H}/training/run_folder.py": f"{CHOICES} test_selection.py {FLAGS} {TRAINING} test_scripts.py",
        f"{H}/training/split.py": f"test_rows.py {KEYS} {TRAINING}",
        f"{H}/training/trackers.py": "test_tracking.py",
        f"{H}/training/trainer.py": f"{TRAINING} test_selection.py {FLAGS} {SECOND}",
    },
    "store": {
        f"{H}/embedding/row_index.py": f"{GUARDS} test_retrieval_captions.py test_cache.py test_columns.py "
                                         "test_known.py test_vectors.py",
        f"{H}/embedding/segments.py": f"test_cache.py {GUARDS}",
        f"{H}/embedding/store.py": f"test_cache.py {GUARDS}",
    },
    "fingerprints": {
        "CLAP/checkpoint.py::_sha256": KEYS,
        "CLAP/encoder.py::_fingerprint": KEYS,
        f"{H}/embedding/texts.py": f"{KEYS} test_prompts.py",
        f"{H}/plumbing/config.py::identity": f"{KEYS} {FLAGS}",
        f"{H}/plumbing/file_index.py": f"{KEYS} {GUARDS} test_known.py",
    },
    "labels": {f"{H}/reading/labels.py": f"{COUNTING} test_labels.py"},
}  # fmt: skip
# Mutants of the tool that change nothing that a user could notice, by (file, what the changed line becomes).
CHANGE_NOTHING: dict[tuple[str, str], str] = {
    (f"{H}/metrics/bootstrap.py", "CHUNK_FLOATS = 1 | 24  # weights drawn at a time: 64 MiB in float32"):
        "the rows do not depend on the chunks, which test_counting_laws.py shows",
    (f"{H}/metrics/retrieval.py",
     "ranks[some] = 1 + (row > own).sum(axis=1) + ((row == own) // (before < item[:, None])).sum(axis=1)"):
        "// of truth values is &, with a warning",
    ("hyperbolic.py", "size = max(1, 16 * BLOCK ^ max(1, v.numel()))"):
        "blocks of another size give the same distances",
    (f"{H}/projector/blocks.py", "if not projector.trained or len(embeddings) > block:"):
        "a small matrix goes through the loop of blocks and a large one does not, with the same vectors",
    (f"{H}/reading/labels.py", "@lru_cache(1 % 16)  # a million rows have a few hundred different labels"):
        "nothing is remembered, which costs time alone",
    (f"{H}/metrics/superclasses.py",
     "return [tree.names[i] for i in np.flatnonzero(tree.ancestors[:, found[ -1]])]"): "one name was looked for",
    (f"{H}/metrics/weighted.py",
     "ties = sum(int((b << a).sum()) for a, b in zip(at_least, above, strict=True)) > len(own)"):
        "ties are looked for where there are none, which costs time alone",
    (f"{H}/reading/labels.py", "if twice := [name for name in names if counts[normalise(name)] != 1]:"):
        "each name was counted, so no count is 0",
    (f"{H}/embedding/segments.py", 'self.file = path.open("rb", buffering= -1)'):
        "the same bytes are read, by larger pieces",
    (f"{H}/embedding/segments.py",
     "GAP = 3  # rows nobody asked for that are read along rather than begin anew after them"):
        "the same rows are found, with another number of reads",
    (f"{H}/embedding/store.py", 'keys = np.frombuffer(b"".join(keys), np.uint8).reshape(~1, 32)'):
        "numpy takes any negative length for the one that is left",
    (f"{H}/embedding/row_index.py",
     "has = 2 ** (self.columns.label_counts > 0) + (self.columns.match_counts > 0)"):
        "a row without labels would count as one with a class, and no reason asks for classes of a row without labels",
}  # fmt: skip


def made_by_tool(room: str, count: int) -> list[Mutant]:
    """The first `count` lines of a room in a random order that stays, one mutant of each; none of a type or a text."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    known = []
    for place in sorted(ROOMS[room]):
        file, _, function = place.partition("::")
        source = (ROOT / file).read_text()
        lines = [(x.lineno, x.end_lineno or 0) for x in ast.walk(ast.parse(source))
                 if isinstance(x, ast.FunctionDef) and x.name == function]  # fmt: skip
        nodes = list(ast_nodes(get_ast(source)))
        for name in operator_names():
            if not get_operator(name).arguments():
                found = [p for node in nodes for p in get_operator(name)().mutation_positions(node)]
                known += [(place, file, source, name, i) for i, (start, _) in enumerate(found)
                          if not function or any(a <= start[0] <= b for a, b in lines)]  # fmt: skip
    random.Random(0).shuffle(known)
    made: list[Mutant] = []
    lines_of: set[tuple[str, str]] = set()  # one mutant of a line, since ten of one path say no more
    for place, file, old, name, i in known:
        if len(made) == count:
            break
        new = mutate_code(old, get_operator(name)(), i)
        with contextlib.suppress(SyntaxError):  # the tool forgets the brackets that := needs
            if not new or bare(new) == bare(old):
                continue
            pairs = zip(old.split("\n"), new.split("\n"), strict=False)
            line, changed = next((a.strip(), b.strip()) for a, b in pairs if a != b)
            if (file, line) not in lines_of:
                lines_of.add((file, line))
                made.append(Mutant(room, file, old, new, ROOMS[room][place], CHANGE_NOTHING.get((file, changed), "")))
    return made


def bare(source: str) -> str:
    """A program without its annotations, which never run."""
    found = ast.parse(source)
    for node in ast.walk(found):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, None if name == "returns" or isinstance(node, ast.arg) else ast.Constant(0))
    return ast.dump(found)


def shown(mutant: Mutant) -> str:
    """What is changed, on one line."""
    lines = zip(mutant.old.split("\n"), mutant.new.split("\n"), strict=False)
    old, new = next(((a, b) for a, b in lines if a != b), (mutant.old, mutant.new))
    return f"{mutant.file}: {old.strip()!r} -> {new.strip()!r}" if mutant.old else mutant.tests


def tree(folder: Path) -> Path:
    """A copy of the files that git knows."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def child(folder: Path, tests: str) -> int:
    """A process of its own that runs the tests of a tree; forked, since loading torch would take most of its time."""
    if pid := os.fork():
        return pid
    code = 70  # of a process that could not even begin
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        said = os.open(folder / "said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        sys.path[:] = [str(folder / "tests"), str(folder), *(p for p in sys.path if p != str(ROOT / "tests"))]
        os.environ["HYPERBOLIC_CLAP_SHARED"] = str(folder / "nothing")
        import pytest

        paths = [str(folder / "tests" / name) for name in tests.split()]
        code = int(pytest.main(["-q", "-x", "-n", "0", "-p", "no:warnings", "-p", "no:cacheprovider", *paths]))
    finally:
        os._exit(code)


def load() -> None:
    """Load what every test loads and no mutant touches."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    import hypothesis.strategies  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    from transformers import ClapFeatureExtractor, ClapModel  # noqa: F401

    torch.set_num_threads(1)


# 2: the tests could not even be collected; the signal: they ran for ever.
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", -signal.SIGXCPU: "killed"}


def key(mutant: Mutant) -> str:
    """For as long as this stays, so does what was found."""
    digest = hashlib.sha256(repr(mutant).encode())
    for path in (ROOT / mutant.file, *(ROOT / "tests" / name.split("::")[0] for name in mutant.tests.split())):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", default="", help="only this one")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (default: 2)")
    parser.add_argument("--anew", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--tool", type=int, default=0, metavar="N", help="N mutants of cosmic-ray's for each room")
    args = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if args.room in mutant.room]
    if args.tool:
        wanted = [mutant for room in ROOMS if args.room in room for mutant in made_by_tool(room, args.tool)]
    for mutant in wanted:
        count = (ROOT / mutant.file).read_text().count(mutant.old)
        if count != 1:
            sys.exit(f"{mutant.file} holds {mutant.old!r} {count} times instead of once: the list needs mending")
    found: dict[str, str] = {} if args.anew or not KEPT.is_file() else json.loads(KEPT.read_text())
    # Last, the tests without a mutant: those that fail by themselves prove nothing.
    named = {name for mutant in wanted for name in mutant.tests.split()}
    plain = [Mutant("", "README.md", "", "", name) for name in sorted(named)]
    keys = {mutant: key(mutant) for mutant in [*wanted, *plain]}  # before the copies: the tree may change meanwhile
    started, new = time.time(), [mutant for mutant in wanted if keys[mutant] not in found]
    todo = [*new, *(mutant for mutant in plain if found.get(keys[mutant]) != "survived")]
    if todo:
        load()
    with tempfile.TemporaryDirectory() as home:
        free, running = [tree(Path(home) / str(job)) for job in range(args.jobs)], {}
        while todo or running:
            while todo and free:
                mutant, folder = todo.pop(0), free.pop()
                path = folder / mutant.file
                whole = path.read_text()
                path.write_text(whole.replace(mutant.old, mutant.new) if mutant.old else whole)
                running[child(folder, mutant.tests)] = mutant, folder, whole, time.time()
            for pid, (mutant, folder, whole, began) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if not done:
                    continue
                with contextlib.suppress(ProcessLookupError):  # what its tests have left running
                    os.killpg(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(status)
                said = (folder / "said").read_text(errors="replace")[-300:] if (folder / "said").exists() else ""
                found[keys[mutant]] = OUTCOMES.get(code, f"error {code}: {said}")
                (folder / mutant.file).write_text(whole)
                del running[pid]
                free.append(folder)
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps(found))
                print(f"{time.time() - began:4.0f} s {found[keys[mutant]]}: {shown(mutant)}", flush=True)
            time.sleep(0.05)
    outcomes = {mutant: found[keys[mutant]] for mutant in wanted}
    code = report(outcomes, time.time() - started, len(new), 0.1 if args.tool else 0)
    for mutant in plain:
        if found[keys[mutant]] != "survived":
            print(f"    {mutant.tests} fails without any mutant: {found[keys[mutant]]}")
            code = 1
    return code


def report(found: dict[Mutant, str], seconds: float, new: int, allowed: float) -> int:
    """Print the table of what became of them; -> the exit code. allowed: the share of a room that may survive."""
    print(f"\n{'room':14} mutants  killed  survived  equivalent")
    bad, lines, core = 0, [], sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for room in dict.fromkeys(mutant.room for mutant in found):
        mine = [mutant for mutant in found if mutant.room == room]
        same = [mutant for mutant in mine if mutant.changes_nothing]
        lived = [mutant for mutant in mine if mutant not in same and found[mutant] != "killed"]
        print(f"{room:14} {len(mine):7} {len(mine) - len(same) - len(lived):7} {len(lived):9} {len(same):11}")
        bad += len(lived) > allowed * (len(mine) - len(same))
        lines += [f"    changes nothing: {shown(mutant)}: {mutant.changes_nothing}" for mutant in same]
        lines += [f"    {found[mutant]}: {shown(mutant)} ({mutant.tests})" for mutant in lived]
    lines.append(f"{len(found)} mutants, {new} of them run now, in {seconds:.0f} s, {core:.0f} s of a core")
    print("\n".join(lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
