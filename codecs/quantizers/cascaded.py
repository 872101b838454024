"""Cascaded codebook: a large frozen table of clusters says which code, a trainable one refines what it stands for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.draws import generator
from zoo.codecs.quantizers.kmeans import KMeansStart, nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, attraction
from zoo.codecs.quantizers.rotation import Gradient, carry, known


class CascadedVectorQuantizer(Level):
    """One codebook whose codes never change their meaning, while what they decode to is learnt (Chen et al. 2025,
    "UniCode²: Cascaded Large-scale Codebooks for Unified Multimodal Understanding and Generation").

    The code is that of the nearest frozen codeword, so a codebook of any size is used as evenly as its clusters are,
    whatever training does. Decoded is the frozen codeword plus the refinement of that code, zero at first, which the
    loss and the decoder's gradient move: weight decay of the refinements draws them back to their anchors. In a
    residual stack each level passes on what the refined codeword leaves over.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        kmeans_vectors: Freeze the clusters of so many vectors, gathered over the first forward passes in train mode,
            which leave `z` as it is meanwhile; 0: normal random codewords, until `start_from` gives others.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws refined codewords to their latents.
        gradient: How the decoder's gradient reaches the latents; see `carry`.
        seed: Of the random codewords and k-means.
    """

    passes_gradient = True  # to the refinements
    frozen: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        kmeans_vectors: int = 0,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
        seed: int = 0,
    ):
        super().__init__()
        if kmeans_vectors and kmeans_vectors < size:
            raise ValueError(f"kmeans_vectors must be 0 or at least the {size} codes, got {kmeans_vectors}")
        self.dim, self.size, self.gradient = dim, size, known(gradient)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.start = KMeansStart(dim, kmeans_vectors, seed) if kmeans_vectors else None
        self.register_buffer("frozen", torch.randn(size, dim, generator=generator(seed, 0)))
        self.refinement = nn.Parameter(torch.zeros(size, dim))

    @torch.no_grad()
    def start_from(self, codewords: Float[Tensor, "size dim"], counts: Float[Tensor, "size"] | None = None) -> None:
        """Freeze these codewords, without any refinement yet; how often each was found (`counts`) does not matter."""
        self.frozen.copy_(codewords)
        self.refinement.zero_()

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return nearest(x, self.frozen.float())

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return self.frozen.index_select(0, codes).float() + functional.embedding(codes, self.refinement).float()

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        codewords = self.lookup(codes)
        loss, commitment = attraction(x, codewords, self.commitment_weight, self.codebook_weight)
        q = carry(x, codewords, self.gradient) + (codewords - codewords.detach())
        return LevelOutput.of_batch(q, codes, loss, commitment, self.size)
