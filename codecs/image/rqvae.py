"""RQ-VAE: a few residual codes a cell, around the networks of VQGAN.

Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.codecs.image.vqgan import ConvolutionalCodec, NetworkConfig
from zoo.codecs.quantizers import ResidualVectorQuantizer, SharedResidualVectorQuantizer, residual_vq


@dataclass(frozen=True)
class RQVAEConfig(NetworkConfig):
    """The defaults are the ImageNet model of the paper: cells of 32 x 32 pixels with 4 codes each.

    Attributes:
        codebooks: Codes of a cell.
        codebook_size: Number of codes of each codebook.
        shared: All levels use one codebook.
        quantizer_dropout: In training, this share of the rows uses a random 1..`codebooks` first codebooks.
        kmeans_vectors: Latents that separate codebooks wait for to start by k-means; 0: they start at random.
    """

    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    attention: tuple[int, ...] = (32,)
    code_dim: int = 256
    codebooks: int = 4
    codebook_size: int = 16384
    shared: bool = True
    quantizer_dropout: float = 0.0
    kmeans_vectors: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared and self.kmeans_vectors:
            raise ValueError("a shared codebook starts by restarts: kmeans_vectors must be 0, or shared false")


class RQVAE(ConvolutionalCodec):
    """Residual codes; the first so many of each cell are the same picture at a lower rate."""

    config_class: ClassVar[type] = RQVAEConfig
    config: RQVAEConfig

    def __init__(self, config: RQVAEConfig | None = None):
        config = config or RQVAEConfig()
        super().__init__(config, _quantizer(config))


def _quantizer(config: RQVAEConfig) -> ResidualVectorQuantizer:
    sizes = config.code_dim, config.codebook_size, config.codebooks, config.quantizer_dropout
    if config.shared:
        return SharedResidualVectorQuantizer(*sizes)
    return residual_vq(*sizes, config.kmeans_vectors)
