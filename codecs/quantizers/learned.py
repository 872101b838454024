"""Vector quantizer whose codewords are parameters: gradients move them, on the unit sphere or anywhere."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, attraction
from zoo.codecs.quantizers.rotation import Gradient, carry, known


class LearnedVectorQuantizer(Level):
    """One codebook that is learnt by gradients (van den Oord et al. 2017, "Neural Discrete Representation Learning").

    On the sphere, vectors and codewords are divided by their lengths, so that the nearest codeword is the one of the
    largest cosine and no code is out of reach for its length (Yu et al. 2022, "Vector-quantized Image Modeling with
    Improved VQGAN"). What is decoded has length 1.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        sphere: Whether only directions count.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords to their latents.
        gradient: How the decoder's gradient passes the choice of the code; see `carry`.
    """

    def __init__(
        self,
        dim: int,
        size: int,
        sphere: bool = False,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__()
        self.dim, self.size, self.start, self.gradient = dim, size, None, known(gradient)
        self.sphere, self.commitment_weight, self.codebook_weight = sphere, commitment_weight, codebook_weight
        self.passes_gradient = sphere  # through the division by the length
        self.embedding = nn.Parameter(torch.randn(size, dim))

    @torch.no_grad()
    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return nearest(self._placed(x), self._placed(self.embedding.float()))

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return self._placed(functional.embedding(codes, self.embedding).float())

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        codewords, latents = self.lookup(codes), self._placed(x)
        loss, commitment = attraction(latents, codewords, self.commitment_weight, self.codebook_weight)
        q = carry(latents, codewords, self.gradient) if self.sphere else codewords.detach()
        return LevelOutput.of_batch(q, codes, loss, commitment, self.size)

    def _placed(self, x: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
        return functional.normalize(x) if self.sphere else x
