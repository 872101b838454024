"""Haar wavelets of pictures: each step halves the sides and makes four channels of every one."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def haar(x: Float[Tensor, "batch channel height width"], steps: int) -> Float[Tensor, "batch bands down across"]:
    """Means and differences of 2 x 2 pixels, then those of all channels again, `steps` times.

    The first quarter of the channels are means; then come top minus bottom, left minus right, and one diagonal minus
    the other, each halved twice: values in [-1, 1] stay there.
    """
    for _ in range(steps):
        a, b, c, d = rearrange(x, "b c (h y) (w x) -> (y x) b c h w", y=2, x=2)
        top, bottom, lean, slant = a + b, c + d, a - b, c - d
        x = torch.cat([top + bottom, top - bottom, lean + slant, lean - slant], dim=1) / 4
    return x


def inverse_haar(
    x: Float[Tensor, "batch bands down across"], steps: int
) -> Float[Tensor, "batch channel height width"]:
    """Exactly what `haar` with as many steps was given, but for rounding."""
    for _ in range(steps):
        mean, down, across, diagonal = x.chunk(4, dim=1)
        top, bottom, lean, slant = mean + down, mean - down, across + diagonal, across - diagonal
        cells = torch.stack([top + lean, top - lean, bottom + slant, bottom - slant])
        x = rearrange(cells, "(y x) b c h w -> b c (h y) (w x)", y=2, x=2)
    return x
