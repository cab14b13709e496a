"""The frozen CLAP model, loaded only when something must be encoded.

Same clip, same embedding, to the last bit on the CPU: there every window passes the network alone, one thread
for each core. That is as fast as batches with all cores on one (batching saves no work on a CPU), and matrix
kernels round differently for other batch sizes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from CLAP.checkpoint import ModelFolder, hash_file, resolve_checkpoint
from hyperbolic_clap.plumbing.errors import UserError, first_line
from hyperbolic_clap.plumbing.files import in_utf8
from hyperbolic_clap.plumbing.versions import at_least, version

if TYPE_CHECKING:  # slow to import
    from tokenizers import Tokenizer

    from CLAP.logmel import LogMel

PREPROCESSING = "3"  # counted up when anything between stored bytes and embedding changes; 3: sound is read whole
TEXT_BATCH = 16
TEXT_STEP = 8  # token lengths are padded up to a multiple of this
FLOAT32 = {"dtype" if at_least("transformers", "4.56") else "torch_dtype": torch.float32}


class Encoder:
    """Audio windows and texts -> unit vectors of CLAP's joint space, (D,) float32.

    checkpoint: a local folder or ModelScope id. autocast: bfloat16 on CUDA (no effect on the CPU). hash_file: a file ->
    a hash of its content, which a caller may know.
    `sha256` identifies the model's files; `audio_fingerprint` everything that an embedding depends on besides the clip,
    `text_fingerprint` besides the text.
    """

    def __init__(
        self,
        checkpoint: str,
        device: torch.device,
        autocast: bool = True,
        hash_file: Callable[[Path], bytes] = hash_file,
    ):
        self.name = checkpoint
        files = ModelFolder(resolve_checkpoint(checkpoint), hash_file)
        self.folder, self.config, self.preprocessor = files.folder, files.config, files.preprocessor
        self.in_safetensors, self.sha256 = files.in_safetensors, files.sha256
        self.device = device
        self.autocast = autocast and device.type == "cuda"
        import soundfile

        preprocessing = (f"preprocessing {PREPROCESSING}", f"autocast {self.autocast}")
        self.audio_fingerprint = self._fingerprint(
            files.audio_sha256, *preprocessing, f"soxr {version('soxr')}",
            f"libsndfile {soundfile.__libsndfile_version__}",
        )  # fmt: skip
        self.text_fingerprint = self._fingerprint(files.text_sha256, f"tokenizers {version('tokenizers')}")
        self.embed_dim = self.config.get("projection_dim", 512)
        self._lock = threading.RLock()
        self._log_mel: LogMel | None = None
        self._loaded: tuple[Tokenizer, Any] | None = None

    def _fingerprint(self, *facts: str) -> str:
        facts += (self.device.type, *(f"{library} {version(library)}" for library in ("torch", "transformers")))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def log_mel(self) -> LogMel:
        """The checkpoint's LogMel, made at first use."""
        with self._lock:
            if self._log_mel is None:
                from CLAP.logmel import LogMel

                try:
                    self._log_mel = LogMel(self.preprocessor, self.device)
                except Exception as error:  # a preprocessor of wild numbers fails anywhere in there
                    raise self._cannot("make spectrograms with its preprocessor", error) from None
            return self._log_mel

    @property
    def model(self):
        """The frozen ClapModel in float32, loaded at first use together with all that clips and texts need."""
        return self._both()[1]

    def _both(self) -> tuple[Tokenizer, Any]:
        with self._lock:
            if self._loaded is None:
                _, self._loaded = self.log_mel, self._load()
            return self._loaded

    def _load(self):
        from transformers import ClapModel
        from transformers.utils import logging

        from CLAP.tokenizer import load_tokenizer

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            with in_utf8(self.folder) as folder:
                model, info = ClapModel.from_pretrained(
                    folder,
                    **FLOAT32,  # a float16 checkpoint would otherwise run in float16
                    use_safetensors=self.in_safetensors,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except Exception as error:  # safetensors, pickle and configuration errors of many classes
            reasons, cause = str(error), error.__context__
            while cause:  # transformers 4 hides torch's reason behind one of its own
                reasons, cause = reasons + str(cause), cause.__context__
            if "Weights only load failed" in reasons:  # the way out that torch offers is the one not to take
                error = UserError("it holds Python objects besides tensors, and loading them could run code")
            raise self._cannot("be loaded as a CLAP model", error) from None
        if info["missing_keys"] or info["mismatched_keys"]:
            wrong = sorted(info["missing_keys"])[:3] or [key[0] for key in sorted(info["mismatched_keys"])[:3]]
            raise UserError(f"--checkpoint {self.folder} lacks weights or has wrong shapes: {', '.join(wrong)}")
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise UserError(f"--checkpoint {self.folder} holds weights that are not finite")
        try:
            tokenizer = load_tokenizer(self.folder, model.config.text_config.max_position_embeddings - 2)
        except Exception as error:  # damage ends in errors of many classes
            raise self._cannot("be loaded with its tokenizer", error) from None
        return tokenizer, model.eval().requires_grad_(False).to(self.device)

    def _cannot(self, what: str, error: Exception | str) -> UserError:
        return UserError(f"--checkpoint {self.folder} cannot {what}: {first_line(error)[:300]}")

    @torch.inference_mode()
    def encode_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, window) float32 waveforms on the device -> (B, D) unit vectors on the device."""
        mel = self.log_mel(windows)
        # No window is longer than the model's input, so a fused checkpoint takes none of its random crops.
        longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=mel.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            features = tensor(self.model.get_audio_features(input_features=mel, is_longer=longer))
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def windows(self, waveform: np.ndarray) -> list[np.ndarray]:
        """(samples,) at 48 kHz -> (window,) arrays: consecutive, a tail under 1 s dropped, the last one padded."""
        length, rate = self.log_mel.window, self.log_mel.sampling_rate
        starts = range(0, max(1, len(waveform) - rate + 1), length)
        return [self.log_mel.pad(waveform[start : start + length]) for start in starts]

    def encode_waveform(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) at 48 kHz -> (D,) unit vector, each window by itself (the CPU's way)."""
        windows = self.windows(waveform)
        return merge_windows(torch.cat([self.encode_windows(torch.from_numpy(window)[None]) for window in windows]))

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> (N, D) float32 unit vectors.

        Every batch has TEXT_BATCH rows and a length that depends on the text alone, so a text's embedding does
        not depend on its neighbours.
        """
        tokenizer, model = self._both()
        settings = model.config.text_config
        limit = settings.max_position_embeddings - 2
        tokens = [tokenizer.encode(text).ids for text in texts]
        if (highest := max(map(max, tokens), default=0)) >= settings.vocab_size:
            raise self._cannot("take what its tokenizer gives", f"id {highest} of {settings.vocab_size}")
        lengths = np.array([min(limit, -(-len(ids) // TEXT_STEP) * TEXT_STEP) for ids in tokens])
        vectors = np.empty((len(texts), self.embed_dim), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for start in range(0, len(rows), TEXT_BATCH):
                chosen = np.resize(rows[start : start + TEXT_BATCH], TEXT_BATCH)
                ids = torch.full((TEXT_BATCH, int(length)), settings.pad_token_id)
                mask = torch.zeros_like(ids)
                for row, i in enumerate(chosen):
                    ids[row, : len(tokens[i])] = torch.tensor(tokens[i])
                    mask[row, : len(tokens[i])] = 1
                features = tensor(model.get_text_features(ids.to(self.device), mask.to(self.device)))
                vectors[chosen] = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
        return vectors


def tensor(features) -> torch.Tensor:
    """What get_audio_features and get_text_features return: in transformers 4 the tensor, in 5 what holds it."""
    return getattr(features, "pooler_output", features)


def merge_windows(vectors: torch.Tensor) -> np.ndarray:
    """(n, D) unit vectors of one clip's windows -> their (D,) average, normalised again."""
    if len(vectors) > 1:
        vectors = torch.nn.functional.normalize(vectors.mean(dim=0, keepdim=True), dim=-1)
    return vectors[0].cpu().numpy()
