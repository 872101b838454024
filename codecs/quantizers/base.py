"""What every quantizer is and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Usage:
    """Health of each codebook in one forward pass; all tensors `[codebook]`, float32, without gradient.

    Attributes:
        used: Share of the codebook's codes that are alive (EMA count above the restart threshold; for gradient-trained
            codebooks: used in this batch).
        perplexity: exp of the entropy of the batch's code histogram.
        restarted: How many dead codes this forward pass replaced.
        commitment: Mean squared distance between the level's input and its codeword.
    """

    used: Float[Tensor, "codebook"]
    perplexity: Float[Tensor, "codebook"]
    restarted: Float[Tensor, "codebook"]
    commitment: Float[Tensor, "codebook"]


@dataclass(frozen=True)
class Quantized:
    """The one return type of all quantizers.

    Attributes:
        z_q: Quantized latents, shape of `z`, with a straight-through gradient.
        codes: int64; -1 where a level was not used.
        loss: Scalar: commitment loss, plus the codebook's own loss where gradients train it.
        usage: Health of each codebook.
    """

    z_q: Float[Tensor, "batch dim *grid"]
    codes: Int[Tensor, "batch codebook *grid"]
    loss: Float[Tensor, ""]
    usage: Usage


@dataclass(frozen=True)
class Paths:
    """Codes of latents for each number of codebooks from none to all, and how far off they are.

    Attributes:
        codes: `codes[k]` are those of `k` codebooks, int64 `[batch, k, *grid]`; those of fewer codebooks are its
            first ones only if they were found one level after the other.
        errors: float32: squared distance of each latent to the sum of the codewords of `k` codebooks, its squared norm
            for `k` = 0; in the space where the codewords are.
    """

    codes: list[Int[Tensor, "batch k *grid"]]
    errors: Float[Tensor, "batch levels *grid"]

    def at(self, depth: Int[Tensor, "batch *grid"]) -> Int[Tensor, "batch codebook *grid"]:
        """Codes of so many codebooks of each cell, -1 behind them."""
        chosen = torch.full_like(self.codes[-1], -1)
        for k, codes in enumerate(self.codes):
            chosen[:, :k] = torch.where((depth == k)[:, None], codes, chosen[:, :k])
        return chosen


Spread = Callable[[Tensor], Tensor]
"""Number of codebooks `[batch, *grid]` of each cell, given its squared errors `[batch, levels, *grid]` with 0, 1, ...
codebooks."""


class Quantizer(nn.Module, ABC):
    """Latents `[batch, dim, *grid]` to codes `[batch, codebook, *grid]` and back; a single codebook has `codebook` = 1.

    Attributes:
        codebook_sizes: Number of codes of each codebook, coarse to fine.
    """

    codebook_sizes: tuple[int, ...]

    @abstractmethod
    def forward(self, z: Float[Tensor, "batch dim *grid"], n: Int[Tensor, "batch"] | int | None = None) -> Quantized:
        """Quantize with the first `n` codebooks (an int, or one number a row; default: all), in train and eval alike.

        In train mode the codebooks also learn from `z` (EMA, restarts), unless gradients train them.
        """

    @abstractmethod
    def encode(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None) -> Int[Tensor, "batch codebook *grid"]:
        """Codes of the first `n` codebooks; never changes the quantizer."""

    @abstractmethod
    def decode(self, codes: Int[Tensor, "batch codebook *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Latents of the codes of the first so many codebooks; code -1 adds nothing."""

    def paths(self, z: Float[Tensor, "batch dim *grid"], n: int | None = None, beam: int = 1) -> Paths:
        """Codes of the first 1, 2, ... `n` codebooks, each found by a search that keeps `beam` sums of codewords.

        Raises:
            ValueError: `n` or `beam` out of range, or this is no residual quantizer.
        """
        raise ValueError(
            f"{type(self).__name__} is no residual quantizer: its codes can be neither searched with a beam nor left"
            " out cell by cell; use beam=1 and one number of codebooks"
        )
