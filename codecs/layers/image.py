"""Layers of convolutional picture networks: residual and attention blocks, and resampling by two.

Sub-modules are named as in the checkpoints of the VQGAN family, whose weights differ in little but these names.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each behind norm and SiLU, beside the identity (1 x 1 where the width changes)."""

    def __init__(self, channels: int, out: int, groups: int, bias: bool = True):
        super().__init__()
        self.norm1 = normalization(channels, groups)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=bias)
        self.norm2 = normalization(out, groups)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=bias)
        self.nin_shortcut = nn.Conv2d(channels, out, 1, bias=bias) if channels != out else None

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        return self.residual(x) + (x if self.nin_shortcut is None else self.nin_shortcut(x))

    def residual(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        """What is added to the identity."""
        h = self.conv1(activation(self.norm1(x)))
        return self.conv2(activation(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Every cell attends to all cells of its picture, with one head, beside the identity."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = normalization(channels, groups)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c h w -> b 1 (h w) c") for layer in (self.q, self.k, self.v))
        h = scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Stage(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the resolution has it."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int, attention: bool):
        super().__init__()
        widths = [channels] + [out] * (blocks - 1)
        self.block = nn.ModuleList(ResidualBlock(width, out, groups) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(out, groups) for _ in range(blocks if attention else 0))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class Middle(nn.Module):
    """Two residual blocks at the coarsest resolution, with attention between them or without."""

    def __init__(self, channels: int, groups: int, attention: bool):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups) if attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """3 x 3 convolution of stride 2 that looks right and down: cell (y, x) sees rows 2 y .. 2 y + 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel down across"]:
        return self.conv(pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every cell twice along both axes, then a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel tall wide"]:
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


def normalization(channels: int, groups: int) -> nn.GroupNorm:
    """Norm over each of `groups` groups of channels and all cells of a picture."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


def activation(x: Tensor) -> Tensor:
    """SiLU; overwrites its input where no gradient is wanted."""
    return silu(x, inplace=not torch.is_grad_enabled())
