"""Choosers of masked decoding: which candidates are kept in a step."""

from zoo.decoders.sampling.choosers.base import Chooser, Ranked, View
from zoo.decoders.sampling.choosers.confidence import Confidence

__all__ = ["Chooser", "Confidence", "Ranked", "View"]
