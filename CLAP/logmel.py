"""Log-mel spectrograms of CLAP in torch, equal to transformers' ClapFeatureExtractor within 1e-3 dB.

The extractor computes its Fourier transforms in float64, and so must this: resampled 8 kHz recordings
have bands 100 dB below their peak, where a float32 transform is off by 0.05 dB.
"""

from __future__ import annotations

import numpy as np
import torch

# Frames per transform on the CPU: 128 x 1024 float64 stay in the second-level cache (3 times faster than all at once).
CPU_BLOCK = 128
FILTER_GROUPS = 4
POWER_FLOOR = 1e-10
LONGEST_WINDOW = 60 * 48_000  # samples; the published models take 10 seconds


class LogMel:
    """Waveforms of one window length to log-mel spectrograms, as a checkpoint's preprocessor says.

    config: the dictionary of preprocessor_config.json. `window` is the model's input in samples.
    """

    def __init__(self, config: dict, device: str | torch.device = "cpu"):
        from transformers import ClapFeatureExtractor

        extractor = ClapFeatureExtractor(**config)
        self.sampling_rate = extractor.sampling_rate
        self.window = extractor.nb_max_samples
        self.padding = extractor.padding
        self.fused = extractor.truncation == "fusion"
        if not 0 < self.window <= LONGEST_WINDOW or extractor.hop_length < 1:
            raise ValueError(f"windows of {self.window} samples in steps of {extractor.hop_length}")
        self.n_fft, self.hop = extractor.fft_window_size, extractor.hop_length
        # The two published families of checkpoints differ in their mel filters (htk for fusion, slaney else).
        mel = extractor.mel_filters if self.fused else extractor.mel_filters_slaney
        self.bins = int(np.flatnonzero(mel.any(axis=1)).max()) + 1
        # Real and imaginary parts lie side by side, so each filter row stands twice: |z|^2 @ mel is one product.
        interleaved = np.repeat(mel[: self.bins], 2, axis=0)
        # Filters are narrow: a few neighbours at a time need few of the bins, a quarter of the whole product.
        self.filters = []
        for group in np.array_split(interleaved, FILTER_GROUPS, axis=1):
            used = np.flatnonzero(group.any(axis=1))
            rows = slice(int(used.min()), int(used.max()) + 1)
            self.filters.append((rows, torch.tensor(group[rows], dtype=torch.float32, device=device)))
        self.hann = torch.hann_window(self.n_fft, dtype=torch.float64, device=device)

    def pad(self, waveform: np.ndarray) -> np.ndarray:
        """A waveform of 1 to `window` samples to exactly `window`, as the checkpoint's preprocessor pads."""
        missing = self.window - len(waveform)
        if missing <= 0:
            return waveform[: self.window]
        if self.padding == "repeat":
            return np.resize(waveform, self.window)
        if self.padding == "repeatpad":
            waveform = np.tile(waveform, self.window // len(waveform))
        return np.pad(waveform, (0, self.window - len(waveform)))

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, window) float32 waveforms at `sampling_rate` -> (B, channels, frames, mels) in dB (ref 1).

        Fused checkpoints take four channels; a window never exceeds the model's input, so all four are
        the same spectrogram, exactly what their preprocessor makes of a clip that is not longer.
        """
        half = self.n_fft // 2
        # Reflected at both ends; torch's own reflecting pad takes three times as long.
        edges = windows[:, 1 : half + 1].flip(-1), windows[:, -half - 1 : -1].flip(-1)
        padded = torch.cat([edges[0], windows, edges[1]], dim=-1)
        count = 1 + windows.shape[1] // self.hop
        block = CPU_BLOCK if windows.device.type == "cpu" else count
        mels = []
        for start in range(0, count, block):
            last = min(start + block, count) - 1
            samples = padded[:, start * self.hop : last * self.hop + self.n_fft].double()
            frames = samples.unfold(-1, self.n_fft, self.hop) * self.hann
            spectrum = torch.view_as_real(torch.fft.rfft(frames))[..., : self.bins, :]
            power = spectrum.float().flatten(-2).square_()
            mels.append(torch.cat([power[..., rows] @ matrix for rows, matrix in self.filters], dim=-1))
        # The floor is the extractor's own, and keeps log10 of digital silence finite.
        decibel = torch.cat(mels, dim=1).clamp_(min=POWER_FLOOR).log10_().mul_(10)
        return decibel[:, None].expand(-1, 4 if self.fused else 1, -1, -1)
