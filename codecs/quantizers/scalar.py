"""Finite scalar quantizer: each dimension is rounded to a few values, and these are the digits of the code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.quantizers.base import Paths, Quantized
from zoo.codecs.quantizers.levels import Level, LevelOutput, flatten, mean_square, unflatten
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer
from zoo.codecs.quantizers.rotation import carry

MARGIN = 1e-3  # so much further than its last value does a dimension reach, as in the paper


class ScalarQuantizer(Level):
    """An implicit codebook: the grid of `levels[i]` values in dimension `i`, within [-1, 1].

    There are two grids. That of Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple", rounds `tanh`
    of a latent to whole numbers around 0 and divides by `levels // 2`: an even number of levels has one value more
    below 0 than above. The symmetric one clips latents to [-1, 1] and has its outermost values there. The first
    dimension is the lowest digit of a code. There is nothing to learn and no loss; the gradient goes straight through
    the rounding, but not through the bound.

    Args:
        levels: Number of values of each dimension, at least 3 (symmetric: 2).
        symmetric: Which grid.
        depth: The whole grid is `levels ** -depth` times as wide: level `depth`, from 0, of a residual stack of grids
            each of which fits between the values of the one before.
    """

    passes_gradient = True  # that of the bound
    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int], symmetric: bool = False, depth: int = 0):
        super().__init__()
        least = 2 if symmetric else 3
        if not levels or min(levels) < least:
            grid = "symmetric" if symmetric else "plain"
            raise ValueError(f"levels of the {grid} grid must be one or more numbers from {least}, got {list(levels)}")
        if math.prod(levels) > 1 << 62:
            raise ValueError(f"codes must fit into 62 bits, got {math.prod(levels)} codes from levels {list(levels)}")
        self.dim, self.size, self.start = len(levels), math.prod(levels), None
        self.symmetric, self.depth = symmetric, depth
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        _, digits = self._round(x)
        return (digits.long() * self.basis).sum(dim=1)

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return self._values((codes[:, None] // self.basis % self.levels).float())

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        places, digits = self._round(x)
        q = carry(self._values(places), self._values(digits))
        codes = (digits.long() * self.basis).sum(dim=1)
        commitment = mean_square(x, q).detach()
        return LevelOutput.of_batch(q, codes, commitment.new_zeros(()), commitment, self.size)

    def _round(self, x: Float[Tensor, "vector dim"]) -> tuple[Float[Tensor, "vector dim"], Float[Tensor, "vector dim"]]:
        """Where vectors lie between digit 0 and the last one, and the nearest digits."""
        x = x / self._width()
        if self.symmetric:
            places = (self.levels - 1) * (x.clamp(-1, 1) + 1) / 2
            return places, (places.detach() + 0.5).floor()
        reach, middle = (self.levels - 1) * (1 + MARGIN) / 2, self.levels // 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        around_zero = torch.tanh(x + torch.atanh(offset / reach)) * reach - offset
        return around_zero + middle, around_zero.detach().round() + middle

    def _values(self, digits: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
        if self.symmetric:
            return (digits * (2 / (self.levels - 1)) - 1) * self._width()
        middle = self.levels // 2
        return (digits - middle) / middle * self._width()

    def _width(self) -> Float[Tensor, "dim"]:
        return self.levels.float() ** -self.depth


class ResidualScalarQuantizer(ResidualVectorQuantizer):
    """A stack of ever finer symmetric grids, each over what the ones before left over.

    Latents are first squeezed by `tanh` to the reach of the coarsest grid, half a step beyond its outermost values.

    Args:
        levels: Number of values of each dimension, in every grid.
        depth: Number of grids, and so of codebooks.
        dropout: In train mode, if no `n` is given, this share of the rows uses a random 1..depth first grids.
        seed: Of dropout.
    """

    def __init__(self, levels: Sequence[int], depth: int, dropout: float = 0.0, seed: int = 0):
        super().__init__([ScalarQuantizer(levels, True, index) for index in range(depth)], dropout, seed=seed)

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`."""
        output = super().forward(self._squeeze(z), n)
        return replace(output, z_q=output.z_q.to(z.dtype))

    def encode(
        self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1
    ) -> Int[Tensor, "batch codebook *grid"]:
        """See `ResidualVectorQuantizer.encode`."""
        return super().encode(self._squeeze(z), n, beam)

    def paths(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1) -> Paths:
        """See `Quantizer.paths`; errors are those of squeezed latents."""
        return super().paths(self._squeeze(z), n, beam)

    def _squeeze(self, z: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        with torch.autocast(z.device.type, enabled=False):
            reach = 1 + 1 / (self.levels[0].levels - 1)
            return unflatten((flatten(z, self.dim) / reach).tanh() * reach, z)
