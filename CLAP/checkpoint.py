"""A CLAP checkpoint on disk: found or fetched, in every form in which the hubs hold one, checked and fingerprinted.

Weights may be safetensors or .bin, whole or in shards with an index, in any float type. If a folder holds both kinds,
safetensors are taken, as transformers does. Preprocessors may lie in preprocessor_config.json or, as transformers 5
saves them, in processor_config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from CLAP import SAMPLE_RATE
from hyperbolic_clap.plumbing.device import cores
from hyperbolic_clap.plumbing.errors import UserError, first_line, log

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
WEIGHTS = SAFETENSORS + PICKLED
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
SETTINGS = ("config.json", *PREPROCESSORS, *TEXT_FILES)
POINTER = b"version https://git-lfs.github.com/spec"
HASHED_AT_ONCE = 1 << 25


def resolve_checkpoint(name: str) -> Path:
    """The local folder of a CLAP model: `name` itself, or what ModelScope has cached or fetches for it.

    Neither a local folder nor a cached model imports modelscope, which is slow to import. UserError if there is no such
    model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = from_modelscope(name, "--checkpoint", _is_complete, SETTINGS + SAFETENSORS, PICKLED)
    if not _is_model(folder):
        raise UserError(f"--checkpoint {folder} holds no CLAP model: config.json and {WEIGHTS[0]} are needed")
    return folder


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)


def _is_complete(folder: Path) -> bool:
    try:
        return _is_model(folder) and bool(ModelFolder(folder))
    except UserError:
        return False


def from_modelscope(name: str, flag: str, complete: Callable[[Path], bool], *groups: tuple[str, ...]) -> Path:
    """The folder of a ModelScope id, cached or fetched. UserError if there is none.

    groups: the files to fetch, an index standing for its shards too. A further group is fetched only while
    `complete(folder)` is false, so that a model's weights never come in two formats.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(
            f"{flag} {name} is neither a local folder nor a ModelScope id such as laion/larger_clap_general"
        )
    # Offline first: a complete local copy is never a reason to ask the network.
    for folder in _cached(name):
        if complete(folder):
            return folder
    from modelscope import snapshot_download

    log.info("fetching %s through ModelScope", name)
    try:
        for group in groups:
            folder = Path(snapshot_download(name, allow_patterns=[p for file in group for p in _with_shards(file)]))
            if complete(folder):
                break
    except Exception as error:  # its client raises errors of many libraries
        raise UserError(
            f"{flag} {name} is no local path and ModelScope cannot fetch it ({first_line(error)[:200]}); "
            "give the path of a downloaded copy"
        ) from None
    return folder


def _with_shards(file: str) -> tuple[str, ...]:
    stem, _, ending = file.removesuffix(".index.json").rpartition(".")
    return (file, f"{stem}-*-of-*.{ending}") if file.endswith(".index.json") else (file,)


def _cached(name: str) -> Iterator[Path]:
    """The folders in which ModelScope's clients, old and new, keep a model.

    A dot in a name is kept or becomes '___'. The oldest clients wrote hub/OWNER/NAME, later ones hub/models/OWNER/NAME,
    those since 1.38 models/OWNER--NAME/snapshots/REVISION; where MODELSCOPE_CACHE is set, the part hub/ is left out.
    """
    homes = [os.environ["MODELSCOPE_CACHE"]] if os.environ.get("MODELSCOPE_CACHE") else []
    owner, _, model = name.partition("/")
    for home in (*homes, "~/.cache/modelscope"):
        for base in ("models", "hub/models", "hub", "."):
            root = Path(home).expanduser() / base
            snapshots = root / f"{owner}--{model}" / "snapshots"
            if snapshots.is_dir():
                others = sorted(path for path in snapshots.iterdir() if path.name not in ("master", "main"))
                # Of several pinned revisions none is the one meant.
                yield from (snapshots / "master", snapshots / "main", *(others if len(others) == 1 else ()))
            yield root / owner / model
            yield root / owner / model.replace(".", "___")


def hash_file(path: Path) -> bytes:
    """SHA-256 of the SHA-256 of each HASHED_AT_ONCE bytes, on all cores."""

    def hash_part(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(HASHED_AT_ONCE)).digest()

    with ThreadPoolExecutor(cores()) as pool:
        parts = pool.map(hash_part, range(0, path.stat().st_size, HASHED_AT_ONCE))
    return hashlib.sha256(b"".join(parts)).digest()


class ModelFolder:
    """The files of one CLAP checkpoint, checked before anything is loaded. UserError in one sentence if one is no good.

    config and preprocessor: the content of their JSON. weights: the file that from_pretrained starts at, an index where
    there are shards. hash_file: a file -> a hash of its content.
    """

    def __init__(self, folder: Path, hash_file: Callable[[Path], bytes] = hash_file):
        self.folder, self._hash_file = folder, hash_file
        self._hashes: dict[str, bytes] = {}
        self.weights = next(name for name in WEIGHTS if (folder / name).is_file())
        self._refuse_pointers()
        self.config = self._json("config.json")
        if self.config.get("model_type") != "clap":
            raise UserError(f"--checkpoint {folder} is a {self.config.get('model_type')!r} model, not 'clap'")
        self.settings_file = next((name for name in PREPROCESSORS if (folder / name).is_file()), PREPROCESSORS[0])
        self.preprocessor = self._json(self.settings_file)
        if self.settings_file == PREPROCESSORS[1]:
            inner = self.preprocessor.get("feature_extractor")
            if not isinstance(inner, dict):
                raise UserError(f"--checkpoint {folder} lacks {PREPROCESSORS[0]}, and {PREPROCESSORS[1]} does not "
                                "replace it: it has no 'feature_extractor'")
            self.preprocessor = inner
        if self.preprocessor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise UserError(f"--checkpoint {folder} wants another sampling rate than {SAMPLE_RATE} Hz")
        if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
            raise UserError(f"--checkpoint {folder} lacks its tokenizer: tokenizer.json, or vocab.json and merges.txt")
        self.shards = self._shards()
        for name in self.shards or [self.weights]:
            self._refuse_cut(folder / name)

    @property
    def in_safetensors(self) -> bool:
        """Whether the weights are safetensors, whole or in shards."""
        return self.weights in SAFETENSORS

    def _refuse_pointers(self, names: tuple[str, ...] = ()) -> None:
        for name in names or (self.weights, *SETTINGS):
            path = self.folder / name
            if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
                raise UserError(
                    f"--checkpoint {self.folder} holds a git-lfs pointer in the place of {name}; run `git lfs pull` "
                    "in that folder, or download the file itself"
                )

    def _json(self, name: str) -> dict:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"--checkpoint {self.folder} lacks {name}") from None
        except (ValueError, RecursionError):
            raise UserError(f"--checkpoint {self.folder} has a {name} that is not JSON") from None
        if not isinstance(content, dict):
            raise UserError(f"--checkpoint {self.folder} has a {name} that is not a JSON object")
        return content

    def _shards(self) -> list[str]:
        if not self.weights.endswith(".index.json"):
            return []
        places = self._json(self.weights).get("weight_map")
        names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
        # A name with a path in it would lead out of the folder.
        if not names or any(not name or Path(name).name != name for name in names):
            raise UserError(f"--checkpoint {self.folder} has a {self.weights} that names no shards beside it")
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise UserError(f"--checkpoint {self.folder} lacks {len(missing)} of {len(names)} shards of its weights, "
                            f"the first is {missing[0]}")  # fmt: skip
        self._refuse_pointers(tuple(names))
        return names

    def _refuse_cut(self, path: Path) -> None:
        """UserError for weights that are not whole, or in a form in which torch below 2.6 runs what it loads."""
        if self.in_safetensors:
            try:
                with safe_open(path, framework="numpy"):
                    return  # its header, and as many bytes as that promises
            except (SafetensorError, OSError) as error:
                wrong = first_line(error)[:300]
        else:
            with path.open("rb") as file:
                zipped = file.read(2) == b"PK"
            # CVE-2025-32434: in a tar archive, the form before torch 0.4, weights_only is not heeded.
            if not tarfile.is_tarfile(path) and (not zipped or zipfile.is_zipfile(path)):
                return
            wrong = f"{path.name} is cut off, or no file of torch.save"
        raise UserError(f"--checkpoint {self.folder} cannot be loaded as a CLAP model: {wrong}")

    def _sha256(self, *names: str) -> str:
        digest = hashlib.sha256()
        for name in names:
            if (self.folder / name).is_file():
                if name not in self._hashes:
                    self._hashes[name] = self._hash_file(self.folder / name)
                digest.update(f"{name} ".encode() + self._hashes[name])
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Identifies the model: every file that an embedding depends on."""
        return self._sha256("config.json", self.settings_file, self.weights, *self.shards, *TEXT_FILES)

    @cached_property
    def audio_sha256(self) -> str:
        """Identifies what a clip's embedding depends on."""
        return self._sha256("config.json", self.settings_file, self.weights, *self.shards)

    @cached_property
    def text_sha256(self) -> str:
        """Identifies what a text's embedding depends on."""
        return self._sha256("config.json", self.weights, *self.shards, *TEXT_FILES)
