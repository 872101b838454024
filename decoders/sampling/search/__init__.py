"""Searches: ways to several candidates of each row, and to the best of them; a file each.

All take a model, a prompt and steps as `decode` does, and its `lengths`, `cond`, `stop`, `forced` and `positions`.
"""

from zoo.decoders.sampling.search.arithmetic import arithmetic_samples
from zoo.decoders.sampling.search.bayes_risk import minimum_bayes_risk, ngram_f
from zoo.decoders.sampling.search.beam import beam_search
from zoo.decoders.sampling.search.best_of import best_of, mean_log_probability
from zoo.decoders.sampling.search.candidates import Candidates, Ranked
from zoo.decoders.sampling.search.constrained import constrained_beam_search
from zoo.decoders.sampling.search.diverse import diverse_beam_search
from zoo.decoders.sampling.search.named import NAMES, Named, find, with_phrases
from zoo.decoders.sampling.search.ngrams import NGrams
from zoo.decoders.sampling.search.sampled import samples
from zoo.decoders.sampling.search.superposed import superposed_decoding

__all__ = [
    "NAMES",
    "Named",
    "find",
    "with_phrases",
    "Candidates",
    "NGrams",
    "Ranked",
    "arithmetic_samples",
    "beam_search",
    "best_of",
    "constrained_beam_search",
    "diverse_beam_search",
    "mean_log_probability",
    "minimum_bayes_risk",
    "ngram_f",
    "samples",
    "superposed_decoding",
]
