"""The tokenizer of VAR: ever finer maps of codes for pictures of one size, around the networks of VQGAN.

Tian et al. 2024, "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from zoo.codecs.base import CodecInfo
from zoo.codecs.image.vqgan import ConvolutionalCodec, NetworkConfig
from zoo.codecs.quantizers import MultiScaleVectorQuantizer


@dataclass(frozen=True)
class MultiScaleConfig(NetworkConfig):
    """The defaults are VAR's tokenizer: 256 x 256 pixels are 680 codes.

    Attributes:
        codebook_size: Number of codes of the one codebook that all scales use.
        scales: Rows, and columns, of the map of each scale, coarse to fine. The last one has a code for each cell, so
            that a picture has `scales[-1]` cells a side; larger ones are cut into tiles of that size.
        phis: Convolutions behind the interpolation of the maps, which the scales share.
        phi_weight: Their share in what a scale adds.
    """

    width: int = 160
    latent: int = 32
    code_dim: int = 32
    quant_kernel: int = 3
    codebook_size: int = 4096
    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    phis: int = 4
    phi_weight: float = 0.5


class MultiScaleVQVAE(ConvolutionalCodec):
    """Codes `[batch, 1, n]`: tile by tile, scale by scale, row by row; `quantizer.split` gives a tile's maps."""

    config_class: ClassVar[type] = MultiScaleConfig
    config: MultiScaleConfig

    def __init__(self, config: MultiScaleConfig | None = None):
        config = config or MultiScaleConfig()
        quantizer = MultiScaleVectorQuantizer(
            config.code_dim, config.codebook_size, config.scales, config.phis, config.phi_weight
        )
        super().__init__(config, quantizer)

    @property
    def info(self) -> CodecInfo:
        scales = self.config.scales
        tile, codes = scales[-1] * self.config.hop, sum(scale**2 for scale in scales)
        return replace(super().info, tile=tile, tile_codes=codes)
