"""Quantizer that learns its codebook through the index: each vector's gradient reaches every codeword."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.code_entropy import entropies_of_choices
from zoo.codecs.quantizers.kmeans import in_slices
from zoo.codecs.quantizers.levels import Level, LevelOutput, mean_square
from zoo.codecs.quantizers.rotation import carry


class IndexBackpropagationQuantizer(Level):
    """One codebook, whose code is that of the largest dot product (Shi et al. 2024, "Scalable Image Tokenization with
    Index Backpropagation Quantization").

    The decoder's gradient reaches the chosen codeword, and through the softmax of the dot products the latents and all
    codewords. The loss draws latents and codewords to each other in three terms: through the softmax, latents to their
    codewords, and codewords to their latents. The gradient's memory is one number for each vector and code.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        codebook_weight: Weight of the term that draws codewords to their latents; the others weigh 1.
        entropy_weight: Weight of the mean entropy of the choices minus the entropy of their mean over the latents of
            this rank; 0: none.
        entropy_temperature: Of the choices whose entropy is taken.
    """

    passes_gradient = True  # of the softmax

    def __init__(
        self,
        dim: int,
        size: int,
        codebook_weight: float = 0.25,
        entropy_weight: float = 0.05,
        entropy_temperature: float = 0.01,
    ):
        super().__init__()
        self.dim, self.size, self.start = dim, size, None
        self.codebook_weight, self.entropy_weight = codebook_weight, entropy_weight
        self.entropy_temperature = entropy_temperature
        self.embedding = nn.Parameter(torch.randn(size, dim))

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        codewords = self.embedding.float().T
        return in_slices(lambda part: (part @ codewords).argmax(dim=1), x, self.size)

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return functional.embedding(codes, self.embedding).float()

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        logits = x @ self.embedding.float().T
        codes = logits.argmax(dim=1)
        codewords = self.lookup(codes)
        q = through_index(logits.softmax(dim=1), codewords, self.embedding)
        commitment = mean_square(x, codewords.detach())
        loss = mean_square(q, x) + commitment + self.codebook_weight * mean_square(codewords, x.detach())
        if self.entropy_weight:
            own, together = entropies_of_choices(logits / self.entropy_temperature)
            loss = loss + self.entropy_weight * (own - together)
        return LevelOutput.of_batch(q, codes, loss, commitment, self.size)


def through_index(
    shares: Float[Tensor, "vector size"], codewords: Float[Tensor, "vector dim"], embedding: Float[Tensor, "size dim"]
) -> Float[Tensor, "vector dim"]:
    """Exactly `codewords`, with their own gradient and that which their mixture by `shares` has for the shares."""
    mixture = shares @ embedding.detach().float()
    return codewords + carry(mixture, torch.zeros_like(codewords))
