"""Vector quantizer whose codewords all move together: a frozen random codebook under one learnt linear map."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.codecs.quantizers.draws import generator
from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, attraction
from zoo.codecs.quantizers.projected import project
from zoo.codecs.quantizers.rotation import Gradient, known


class SimVectorQuantizer(Level):
    """One codebook, the image of normal random vectors under a linear map that gradients train (Zhu et al. 2024,
    "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer").

    A step for the codewords that were chosen moves the others too, so that none is left behind.

    Args:
        dim: Size of a vector.
        size: Number of codes.
        frozen_dim: Size of a random vector; None: `dim`.
        bias: Whether the map has one.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords to their latents.
        gradient: How the decoder's gradient reaches the latents; see `carry`.
        seed: Of the random vectors.
    """

    frozen: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        frozen_dim: int | None = None,
        bias: bool = False,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
        seed: int = 0,
    ):
        super().__init__()
        frozen_dim = frozen_dim or dim
        self.dim, self.size, self.start, self.gradient = dim, size, None, known(gradient)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        frozen = torch.randn(size, frozen_dim, generator=generator(seed, 0)) * frozen_dim**-0.5
        self.register_buffer("frozen", frozen)
        self.transform = nn.Linear(frozen_dim, dim, bias=bias)

    @torch.no_grad()
    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return nearest(x, project(self.transform, self.frozen))

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return project(self.transform, self.frozen.index_select(0, codes))

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        codewords = self.lookup(codes)
        loss, commitment = attraction(x, codewords, self.commitment_weight, self.codebook_weight)
        return LevelOutput.of_batch(codewords.detach(), codes, loss, commitment, self.size)
