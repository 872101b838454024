"""Proposers: whatever bets on the next steps, a file each."""

from collections.abc import Callable

from zoo.decoders.sampling.proposers.bandit import Bandit
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.copyspec import CopySpec
from zoo.decoders.sampling.proposers.draft_model import DraftModel
from zoo.decoders.sampling.proposers.dyspec import DySpec
from zoo.decoders.sampling.proposers.early_exit import EarlyExit
from zoo.decoders.sampling.proposers.exp3 import Exp3
from zoo.decoders.sampling.proposers.heads import Heads
from zoo.decoders.sampling.proposers.input_copy import InputCopy
from zoo.decoders.sampling.proposers.jacobi import Jacobi
from zoo.decoders.sampling.proposers.lookahead import Lookahead
from zoo.decoders.sampling.proposers.ngram import NGram
from zoo.decoders.sampling.proposers.opt_tree import OptTree
from zoo.decoders.sampling.proposers.phrases import Phrases
from zoo.decoders.sampling.proposers.recycling import Recycling
from zoo.decoders.sampling.proposers.specdec import SpecDec, Watched
from zoo.decoders.sampling.proposers.staged import Staged
from zoo.decoders.sampling.proposers.suffix_automaton import SuffixAutomaton
from zoo.decoders.sampling.proposers.swift import Swift
from zoo.decoders.sampling.proposers.trigram import Trigram

NAMES: dict[str, Callable[[], Proposer]] = {
    "copyspec": CopySpec,
    "input-copy": InputCopy,
    "jacobi": Jacobi,
    "lookahead": Lookahead,
    "ngram": NGram,
    "recycling": Recycling,
    "suffix-automaton": SuffixAutomaton,
    "trigram": Trigram,
}
"""What makes those that need nothing to be made, by name."""


__all__ = [
    "NAMES",
    "Bandit",
    "Context",
    "CopySpec",
    "DraftModel",
    "DySpec",
    "EarlyExit",
    "Exp3",
    "Heads",
    "InputCopy",
    "Jacobi",
    "Lookahead",
    "NGram",
    "OptTree",
    "Outcome",
    "Phrases",
    "Proposer",
    "Recycling",
    "SpecDec",
    "Staged",
    "SuffixAutomaton",
    "Swift",
    "Trigram",
    "Watched",
]
