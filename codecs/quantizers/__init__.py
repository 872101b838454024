"""Quantizers: continuous latents to codes and back, all with one return type."""

from zoo.codecs.quantizers.base import Quantized, Quantizer, Usage
from zoo.codecs.quantizers.factorized import FactorizedVectorQuantizer
from zoo.codecs.quantizers.grouped import GroupedResidualVectorQuantizer
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer, residual_vq
from zoo.codecs.quantizers.vector import VectorQuantizer

__all__ = [
    "FactorizedVectorQuantizer",
    "GroupedResidualVectorQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualVectorQuantizer",
    "Usage",
    "VectorQuantizer",
    "residual_vq",
]
