"""Multi-scale residual vector quantizer: a picture as ever finer maps of codes, each of what the coarser left over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, islice
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.base import Quantized, Quantizer, Usage
from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import (
    LevelOutput,
    check_codebooks,
    first_codebooks,
    flatten,
    unflatten,
    used_levels,
)
from zoo.codecs.quantizers.rotation import Gradient, carry, known

Grid = tuple[int, int]  # height and width in cells


class MultiScaleVectorQuantizer(Quantizer):
    """Maps of codes of growing size over the same picture, from one codebook that gradients train (Tian et al. 2024,
    "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction").

    What is left of the latents is averaged over the cells of a scale (area interpolation) and quantized there. The
    codewords, interpolated back to the full grid (bicubic) and passed through one of a few convolutions, are what the
    scale adds. Every code thus depends on the whole picture.

    The codes are one codebook, `[batch, 1, n]`: scale by scale from coarse to fine, each row by row; `split` gives one
    map a scale, `join` is its inverse. The last scale has a code for each cell of the latents. On latents that are not
    a square of `scales[-1]` cells, all scales are stretched alike: scale `s` has `s / scales[-1]` of the rows and of
    the columns, rounded, at least one. Of codes alone the shape can't be told, so `decode` and `split` want it then.

    The loss is the mean over scales of how far the sum of the scales so far is from the latents, weighted apart for
    latents (commitment) and for codebook and convolutions. `Usage` counts the codes of all scales together.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        scales: Rows, and columns, of the maps over a square picture, growing.
        phis: Number of convolutions, which the scales share.
        phi_weight: Share of the convolution in what a scale adds; the rest is the interpolated codewords.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords and convolutions to the latents.
        gradient: How the decoder's gradient reaches the latents; see `carry`.
    """

    def __init__(
        self,
        dim: int,
        size: int,
        scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        phis: int = 4,
        phi_weight: float = 0.5,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__()
        if not scales or min(scales) < 1 or sorted(set(scales)) != list(scales):
            raise ValueError(f"scales must be one or more growing numbers from 1, got {list(scales)}")
        self.dim, self.codebook_sizes, self.scales = dim, (size,), tuple(scales)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.gradient = known(gradient)
        self.embedding = nn.Embedding(size, dim)
        self.quant_resi = SharedPhis(dim, phis, phi_weight, len(scales))

    def shapes(self, grid: Grid | None = None) -> list[Grid]:
        """Rows and columns of each scale over latents of that height and width (default: `scales[-1]` both)."""
        last = self.scales[-1]
        height, width = grid or (last, last)
        return [tuple(max(1, (2 * scale * n + last) // (2 * last)) for n in (height, width)) for scale in self.scales]

    def split(self, codes: Int[Tensor, "batch 1 n"], grid: Grid | None = None) -> list[Int[Tensor, "batch row column"]]:
        """One map of codes a scale, coarse to fine.

        Args:
            codes: Those of all scales or of the first few.
            grid: Height and width of the latents, unless both are `scales[-1]`.

        Raises:
            ValueError: The codes are no whole number of scales of that grid.
        """
        check_codebooks(codes, 1)
        shapes = self.shapes(grid)
        ends = list(accumulate(map(prod, shapes)))
        if codes.ndim != 3 or codes.shape[2] not in ends:
            raise ValueError(
                f"expected codes of shape [batch, 1, n] with n, on latents of {grid or shapes[-1]} cells, one of"
                f" {ends}, got {list(codes.shape)}; give the height and width of the latents if they are others"
            )
        shapes = shapes[: ends.index(codes.shape[2]) + 1]
        maps = codes[:, 0].split([prod(shape) for shape in shapes], dim=1)
        return [flat.reshape(-1, *shape) for flat, shape in zip(maps, shapes, strict=True)]

    def join(self, maps: Sequence[Int[Tensor, "batch row column"]]) -> Int[Tensor, "batch 1 n"]:
        """Codes of the maps of the first scales, one behind the other."""
        return torch.cat([scale.flatten(1) for scale in maps], dim=1)[:, None]

    def forward(
        self, z: Float[Tensor, "batch dim row column"], n: Int[Tensor, "batch"] | int | None = None
    ) -> Quantized:
        """See `Quantizer.forward`; `n` is 0 or 1, the number of codebooks, in each row."""
        used = used_levels(n, 1, len(z)).to(z.device) > 0
        with torch.autocast(z.device.type, enabled=False):
            x = self._latents(z)
            total, maps, losses = torch.zeros_like(x), [], []
            for found, part in self._scales(x):
                total = total + part
                commitment = _mean_square(x, total.detach(), used)
                fit = _mean_square(total, x.detach(), used)
                losses.append(self.commitment_weight * commitment + self.codebook_weight * fit)
                maps.append(found)
            loss, codes = torch.stack(losses).mean(), self.join(maps)
            carried = unflatten(carry(flatten(x, self.dim), flatten(total, self.dim), self.gradient), x)
            z_q = torch.where(used[:, None, None, None], carried, 0)
        figures = LevelOutput.of_batch(z_q, codes[used].flatten(), loss, commitment.detach(), *self.codebook_sizes)
        usage = Usage(figures.used[None], figures.perplexity[None], figures.restarted[None], figures.commitment[None])
        return Quantized(z_q.to(z.dtype), codes.where(used[:, None, None], -1), loss, usage)

    @torch.no_grad()
    def encode(
        self, z: Float[Tensor, "batch dim row column"], n: int | None = None, scales: int | None = None
    ) -> Int[Tensor, "batch 1 n"]:
        """See `Quantizer.encode`; with the first `scales` scales only, the codes of the others are -1."""
        first_codebooks(n, 1)
        if scales is not None and not 1 <= scales <= len(self.scales):
            raise ValueError(f"scales must lie in 1..{len(self.scales)}, got {scales}")
        with torch.autocast(z.device.type, enabled=False):
            x = self._latents(z)
            codes = self.join([found for found, _ in islice(self._scales(x), scales)])
        behind = sum(map(prod, self.shapes(z.shape[2:]))) - codes.shape[2]
        return functional.pad(codes, (0, behind), value=-1)

    @torch.no_grad()
    def decode(
        self, codes: Int[Tensor, "batch 1 n"], grid: Grid | None = None
    ) -> Float[Tensor, "batch dim row column"]:
        """See `Quantizer.decode`; the codes may be those of the first few scales, or -1 behind them.

        `grid`: height and width of the latents, unless both are `scales[-1]`. A scale with no code at all in a row of
        the batch adds nothing there; a single code of -1 has a codeword of zeros.
        """
        maps, grid = self.split(codes, grid), self.shapes(grid)[-1]
        with torch.autocast(codes.device.type, enabled=False):
            parts = [
                self._spread(found, index, grid) * (found >= 0).any(dim=(1, 2))[:, None, None, None]
                for index, found in enumerate(maps)
            ]
        return torch.stack(parts).sum(dim=0)

    def _scales(self, x: Float[Tensor, "batch dim row column"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Codes of each scale, and what they add to the latents, coarse to fine."""
        residual, grid = x.detach(), tuple(x.shape[2:])
        for index, shape in enumerate(self.shapes(grid)):
            means = functional.interpolate(residual, shape, mode="area")
            found = nearest(flatten(means, self.dim), self.embedding.weight.float()).view(len(x), *shape)
            part = self._spread(found, index, grid)
            yield found, part
            residual = residual - part.detach()

    def _spread(
        self, found: Int[Tensor, "batch row column"], scale: int, grid: Grid
    ) -> Float[Tensor, "batch dim height width"]:
        """What the codes of a scale add to each cell of the latents."""
        codewords = self.embedding(found.clamp(min=0)).float() * (found >= 0)[..., None]
        codewords = rearrange(codewords, "batch row column dim -> batch dim row column")
        if found.shape[1:] != grid:
            codewords = functional.interpolate(codewords, grid, mode="bicubic")
        return self.quant_resi(codewords, scale)

    def _latents(self, z: Float[Tensor, "batch dim row column"]) -> Float[Tensor, "batch dim row column"]:
        if z.ndim != 4 or z.shape[1] != self.dim:
            raise ValueError(
                f"expected latents of shape [batch, {self.dim}, *grid], got {list(z.shape)}: a grid of two axes"
            )
        return z.float()


class SharedPhis(nn.Module):
    """A few 3 x 3 convolutions, of which a scale takes the one whose place among them is nearest to its own.

    Scales lie at equal steps from 0 (coarsest) to 1 (finest); so do the convolutions, but with the outer ones
    `1 / (2 phis)` from the ends. (Four: `1 / 12`, as trained weights have it.) If two are equally near it is the finer
    one: that is how rounding decided it for the trained weights.

    Args:
        dim: Channels.
        phis: Number of convolutions.
        weight: Share of the convolution in the output, the rest is the input.
        scales: Number of scales.
    """

    def __init__(self, dim: int, phis: int, weight: float, scales: int):
        super().__init__()
        if phis < 1:
            raise ValueError(f"phis must be at least 1, got {phis}")
        self.weight = weight
        self.qresi_ls = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(phis))
        edge = Fraction(1, 12 if phis == 4 else 2 * phis)
        places = [edge + (1 - 2 * edge) * Fraction(index, max(1, phis - 1)) for index in range(phis)]
        self.chosen = [
            min(range(phis), key=lambda index: (abs(places[index] - Fraction(scale, max(1, scales - 1))), -index))
            for scale in range(scales)
        ]

    def forward(self, x: Float[Tensor, "batch dim row column"], scale: int) -> Float[Tensor, "batch dim row column"]:
        """What a scale adds, given its codewords on the full grid; in float32."""
        phi = self.qresi_ls[self.chosen[scale]]
        convolved = functional.conv2d(x, phi.weight.float(), phi.bias.float(), padding=1)
        return (1 - self.weight) * x + self.weight * convolved


def _mean_square(x: Tensor, y: Tensor, rows: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference in these rows; 0, with a gradient, if there is none."""
    return ((x - y).square() * rows[:, None, None, None]).sum() / (rows.sum() * prod(x.shape[1:])).clamp(min=1)
