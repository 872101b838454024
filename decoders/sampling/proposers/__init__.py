"""Proposers: whatever bets on the next steps, a file each."""

from collections.abc import Callable

from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.draft_model import DraftModel
from zoo.decoders.sampling.proposers.jacobi import Jacobi
from zoo.decoders.sampling.proposers.lookahead import Lookahead
from zoo.decoders.sampling.proposers.ngram import NGram

NAMES: dict[str, Callable[[], Proposer]] = {"jacobi": Jacobi, "lookahead": Lookahead, "ngram": NGram}
"""What makes those that need nothing to be made, by name."""


def find(name: str) -> Proposer:
    """A new proposer of that name.

    Raises:
        ValueError: No proposer has the name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no proposer {name!r}; there are {', '.join(sorted(NAMES))}")
    return NAMES[name]()


__all__ = ["NAMES", "Context", "DraftModel", "Jacobi", "Lookahead", "NGram", "Outcome", "Proposer", "find"]
