"""Training on pairs of clips and captions: the texts of a step are the captions of its batch."""

from __future__ import annotations

import numpy as np
import torch

from hyperbolic_clap.metrics.retrieval import retrieve, summary
from hyperbolic_clap.plumbing.config import TrainConfig
from hyperbolic_clap.training.trainer import Trainer


class CaptionTrainer(Trainer):
    """A Trainer on captions. pairs (P, 2) int64: (clip, text), ascending; the rest as of Trainer.

    All captions of a batch's clips are candidates, each distinct one once: several captions of a clip are positives,
    and a caption that two clips share is one of both.
    """

    def __init__(self, config: TrainConfig, audio, pairs, text, train, validation):
        self.pairs = np.asarray(pairs.cpu())
        self.starts = np.searchsorted(self.pairs[:, 0], np.arange(len(audio) + 1))
        super().__init__(config, audio, None, text, train, validation)

    def _batch(self, rows: torch.Tensor):
        clips = rows.cpu().numpy()
        said = [self.pairs[self.starts[clip] : self.starts[clip + 1], 1] for clip in clips]
        texts, columns = np.unique(np.concatenate(said), return_inverse=True)
        targets = torch.zeros(len(clips), len(texts), dtype=torch.bool)
        targets[np.repeat(np.arange(len(clips)), [len(some) for some in said]), columns] = True
        return torch.from_numpy(texts).to(rows.device), targets.to(rows.device)

    def _validation_size(self) -> int:
        return self.config.batch_size  # what else is in a batch is part of the loss

    def _ranked(self, parts: list) -> dict:
        """R@1 in both directions among all validation clips and their captions."""
        clips = self.validation.cpu().numpy()
        chosen = self.pairs[np.isin(self.pairs[:, 0], clips)]
        texts, columns = np.unique(chosen[:, 1], return_inverse=True)
        pairs = np.stack([np.searchsorted(clips, chosen[:, 0]), columns], axis=1)
        pairs = pairs[np.lexsort(pairs.T[::-1])]
        audio = self.projector.audio(self.audio[self.validation])
        text = self.projector.text(self.text[torch.from_numpy(texts).to(self.text.device)])
        found = retrieve(self.projector.compare, audio, text, pairs)
        return {f"val_r1_{way}": summary(*ranks)["R@1"] for way, ranks in found.items()}
