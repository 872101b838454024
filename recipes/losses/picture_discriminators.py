"""Networks that tell real pictures from reconstructions: one judges patches, one the whole crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, leaky_relu, linear

from zoo.codecs.errors import UserError
from zoo.recipes.losses.discriminators import Verdict, run_layers, weighted_conv2d

COARSEST = 4  # pixels a side before the last layers of the StyleGAN discriminator
GROUP = 4  # pictures whose spread it is told


@dataclass(frozen=True)
class PictureDiscriminatorConfig:
    """Which discriminators there are and how large.

    Attributes:
        patch_channels: Width of the first layer of PatchGAN, which doubles with every halving; 0 for none.
        patch_layers: Its halvings: each verdict sees 16, 34, 70 or 142 pixels a side at 1, 2, 3 or 4.
        style_size: Pixels a side of the crops that the StyleGAN discriminator judges as a whole, a power of two from 8;
            0 for none.
        style_channels: Its width at full size, which doubles with every halving up to `style_most`.
        style_most: Its largest width.
    """

    patch_channels: int = 64
    patch_layers: int = 3
    style_size: int = 0
    style_channels: int = 64
    style_most: int = 512

    def __post_init__(self) -> None:
        size = self.style_size
        if size and (size < 2 * COARSEST or size & (size - 1)):
            raise UserError(f"style_size {size}; give a power of two from {2 * COARSEST}, or 0 for none")


class PictureDiscriminators(nn.Module):
    """All discriminators of a config, side by side; they take pictures in [0, 1]."""

    def __init__(self, config: PictureDiscriminatorConfig):
        super().__init__()
        members: list[nn.Module] = []
        if config.patch_channels:
            members.append(PatchDiscriminator(config.patch_channels, config.patch_layers))
        if config.style_size:
            members.append(StyleDiscriminator(config.style_size, config.style_channels, config.style_most))
        if not members:
            raise UserError("a loss needs discriminators and there are none; set patch_channels or style_size")
        self.members = nn.ModuleList(members)

    def forward(self, picture: Float[Tensor, "batch 3 height width"]) -> list[Verdict]:
        return [member(2 * picture - 1) for member in self.members]


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017), with weights normalised rather than batches: rows don't sway each other.

    Logits `[batch, 1, height, width]`, one for each overlapping patch.
    """

    def __init__(self, width: int, halvings: int):
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(halvings + 1)]
        layers = [
            weighted_conv2d(fan_in, fan_out, (4, 4), stride=(2, 2))
            for fan_in, fan_out in zip((3, *widths), widths[:-1], strict=False)
        ]
        layers.append(weighted_conv2d(widths[-2], widths[-1], (4, 4)))
        self.layers, self.head = nn.ModuleList(layers), weighted_conv2d(widths[-1], 1, (4, 4))

    def forward(self, picture: Float[Tensor, "batch 3 height width"]) -> Verdict:
        return run_layers(self.layers, self.head, picture)


class StyleDiscriminator(nn.Module):
    """StyleGAN2's discriminator (Karras et al. 2020): residual blocks that halve, and one logit a picture.

    Weights are scaled as they are used, not as they are drawn, so that all learn at one rate; the last convolution is
    also told how much the pictures of a batch differ.
    """

    def __init__(self, size: int, width: int, most: int):
        super().__init__()
        self.size = size
        widths = [min(most, width * 2**level) for level in range(int(math.log2(size // COARSEST)) + 1)]
        self.enter = ScaledConv2d(3, widths[0], 1)
        self.blocks = nn.ModuleList(
            HalvingBlock(fan_in, fan_out) for fan_in, fan_out in zip(widths, widths[1:], strict=False)
        )
        self.mix = ScaledConv2d(widths[-1] + 1, widths[-1], 3)
        self.gather = ScaledLinear(widths[-1] * COARSEST**2, widths[-1])
        self.head = ScaledLinear(widths[-1], 1)

    def forward(self, picture: Float[Tensor, "batch 3 height width"]) -> Verdict:
        if picture.shape[2:] != (self.size, self.size):
            raise UserError(
                f"crops of {picture.shape[3]} x {picture.shape[2]} pixels for a discriminator of style_size"
                f" {self.size}; set style_size to the size of the crops"
            )
        features = [leaky_relu(self.enter(picture), 0.2)]
        for block in self.blocks:
            features.append(block(features[-1]))
        x = torch.cat([features[-1], spread(features[-1])], dim=1)
        x = leaky_relu(self.mix(x), 0.2)
        x = leaky_relu(self.gather(x.flatten(1)), 0.2)
        return Verdict(self.head(x).float(), [feature.float() for feature in features])


class HalvingBlock(nn.Module):
    """Two convolutions beside a straight way, at half the size behind."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.first, self.second = ScaledConv2d(fan_in, fan_in, 3), ScaledConv2d(fan_in, fan_out, 3)
        self.straight = ScaledConv2d(fan_in, fan_out, 1, bias=False)

    def forward(self, x: Float[Tensor, "batch fan_in height width"]) -> Float[Tensor, "batch fan_out down across"]:
        bent = avg_pool2d(leaky_relu(self.second(leaky_relu(self.first(x), 0.2)), 0.2), 2)
        return (bent + self.straight(avg_pool2d(x, 2))) / math.sqrt(2)


class ScaledConv2d(nn.Module):
    """A convolution whose weights are drawn from N(0, 1) and scaled in use, for activations of equal size."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.scale = math.sqrt(2 / (fan_in * kernel**2))

    def forward(self, x: Float[Tensor, "batch fan_in height width"]) -> Float[Tensor, "batch fan_out height width"]:
        return conv2d(x, self.weight * self.scale, self.bias, padding="same")


class ScaledLinear(nn.Module):
    """As `ScaledConv2d`, without space."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(fan_out, fan_in)), nn.Parameter(torch.zeros(fan_out))
        self.scale = math.sqrt(2 / fan_in)

    def forward(self, x: Float[Tensor, "batch fan_in"]) -> Float[Tensor, "batch fan_out"]:
        return linear(x, self.weight * self.scale, self.bias)


def spread(x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Mean standard deviation of features within groups of rows: 0 where all pictures of a group are alike."""
    batch, _, height, width = x.shape
    group = next(size for size in range(min(GROUP, batch), 0, -1) if batch % size == 0)
    groups = rearrange(x.float(), "(g n) c h w -> g n c h w", g=group)  # rows n, n + batch / group, ... together
    deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat(group)[:, None, None, None].expand(batch, 1, height, width).to(x.dtype)
