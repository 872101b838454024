"""Quantizers: continuous latents to codes and back, all with one return type."""

from zoo.codecs.quantizers.base import Quantized, Quantizer, Usage
from zoo.codecs.quantizers.cascaded import CascadedVectorQuantizer
from zoo.codecs.quantizers.factorized import FactorizedVectorQuantizer
from zoo.codecs.quantizers.grouped import GroupedResidualVectorQuantizer
from zoo.codecs.quantizers.gumbel import GumbelQuantizer
from zoo.codecs.quantizers.index_backpropagation import IndexBackpropagationQuantizer
from zoo.codecs.quantizers.learned import LearnedVectorQuantizer
from zoo.codecs.quantizers.lookup_free import LookupFreeQuantizer
from zoo.codecs.quantizers.masked_channel import MaskedVectorQuantizer, masked_channel_residual_vq
from zoo.codecs.quantizers.multi_scale import MultiScaleVectorQuantizer
from zoo.codecs.quantizers.projected import ProjectedQuantizer
from zoo.codecs.quantizers.residual import ResidualVectorQuantizer, residual_vq
from zoo.codecs.quantizers.scalar import ResidualScalarQuantizer, ScalarQuantizer
from zoo.codecs.quantizers.shared import SharedResidualVectorQuantizer
from zoo.codecs.quantizers.simvq import SimVectorQuantizer
from zoo.codecs.quantizers.split import SplitResidualVectorQuantizer
from zoo.codecs.quantizers.unified import UnifiedVectorQuantizer
from zoo.codecs.quantizers.vector import VectorQuantizer

__all__ = [
    "CascadedVectorQuantizer",
    "FactorizedVectorQuantizer",
    "GroupedResidualVectorQuantizer",
    "GumbelQuantizer",
    "IndexBackpropagationQuantizer",
    "LearnedVectorQuantizer",
    "LookupFreeQuantizer",
    "MaskedVectorQuantizer",
    "MultiScaleVectorQuantizer",
    "ProjectedQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualScalarQuantizer",
    "ResidualVectorQuantizer",
    "ScalarQuantizer",
    "SharedResidualVectorQuantizer",
    "SimVectorQuantizer",
    "SplitResidualVectorQuantizer",
    "UnifiedVectorQuantizer",
    "Usage",
    "VectorQuantizer",
    "masked_channel_residual_vq",
    "residual_vq",
]
