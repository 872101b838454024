"""Grouped residual quantizer: slices of the latent vector, each with a residual stack of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.quantizers.base import Paths, Quantized, Quantizer, Usage
from zoo.codecs.quantizers.draws import draw_counts
from zoo.codecs.quantizers.levels import check_codebooks, first_codebooks, used_levels
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer


class GroupedResidualVectorQuantizer(Quantizer):
    """Residual stacks side by side on consecutive slices of the latent vector.

    Codebooks are ordered level by level: level 1 of all groups, then level 2 of all groups, and so on. `n` counts
    codebooks in that order, so any first `n` are a quantizer of lower rate; a group none of whose levels is in use
    gives zeros. The loss is the mean of the groups' losses.

    Args:
        groups: Residual quantizers of equally many levels, without dropout of their own.
        dropout: In train mode, if no `n` is given, this share of the rows uses a random 1..all first codebooks.
        seed: Of dropout.
    """

    steps: Tensor

    def __init__(self, groups: Iterable[ResidualVectorQuantizer], dropout: float = 0.0, seed: int = 0):
        super().__init__()
        self.groups = nn.ModuleList(groups)
        levels = {len(group.codebook_sizes) for group in self.groups}
        if len(levels) != 1:
            raise ValueError(f"groups must be one or more quantizers of equally many levels, got {levels or 'none'}")
        if any(group.dropout for group in self.groups):
            raise ValueError("groups drop codebooks together: give dropout to the grouped quantizer, not to them")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in 0..1, got {dropout}")
        by_level = zip(*(group.codebook_sizes for group in self.groups), strict=True)
        self.codebook_sizes = tuple(size for sizes in by_level for size in sizes)
        self.dims = [group.dim for group in self.groups]
        self.dim = sum(self.dims)
        self.dropout, self.seed = dropout, seed
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`."""
        slices = self._slices(z)
        if self.training:
            if n is None and self.dropout:
                n = draw_counts(z.shape[0], len(self.codebook_sizes), self.dropout, self.seed, int(self.steps))
            self.steps += 1
        counts = used_levels(n, len(self.codebook_sizes), z.shape[0])
        outputs = [
            group(part, self._levels_of(index, counts))
            for index, (group, part) in enumerate(zip(self.groups, slices, strict=True))
        ]
        return Quantized(
            torch.cat([output.z_q for output in outputs], dim=1),
            rearrange([output.codes for output in outputs], "group batch level ... -> batch (level group) ..."),
            torch.stack([output.loss for output in outputs]).mean(),
            _interleave([output.usage for output in outputs]),
        )

    def encode(
        self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1
    ) -> Int[Tensor, "batch codebook *grid"]:
        """See `Quantizer.encode`; a `beam` above 1 searches in each group by itself."""
        n = first_codebooks(n, len(self.codebook_sizes))
        slices = self._slices(z)
        used = [self._levels_of(index, n) for index in range(len(self.groups))]
        codes = [
            group.encode(part, levels, beam)
            for group, part, levels in zip(self.groups, slices, used, strict=True)
            if levels
        ]
        return _in_turn(codes, n)

    def paths(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1) -> Paths:
        """See `Quantizer.paths`; the search is in each group by itself."""
        n = first_codebooks(n, len(self.codebook_sizes))
        parts = [
            group.paths(part, max(1, self._levels_of(index, n)), beam)
            for index, (group, part) in enumerate(zip(self.groups, self._slices(z), strict=True))
        ]
        codes, errors = [], []
        for k in range(n + 1):
            used = [self._levels_of(index, k) for index in range(len(parts))]
            chosen = [part.codes[levels] for part, levels in zip(parts, used, strict=True)]
            codes.append(_in_turn(chosen, k) if k else chosen[0])
            errors.append(sum(part.errors[:, levels] for part, levels in zip(parts, used, strict=True)))
        return Paths(codes, torch.stack(errors, dim=1))

    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """See `Quantizer.decode`."""
        check_codebooks(codes, len(self.codebook_sizes))
        parts = [
            group.decode(codes[:, index :: len(self.groups)])
            if index < codes.shape[1]
            else torch.zeros(codes.shape[0], group.dim, *codes.shape[2:], device=codes.device)
            for index, group in enumerate(self.groups)
        ]
        return torch.cat(parts, dim=1)

    def _slices(self, z: Tensor) -> tuple[Tensor, ...]:
        if z.ndim < 2 or z.shape[1] != self.dim:
            raise ValueError(f"expected latents of shape [batch, {self.dim}, *grid], got {list(z.shape)}")
        return z.split(self.dims, dim=1)

    def _levels_of(self, group: int, n: Tensor | int) -> Tensor | int:
        """How many levels of a group are among the first `n` codebooks."""
        return (n - group + len(self.groups) - 1) // len(self.groups)


def _in_turn(codes: list[Tensor], n: int) -> Int[Tensor, "batch n *grid"]:
    """The first `n` codebooks in order, of codes `[batch, level, *grid]` of each group."""
    return torch.stack([codes[index % len(codes)][:, index // len(codes)] for index in range(n)], dim=1)


def _interleave(usages: list[Usage]) -> Usage:
    def column(name: str) -> Tensor:
        return torch.stack([getattr(usage, name) for usage in usages], dim=1).flatten()

    return Usage(column("used"), column("perplexity"), column("restarted"), column("commitment"))
