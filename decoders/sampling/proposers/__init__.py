"""Proposers: whatever bets on the next steps, a file each."""

from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.draft_model import DraftModel
from zoo.decoders.sampling.proposers.ngram import NGram

__all__ = ["Context", "DraftModel", "NGram", "Outcome", "Proposer"]
