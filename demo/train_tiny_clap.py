"""Train CLAP/tiny, a very small but real ClapModel, audio and text towers, on the CPU in a few minutes.

    python demo/synthesise.py --output-dir demo/more_data --seed 1
    python demo/train_tiny_clap.py --parquet-dir realsounds/clap_train demo/more_data/train_balanced \\
        --output-dir CLAP/tiny

A tower this small learns little from a thousand clips. So the inside of its audio tower is not trained but set: each
token is a slice of 80 ms over all mel bands, the one layer turns it into the level and the change of each band and how
far they lie above some thresholds, and the averages over time are statistics of the spectrogram. The projection behind
it is trained against a table of class embeddings, which the text tower then learns to give for any prompt.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

TEMPLATES = (
    "This is a sound of {label}.",
    "This is a sound of {label}",
    "this is the sound of {label}.",
    "The sound of {label}.",
    "the sound of {label}",
    "A sound of {label}.",
    "sound of {label}",
    "A recording of {label}.",
    "This audio is {label}.",
    "I can hear {label}.",
    "An audio clip of {label}.",
    "{label}.",
    "{label}",
)
EMBEDDING_DIM, BANDS, PATCH, HIDDEN = 512, 64, 8, 384
MAX_TOKENS = 48
VIEWS = 3  # circular shifts of each clip: it should not matter where a slice begins
ANCHOR = 15.0
PREPROCESSOR = {
    "feature_size": BANDS,
    "sampling_rate": 48000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}


def parse_arguments():
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--parquet-dir", nargs="+", type=Path, required=True, help="folders to train on")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--audio-steps", type=int, default=1500)
    parser.add_argument("--text-steps", type=int, default=1000)
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
from common import CLASS_LABELS  # noqa: E402
from data import ParquetFolder, decode  # noqa: E402
from labels import ONTOLOGY, ClassList  # noqa: E402
from training import target_matrix  # noqa: E402


def load_clips(folders, classes):
    """Folders of parquet files -> log-mels [n, 1001, 64] in decibels, multi-hot targets [n, 527]."""
    log_mel, mels, positions = LogMel(PREPROCESSOR), [], []
    for clip in (clip for folder in folders for clip in ParquetFolder(folder, classes)):
        mels.append(log_mel(torch.from_numpy(log_mel.pad(decode(clip)))[None])[0, 0])
        positions.append(clip.positions)
    return torch.stack(mels), target_matrix(positions, len(classes)).float()


def build_model(vocab_size, mels):
    """A ClapModel whose audio tower computes statistics of log-mels; its batch norm knows those of mels."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "max_position_embeddings": MAX_TOKENS + 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    audio = {
        "patch_size": [BANDS, PATCH],
        "patch_stride": [BANDS, PATCH],
        "patch_embeds_hidden_size": HIDDEN,
        "hidden_size": HIDDEN,
        "depths": [1],
        "num_attention_heads": [4],
        "num_hidden_layers": 1,
        "window_size": 2,
        "enable_patch_layer_norm": False,
        "hidden_dropout_prob": 0.0,
    }
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=EMBEDDING_DIM))
    for module in model.modules():
        # The library's initial weights suit large towers: here they leave every layer close to the identity.
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_normal_(module.weight)
    set_audio_tower(model.audio_model.audio_encoder, mels)
    return model


@torch.no_grad()
def set_audio_tower(encoder, mels):
    """Six groups of 64 channels, one for each mel band: level, two changes, and what the layer makes of them."""
    encoder.batch_norm.running_mean.copy_(mels.mean((0, 1)))
    encoder.batch_norm.running_var.copy_(mels.var((0, 1)))
    conv, layer = encoder.patch_embed.proj, encoder.layers[0].blocks[0]
    up, down = layer.intermediate.dense, layer.output.dense
    for parameter in (conv.weight, conv.bias, layer.attention.output.dense.weight, layer.attention.output.dense.bias):
        parameter.zero_()
    # Random units as well, faintly: combinations of bands that nobody thought of.
    up.weight.normal_(0, HIDDEN**-0.5)
    up.bias.normal_(0, 0.5)
    down.weight.normal_(0, 0.02 * len(up.bias) ** -0.5)
    down.bias.zero_()
    # Level of one frame, change over the patch, change from frame to frame.
    bands, frame = torch.eye(BANDS), torch.eye(PATCH)
    for group, kernel in enumerate((frame[3], frame[7] - frame[0], frame[4] - frame[3])):
        conv.weight[BANDS * group : BANDS * (group + 1), 0] = bands[:, :, None] * kernel
    # Layer norm would give silence the weight of sound. Two large constants keep its divisor nearly constant.
    conv.bias[-2], conv.bias[-1] = ANCHOR, -ANCHOR
    for norm in (layer.layernorm_after, encoder.norm):
        norm.weight.fill_(ANCHOR * (2 / HIDDEN) ** 0.5)
        norm.weight[-2:] = 0
    # gelu(3x) + gelu(-3x) is about |3x|; gelu(2(x - t)) tells how far a level lies above t. (source, gain, t, target)
    units = [(1, 3, 0, 3), (1, -3, 0, 3), (2, 3, 0, 4), (2, -3, 0, 4), (0, 2, -1, 1), (0, 2, 0.5, 2), (0, 2, 1.5, 5)]
    for i, (source, gain, threshold, target) in enumerate(units):
        span = slice(BANDS * i, BANDS * (i + 1))
        up.weight[span], up.bias[span], down.weight[:, span] = 0, -gain * threshold, 0
        up.weight[span, BANDS * source : BANDS * (source + 1)] = bands * gain
        down.weight[BANDS * target : BANDS * (target + 1), span] = bands


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


@torch.no_grad()
def tower_features(model, mels, rng):
    """Log-mels [n, 1001, 64] -> pooled features of VIEWS circular shifts of each, [VIEWS n, 384]."""
    model.eval()
    views = []
    for view in range(VIEWS):
        for part in mels.split(16):
            shifted = part.roll(int(rng.integers(part.shape[1])) if view else 0, 1)
            views.append(model.audio_model(shifted[:, None]).pooler_output)
    return torch.cat(views)


def train_audio(model, mels, targets, table, rng, steps):
    """Fit the audio projection and the table of class embeddings to each other."""
    features, targets = tower_features(model, mels, rng), targets.repeat(VIEWS, 1)
    targets = targets / targets.sum(1, keepdim=True)
    # Standardised while training: a dropped feature is then an average one. Folded into the weights at the end.
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-2)
    features = (features - mean) / deviation
    projection = model.audio_projection
    weights = list(projection.parameters())
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in weights if p.ndim < 2] + [table.pieces, model.logit_scale_a], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(len(features), size=128))
        inputs = features[chosen] + 0.1 * torch.randn(128, HIDDEN)
        hidden = F.dropout(F.relu(projection.linear1(F.dropout(inputs, 0.1))), 0.3)
        logits = model.logit_scale_a.exp() * F.normalize(projection.linear2(hidden), dim=-1) @ table().T
        loss = F.cross_entropy(logits, targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        projection.linear1.weight.div_(deviation)
        projection.linear1.bias.sub_(projection.linear1.weight @ mean)
    print(f"audio: loss {np.mean(losses[:50]):.3f} -> {np.mean(losses[-50:]):.3f}", flush=True)


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
    mels, targets = load_clips(args.parquet_dir, classes)
    tokenizer = train_tokenizer(classes.names)
    model = build_model(len(tokenizer), mels)
    print(f"{len(mels)} clips, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    table = Table(word_incidence(classes.names))
    train_audio(model, mels, targets, table, rng, args.audio_steps)
    with torch.no_grad():
        target_table = table()
        model.logit_scale_t.copy_(model.logit_scale_a)
    train_text(model, tokenizer, classes.names, target_table, rng, args.text_steps)
    with torch.no_grad():
        prompts = [TEMPLATES[0].format(label=name) for name in classes.names]
        texts = embed_texts(model.eval(), tokenizer(prompts, padding=True, return_tensors="pt"))
    nearest = (texts @ texts.T - 2 * torch.eye(len(texts))).amax(1)
    print(f"cosine of nearest class texts: median {nearest.median():.3f}, at most {nearest.max():.3f}")
    assert nearest.max() < 0.99, "two classes have the same text embedding"
    # transformers hands a tokenizer's own truncation on to the audio, which would cut every clip to 48 samples.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    model.half().save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    ClapFeatureExtractor(**PREPROCESSOR).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main(args)
