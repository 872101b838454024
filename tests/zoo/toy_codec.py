"""The smallest true audio codec: it smooths over neighbouring frames and quantizes their means on two uniform grids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.codecs.base import AudioCodec, CodecInfo, CodecOutput, Context


@dataclass(frozen=True)
class ToyConfig:
    sample_rate: int = 8000
    channels: int = 1
    hop: int = 4
    gain: bool = True


class PeakMeter:
    """Peak of each row of a recording that comes in pieces."""

    def __init__(self) -> None:
        self.peak = torch.tensor(1e-5)

    def update(self, samples: Tensor) -> None:
        if samples.shape[-1]:
            self.peak = torch.maximum(self.peak, samples.abs().amax(dim=(1, 2)))

    def scale(self) -> Tensor:
        return self.peak


class ToyCodec(AudioCodec):
    """Steps of 2/256, then of 2/256/100: with both codebooks 8 + 7 bits a frame."""

    config_class = ToyConfig
    context = Context(1, 1, 1, 1)
    sizes = (256, 100)

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:  # noqa: B008
        super().__init__()
        self.config = config
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def info(self) -> CodecInfo:
        config = self.config
        return CodecInfo("audio", config.sample_rate, config.channels, config.hop, self.sizes, False, config.hop, 1)

    def scale_meter(self) -> PeakMeter | None:
        return PeakMeter() if self.config.gain else None

    def encode_rows(self, media, codebooks, scales, search=None):
        if self.config.gain and scales is None:
            scales = self.scale_of(media)
        media = media if scales is None else media / scales[:, None, None]
        media = F.pad(media, (0, -media.shape[-1] % self.config.hop))
        means = media.unflatten(-1, (-1, self.config.hop)).mean(dim=(1, 3))
        past, future = F.pad(means, (1, 0))[:, :-1], F.pad(means, (0, 1))[:, 1:]
        value = (0.1 * past + 0.8 * means + 0.1 * future + 1) * 128
        coarse = value.floor().clamp(0, 255)
        fine = ((value - coarse) * 100).floor().clamp(0, 99)
        return torch.stack([coarse, fine], dim=1).long()[:, : codebooks or 2], scales

    def decode_rows(self, codes, scales):
        value = codes[:, 0] + (codes[:, 1] / 100 + 0.005 if codes.shape[1] > 1 else 0.5)
        means = (value / 128 - 1)[:, None]
        past, future = F.pad(means, (1, 0))[..., :-1], F.pad(means, (0, 1))[..., 1:]
        means = -0.1 * past + 1.2 * means - 0.1 * future
        media = means.repeat_interleave(self.config.hop, dim=-1).repeat(1, self.config.channels, 1)
        return media if scales is None else media * scales[:, None, None]

    def forward(self, media, codebooks=None, quantize=True):
        return CodecOutput(self.decode(self.encode(media, codebooks)), self.unused.sum(), None)
