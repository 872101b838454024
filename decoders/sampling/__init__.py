"""Sampling from token decoders: two loops, one law, keyed noise, and proposers and rules that are a file each."""

from zoo.decoders.sampling import choosers, processors, proposers, rules, schedules, search
from zoo.decoders.sampling.contrastive_search import contrastive_search
from zoo.decoders.sampling.decode import decode, stream
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law, guidance
from zoo.decoders.sampling.masked import decode_masked
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness, Result, Trace
from zoo.decoders.sampling.wavefront import decode_wavefront
from zoo.decoders.sampling.zipar import decode_zipar

__all__ = [
    "Draft",
    "Exactness",
    "Law",
    "Noise",
    "Result",
    "Trace",
    "choosers",
    "contrastive_search",
    "decode",
    "decode_masked",
    "decode_wavefront",
    "decode_zipar",
    "guidance",
    "processors",
    "proposers",
    "rules",
    "schedules",
    "search",
    "stream",
]
