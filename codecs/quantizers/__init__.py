"""Quantizers: continuous latents to codes and back, all with one return type."""

from zoo.codecs.quantizers.base import Quantized, Quantizer, Usage
from zoo.codecs.quantizers.factorized import FactorizedVectorQuantizer
from zoo.codecs.quantizers.grouped import GroupedResidualVectorQuantizer
from zoo.codecs.quantizers.gumbel import GumbelQuantizer
from zoo.codecs.quantizers.index_backpropagation import IndexBackpropagationQuantizer
from zoo.codecs.quantizers.learned import LearnedVectorQuantizer
from zoo.codecs.quantizers.lookup_free import LookupFreeQuantizer
from zoo.codecs.quantizers.projected import ProjectedQuantizer
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer, residual_vq
from zoo.codecs.quantizers.scalar import ResidualScalarQuantizer, ScalarQuantizer
from zoo.codecs.quantizers.shared import SharedResidualVectorQuantizer
from zoo.codecs.quantizers.simvq import SimVectorQuantizer
from zoo.codecs.quantizers.vector import VectorQuantizer

__all__ = [
    "FactorizedVectorQuantizer",
    "GroupedResidualVectorQuantizer",
    "GumbelQuantizer",
    "IndexBackpropagationQuantizer",
    "LearnedVectorQuantizer",
    "LookupFreeQuantizer",
    "ProjectedQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualScalarQuantizer",
    "ResidualVectorQuantizer",
    "ScalarQuantizer",
    "SharedResidualVectorQuantizer",
    "SimVectorQuantizer",
    "Usage",
    "VectorQuantizer",
    "residual_vq",
]
