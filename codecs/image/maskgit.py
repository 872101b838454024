"""Decoder of MaskGIT's VQGAN, for mixtures of its codes: the second half of tokenizers that predict such codes.

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.codecs.layers.image import ResidualBlock, activation, normalization


@dataclass(frozen=True)
class MixtureShape:
    """Shape of a `CodeMixtureDecoder`; the defaults are those of the f16 weights for ImageNet.

    Attributes:
        width: Channels at full resolution.
        multipliers: Channels of each resolution in units of `width`, fine to coarse.
        blocks: Residual blocks of each resolution.
        groups: Groups of channels that are normalised together.
        code_dim, codebook_size: Of the codebook.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    groups: int = 32
    code_dim: int = 256
    codebook_size: int = 1024

    @property
    def hop(self) -> int:
        """Pixels a side of a cell."""
        return 2 ** (len(self.multipliers) - 1)


class LateShortcutBlock(ResidualBlock):
    """A residual block that, where the width changes, has its 1 x 1 convolution behind the others, not beside them."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__(channels, out, groups, bias=False)
        self.nin_shortcut = nn.Conv2d(out, out, 1, bias=False) if channels != out else None

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        h = self.residual(x)
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


class MixtureStage(nn.Module):
    """Blocks of one resolution; then, but at the finest, every cell twice along both axes and a convolution."""

    def __init__(self, channels: int, out: int, shape: MixtureShape, finest: bool):
        super().__init__()
        widths = [channels] + [out] * (shape.blocks - 1)
        self.block = nn.ModuleList(LateShortcutBlock(width, out, shape.groups) for width in widths)
        self.upsample_conv = None if finest else nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out tall wide"]:
        for block in self.block:
            x = block(x)
        return x if self.upsample_conv is None else self.upsample_conv(interpolate(x, scale_factor=2, mode="nearest"))


class CodeMixtureDecoder(nn.Module):
    """Shares of all codes on each cell to pixels in [0, 1]; the codes' mean, weighted by them, is what is decoded."""

    def __init__(self, shape: MixtureShape):
        super().__init__()
        widths = [shape.width * multiplier for multiplier in shape.multipliers]
        self.embedding = nn.Parameter(torch.randn(shape.codebook_size, shape.code_dim))
        self.conv_in = nn.Conv2d(shape.code_dim, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(LateShortcutBlock(widths[-1], widths[-1], shape.groups) for _ in range(shape.blocks))
        self.up = nn.ModuleList(
            MixtureStage(coarser, width, shape, finest=level == 0)
            for level, (width, coarser) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True))
        )
        self.norm_out = normalization(widths[0], shape.groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, shares: Float[Tensor, "batch code down across"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.conv_in(torch.einsum("bchw,cd->bdhw", shares, self.embedding))
        for block in self.mid:
            x = block(x)
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(activation(self.norm_out(x)))
