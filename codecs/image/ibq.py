"""IBQ: VQGAN's networks, twice as deep, around a codebook that learns through the index.

Shi et al. 2024, "Scalable Image Tokenization with Index Backpropagation Quantization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.codecs.image.vqgan import ConvolutionalCodec, NetworkConfig
from zoo.codecs.quantizers import IndexBackpropagationQuantizer


@dataclass(frozen=True)
class IBQConfig(NetworkConfig):
    """The defaults are the f16 model of 16384 codes; those of 1024, 8192 and 262144 codes differ in nothing else.

    Attributes:
        codebook_size: Number of codes.
    """

    blocks: int = 4
    code_dim: int = 256
    codebook_size: int = 16384


class IBQ(ConvolutionalCodec):
    """One code a cell, of a codebook that may be large."""

    config_class: ClassVar[type] = IBQConfig
    config: IBQConfig

    def __init__(self, config: IBQConfig | None = None):
        config = config or IBQConfig()
        super().__init__(config, IndexBackpropagationQuantizer(config.code_dim, config.codebook_size))
