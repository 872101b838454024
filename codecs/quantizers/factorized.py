"""Vector quantizer that looks codes up in a small space and learns its codebook by gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, mean_square, perplexity


class FactorizedVectorQuantizer(Level):
    """One codebook of `code_dim`-sized codewords between two linear projections.

    The nearest code is the one of largest cosine similarity: latents and codewords are compared L2-normalised. The
    decoder's gradient goes straight through the choice of the code and through both projections.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        code_dim: Size of a codeword.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords to their latents.
    """

    passes_gradient = True  # to its own projections, too

    def __init__(
        self, dim: int, size: int, code_dim: int = 8, commitment_weight: float = 0.25, codebook_weight: float = 1.0
    ):
        super().__init__()
        self.dim, self.size, self.start = dim, size, None
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.project_in = nn.Linear(dim, code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        self.embedding = nn.Parameter(torch.randn(size, code_dim))

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return self._nearest(_project(self.project_in, x))

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return _project(self.project_out, functional.embedding(codes, self.embedding))

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        latents = _project(self.project_in, x)
        codes = self._nearest(latents)
        codewords = functional.embedding(codes, self.embedding).float()
        commitment = mean_square(latents, codewords.detach())
        loss = self.commitment_weight * commitment + self.codebook_weight * mean_square(codewords, latents.detach())
        q = _project(self.project_out, latents + (codewords - latents).detach())
        counts = torch.bincount(codes, minlength=self.size).float()
        used = (counts > 0).float().mean()
        return LevelOutput(q, codes, loss, commitment, perplexity(counts), used, counts.new_zeros(()))

    def _nearest(self, latents: Float[Tensor, "vector code_dim"]) -> Int[Tensor, "vector"]:
        return nearest(functional.normalize(latents), functional.normalize(self.embedding.float()))


def _project(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer` in float32, also where a half precision codec holds it in less."""
    return functional.linear(x.float(), layer.weight.float(), layer.bias.float())
