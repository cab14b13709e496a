"""The training a second time, plain and slow: loops over epochs and clips, the formulas of the papers, autograd.

Fifty random settings go through train_hyperbolic_clap.py and through `second`, and every figure must agree. `second`
takes from the product only what goes in (rows, and embeddings as the cache keeps them) and what comes out.
"""

import hashlib
import json
import math
import random

import numpy as np
import pytest
import torch
from conftest import cached, flac, script, write_rows

NAMES = ["Bark", "Meow", "Rain", "Siren", "Speech", "Thunder", "Music"]  # nothing is ever labelled Thunder
CLIPS = 37
CEILING = (7,)  # settings whose logit scale starts just below its ceiling, and reaches it
TOLERANCE = 2e-6  # of the largest logit, which is rounded to float32; 8e-7 is the most that was seen
FIGURES = ["train_loss", "val_loss", "similarity_positives", "similarity_negatives", "logit_scale", "logit_bias", "c"]
FAR = ["text_mean", "text_std", "text_boundary", "audio_mean", "audio_std", "audio_boundary"]  # distances from the root


@pytest.fixture(scope="module")
def material(tmp_path_factory, encoder):
    """(folder of 37 clips of 22 videos, flags, audio, texts of the classes, rows, texts of captions by their words)."""
    home, draw, rng = tmp_path_factory.mktemp("second"), random.Random(1), np.random.default_rng(0)
    rows, t = [], np.arange(3200) / 16_000
    for i in range(CLIPS):
        sound = np.sin(2 * np.pi * rng.uniform(80, 6000) * t * (1 + rng.uniform(0, 3) * t))
        sound = sound + rng.uniform(0, 1) * rng.normal(size=len(t))
        labels = draw.sample([name for name in NAMES if name != "Thunder"], draw.choice([1, 1, 2, 3]))
        said = draw.sample([f"{a} and {b}" for a in NAMES for b in NAMES[:3]], draw.choice([1, 2]))
        rows.append({"video_id": f"v{i * 7 % 22}", "audio": {"bytes": flac(0.2 * sound)}, "human_labels": labels,
                     "captions": said})  # fmt: skip
    write_rows(home / "clips", rows)
    (home / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(NAMES)}))
    flags = ["--parquet-dir", home / "clips", "--class-labels", home / "classes.json", "--cache-dir", home / "cache"]
    for text in ("labels", "captions"):  # which fills the cache
        script("train_hyperbolic_clap.py", *flags, "--text", text, "--epochs", 1, "--output-dir", home / "first")
    known = {key: torch.tensor(np.frombuffer(v, np.float32)) for key, v in cached(home / "cache").items()}
    audio = torch.stack([known[hashlib.sha256(b"encoded\n" + row["audio"]["bytes"]).digest()] for row in rows])
    text = {}
    for words in {f"This is a sound of {name}." for name in NAMES} | {c for row in rows for c in row["captions"]}:
        text[words] = known[hashlib.sha256(f"text\n{encoder.text_fingerprint}\n{words}".encode()).digest()]
    # Labels that CLAP finds likely, so that there is something to learn.
    likely = audio @ torch.stack([text[f"This is a sound of {name}."] for name in NAMES]).T
    likely = likely - likely.mean(0)
    likely[:, NAMES.index("Thunder")] = -1
    for row, best in zip(rows, likely.argmax(1).tolist(), strict=True):
        row["human_labels"] = list(dict.fromkeys([NAMES[best], *row["human_labels"][1:]]))
    write_rows(home / "clips", rows)
    return home, flags, audio, rows, text


def similarity(s, audio, text, c):
    """The cosine, or the distance by the hyperbolic law of cosines as it stands in the textbooks."""
    audio, text = audio.double(), text.double()
    cos = (audio / audio.norm(dim=1, keepdim=True)) @ (text / text.norm(dim=1, keepdim=True)).T
    if s["similarity"] == "hyperbolic":
        radius = c**0.5
        a, b = 2 * audio.norm(dim=1)[:, None] / radius, 2 * text.norm(dim=1) / radius
        cos = -radius * (a.cosh() * b.cosh() - a.sinh() * b.sinh() * cos).acosh()
    return (cos / s["temperature"]).float()


def loss_of(s, logits, truth):
    if s["loss"] == "sigmoid":
        return torch.logaddexp(torch.where(truth, -logits, logits), torch.zeros(())).sum() / len(logits)
    if s["loss"] == "softmax":
        return -sum(row.log_softmax(0)[t].mean() for row, t in zip(logits, truth, strict=True)) / len(logits)
    logits, truth = logits[:, truth.any(0)], truth[:, truth.any(0)]
    ways = ((logits, truth), (logits.T, truth.T))
    return sum(-torch.stack([r.log_softmax(0)[t].mean() for r, t in zip(*way, strict=True)]).mean() for way in ways) / 2


def recalls(scores, truth):
    """R@1 from each caption of each clip to its clip, and from each clip to any of its captions; ties to the first."""
    found = [scores[:, j].argmax() == i for i, j in truth.nonzero().tolist()]
    return float(np.mean(found)), float(np.mean([truth[i, row.argmax()] for i, row in enumerate(scores)]))


def second(s, audio, rows, embedded):
    """Settings -> (training rows, validation rows, figures of every epoch, weights of every epoch)."""
    videos = list(dict.fromkeys(row["video_id"] for row in rows))
    order, chosen, count = torch.randperm(len(videos), generator=torch.Generator().manual_seed(s["seed"])), set(), 0
    for i in order.tolist():  # whole videos, as long as the sum comes nearer to the share; one at least on each side
        size = sum(row["video_id"] == videos[i] for row in rows)
        if chosen and (count + size / 2 > s["train_ratio"] * len(rows) or len(chosen) == len(videos) - 1):
            break
        chosen, count = chosen | {videos[i]}, count + size
    train = [i for i, row in enumerate(rows) if row["video_id"] in chosen]
    validation = [i for i in range(len(rows)) if i not in train]

    captions = s["text"] == "captions"
    said = [row["captions"] if captions else [f"This is a sound of {n}." for n in row["human_labels"]] for row in rows]
    texts = list(dict.fromkeys(w for x in said for w in x)) if captions else [f"This is a sound of {n}." for n in NAMES]
    text = torch.stack([embedded[words] for words in texts])

    def batch(of):  # the texts that clips are compared with, and which are right
        among = [w for w in texts if not captions or any(w in said[i] for i in of)]
        return [texts.index(w) for w in among], torch.tensor([[w in said[i] for w in among] for i in of])

    dim, r = audio.shape[1], s["audio_radius"]
    weight = torch.eye(s["output_dim"], dim)
    if s["output_dim"] < dim:
        axes = torch.linalg.svd(text.double())[2].float()[: s["output_dim"]]
        weight = torch.stack([axis * axis[axis.abs().argmax()].sign() for axis in axes])
    if s["text_radius"]:
        weight *= s["text_radius"] / (r * text @ weight.T).norm(dim=1).mean()
    values = [weight, torch.zeros(s["output_dim"]), torch.tensor(math.log(s["logit_scale"])),
              torch.zeros(()), torch.zeros(()).double()]  # fmt: skip

    def forward(values, of, which):
        projected = audio[of] @ values[0].T + values[1]
        clips = r * projected / projected.norm(dim=1, keepdim=True)
        return similarity(s, clips, r * (text[which] @ values[0].T + values[1]), s["c"] * values[4].exp())

    which, truth = batch(train)
    rate = truth.double().mean()
    values[3] = (rate / (1 - rate)).log() - s["logit_scale"] * forward(values, train, which).mean()
    values = [value.requires_grad_() for value in values]
    start = [value.detach().clone() for value in values]
    rates = [s["learning_rate"]] * 2 + [max(s["learning_rate"], 1e-3)] * 3
    moments, steps, records, weights, size = [[0, 0] for _ in values], 0, [], [], s["batch_size"]
    for epoch in range(1, s["epochs"] + 1):
        mixed = torch.randperm(len(train), generator=torch.Generator().manual_seed(s["seed"] * 1_000_003 + epoch))
        parts = [[train[i] for i in mixed[k : k + size]] for k in range(0, len(train), size)]
        total = 0
        for number, part in enumerate(parts):
            which, truth = batch(part)
            loss = loss_of(s, values[2].exp() * forward(values, part, which) + values[3], truth)
            total += loss.item() * len(part)
            grads = torch.autograd.grad(loss, values, allow_unused=True)
            done, steps = (epoch - 1 + number / len(parts)) / s["epochs"], steps + 1
            fade = (1 + math.cos(math.pi * done)) / 2 if s["lr_schedule"] == "cosine" else 1
            with torch.no_grad():
                for value, grad, m, lr in zip(values, grads, moments, rates, strict=True):
                    if grad is None or (value is values[4] and not s["learn_c"]):
                        continue
                    m[0], m[1] = 0.9 * m[0] + 0.1 * grad, 0.999 * m[1] + 0.001 * grad**2
                    value -= fade * lr * (m[0] / (1 - 0.9**steps)) / ((m[1] / (1 - 0.999**steps)).sqrt() + 1e-8)
                values[2].clamp_(max=math.log(100))
        share = s["average_with_start"]
        mean = [(1 - share) * value.detach() + share * first for value, first in zip(values, start, strict=True)]
        whole = size if captions or s["loss"] == "contrastive" else CLIPS
        val_loss, right, wrong = 0, [], []
        for k in range(0, len(validation), whole):
            part = validation[k : k + whole]
            which, truth = batch(part)
            found = forward(mean, part, which)
            val_loss += loss_of(s, mean[2].exp() * found + mean[3], truth).item() * len(part)
            right, wrong = right + found[truth].tolist(), wrong + found[~truth].tolist()
        figures = [total / len(train), val_loss / len(validation), np.mean(right), np.mean(wrong) if wrong else None]
        figures += [mean[2].exp().item(), mean[3].item(), s["c"] * mean[4].exp().item()]
        edge = 2 * math.sqrt(figures[-1]) * math.atanh(0.99)
        for far in (2 * r * (text @ mean[0].T + mean[1]).norm(dim=1).double(), torch.full([len(validation)], 2.0 * r)):
            figures += [far.mean(), far.std(correction=0), (far > edge).double().mean()]
        recall = sum(recalls(forward(mean, validation, batch(validation)[0]), batch(validation)[1])) if captions else 0
        order = (-recall, np.float32(figures[1]) if share < 0.9 else 0)  # 0: all but averaged away, a tie
        records.append(dict(zip([*FIGURES, *FAR, "order"], [*figures, order], strict=True)))
        weights.append((mean, forward(mean, validation, batch(validation)[0]), batch(validation)[1]))
    return train, validation, records, weights


def settings(number: int) -> dict:
    """Random settings; the first ones are the plain case with every loss and similarity."""
    draw = random.Random(number + 1000)
    text, loss = "labels", ["sigmoid", "contrastive", "softmax"][number % 3]
    if number % 7 == 6:
        text, loss = "captions", "contrastive"
    s = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "c": 2.5, "temperature": 0.7, "train_ratio": 0.8,
         "seed": 42, "text": text, "loss": loss, "similarity": ["hyperbolic", "cosine"][number // 3 % 2],
         "output_dim": 512, "audio_radius": 0.5, "logit_scale": 1 / 0.07, "text_radius": None,
         "lr_schedule": "constant", "average_with_start": 0.0, "prototypes": 0.0, "learn_c": False}  # fmt: skip
    if number >= 6:
        s |= {"batch_size": draw.choice([5, 8, 16, 40]), "learning_rate": 10 ** draw.uniform(-4.5, -3.5),
              "c": 10 ** draw.uniform(-1, 1), "temperature": draw.uniform(0.5, 2),
              "train_ratio": draw.uniform(0.3, 0.9), "seed": draw.randrange(1000),
              "output_dim": draw.choice([5, 64, 512]), "audio_radius": draw.uniform(0.2, 1.2),
              "logit_scale": draw.choice([5.0, 1 / 0.07, 20.0]),
              "text_radius": draw.choice([None, 0.8]), "lr_schedule": draw.choice(["constant", "cosine"]),
              "average_with_start": draw.choice([0.0, 0.3, 0.999999999999]),
              "prototypes": draw.choice([0.0, 0.5]) if text == "labels" else 0.0,
              "learn_c": s["similarity"] == "hyperbolic" and draw.random() < 0.4}  # fmt: skip
    if number == 19:  # radii on both sides of what counts as near the boundary
        s |= {"c": 0.01, "audio_radius": 0.1, "text_radius": 0.25}
    if number in CEILING:
        s |= {"logit_scale": 99.99, "similarity": "cosine", "learn_c": False, "average_with_start": 0.0,
              "temperature": 20.0, "learning_rate": 1e-4, "output_dim": 512}  # fmt: skip
    return s


@pytest.mark.parametrize("number", range(50))
def test_equals_the_second_training(number, material, tmp_path):
    _, shared, audio, rows, embedded = material
    s = settings(number)
    given = {f"--{name.replace('_', '-')}": value for name, value in s.items() if value not in (None, False)}
    flags = [x for flag in given.items() for x in flag]
    flags = [x for x in flags if x is not True]
    script("train_hyperbolic_clap.py", *shared, *flags, "--output-dir", tmp_path)
    train, validation, records, weights = second(s, audio, rows, embedded)
    setup = json.loads((tmp_path / "setup.json").read_text())
    assert (setup["clips"]["train"], setup["clips"]["validation"]) == (len(train), len(validation))
    for epoch, (want, (mean, scores, truth)) in enumerate(zip(records, weights, strict=True), 1):
        got = setup["epochs"][epoch - 1]
        size = max(1, float((mean[2].exp() * scores + mean[3]).abs().max()))  # what is rounded to float32 are logits
        # A bias common to all logits does nothing to a softmax: its gradient is rounding alone.
        for name in FIGURES if s["loss"] == "sigmoid" else [name for name in FIGURES if name != "logit_bias"]:
            assert got[name] == pytest.approx(want[name], rel=TOLERANCE, abs=TOLERANCE * size), (epoch, name)
        for name in FAR:  # however the long name goes on between what it is of and what it says
            (value,) = (got[key] for key in got if [key.split("_")[0], key.split("_")[-1]] == name.split("_"))
            assert value == pytest.approx(float(want[name]), rel=1e-5, abs=1e-6), (epoch, name)
        content = torch.load(tmp_path / f"projection_epoch_{epoch}.pth", weights_only=True)
        check_calibration(s, content, mean, scores, truth)
    assert setup["best_epoch"] == 1 + min(range(len(records)), key=lambda i: records[i]["order"])
    best = torch.load(tmp_path / f"best_projection_epoch_{setup['best_epoch']}.pth", weights_only=True)
    if number in CEILING:
        assert max(record["logit_scale"] for record in records) == pytest.approx(100, rel=1e-6)
    if s["prototypes"]:
        check_prototypes(s, best, audio[train], [rows[i]["human_labels"] for i in train])


def check_calibration(s, content, mean, scores, truth):
    """Platt's fit on the validation clips: of no other slope and shift are their labels more likely."""
    assert ("calibration" in content) == (s["text"] == "labels" and not s["prototypes"])
    if "calibration" not in content:
        return
    fitted = content["calibration"]
    assert fitted["clips"] == len(scores)
    x = (mean[2].exp() * scores.double() + content["scale_state_dict"]["bias"]).flatten()
    right, count = truth.flatten(), truth.sum()
    wanted = torch.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2)).double()
    z = fitted["slope"] * x + fitted["shift"]
    off = torch.sigmoid(z) - wanted  # the slopes of the likelihood, which vanish where it is greatest
    spread = z.std() / abs(fitted["slope"])
    assert abs(off.mean()) < 1e-4 and abs((off * (x - x.mean())).mean()) < 1e-4 * spread


def check_prototypes(s, content, audio, labels):
    names = [name for name in NAMES if any(name in some for some in labels)]
    assert content["prototype_classes"] == names and content["prototype_weight"] == s["prototypes"]
    for name, mean in zip(names, content["prototype_means"], strict=True):
        total = sum(x / x.norm() for x, some in zip(audio, labels, strict=True) if name in some)
        assert torch.allclose(mean, total / total.norm(), atol=1e-6)


def test_the_settings_reach_what_they_are_for():
    """Among the fifty are the ceiling of the scale, a tie of epochs, short batches, captions and all switches."""
    all_of = [settings(number) for number in range(50)]
    for name in ("text", "loss", "similarity", "text_radius", "lr_schedule", "learn_c"):
        assert len({s[name] for s in all_of}) == {"loss": 3, "text_radius": 3}.get(name, 2), name
    assert any(s["average_with_start"] > 0.9 for s in all_of) and any(s["prototypes"] for s in all_of)
