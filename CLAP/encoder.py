"""The frozen CLAP model: found or fetched, fingerprinted, and loaded only when something must be encoded.

Same clip, same embedding, to the last bit on the CPU: there every window passes the network alone, one thread
for each core. That is as fast as batches with all cores on one (batching saves no work on a CPU), and matrix
kernels round differently for other batch sizes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from CLAP import SAMPLE_RATE
from plumbing.device import cores
from plumbing.errors import UserError, log

PREPROCESSING = "2"  # counted up when anything between stored bytes and embedding changes
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
HASHED_AT_ONCE = 1 << 25
TEXT_BATCH = 16
TEXT_STEP = 8  # token lengths are padded up to a multiple of this


def resolve_checkpoint(name: str) -> Path:
    """The local folder of a CLAP model: `name` itself, or what ModelScope has cached or fetches for it.

    A local folder never imports modelscope, which is slow to import. UserError if there is no such model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise UserError(
                f"--checkpoint {name} is neither a local folder nor a ModelScope id such as laion/larger_clap_general"
            )
        folder = _from_modelscope(name)
    if not (folder / "config.json").is_file() or not any((folder / w).is_file() for w in WEIGHTS):
        raise UserError(f"--checkpoint {folder} holds no CLAP model: config.json and {WEIGHTS[0]} are needed")
    return folder


def _from_modelscope(name: str) -> Path:
    from modelscope import snapshot_download

    # Offline first: a complete local copy is never a reason to ask the network.
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:
        log.info("fetching %s through ModelScope", name)
    try:
        return Path(snapshot_download(name))
    except Exception as error:  # its client raises errors of many libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--checkpoint {name} is no local folder and ModelScope cannot fetch it ({reason}); "
            "give the path of a downloaded model"
        ) from None


class Encoder:
    """Audio windows and texts -> unit vectors of CLAP's joint space, (D,) float32.

    checkpoint: a local folder or ModelScope id. autocast: bfloat16 on CUDA (no effect on the CPU).
    `sha256` identifies the model's files; `fingerprint` everything that an embedding depends on besides the clip.
    """

    def __init__(self, checkpoint: str, device: torch.device, autocast: bool = True):
        self.name = checkpoint
        self.folder = resolve_checkpoint(checkpoint)
        self.device = device
        self.autocast = autocast and device.type == "cuda"
        self.weights = next(w for w in WEIGHTS if (self.folder / w).is_file())
        try:
            self.config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            self.preprocessor = json.loads((self.folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"--checkpoint {self.folder} lacks {Path(error.filename).name}") from None
        except ValueError:
            raise UserError(f"--checkpoint {self.folder} has a config that is not JSON") from None
        if not isinstance(self.config, dict) or not isinstance(self.preprocessor, dict):
            raise UserError(f"--checkpoint {self.folder} has a config that is not a JSON object")
        if self.config.get("model_type") != "clap":
            raise UserError(f"--checkpoint {self.folder} is a {self.config.get('model_type')!r} model, not 'clap'")
        if self.preprocessor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise UserError(f"--checkpoint {self.folder} wants another sampling rate than {SAMPLE_RATE} Hz")
        self.sha256 = self._hash_files()
        self.fingerprint = self._fingerprint()
        self.embed_dim = self.config.get("projection_dim", 512)
        self._lock = threading.Lock()
        self._model = self._log_mel = None

    def _hash_files(self) -> str:
        digest = hashlib.sha256()
        for name in ("config.json", "preprocessor_config.json", self.weights, *TEXT_FILES):
            if (self.folder / name).is_file():
                digest.update(f"{name} ".encode() + _hash_file(self.folder / name))
        return digest.hexdigest()

    def _fingerprint(self) -> str:
        import soundfile

        facts = [f"preprocessing {PREPROCESSING}", self.sha256, self.device.type, f"autocast {self.autocast}"]
        facts += [f"{library} {metadata.version(library)}" for library in ("torch", "transformers", "soxr")]
        facts += [f"libsndfile {soundfile.__libsndfile_version__}"]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def log_mel(self):
        """The checkpoint's LogMel, made at first use."""
        with self._lock:
            if self._log_mel is None:
                from CLAP.logmel import LogMel

                try:
                    self._log_mel = LogMel(self.preprocessor, self.device)
                except Exception as error:  # a preprocessor of wild numbers fails anywhere in there
                    raise self._cannot("make spectrograms from its preprocessor_config.json", error) from None
            return self._log_mel

    @property
    def model(self):
        """The frozen ClapModel in float32, loaded at first use."""
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return self._model

    def _load(self):
        from transformers import ClapModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model, info = ClapModel.from_pretrained(
                self.folder,
                dtype=torch.float32,  # a float16 checkpoint would otherwise run in float16
                use_safetensors=self.weights.endswith(".safetensors"),
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # safetensors, pickle and configuration errors of many classes
            if "weights_only" in str(error):  # the way out that torch offers is the one not to take
                error = UserError("it holds Python objects besides tensors, and loading them could run code")
            raise self._cannot("be loaded as a CLAP model", error) from None
        if info["missing_keys"] or info["mismatched_keys"]:
            wrong = sorted(info["missing_keys"])[:3] or [key[0] for key in sorted(info["mismatched_keys"])[:3]]
            raise UserError(f"--checkpoint {self.folder} lacks weights or has wrong shapes: {', '.join(wrong)}")
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise UserError(f"--checkpoint {self.folder} holds weights that are not finite")
        return model.eval().requires_grad_(False).to(self.device)

    def _cannot(self, what: str, error: Exception) -> UserError:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return UserError(f"--checkpoint {self.folder} cannot {what}: {reason}")

    @torch.inference_mode()
    def encode_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, window) float32 waveforms on the device -> (B, D) unit vectors on the device."""
        mel = self.log_mel(windows)
        # No window is longer than the model's input, so a fused checkpoint takes none of its random crops.
        longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=mel.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            features = self.model.get_audio_features(input_features=mel, is_longer=longer).pooler_output
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
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # damage and code of its own end in errors of many classes
            raise self._cannot("be loaded with its tokenizer", error) from None
        limit = self.model.config.text_config.max_position_embeddings - 2
        tokens = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
        lengths = np.array([min(limit, -(-len(ids) // TEXT_STEP) * TEXT_STEP) for ids in tokens])
        vectors = np.empty((len(texts), self.embed_dim), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for start in range(0, len(rows), TEXT_BATCH):
                chosen = np.resize(rows[start : start + TEXT_BATCH], TEXT_BATCH)
                batch = [{"input_ids": tokens[i]} for i in chosen]
                inputs = tokenizer.pad(batch, padding="max_length", max_length=int(length), return_tensors="pt")
                features = self.model.get_text_features(**inputs.to(self.device)).pooler_output
                vectors[chosen] = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
        return vectors


def _hash_file(path: Path) -> bytes:
    """SHA-256 of the SHA-256 of each HASHED_AT_ONCE bytes, on all cores: every start hashes the whole model."""

    def hash_part(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(HASHED_AT_ONCE)).digest()

    with ThreadPoolExecutor(cores()) as pool:
        parts = pool.map(hash_part, range(0, path.stat().st_size, HASHED_AT_ONCE))
    return hashlib.sha256(b"".join(parts)).digest()


def merge_windows(vectors: torch.Tensor) -> np.ndarray:
    """(n, D) unit vectors of one clip's windows -> their (D,) average, normalised again."""
    if len(vectors) > 1:
        vectors = torch.nn.functional.normalize(vectors.mean(dim=0, keepdim=True), dim=-1)
    return vectors[0].cpu().numpy()
