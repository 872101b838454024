"""Residual vector quantizer: each level quantizes what the levels before it left over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.quantizers.base import Paths, Quantized, Quantizer, Spread
from zoo.codecs.quantizers.draws import draw_counts
from zoo.codecs.quantizers.kmeans import KMeansStart
from zoo.codecs.quantizers.levels import Level, decode_levels, encode_levels, forward_levels
from zoo.codecs.quantizers.rotation import Gradient
from zoo.codecs.quantizers.search import search_levels
from zoo.codecs.quantizers.vector import VectorQuantizer


class ResidualVectorQuantizer(Quantizer):
    """A stack of levels of one codebook each; any first so many of them are a quantizer of lower rate.

    What a level passes on is `z` minus the detached codewords so far, so that the commitment gradient of each level
    reaches `z` whole. The decoder's gradient goes to `z` once, straight through or rotated by the angle between `z` and
    the sum of its codewords, whatever the number of levels (levels that pass gradients of their own: through each of
    them). The loss is the mean of the levels' losses over the levels in use.

    Args:
        levels: Quantizers of one codebook, all of one kind, vector size and gradient.
        dropout: In train mode, if no `n` is given, this share of the rows uses a random 1..levels first levels.
        kmeans_vectors: Start all codebooks by k-means on so many vectors of the first forward passes in train mode,
            which leave `z` as it is meanwhile; 0: don't.
        seed: Of dropout and k-means.
    """

    steps: Tensor

    def __init__(self, levels: Iterable[Level], dropout: float = 0.0, kmeans_vectors: int = 0, seed: int = 0):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        kinds = {(type(level), level.dim, level.gradient) for level in self.levels}
        if len(kinds) != 1:
            raise ValueError(
                f"levels must be one or more quantizers of one kind and vector size and gradient, got {kinds or 'none'}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in 0..1, got {dropout}")
        if any(level.start is not None for level in self.levels):
            raise ValueError("levels of a residual quantizer start together: give kmeans_vectors to it, not to them")
        self.codebook_sizes = tuple(level.size for level in self.levels)
        if kmeans_vectors and kmeans_vectors < max(self.codebook_sizes):
            raise ValueError(f"kmeans_vectors must be 0 or at least {max(self.codebook_sizes)}, got {kmeans_vectors}")
        if kmeans_vectors and not hasattr(self.levels[0], "start_from"):
            raise ValueError(f"{type(self.levels[0]).__name__} learns by gradients: kmeans_vectors must be 0")
        self.dim, self.dropout, self.seed = self.levels[0].dim, dropout, seed
        self.start = KMeansStart(self.dim, kmeans_vectors, seed) if kmeans_vectors else None
        self.register_buffer("steps", torch.tensor(0))

    @property
    def stack(self) -> Sequence[Level]:
        """The levels in the order in which they are used."""
        return list(self.levels)

    def forward(
        self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | Spread | None = None
    ) -> Quantized:
        """See `Quantizer.forward`. A function as `n` says how many levels each cell uses; all levels learn from all."""
        if self.training:
            if n is None and self.dropout:
                n = draw_counts(z.shape[0], len(self.stack), self.dropout, self.seed, int(self.steps))
            self.steps += 1
        return forward_levels(self.stack, z, n, self.start)

    def encode(
        self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1
    ) -> Int[Tensor, "batch codebook *grid"]:
        """See `Quantizer.encode`. A `beam` above 1 finds nearer codes, whose first are not those of fewer levels."""
        if beam == 1:
            return encode_levels(self.stack, z, n)
        return search_levels(self.stack, z, n, beam).codes[-1]

    def paths(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1) -> Paths:
        """See `Quantizer.paths`."""
        return search_levels(self.stack, z, n, beam)

    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """See `Quantizer.decode`."""
        return decode_levels(self.stack, codes)


def residual_vq(
    dim: int,
    size: int,
    levels: int,
    dropout: float = 0.0,
    kmeans_vectors: int = 0,
    decay: float = 0.99,
    restart_threshold: float = 0.03,
    seed: int = 0,
    gradient: Gradient = "straight-through",
) -> ResidualVectorQuantizer:
    """A residual quantizer of equal levels with moving-average codebooks; see `VectorQuantizer` for the arguments."""
    stack = [
        VectorQuantizer(
            dim, size, decay, restart_threshold=restart_threshold, seed=seed * levels + level, gradient=gradient
        )
        for level in range(levels)
    ]
    return ResidualVectorQuantizer(stack, dropout, kmeans_vectors, seed)
