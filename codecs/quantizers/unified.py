"""Unified codebook: codewords that are the embeddings of a text model, or of some of its words."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from zoo.codecs.quantizers.kmeans import nearest
from zoo.codecs.quantizers.levels import Level, LevelOutput, attraction
from zoo.codecs.quantizers.rotation import Gradient, known


class UnifiedVectorQuantizer(Level):
    """One codebook that is a slice of an embedding table in use elsewhere, not a copy of it (Zheng et al. 2024,
    "UniCode: Learning a Unified Codebook for Multimodal Large Language Models").

    A text model that reads token `first + code` sees the vector that pictures are quantized with. Whatever trains the
    table moves both: text alone if `codebook_weight` is 0, as in the paper, where language drives the codebook and
    pictures follow; both otherwise. All levels of a residual stack may hold the same table. Where its vectors are not
    of the size of the latents, put a `ProjectedQuantizer` around it.

    Args:
        table: The embeddings, `[token, dim]`.
        first: Token whose embedding is code 0.
        size: Number of codes; None: all tokens from `first`.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        codebook_weight: Weight of the loss that draws codewords to their latents.
        gradient: How the decoder's gradient reaches the latents; see `carry`.
    """

    def __init__(
        self,
        table: nn.Embedding,
        first: int = 0,
        size: int | None = None,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__()
        tokens = table.num_embeddings
        size = tokens - first if size is None else size
        if not 0 <= first < first + size <= tokens:
            raise ValueError(f"codes must lie among the table's {tokens} tokens, got {size} from token {first}")
        self.dim, self.size, self.start, self.gradient = table.embedding_dim, size, None, known(gradient)
        self.table, self.first = table, first
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight

    @torch.no_grad()
    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`."""
        return nearest(x, self.table.weight[self.first : self.first + self.size].float())

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return functional.embedding(codes + self.first, self.table.weight).float()

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        codewords = self.lookup(codes)
        loss, commitment = attraction(x, codewords, self.commitment_weight, self.codebook_weight)
        return LevelOutput.of_batch(codewords.detach(), codes, loss, commitment, self.size)
