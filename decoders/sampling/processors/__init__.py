"""Parts of a law that look at what came before: penalties, feedback, grammars. A file each."""

from zoo.decoders.sampling.processors.base import PrefixProcessor, PrefixTracker, Processor, Tracker, counted, seen
from zoo.decoders.sampling.processors.grammar import Grammar
from zoo.decoders.sampling.processors.mirostat import Mirostat
from zoo.decoders.sampling.processors.no_repeat import NoRepeat
from zoo.decoders.sampling.processors.repetition import RepetitionPenalty
from zoo.decoders.sampling.processors.repetition_aware import RepetitionAware

__all__ = [
    "Grammar",
    "Mirostat",
    "NoRepeat",
    "PrefixProcessor",
    "PrefixTracker",
    "Processor",
    "RepetitionAware",
    "RepetitionPenalty",
    "Tracker",
    "counted",
    "seen",
]
