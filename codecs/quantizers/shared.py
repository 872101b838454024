"""Residual vector quantizer all of whose levels use one codebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.quantizers.base import Quantized
from zoo.codecs.quantizers.levels import Level
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer
from zoo.codecs.quantizers.vector import VectorQuantizer


class SharedCodebook(VectorQuantizer):
    """A moving-average codebook that several levels use in one forward pass and that learns once, after the last.

    Were it to learn after each level, the codes of a level would depend on what the levels before it taught, and
    `decay` would act so many times a step.
    """

    def __init__(self, dim: int, size: int, decay: float = 0.99, restart_threshold: float = 0.03, seed: int = 0):
        super().__init__(dim, size, decay, restart_threshold=restart_threshold, seed=seed)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def learn(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Learn from all vectors quantized since the last time; returns the shares used and how many restarted."""
        vectors, sums, counts = zip(*self.seen, strict=True)
        self.seen = []
        restarted = super()._learn(torch.cat(vectors), sum(sums), sum(counts))
        return self._used(), restarted

    def _learn(
        self, x: Float[Tensor, "vector dim"], sums: Float[Tensor, "size dim"], counts: Float[Tensor, "size"]
    ) -> Float[Tensor, ""]:
        self.seen.append((x, sums, counts))
        return counts.new_zeros(())


class SharedResidualVectorQuantizer(ResidualVectorQuantizer):
    """A residual stack whose levels share a codebook (Lee et al. 2022, "Autoregressive Image Generation using Residual
    Quantization"): it learns from the vectors of all levels together, and weights hold it once.

    `Usage` states its share of living codes and its restarts at each level: they are the same codes.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        levels: How many levels.
        dropout, seed: See `ResidualVectorQuantizer`.
        decay, restart_threshold: See `VectorQuantizer`.
    """

    def __init__(
        self,
        dim: int,
        size: int,
        levels: int,
        dropout: float = 0.0,
        decay: float = 0.99,
        restart_threshold: float = 0.03,
        seed: int = 0,
    ):
        super().__init__([SharedCodebook(dim, size, decay, restart_threshold, seed)], dropout, seed=seed)
        self.codebook_sizes = (size,) * levels

    @property
    def stack(self) -> Sequence[Level]:
        """The one codebook, once for each level."""
        return [self.levels[0]] * len(self.codebook_sizes)  # type: ignore[list-item]  # a ModuleList holds any module

    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """See `Quantizer.forward`."""
        output = super().forward(z, n)
        if not self.training:
            return output
        used, restarted = self.levels[0].learn()
        everywhere = torch.ones_like(output.usage.used)
        return replace(output, usage=replace(output.usage, used=used * everywhere, restarted=restarted * everywhere))
