"""What all quantizers are made of: levels of one codebook each, run one after the other on what the last left over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from zoo.codecs.quantizers.base import Quantized, Quantizer, Spread, Usage
from zoo.codecs.quantizers.kmeans import KMeansStart
from zoo.codecs.quantizers.rotation import Gradient, carry


@dataclass(frozen=True)
class LevelOutput:
    """What a level makes of vectors `[vector, dim]`; the figures are scalars (see `Usage`).

    Attributes:
        q: The codewords; with a gradient only from levels that `passes_gradient`.
    """

    q: Float[Tensor, "vector dim"]
    codes: Int[Tensor, "vector"]
    loss: Float[Tensor, ""]
    commitment: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]
    used: Float[Tensor, ""]
    restarted: Float[Tensor, ""]

    @classmethod
    def of_batch(
        cls,
        q: Float[Tensor, "vector dim"],
        codes: Int[Tensor, "vector"],
        loss: Float[Tensor, ""],
        commitment: Float[Tensor, ""],
        size: int,
    ) -> LevelOutput:
        """What a codebook without restarts and averages gives: its usage is that of this batch."""
        counts = codes.unique(return_counts=True)[1].float()  # a codebook may be too large to count all its codes
        used = counts.new_tensor(len(counts) / size)
        return cls(q, codes, loss, commitment, perplexity(counts), used, counts.new_zeros(()))


class Level(Quantizer):
    """A quantizer of one codebook. Subclasses say how it treats flat float32 vectors; grids are handled here.

    Attributes:
        dim: Size of a vector.
        size: Number of codes.
        start: Gathers vectors for k-means; None if the codebook needs none.
        passes_gradient: The codewords of `quantize` have a gradient of their own. If not, the gradient is put once
            around the sum of all levels, in the way that `gradient` says.
        gradient: See `carry`.
    """

    dim: int
    size: int
    start: KMeansStart | None  # no default: one on the class would hide the module of an instance
    passes_gradient: bool = False
    gradient: Gradient = "straight-through"

    @property
    def codebook_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.size,)

    @abstractmethod
    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """Quantize and, in train mode, learn. There may be no vector at all."""

    @abstractmethod
    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """Codes of vectors."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """Codewords of codes."""

    def visible(self, x: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
        """What of the vectors this level looks at: all, unless a subclass says otherwise."""
        return x

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`; `n` is 0 or 1."""
        return forward_levels([self], z, n, self.start)

    def encode(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None) -> Int[Tensor, "batch codebook *grid"]:
        """See `Quantizer.encode`."""
        return encode_levels([self], z, n)

    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """See `Quantizer.decode`."""
        return decode_levels([self], codes)


def forward_levels(
    levels: Sequence[Level],
    z: Float[Tensor, "batch dim *grid"],
    n: Int[Tensor, "batch"] | int | Spread | None,
    start: KMeansStart | None,
) -> Quantized:
    """Quantize `z` by a residual stack of levels; see `ResidualVectorQuantizer`.

    The loss is the mean of the levels' losses over the levels that any vector used. While `start` gathers vectors,
    `z` is returned as it came, with code -1 and loss 0.
    """
    spread = n if callable(n) else None
    counts = used_levels(None if callable(n) else n, len(levels), z.shape[0])
    lowest, highest = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    with torch.autocast(z.device.type, enabled=False):
        x = flatten(z, levels[0].dim)
        if start is not None and levels[0].training and not start.ready(x.detach(), levels):
            return _unquantized(z, len(levels))
        counts = counts.to(x.device).repeat_interleave(len(x) // max(1, len(z)))
        residual, total, outputs, codes = x, torch.zeros_like(x), [], []
        errors = [] if spread is None else [x.detach().square().sum(dim=1)]
        for index, level in enumerate(levels):
            if index < lowest:
                output = level.quantize(residual)
                q, level_codes = output.q, output.codes
            else:  # unused levels run too, on no vectors: ranks must agree, and parameters keep their gradients
                rows = (counts > index).nonzero().flatten()
                output = level.quantize(residual[rows])
                q = torch.zeros_like(residual).index_copy(0, rows, output.q)
                level_codes = torch.full_like(counts, -1).index_copy(0, rows, output.codes)
            total = total + q
            residual = residual - q.detach()  # not `q`: its gradient would keep this level's loss from the encoder
            outputs.append(output)
            codes.append(level_codes)
            if spread is not None:
                errors.append(residual.detach().square().sum(dim=1))
        if spread is not None:
            counts = spread(stack_levels(errors, z)).flatten()
            total = sum((output.q * (counts > index)[:, None] for index, output in enumerate(outputs)), total * 0)
            codes = [level.where(counts > index, -1) for index, level in enumerate(codes)]
        if not levels[0].passes_gradient:
            carried = carry(x, total, levels[0].gradient)
            total = carried if spread is None and lowest else torch.where((counts > 0)[:, None], carried, total)
        loss = torch.stack([output.loss for output in outputs]).sum() / max(1, highest)
    return Quantized(unflatten(total, z).to(z.dtype), stack_levels(codes, z), loss, _usage(outputs))


@torch.no_grad()
def encode_levels(
    levels: Sequence[Level], z: Float[Tensor, "batch dim *grid"], n: int | None
) -> Int[Tensor, "batch codebook *grid"]:
    """Codes of the first `n` levels."""
    n = first_codebooks(n, len(levels))
    with torch.autocast(z.device.type, enabled=False):
        residual, codes, used = flatten(z, levels[0].dim), [], levels[:n]
        for level in used:
            codes.append(level.nearest(residual))
            if len(codes) < len(used):
                residual = residual - level.lookup(codes[-1])
    return stack_levels(codes, z)


@torch.no_grad()
def decode_levels(
    levels: Sequence[Level], codes: Int[Tensor, "batch codebook *grid"]
) -> Float[Tensor, "batch dim *grid"]:
    """Sum of the codewords; code -1 adds nothing."""
    check_codebooks(codes, len(levels))
    holes = bool((codes < 0).any())
    total = None
    for level, level_codes in zip(levels, codes.movedim(1, 0).flatten(1), strict=False):
        q = level.lookup(level_codes.clamp(min=0) if holes else level_codes)
        q = q * (level_codes >= 0)[:, None] if holes else q
        total = q if total is None else total + q
    batch, _, *grid = codes.shape
    return total.view(batch, *grid, -1).movedim(-1, 1)


def used_levels(n: Int[Tensor, "batch"] | int | None, levels: int, batch: int) -> Int[Tensor, "batch"]:
    """`n` as one number a row."""
    if n is None:
        return torch.full((batch,), levels)
    counts = n if isinstance(n, Tensor) and n.ndim else torch.full((batch,), int(n))
    if counts.shape != (batch,):
        raise ValueError(f"n must be an int or one number for each of {batch} rows, got shape {list(counts.shape)}")
    if batch and not 0 <= int(counts.min()) <= int(counts.max()) <= levels:
        raise ValueError(f"n must lie in 0..{levels}, got {counts.tolist()}")
    return counts.to(torch.int64)


def first_codebooks(n: int | None, codebooks: int) -> int:
    """How many codebooks to encode with: `n`, or all of them."""
    if n is not None and not 1 <= n <= codebooks:
        raise ValueError(f"n must lie in 1..{codebooks}, got {n}")
    return n or codebooks


def check_codebooks(codes: Int[Tensor, "batch codebook *grid"], codebooks: int) -> None:
    """Raise ValueError unless `codes` are those of the first of so many codebooks."""
    if codes.ndim < 2 or not 1 <= codes.shape[1] <= codebooks:
        raise ValueError(f"expected codes of 1..{codebooks} codebooks along axis 1, got shape {list(codes.shape)}")


def flatten(z: Float[Tensor, "batch dim *grid"], dim: int) -> Float[Tensor, "vector dim"]:
    """Float32 vectors of a grid, row by row."""
    if z.ndim < 2 or z.shape[1] != dim:
        raise ValueError(f"expected latents of shape [batch, {dim}, *grid], got {list(z.shape)}")
    return z.movedim(1, -1).reshape(-1, dim).float()


def unflatten(x: Float[Tensor, "vector dim"], z: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
    """Vectors back on the grid of `z`."""
    return x.view(z.shape[0], *z.shape[2:], x.shape[1]).movedim(-1, 1)


def stack_levels(
    levels: list[Shaped[Tensor, "vector"]], z: Float[Tensor, "batch dim *grid"]
) -> Shaped[Tensor, "batch level *grid"]:
    """Codes, or another number, of each level along an axis on the grid of `z`."""
    return torch.stack([level.view(z.shape[0], *z.shape[2:]) for level in levels], dim=1)


def perplexity(counts: Float[Tensor, "size"]) -> Float[Tensor, ""]:
    """exp of the entropy of a code histogram; 0 if it is empty."""
    shares = counts / counts.sum().clamp(min=1)
    return torch.special.entr(shares).sum().exp() * (counts.sum() > 0)


def mean_square(x: Float[Tensor, "vector dim"], y: Float[Tensor, "vector dim"]) -> Float[Tensor, ""]:
    """Mean squared difference; 0, with a gradient, if there is no vector."""
    return (x - y).square().sum() / max(1, x.numel())


def attraction(
    x: Float[Tensor, "vector dim"],
    codewords: Float[Tensor, "vector dim"],
    commitment_weight: float,
    codebook_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss that draws vectors to their codewords and codewords to their vectors, and the mean squared distance."""
    commitment = mean_square(x, codewords.detach())
    return commitment_weight * commitment + codebook_weight * mean_square(codewords, x.detach()), commitment


def _unquantized(z: Tensor, levels: int) -> Quantized:
    codes = torch.full((z.shape[0], levels, *z.shape[2:]), -1, device=z.device)
    nothing = torch.zeros(levels, device=z.device)
    return Quantized(z, codes, z.new_zeros((), dtype=torch.float32), Usage(nothing, nothing, nothing, nothing))


def _usage(outputs: list[LevelOutput]) -> Usage:
    def column(name: str) -> Tensor:
        return torch.stack([getattr(output, name).detach().float() for output in outputs])

    return Usage(column("used"), column("perplexity"), column("restarted"), column("commitment"))
