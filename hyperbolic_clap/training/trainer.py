"""The training loop on embeddings: a step is a few small matrix products, and no audio is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hyperbolic import LOSSES, HyperbolicProjector, LogitScale
from hyperbolic_clap.metrics.classification import headline
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.plumbing.errors import UserError
from hyperbolic_clap.plumbing.progress import bar
from hyperbolic_clap.training.adam import Adam

VALIDATION_ROWS = 1024
RANKED_ROWS = 4096  # validation clips, at most, that metrics are computed of in each epoch
START_ROWS = 4096  # clips and texts, at most, that the start is computed from
SCALE_LEARNING_RATE = 1e-3  # at least, for the logit scale and bias: two numbers with far to go


class Trainer:
    """A projector, its logit scale and the optimizer over both.

    audio (N, D), targets (N, M) bool, dense or PackedTargets, and text (M, D) lie on one device. `train` and
    `validation` are row positions.
    """

    def __init__(self, config: TrainConfig, audio, targets, text, train, validation):
        self.config = config
        self.audio, self.targets, self.text = audio, targets, text
        self.train, self.validation = train.to(audio.device), validation.to(audio.device)
        self.loss = LOSSES[config.loss]
        torch.manual_seed(config.seed)
        self.projector = HyperbolicProjector(
            embed_dim=audio.shape[1],
            output_dim=config.output_dim,
            c=config.c,
            temperature=config.temperature,
            similarity=config.similarity,
            audio_radius=config.audio_radius,
            learn_c=config.learn_c,
        ).to(audio.device)
        self.projector.start_at_principal_directions(text[:START_ROWS])
        if config.text_radius is not None:
            self.projector.start_text_at(config.text_radius, text)
        self.logit_scale = LogitScale(config.logit_scale or LogitScale.START).to(audio.device)
        with torch.no_grad():
            rows = self.train[:START_ROWS]
            columns, right = self._batch(rows)
            self.logit_scale.centre(self.projector(audio[rows], text[columns]), right)
        scale_rate = max(config.learning_rate, SCALE_LEARNING_RATE)
        scalars = [*self.logit_scale.parameters()]
        if config.learn_c:
            scalars.append(self.projector.log_c_change)
        self.optimizer = Adam(
            [
                {"params": list(self.projector.linear.parameters()), "lr": config.learning_rate},
                {"params": scalars, "lr": scale_rate},
            ]
        )
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._start = [parameter.detach().clone() for parameter in self._parameters()]
        self._trained: list | None = None  # what is trained on while its average with the start is looked at

    def _parameters(self) -> list:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _batch(self, rows: torch.Tensor):
        """What clips are compared with: (positions of the texts, (len(rows), those) bool, which are right)."""
        return slice(None), self.targets[rows]

    def _validation_size(self) -> int:
        # Only the contrastive loss depends on what else is in a batch; the others go in large ones, for speed.
        return self.config.batch_size if self.config.loss == "contrastive" else VALIDATION_ROWS

    def state(self) -> dict:
        """What rebuilds the projector, and what continues the training."""
        config = self.config
        trained = {}
        if self._trained is not None:
            trained["trained_state_dict"] = {str(i): value for i, value in enumerate(self._trained)}
        return trained | {
            "projection_state_dict": self.projector.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scale_state_dict": self.logit_scale.state_dict(),
            "temperature": config.temperature,
            "base_c": config.c,
            "output_dim": config.output_dim,
            "similarity": config.similarity,
            "audio_radius": config.audio_radius,
            "loss": config.loss,
            "seed": config.seed,
        }

    def load_state(self, state: dict) -> None:
        """Take over what `state` returned after some epoch; the next epoch runs as if nothing had come between."""
        self.projector.load_state_dict(state["projection_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        self.logit_scale.load_state_dict(state["scale_state_dict"])
        if self.config.average_with_start:
            self._set(list(state["trained_state_dict"].values()))

    @torch.no_grad()
    def _set(self, values: list) -> None:
        for parameter, value in zip(self._parameters(), values, strict=True):
            parameter.copy_(value)

    @contextmanager
    def averaged(self, share: float) -> Iterator[None]:
        """Within it, projector and logit scale hold (1 - share) of their trained values and `share` of the start's.

        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), eq. 2.
        """
        if not share:
            yield
            return
        self._trained = [parameter.detach().clone() for parameter in self._parameters()]
        self._set([torch.lerp(*both, share) for both in zip(self._trained, self._start, strict=True)])
        try:
            yield
        finally:
            self._set(self._trained)
            self._trained = None

    def start_loss(self) -> float:
        """The validation loss of the start, before any step."""
        with self.averaged(1.0):
            return self.validate(0)["val_loss"]

    def epochs(self, first: int = 1) -> Iterator[dict]:
        """Train epoch by epoch; each yields its record (losses, radii, ...). UserError if a loss is not finite.

        While a record is looked at, the projector is the one it was validated with, averaged or not.
        """
        batches, epochs = -(-len(self.train) // self.config.batch_size), self.config.epochs
        with bar("training", "batch", batches * epochs, initial=batches * (first - 1)) as progress:
            for epoch in range(first, epochs + 1):
                progress.set_description(f"epoch {epoch} of {epochs}", refresh=False)
                try:
                    train_loss = self._train_epoch(epoch, progress.update)
                    with self.averaged(self.config.average_with_start):
                        yield {"epoch": epoch, "train_loss": train_loss} | self.validate(epoch)
                except ValueError as error:
                    if not self.config.learn_c:
                        raise
                    cause = f"--learning-rate {self.config.learning_rate:g} is the likely cause"
                    raise UserError(f"at epoch {epoch}: {error}; {cause}") from None

    def _set_rates(self, done: float) -> None:
        """The learning rates after a share `done` of the training; constant, or half a cosine from what is given to 0.

        Loshchilov and Hutter 2017, "SGDR", eq. 5 without restarts.
        """
        share = (1 + math.cos(math.pi * done)) / 2 if self.config.lr_schedule == "cosine" else 1
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    def _restore_rates(self) -> None:
        """The learning rates as they were given."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

    def _train_epoch(self, epoch: int, done: Callable[[], object] = lambda: None) -> float:
        # The order depends on seed and epoch alone, so a resumed run sees the same batches.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = self.train[torch.randperm(len(self.train), generator=generator).to(self.train.device)]
        total = torch.zeros((), dtype=torch.float64, device=order.device)
        unseen = []  # losses since the last look at them
        batches = order.split(self.config.batch_size)
        for step, rows in enumerate(batches, 1):
            columns, targets = self._batch(rows)
            similarity = self.projector(self.audio[rows], self.text[columns])
            loss = self.loss(self.logit_scale(similarity), targets)
            unseen.append(loss.detach())
            if step % 64 == 0 or step == len(batches):  # a look at the values waits for the device
                self._check(unseen, epoch, step)
                unseen = []
            self._set_rates((epoch - 1 + (step - 1) / len(batches)) / self.config.epochs)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.logit_scale.limit()
            total += loss.detach() * len(rows)
            done()
        self._restore_rates()  # a checkpoint keeps those that were given
        return float(total) / len(order)

    def _check(self, losses: list, epoch: int, step: int) -> None:
        """UserError if one of the last losses is not finite; `step` is the step of the last one, 0 for validation."""
        finite = torch.stack(losses).isfinite().tolist()
        if all(finite):
            return
        cause = f"--learning-rate {self.config.learning_rate:g} is the likely cause, try a smaller one"
        where = "in the validation"
        if step:
            step += 1 - len(finite) + finite.index(False)
            where = f"step {step}"
            if epoch == step == 1:  # nothing has been learned yet
                cause = "an extreme --c, --temperature or --audio-radius is the likely cause"
        raise UserError(
            f"the loss is not finite at epoch {epoch}, {where}; {cause} (the checkpoints of earlier epochs are kept)"
        )

    @torch.no_grad()
    def validate(self, epoch: int) -> dict:
        """Loss and metrics on the validation clips, mean similarities, scale, and distances from the origin."""
        projector = self.projector
        text = projector.text(self.text)
        loss = torch.zeros((), dtype=torch.float64, device=text.device)
        sums, counts = loss.new_zeros(2), loss.new_zeros(2)
        radii, ranked = [], []  # tangent norms of audio; similarities of the first clips, with which are right
        size = self._validation_size()
        for block, rows in enumerate(self.validation.split(size)):
            audio, (columns, targets) = projector.audio(self.audio[rows]), self._batch(rows)
            similarity = projector.compare(audio, text[columns])
            loss += self.loss(self.logit_scale(similarity), targets) * len(rows)
            for i, chosen in enumerate((targets, ~targets)):
                sums[i] += (similarity.double() * chosen).sum()
                counts[i] += chosen.sum()
            radii.append(audio.norm(dim=1))
            if block * size < RANKED_ROWS:
                ranked.append((similarity, targets))
        self._check([loss], epoch, 0)
        audio_distance, text_distance = 2 * torch.cat(radii).double(), 2 * text.norm(dim=1).double()
        # Without any negative (every clip has every class) their mean is undefined.
        positive, negative = (float(s / n) if n else None for s, n in zip(sums, counts, strict=True))
        # Beyond 0.99 of the ball's radius: d = 2R artanh(0.99). Cosine has no ball, there it says nothing.
        boundary = 2 * math.sqrt(float(projector.c)) * math.atanh(0.99)
        return {
            "val_loss": float(loss) / len(self.validation),
            **self._ranked(ranked),
            "similarity_positives": positive,
            "similarity_negatives": negative,
            "logit_scale": float(self.logit_scale.scale),
            "logit_bias": float(self.logit_scale.bias),
            "c": float(projector.c),
            "audio_distance_from_origin_mean": float(audio_distance.mean()),
            "audio_distance_from_origin_std": float(audio_distance.std(correction=0)),
            "text_distance_from_origin_mean": float(text_distance.mean()),
            "text_distance_from_origin_std": float(text_distance.std(correction=0)),
            "audio_near_boundary": float((audio_distance > boundary).double().mean()),
            "text_near_boundary": float((text_distance > boundary).double().mean()),
        }

    def _ranked(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> dict:
        """The figures of `headline`, each as val_..., of the first RANKED_ROWS validation clips.

        parts: similarities (n, M) and which of them are right, block by block.
        """
        scores, targets = (torch.cat(some)[:RANKED_ROWS].cpu().numpy() for some in zip(*parts, strict=True))
        return {f"val_{name}": value for name, value in headline(scores, targets).items()}
