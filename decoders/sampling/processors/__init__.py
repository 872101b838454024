"""Parts of a law that look at what came before, such as penalties on repetition."""

from zoo.decoders.sampling.processors.base import PrefixProcessor, PrefixTracker, Processor, Tracker, seen
from zoo.decoders.sampling.processors.repetition import RepetitionPenalty

__all__ = ["PrefixProcessor", "PrefixTracker", "Processor", "RepetitionPenalty", "Tracker", "seen"]
