"""Open-MAGVIT2: a convolutional autoencoder without attention, whose decoder is told the statistics of the codes.

Luo et al. 2024, "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-regressive Visual Generation", after
Yu et al. 2023, "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from zoo.codecs.image.base import ImageCodec
from zoo.codecs.layers.image import ResidualBlock, activation, normalization
from zoo.codecs.quantizers import LookupFreeQuantizer

EPSILON = 1e-6


@dataclass(frozen=True)
class MAGVIT2Config:
    """The defaults are the f16 model of 262144 codes for pictures of 256 x 256.

    Attributes:
        width: Channels at full resolution.
        multipliers: Channels of each resolution in units of `width`, fine to coarse; each but the last is followed by
            a halving, so that a cell has `2 ** (len(multipliers) - 1)` pixels a side.
        blocks: Residual blocks of each resolution, and of the middle of encoder and decoder.
        groups: Groups of channels that are normalised together.
        bits: Of a code.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 4
    groups: int = 32
    bits: int = 18

    def __post_init__(self) -> None:
        if not self.multipliers or self.blocks < 1:
            raise ValueError(f"multipliers must not be empty and blocks be 1 or more, got {self}")
        if any(self.width * multiplier % self.groups for multiplier in (1, *self.multipliers)):
            raise ValueError(f"width {self.width} times each multiplier must be a multiple of groups {self.groups}")

    @property
    def hop(self) -> int:
        """Pixels a side of a cell."""
        return 2 ** (len(self.multipliers) - 1)

    @classmethod
    def f8(cls) -> MAGVIT2Config:
        """The model for pictures of 128 x 128, on cells of 8 x 8."""
        return cls(multipliers=(1, 2, 2, 4))

    @classmethod
    def pretrained_16384(cls) -> MAGVIT2Config:
        """The f16 model of 16384 codes for pictures of all kinds."""
        return cls(bits=14)


class Encoder(nn.Module):
    """Pictures in [-1, 1] to one value for each bit of each cell."""

    def __init__(self, config: MAGVIT2Config):
        super().__init__()
        width = config.width
        self.conv_in = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            stage, out = nn.Module(), config.width * multiplier
            stage.block = blocks(width, out, config)
            if 2**level < config.hop:
                stage.downsample = nn.Conv2d(out, out, 3, stride=2, padding=1)
            self.down.append(stage)
            width = out
        self.mid_block = blocks(width, width, config)
        self.norm_out = normalization(width, config.groups)
        self.conv_out = nn.Conv2d(width, config.bits, 1)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch bit down across"]:
        x = self.conv_in(x)
        *finer, coarsest = self.down
        for stage in finer:
            x = stage.downsample(stage.block(x))
        x = self.mid_block(coarsest.block(x))
        return self.conv_out(activation(self.norm_out(x)))


class Decoder(nn.Module):
    """Codewords to pictures in [-1, 1]; stages are numbered fine to coarse, as in the encoder."""

    def __init__(self, config: MAGVIT2Config):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = blocks(widths[-1], widths[-1], config)
        self.adaptive, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (width, coarser) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            self.adaptive.append(AdaptiveGroupNorm(config.bits, coarser, config.groups))
            stage = nn.Module()
            stage.block = blocks(coarser, width, config)
            if level:
                stage.upsample = DepthToSpace(width)
            self.up.append(stage)
        self.norm_out = normalization(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "batch bit down across"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.mid_block(self.conv_in(z))
        for level in reversed(range(len(self.up))):
            stage = self.up[level]
            x = stage.block(self.adaptive[level](x, z))
            if level:
                x = stage.upsample(x)
        return self.conv_out(activation(self.norm_out(x)))


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scales and offsets come from the deviation and the mean of each bit over the whole picture."""

    def __init__(self, bits: int, channels: int, groups: int):
        super().__init__()
        self.gn = nn.GroupNorm(groups, channels, eps=EPSILON, affine=False)
        self.gamma, self.beta = nn.Linear(bits, channels), nn.Linear(bits, channels)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], z: Float[Tensor, "batch bit down across"]
    ) -> Float[Tensor, "batch channel height width"]:
        cells = z.flatten(2)
        mean = cells.mean(dim=2)
        # The unbiased variance, but 0 and not 0 / 0 for the only cell of a picture.
        variance = (cells - mean[..., None]).square().sum(dim=2) / max(1, cells.shape[2] - 1)
        scale, offset = self.gamma((variance + EPSILON).sqrt()), self.beta(mean)
        return scale[..., None, None] * self.gn(x) + offset[..., None, None]


class DepthToSpace(nn.Module):
    """A 3 x 3 convolution to four times the channels, which become 2 x 2 cells."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel tall wide"]:
        return rearrange(self.conv1(x), "b (y x c) h w -> b c (h y) (w x)", y=2, x=2)


class MAGVIT2(ImageCodec):
    """One code a cell, each bit the sign of one channel."""

    config_class: ClassVar[type] = MAGVIT2Config
    config: MAGVIT2Config
    quantizer: LookupFreeQuantizer

    def __init__(self, config: MAGVIT2Config | None = None):
        super().__init__()
        self.config = config = config or MAGVIT2Config()
        self.hop = config.hop
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = LookupFreeQuantizer(config.bits)

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch bit down across"]:
        """See `ImageCodec.latents`."""
        return self.encoder(2 * media - 1)

    def synthesise(self, z: Float[Tensor, "batch bit down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        return (self.decoder(z.to(self.encoder.conv_out.weight.dtype)) + 1) / 2


def blocks(channels: int, out: int, config: MAGVIT2Config) -> nn.Sequential:
    """The residual blocks of one resolution."""
    widths = [channels] + [out] * (config.blocks - 1)
    return nn.Sequential(*(ResidualBlock(width, out, config.groups, bias=False) for width in widths))
