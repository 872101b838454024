"""Rotary positions: queries and keys are turned by angles that grow with their position."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Turns = tuple[Float[Tensor, "R 1 N E"], Float[Tensor, "R 1 N E"]]
"""Cosines and signed sines of a block's positions, for `turn`."""


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 stretches rotary positions to longer contexts (Grattafiori et al., "The Llama 3 Herd of Models").

    Slow frequencies are divided by `factor`, fast ones stay, those between are mixed.

    Attributes:
        factor: How many times longer the context becomes.
        low, high: Turns within the original context below which a frequency is slow, and above which it is fast.
        original: Context that the model was first trained with.
    """

    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __call__(self, frequencies: Tensor) -> Tensor:
        turns = self.original * frequencies / (2 * math.pi)
        keep = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


class Rope(nn.Module):
    """Rotary position embedding (Su et al., "RoFormer", arXiv 2104.09864), in halves: feature i turns with i + E/2.

    With several axes, each turns its own share of the pairs by its own coordinate, as LlamaGen's positions in a grid.

    Args:
        head_dim: E, features of a head.
        theta: Base of the wavelengths.
        axes: Coordinates of a position.
        scaling: For contexts longer than the frequencies were trained with.

    Raises:
        ValueError: Pairs that don't divide among the axes.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0, axes: int = 1, scaling: RopeScaling | None = None):
        super().__init__()
        if head_dim % (2 * axes):
            raise ValueError(
                f"{head_dim} features of a head are not pairs for {axes} axes; take a multiple of {2 * axes}"
            )
        self.axes = axes
        share = head_dim // axes
        frequencies = 1 / theta ** (torch.arange(0, share, 2).float() / share)
        half = (scaling(frequencies) if scaling else frequencies).repeat(axes)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.cat((-half, half)), persistent=False)  # the sign is for sines
        self.axis: Tensor
        self.register_buffer("axis", torch.arange(axes).repeat_interleave(share // 2).repeat(2), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rope:
        frequencies = self.frequencies
        super()._apply(fn, recurse)
        self.frequencies = frequencies.to(self.frequencies.device)  # in float32 also in a model of fewer bits
        return self

    def forward(self, positions: Int[Tensor, "R N *axes"], dtype: torch.dtype) -> Turns:
        """Angles are taken in float32, whatever the model's dtype."""
        coordinates = positions[..., None] if self.axes == 1 else positions[..., self.axis]
        angles = (coordinates * self.frequencies)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def turn(x: Float[Tensor, "R H N E"], turns: Turns) -> Float[Tensor, "R H N E"]:
    """Each pair of features of each head, turned by the angle of its slot."""
    cosines, sines = turns
    return torch.addcmul(x * cosines, x.roll(x.shape[-1] // 2, -1), sines)
