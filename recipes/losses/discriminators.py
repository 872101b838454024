"""Networks that tell real audio from reconstructions: one family looks at complex spectra, one at folded waveforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm


class Verdict(NamedTuple):
    """Logits (above 0: real) and inner features of one discriminator, all float32."""

    logits: Tensor
    features: list[Tensor]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators there are and how large.

    Attributes:
        stft_sizes: Window sizes of the spectral discriminators (EnCodec's multi-scale STFT); () for none.
        stft_channels: Width of each.
        periods: Periods of the waveform discriminators (HiFi-GAN's multi-period); () for none.
        period_channels: Width of each of their strided layers.
    """

    stft_sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    stft_channels: int = 32
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024)


class Discriminators(nn.Module):
    """All discriminators of a config, side by side."""

    def __init__(self, config: DiscriminatorConfig, channels: int = 1):
        super().__init__()
        spectral = [STFTDiscriminator(size, config.stft_channels, channels) for size in config.stft_sizes]
        folded = [PeriodDiscriminator(period, config.period_channels, channels) for period in config.periods]
        self.members = nn.ModuleList([*spectral, *folded])

    def forward(self, audio: Float[Tensor, "batch channel time"]) -> list[Verdict]:
        return [member(audio) for member in self.members]


class STFTDiscriminator(nn.Module):
    """2-D convolutions over real and imaginary parts, with growing dilation along time and stride along frequency."""

    def __init__(self, size: int, width: int, channels: int = 1):
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        layers = [weighted_conv2d(2 * channels, width, (3, 9))]
        layers += [weighted_conv2d(width, width, (3, 9), stride=(1, 2), dilation=(step, 1)) for step in (1, 2, 4)]
        layers += [weighted_conv2d(width, width, (3, 3))]
        self.layers, self.head = nn.ModuleList(layers), weighted_conv2d(width, 1, (3, 3))

    def forward(self, audio: Float[Tensor, "batch channel time"]) -> Verdict:
        with torch.autocast(audio.device.type, enabled=False):
            rows = audio.float().flatten(0, 1)
            spectrum = torch.stft(rows, self.size, self.size // 4, window=self.window, normalized=True,
                                  pad_mode="constant", return_complex=True)  # fmt: skip
        parts = torch.view_as_real(spectrum)
        x = rearrange(parts, "(b c) frequency frame part -> b (c part) frame frequency", c=audio.shape[1])
        return run_layers(self.layers, self.head, x)


class PeriodDiscriminator(nn.Module):
    """2-D convolutions along time over a waveform folded to `[time / period, period]`."""

    def __init__(self, period: int, widths: tuple[int, ...], channels: int = 1):
        super().__init__()
        self.period = period
        sizes = zip((channels, *widths), widths, strict=False)
        layers = [weighted_conv2d(fan_in, fan_out, (5, 1), stride=(3, 1)) for fan_in, fan_out in sizes]
        layers.append(weighted_conv2d(widths[-1], widths[-1], (5, 1)))
        self.layers, self.head = nn.ModuleList(layers), weighted_conv2d(widths[-1], 1, (3, 1))

    def forward(self, audio: Float[Tensor, "batch channel time"]) -> Verdict:
        audio = pad(audio, (0, -audio.shape[-1] % self.period))
        return run_layers(self.layers, self.head, rearrange(audio, "b c (t p) -> b c t p", p=self.period))


def weighted_conv2d(
    fan_in: int, fan_out: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), dilation=(1, 1)
) -> nn.Conv2d:
    """Weight-normalised, padded so that only the stride changes the size (an even kernel without stride takes 1)."""
    padding = ((kernel[0] - 1) // 2 * dilation[0], (kernel[1] - 1) // 2 * dilation[1])
    return weight_norm(nn.Conv2d(fan_in, fan_out, kernel, stride, padding, dilation))


def run_layers(layers: nn.ModuleList, head: nn.Module, x: Tensor) -> Verdict:
    """Layers with leaky ReLU behind each, whose outputs are the features, and the head."""
    features = []
    for layer in layers:
        x = leaky_relu(layer(x), 0.2)
        features.append(x.float())
    return Verdict(head(x).float(), features)
