"""Cosmos Tokenizer for pictures: VQGAN's networks between wavelets, and codes that are digits.

NVIDIA 2025, "Cosmos World Foundation Model Platform for Physical AI", section 4: the discrete image tokenizers, DI.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from zoo.codecs.image.vqgan import ConvolutionalCodec, NetworkConfig
from zoo.codecs.layers.haar import haar, inverse_haar
from zoo.codecs.quantizers import ScalarQuantizer


@dataclass(frozen=True)
class CosmosConfig(NetworkConfig):
    """The defaults are DI8x8; DI16x16 has `compression` 16. Both have attention in the middle alone.

    Attributes:
        code_dim: One for each of `levels`.
        patch: Sides of a picture are divided by this by wavelets, before the network and again behind it.
        compression: Pixels a side of a cell: what wavelets leave to do is done by the network, whose last resolutions
            are then equally fine.
        levels: Number of values of each dimension of a code.
    """

    multipliers: tuple[int, ...] = (2, 4, 4)
    attention: tuple[int, ...] = ()
    code_dim: int = 6
    patch: int = 4
    compression: int = 8
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_dim != len(self.levels):
            raise ValueError(f"code_dim must be the number of levels, {len(self.levels)}, got {self.code_dim}")
        if self.patch != 2**self.wavelets or self.compression != self.patch * 2**self.halvings:
            raise ValueError(f"patch and compression must be powers of two, got {self.patch} and {self.compression}")
        if not 0 <= self.halvings <= len(self.multipliers):
            raise ValueError(
                f"compression may be {self.patch} to {self.patch * 2 ** len(self.multipliers)} with patch {self.patch}"
                f" and {len(self.multipliers)} multipliers, got {self.compression}"
            )

    @property
    def channels(self) -> int:
        return 3 * self.patch**2

    @property
    def halvings(self) -> int:
        return round(math.log2(self.compression / self.patch))

    @property
    def hop(self) -> int:
        return self.compression

    @property
    def wavelets(self) -> int:
        """Steps of wavelets."""
        return round(math.log2(self.patch))


class Cosmos(ConvolutionalCodec):
    """One code a cell, whose digits are rounded values."""

    config_class: ClassVar[type] = CosmosConfig
    config: CosmosConfig

    def __init__(self, config: CosmosConfig | None = None):
        config = config or CosmosConfig()
        super().__init__(config, ScalarQuantizer(config.levels))

    def latents(self, media: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim down across"]:
        """See `ImageCodec.latents`."""
        return self.quant_conv(self.encoder(haar(2 * media - 1, self.config.wavelets)))

    def synthesise(self, z: Float[Tensor, "batch dim down across"]) -> Float[Tensor, "batch 3 height width"]:
        """See `ImageCodec.synthesise`."""
        bands = self.decoder(self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype)))
        return (inverse_haar(bands, self.config.wavelets) + 1) / 2
