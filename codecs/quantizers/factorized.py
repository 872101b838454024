"""Vector quantizer that looks codes up in a small space and learns its codebook by gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, attraction
from zoo.codecs.quantizers.projected import project
from zoo.codecs.quantizers.rotation import Gradient, carry, known


class FactorizedVectorQuantizer(Level):
    """One codebook of `code_dim`-sized codewords between two linear projections.

    The nearest code is the one of largest cosine similarity: latents and codewords are compared L2-normalised. The
    decoder's gradient goes through both projections, and between them past the choice of the code.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        code_dim: Size of a codeword.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords to their latents.
        gradient: How the decoder's gradient passes the choice of the code; see `carry`.
    """

    passes_gradient = True  # to its own projections, too

    def __init__(
        self,
        dim: int,
        size: int,
        code_dim: int = 8,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__()
        self.dim, self.size, self.start, self.gradient = dim, size, None, known(gradient)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.project_in = nn.Linear(dim, code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        self.embedding = nn.Parameter(torch.randn(size, code_dim))

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return self._nearest(project(self.project_in, x))

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return project(self.project_out, functional.embedding(codes, self.embedding))

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        latents = project(self.project_in, x)
        codes = self._nearest(latents)
        codewords = functional.embedding(codes, self.embedding).float()
        loss, commitment = attraction(latents, codewords, self.commitment_weight, self.codebook_weight)
        q = project(self.project_out, carry(latents, codewords, self.gradient))
        return LevelOutput.of_batch(q, codes, loss, commitment, self.size)

    def _nearest(self, latents: Float[Tensor, "vector code_dim"]) -> Int[Tensor, "vector"]:
        return nearest(functional.normalize(latents), functional.normalize(self.embedding.float()))
