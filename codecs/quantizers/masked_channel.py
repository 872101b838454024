"""Masked-channel residual vector quantizer: the first levels each see a group of channels, the others all of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.codecs.quantizers.levels import LevelOutput
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer
from zoo.codecs.quantizers.rotation import Gradient
from zoo.codecs.quantizers.vector import VectorQuantizer


class MaskedVectorQuantizer(VectorQuantizer):
    """A moving-average codebook whose codewords are zero outside some channels, so that others can't choose the code.

    Args:
        dim: Size of a vector, with all its channels.
        size: Number of codes.
        channels: First channel that it sees, and the first behind them.
        decay, restart_threshold, seed, gradient: See `VectorQuantizer`.
    """

    mask: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        channels: tuple[int, int],
        decay: float = 0.99,
        restart_threshold: float = 0.03,
        seed: int = 0,
        gradient: Gradient = "straight-through",
    ):
        super().__init__(dim, size, decay, restart_threshold=restart_threshold, seed=seed, gradient=gradient)
        start, stop = channels
        if not 0 <= start < stop <= dim:
            raise ValueError(f"channels must be a first and a last + 1 within 0..{dim}, got {channels}")
        mask = torch.zeros(dim)
        mask[start:stop] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.embedding *= mask

    def visible(self, x: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
        """See `Level.visible`."""
        return x * self.mask

    def quantize(self, x: Float[Tensor, "vector dim"]) -> LevelOutput:
        """See `Level.quantize`."""
        return super().quantize(self.visible(x))


def masked_channel_residual_vq(
    dim: int,
    size: int,
    levels: int,
    groups: int = 3,
    dropout: float = 0.0,
    kmeans_vectors: int = 0,
    decay: float = 0.99,
    restart_threshold: float = 0.03,
    seed: int = 0,
    gradient: Gradient = "straight-through",
) -> ResidualVectorQuantizer:
    """A residual quantizer whose first `groups` levels see one of as many slices of the channels each.

    The first codebook of an ordinary stack says too much for a language model to predict from text; here it says what
    a part of the channels does (Ji et al. 2024, "Language-Codec: Bridging Discrete Codec Representations and Speech
    Language Models"). Level `groups` and those behind see all channels of what is left. Slices are as equal as
    `dim` allows. For the other arguments see `VectorQuantizer` and `ResidualVectorQuantizer`.
    """
    if not 1 <= groups <= min(levels, dim):
        raise ValueError(f"groups must lie in 1..{min(levels, dim)}, the levels and channels there are, got {groups}")
    borders = [dim * group // groups for group in range(groups + 1)]
    channels = [*zip(borders[:-1], borders[1:], strict=True), *[(0, dim)] * (levels - groups)]
    stack = [
        MaskedVectorQuantizer(dim, size, seen, decay, restart_threshold, seed * levels + level, gradient)
        for level, seen in enumerate(channels)
    ]
    return ResidualVectorQuantizer(stack, dropout, kmeans_vectors, seed)
