"""Train CLAP/tiny, a very small but real ClapModel, on one CPU core in about a quarter of an hour.

    python demo/synthesise.py --output-dir demo/more_data --seed 1
    python demo/train_tiny_clap.py --parquet-dir realsounds/clap_train demo/more_data/train_balanced \\
        --output-dir CLAP/tiny

The audio tower is trained from scratch against a table of class embeddings: a softmax over the 527 classes. Most steps
see windows of 2.56 s, a quarter of the tokens and of the time, in two cycles of the learning rate; the last ones whole
inputs of 10 s. The text tower then learns to give the row of a class for any prompt of it.

    python demo/train_tiny_clap.py ... --output-dir trial --held-out 0.25 --audio-steps 300

trains on the other clips and prints the metrics of those held out: for choosing settings.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

TEMPLATES = (
    *("This is a sound of {label}.", "This is a sound of {label}", "this is the sound of {label}."),
    *("The sound of {label}.", "the sound of {label}", "A sound of {label}.", "sound of {label}"),
    *("A recording of {label}.", "This audio is {label}.", "I can hear {label}.", "An audio clip of {label}."),
    *("{label}.", "{label}"),
)
EMBEDDING_DIM, BANDS, MAX_TOKENS = 512, 64, 48
WIDTH = 24  # of a token; it doubles at each stage
DEPTHS = (1, 1, 3)
SHORT, LONG = 128, 256  # spec_size: the tower takes spec_size ** 2 / 64 frames of 10 ms
SILENCE = -100.0  # dB, the extractor's floor
RATE = 1e-3
BATCH = 32
CYCLES = 2  # of the learning rate
APART = 0.7
FIRST_SHARE = 0.7  # of the clips drawn come from the first folder
# The rest of the extractor's settings are its defaults: 48 kHz, 1024 samples, 480 from frame to frame, 10 s repeated.
PREPROCESSOR = {"feature_size": BANDS, "frequency_min": 50, "frequency_max": 14000, "truncation": "rand_trunc"}


def parse_arguments():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--parquet-dir", nargs="+", type=Path, required=True, help="folders; the first counts most")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--audio-steps", type=int, default=800, help="on windows of 2.56 s, twice")
    parser.add_argument("--long-steps", type=int, default=40, help="on 10 s")
    parser.add_argument("--text-steps", type=int, default=1000)
    parser.add_argument("--held-out", type=float, default=0.0, help="share of the first folder to validate on")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


args = parse_arguments() if __name__ == "__main__" else None  # before torch, for an instant --help

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from torch.optim.lr_scheduler import OneCycleLR  # noqa: E402
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast  # noqa: E402

from CLAP.logmel import LogMel  # noqa: E402
from data import ParquetFolder, decode  # noqa: E402
from hyperbolic_clap.metrics.classification import metrics  # noqa: E402
from hyperbolic_clap.plumbing.config import CLASS_LABELS  # noqa: E402
from hyperbolic_clap.reading.labels import ONTOLOGY, ClassList  # noqa: E402
from hyperbolic_clap.training.split import split_by_video  # noqa: E402


class Sound(NamedTuple):
    """A clip: log-mel [1001, 64] in dB, multi-hot target [527], length in frames, frame where its repeats end."""

    mel: torch.Tensor
    target: torch.Tensor
    period: int
    end: int
    folder: Path
    video_id: str


def load_sounds(folders, classes):
    """Folders of parquet files -> list of Sounds."""
    log_mel, sounds = LogMel(PREPROCESSOR), []
    for folder, clip in ((source, clip) for source in folders for clip in ParquetFolder(source, classes)):
        waveform = decode(clip)[: log_mel.window]
        mel = log_mel(torch.from_numpy(log_mel.pad(waveform))[None])[0, 0]
        target = torch.zeros(len(classes))
        target[clip.positions] = 1
        end = log_mel.window // len(waveform) * len(waveform) // log_mel.hop
        sounds.append(Sound(mel, target, max(1, len(waveform) // log_mel.hop), end, folder, clip.video_id))
    return sounds


def build_model(vocab_size, spec_size):
    """A ClapModel whose audio tower is a small Swin transformer over spec_size x spec_size images."""
    text = {"vocab_size": vocab_size, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"intermediate_size": 192, "max_position_embeddings": MAX_TOKENS + 2}
    audio = {"spec_size": spec_size, "patch_size": 8, "patch_stride": 4, "window_size": 8, "drop_path_rate": 0.0}
    audio |= {"depths": list(DEPTHS), "num_attention_heads": [2**i for i in range(len(DEPTHS))]}
    audio |= {"num_hidden_layers": len(DEPTHS), "hidden_size": WIDTH * 2 ** (len(DEPTHS) - 1)}
    audio |= {"patch_embeds_hidden_size": WIDTH}
    for config in (text, audio):
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=EMBEDDING_DIM))
    for module in model.modules():
        # The library's initial weights suit large towers: here they leave every layer close to the identity.
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_normal_(module.weight)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    model.audio_model.audio_encoder.batch_norm.requires_grad_(False)
    return model.eval()  # the mel bands' statistics are set from the data and stay


def word_incidence(names):
    """
    Class names -> [527, pieces]: a class is made of itself, the words of its name and its ancestors.

    Shared pieces let a class without clips learn from those which have some ("Snare drum" and "Drum roll").
    """
    parents = {node["name"]: node["parents"] for node in json.loads(ONTOLOGY.read_text(encoding="utf-8"))["nodes"]}
    shares = []
    for name in names:
        words = set(re.findall(r"[a-z]+", name.lower())) - {"a", "and", "etc", "of", "the"}
        share = {("class", name): 1.0} | {("word", word): 0.5 / math.sqrt(len(words)) for word in words}
        line = [name]
        for ancestor in line:
            line.extend(parent for parent in parents[ancestor] if parent not in line)
        shares.append(share | {("ancestor", ancestor): 0.5 / math.sqrt(len(line)) for ancestor in line})
    columns = {piece: i for i, piece in enumerate(sorted({piece for share in shares for piece in share}))}
    incidence = torch.zeros(len(names), len(columns))
    for row, share in zip(incidence, shares, strict=True):
        row[[columns[piece] for piece in share]] = torch.tensor(list(share.values()))
    return incidence


class Table(torch.nn.Module):
    """Class embeddings as sums of pieces."""

    def __init__(self, incidence):
        super().__init__()
        rows, self.columns = incidence.nonzero(as_tuple=True)
        self.shares = incidence[rows, self.columns]
        self.offsets = torch.searchsorted(rows, torch.arange(len(incidence)))
        self.pieces = torch.nn.Parameter(torch.randn(incidence.shape[1], EMBEDDING_DIM) / math.sqrt(EMBEDDING_DIM))

    def forward(self):
        """[527, 512], unit rows."""
        sums = F.embedding_bag(self.columns, self.pieces, self.offsets, mode="sum", per_sample_weights=self.shares)
        return F.normalize(sums, dim=-1)


def cut(sound, frames, rng):
    """Log-mel [frames, 64] begun anywhere in the repeats of a sound, up to 12 % faster or slower, 2 bands shifted."""
    source = rng.integers(sound.period) + np.arange(frames) * math.exp(rng.uniform(-0.12, 0.12))
    bands = np.clip(np.arange(BANDS) + rng.integers(-2, 3), 0, BANDS - 1)
    mel = sound.mel[torch.from_numpy((source % sound.period).astype(int))][:, torch.from_numpy(bands)]
    if frames == len(sound.mel):
        mel[sound.end :] = SILENCE
    return mel


def mix(mels, targets, rng):
    """Three in ten clips get another one added, at most as loud as themselves; targets shared by the amount."""
    other = torch.from_numpy(rng.permutation(len(mels)))
    amount = torch.from_numpy(rng.uniform(0, 0.5, len(mels)) * (rng.random(len(mels)) < 0.3)).float()
    power = 10 ** (mels / 10)
    level = power.mean((1, 2), keepdim=True)
    share = amount[:, None, None]
    mixed = power * (1 - share) + power[other] * (level / level[other]) * share
    return mixed.log10().mul(10).clamp(min=SILENCE), targets.lerp(targets[other], amount[:, None])


def training_batch(sounds, chances, frames, mean, rng):
    """Log-mels [32, 1, frames, 64] and target shares [32, 527]: cut, louder or softer, tilted, mixed, masked."""
    chosen = [sounds[i] for i in rng.choice(len(sounds), BATCH, p=chances)]
    mels = torch.stack([cut(sound, frames, rng) for sound in chosen])
    tilt = rng.normal(0, 4, (BATCH, 1, 1)) + rng.normal(0, 0.3, (BATCH, 1, BANDS)).cumsum(2)
    targets = torch.stack([sound.target / sound.target.sum() for sound in chosen])
    mels, targets = mix(mels + torch.from_numpy(tilt).float(), targets, rng)
    for mel in mels:
        if rng.random() < 0.3:
            for _ in range(2):
                width, height = int(rng.integers(1, frames // 8)), int(rng.integers(1, 9))
                start, band = int(rng.integers(frames - width)), int(rng.integers(BANDS - height))
                mel[start : start + width] = mean
                mel[:, band : band + height] = mean[band : band + height]
    return mels[:, None], targets


def train_audio(model, norm, table, sounds, frames, steps, rate, rng):
    """Fit the audio tower, its projection and the table of class embeddings to each other."""
    tower, projection = model.audio_model, model.audio_projection
    weights = [p for p in [*tower.parameters(), *projection.parameters()] if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in weights if p.ndim < 2] + [table.pieces, model.logit_scale_a], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    schedule = OneCycleLR(optimizer, rate, steps, pct_start=0.08, cycle_momentum=False)
    mean, losses = tower.audio_encoder.batch_norm.running_mean, []
    counts = Counter(sound.folder for sound in sounds)
    first = max(FIRST_SHARE, 2 - len(counts))  # all of one folder alone
    others = (1 - first) / max(1, len(sounds) - counts[sounds[0].folder])
    chances = [first / counts[sound.folder] if sound.folder == sounds[0].folder else others for sound in sounds]
    for step in range(steps):
        mels, targets = training_batch(sounds, chances, frames, mean, rng)
        # Averages over tokens differ little from clip to clip: not standardised, they would be learnt from slowly.
        features = F.dropout(norm(tower(mels).pooler_output), 0.05)
        hidden = F.dropout(F.relu(projection.linear1(features)), 0.1)
        logits = model.logit_scale_a.exp() * F.normalize(projection.linear2(hidden), dim=-1) @ table().T
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"audio, {frames} frames, step {step + 1}: loss {np.mean(losses[-100:]):.3f}", flush=True)


@torch.no_grad()
def fold(norm, linear):
    """Put the standardisation of its inputs into a linear layer."""
    linear.weight.div_((norm.running_var + norm.eps).sqrt())
    linear.bias.sub_(linear.weight @ norm.running_mean)


@torch.no_grad()
def report(model, sounds, texts):
    """Print the metrics of cosine zero-shot."""
    features = [model.audio_model(sound.mel[None, None]).pooler_output for sound in sounds]
    audio = F.normalize(model.audio_projection(torch.cat(features)), dim=-1)
    values = metrics((audio @ texts.T).numpy(), torch.stack([sound.target for sound in sounds]).numpy(), 5)
    print("held out:", ", ".join(f"{key} {values[key]:.3f}" for key in ("acc@1", "acc@5", "map", "map_samples", "auc")))


def train_tokenizer(names):
    """Byte-level BPE of the prompts; <s> first, </s> last, padded with id 1, as ClapTextConfig expects."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    labels = [label for name in names for label in (name, name.lower())]
    texts = [template.format(label=label) for template in TEMPLATES for label in labels]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    special = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"}
    tokens = {f"{name}_token": token for name, token in special.items()} | {"mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **tokens)


def embed_texts(model, tokens):
    """Tokens of n texts -> unit embeddings [n, 512]."""
    pooled = model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def train_text(model, tokenizer, names, table, rng, steps):
    """Distil table [527, 512] into the text tower, so that any template of a class gives its row."""
    weights = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    losses = []
    model.text_model.train()
    for _ in range(steps):
        chosen = rng.integers(len(names), size=128)
        labels = [names[i].lower() if rng.random() < 0.3 else names[i] for i in chosen]
        texts = [TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(label=label) for label in labels]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        cosines = embed_texts(model, tokens) @ table.T
        truth = torch.from_numpy(chosen)
        loss = (1 - cosines[range(len(chosen)), truth]).mean() + 0.1 * F.cross_entropy(20 * cosines, truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    print(f"text: loss {np.mean(losses[:50]):.3f} -> {np.mean(losses[-50:]):.4f}", flush=True)


def main(args):
    torch.set_num_threads(1)  # the order of additions, and so the weights, does not depend on the machine's cores
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    classes = ClassList.read(CLASS_LABELS)
    sounds, held_out = load_sounds(args.parquet_dir, classes), []
    if args.held_out:
        ids = [sound.video_id for sound in sounds if sound.folder == args.parquet_dir[0]]
        held_out = [sounds[i] for i in split_by_video(ids, 1 - args.held_out, args.seed)[1]]
        ids = {sound.video_id for sound in held_out}
        sounds = [sound for sound in sounds if sound.video_id not in ids]
    tokenizer = train_tokenizer(classes.names)
    short, model = (build_model(len(tokenizer), size) for size in (SHORT, LONG))
    mels = torch.stack([sound.mel for sound in sounds])
    short.audio_model.audio_encoder.batch_norm.running_mean.copy_(mels.mean((0, 1)))
    short.audio_model.audio_encoder.batch_norm.running_var.copy_(mels.var((0, 1)))
    print(f"{len(sounds)} clips, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    table = Table(word_incidence(classes.names))
    first_table = table().detach()
    norm = torch.nn.BatchNorm1d(model.config.audio_config.hidden_size, affine=False)
    for _ in range(CYCLES):
        train_audio(short, norm, table, sounds, SHORT**2 // BANDS, args.audio_steps, RATE, rng)
    model.load_state_dict(short.state_dict())  # no weight depends on the size of the image
    train_audio(model, norm, table, sounds, mels.shape[1], args.long_steps, RATE / 5, rng)
    fold(norm, model.audio_projection.linear1)
    with torch.no_grad():
        target_table = table()
        # Classes without clips have all fled from all sounds, to one place: what they began with holds them apart.
        silent = torch.stack([sound.target for sound in sounds]).sum(0) == 0
        target_table[silent] = F.normalize(target_table[silent] + APART * first_table[silent], dim=-1)
        model.logit_scale_t.copy_(model.logit_scale_a)
    train_text(model, tokenizer, classes.names, target_table, rng, args.text_steps)
    with torch.no_grad():
        prompts = [TEMPLATES[0].format(label=name) for name in classes.names]
        texts = embed_texts(model.eval(), tokenizer(prompts, padding=True, return_tensors="pt"))
    nearest = (texts @ texts.T - 2 * torch.eye(len(texts))).amax(1)
    print(f"cosine of nearest class texts: median {nearest.median():.3f}, at most {nearest.max():.3f}")
    assert nearest.max() < 0.99, "two classes have the same text embedding"
    if held_out:
        report(model, held_out, texts)
    # transformers hands a tokenizer's own truncation on to the audio, which would cut every clip to 48 samples.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    model.half().save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    ClapFeatureExtractor(**PREPROCESSOR).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main(args)
