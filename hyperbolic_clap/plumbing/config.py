"""What the flags say, as frozen values that travel: made in plumbing/flags.py and never changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLASS_LABELS = ROOT / "CLAP" / "class_labels" / "audioset_class_labels_indices.json"
DEFAULT_CHECKPOINT = "laion/larger_clap_general"
# Figures by which an epoch may be the best; val_mean is the mean of the four before it.
SELECT_BY = ("val_loss", "val_acc@1", "val_acc@5", "val_map", "val_map_samples", "val_mean")
CONVENTION = "c is the squared radius of the ball, curvature K = -1/c, d(0, expmap0(v)) = 2|v|"


@dataclass(frozen=True)
class Columns:
    """The names of the parquet columns that hold audio, labels and ids. None: found by their usual names.

    vectors: whether the column `embedding` is taken where there is audio too.
    """

    audio: str | None = None
    label: str | None = None
    id: str | None = None
    vectors: bool = False

    @property
    def kind(self) -> str:
        """What tells files read by other columns apart, "" for the usual names; labels and ids are always read anew."""
        return "" if self.audio is None else f" {self.audio.encode().hex()}"


@dataclass(frozen=True)
class DataConfig:
    """Which rows are read: of the parquet files in a folder, the first num_samples usable ones (None: all)."""

    parquet_dir: Path
    num_samples: int | None = None
    skip_bad_files: bool = False
    columns: Columns = Columns()


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen model, what it is asked, and where its vectors are kept.

    checkpoint: a local folder or a ModelScope id. class_labels: a JSON of class name -> index, None: AudioSet's 527.
    classes: the names themselves instead. prompts: templates of a class text, None: the projector's or the default.
    text_embeddings: a file of texts and their vectors, which takes the place of the model where the rows are vectors.
    batch_size: windows at a time on CUDA. workers: decoding threads, None: one for each core. cache_dir: None: the
    user's cache folder.
    """

    checkpoint: str = DEFAULT_CHECKPOINT
    device: str = "cuda:0"
    class_labels: Path | None = None
    classes: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    text_embeddings: Path | None = None
    batch_size: int = 32
    workers: int | None = None
    autocast: bool = True
    cache_dir: Path | None = None
    use_cache: bool = True
    verify_cache: bool = False


@dataclass(frozen=True)
class ProjectorConfig:
    """What compares audio with text. path: a .pth file, an exported folder or its ModelScope id; None: plain cosine.

    use_hyperbolic: whether a similarity with a curvature is expected; c, temperature, prototypes: what the checkpoint
    must hold. None: any.
    """

    path: Path | None = None
    use_hyperbolic: bool | None = None
    c: float | None = None
    temperature: float | None = None
    prototypes: float | None = None


@dataclass(frozen=True)
class TrainConfig:
    """What a training depends on besides its data and model. The flags of the same names say what each one is."""

    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-4
    c: float = 1.0
    temperature: float = 1.0
    loss: str = "sigmoid"
    similarity: str = "hyperbolic"
    output_dim: int = 512
    audio_radius: float = 0.5
    learn_c: bool = False
    seed: int = 42
    logit_scale: float | None = None
    text_radius: float | None = None
    lr_schedule: str = "constant"
    average_with_start: float = 0.0
    prototypes: float = 0.0
    split_by: str = "video_id"
    text: str = "labels"
    train_ratio: float = 0.8
    patience: int | None = None
    select_by: str = "val_loss"

    @property
    def captions(self) -> bool:
        """Whether the texts are captions instead of a class list."""
        return self.text == "captions"

    def identity(self) -> dict:
        """What the weights after a given epoch depend on; of the later settings only those that are not the default."""
        later = ("logit_scale", "text_radius", "lr_schedule", "average_with_start", "prototypes", "split_by")
        # The data's fingerprint holds the texts and the split; the last two say which epoch is taken, not what it is.
        elsewhere = ("text", "train_ratio", "patience", "select_by")
        fields = type(self).__dataclass_fields__
        kept = {n: v for n, v in asdict(self).items() if n not in later or v != fields[n].default}
        epochs = kept.pop("epochs")  # only how long it goes on, unless a schedule ends where they end
        kept = {name: value for name, value in kept.items() if name not in elsewhere}
        return kept if self.lr_schedule == "constant" else kept | {"epochs": epochs}


@dataclass(frozen=True)
class RunConfig:
    """Where a training writes. log_to: a local tracker, or None. resume: go on after the last finished epoch.

    keep: "all" checkpoints, or "best": those of the best and of the last epoch.
    """

    output_dir: Path = Path("checkpoints_hyperbolic")
    resume: bool = False
    log_to: str | None = None
    keep: str = "all"
