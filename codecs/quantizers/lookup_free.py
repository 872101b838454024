"""Lookup-free quantizer: the signs of a vector are the bits of its code."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.quantizers.code_entropy import entropies_of_bits
from zoo.codecs.quantizers.levels import Level, LevelOutput, mean_square


class LookupFreeQuantizer(Level):
    """An implicit codebook: all vectors of values `scale` and `-scale` (Yu et al. 2023, "Language Model Beats
    Diffusion: Tokenizer is Key to Visual Generation"; Luo et al. 2024, "Open-MAGVIT2").

    The loss draws latents to their codewords, makes each choice certain and keeps all codes in use: with the
    probability of code `c` for a latent `z` proportional to `exp(2 z c / temperature)`, it lowers the mean entropy of
    these distributions and raises that of their mean over the latents of this rank.

    Args:
        bits: Size of a vector and bits of a code.
        scale: Length of a codeword in each dimension; half of that of the level before in a residual stack.
        first_bit: What the first dimension is: the "lowest" bit of the code, as in both papers and the weights of
            Open-MAGVIT2, or the "highest", as in `vector-quantize-pytorch` and weights trained with it.
        commitment_weight: Weight of the loss that draws latents to their codewords.
        entropy_weight: Weight of the entropies.
        diversity: Weight of the second entropy against the first.
        temperature: Of the choice.
        entropy_group: Approximate the second entropy by groups of so many bits; None: exact. Its time grows with
            `2 ** entropy_group`; exact, about 18 bits can be borne. See `entropies_of_bits`.
    """

    weights: Tensor

    def __init__(
        self,
        bits: int,
        scale: float = 1.0,
        first_bit: Literal["lowest", "highest"] = "lowest",
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        entropy_group: int | None = None,
    ):
        super().__init__()
        if not 1 <= bits <= 62:
            raise ValueError(f"bits must lie in 1..62, got {bits}")
        if first_bit not in ("lowest", "highest"):
            raise ValueError(f"first_bit must be lowest or highest, got {first_bit!r}")
        if entropy_group is not None and entropy_group < 1:
            raise ValueError(f"entropy_group must be None or a number of bits from 1, got {entropy_group}")
        self.dim, self.size, self.start, self.scale = bits, 1 << bits, None, scale
        self.commitment_weight, self.entropy_weight, self.diversity = commitment_weight, entropy_weight, diversity
        self.temperature, self.entropy_group = temperature, entropy_group
        weights = [1 << bit for bit in range(bits)]
        self.register_buffer("weights", torch.tensor(weights[:: 1 if first_bit == "lowest" else -1]), persistent=False)

    def nearest(self, x: Float[Tensor, "vector dim"]) -> Int[Tensor, "vector"]:
        """See `Level.nearest`; a 0 counts as negative."""
        return ((x > 0) * self.weights).sum(dim=1)

    def lookup(self, codes: Int[Tensor, "vector"]) -> Float[Tensor, "vector dim"]:
        """See `Level.lookup`."""
        return ((codes[:, None] & self.weights) > 0) * (2.0 * self.scale) - self.scale

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        codes = self.nearest(x)
        q = self.lookup(codes)
        commitment = mean_square(x, q)
        # A bit that is set adds 2 x scale / temperature to a code's logit, and one that is not takes as much away.
        own, together = entropies_of_bits(4 * self.scale / self.temperature * x, self.entropy_group)
        loss = self.commitment_weight * commitment + self.entropy_weight * (own - self.diversity * together)
        return LevelOutput.of_batch(q, codes, loss, commitment, self.size)
