"""Parts of a law that look at what came before: what they are, and how they follow drafts that may not stand.

A processor is a setting. `start` gives a tracker, which remembers the rows of one run: it moves along a draft by
`advance`, comes back by `rollback`, and splits by `fork`, for trees and for drafters that apply the same law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Tracker(ABC):
    """What a processor remembers of R rows. Rows move on their own.

    `logits` and `law` may be asked more than once for a step; what was asked last before `advance` is what counted.
    """

    def logits(self, logits: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        """Change logits of the next step, before temperature and truncations."""
        return logits

    def law(self, logp: Float[Tensor, "R Q V"], full: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        """Change the law of the next step, after temperature and truncations.

        Args:
            logp: Log-probabilities so far.
            full: Log-probabilities behind the temperature and before truncations.
        """
        return logp

    def why(self, row: int) -> str | None:
        """Why nothing may come next in that row, if this part forbids it and can say more than that."""
        return None

    def came(self, tokens: Int[Tensor, "R K Q"], count: Int[Tensor, "R"]) -> None:
        """The first `count[r]` steps of each row came out, in the one run that this tracker and its forks belong to.

        `advance` follows drafts, too, and drafters have forks of their own; this is told once a round, and never of
        what does not stand, so that a processor can remember from one run to the next.
        """
        return None

    @abstractmethod
    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        """One step came, in those rows that move. Tokens may be input-only ids, behind the vocabulary."""

    @abstractmethod
    def rollback(self, n: Int[Tensor, "R"]) -> None:
        """As if the last `n` steps of each row had not come. What is left stands: nobody goes back behind it."""

    @abstractmethod
    def fork(self, rows: Int[Tensor, "S"]) -> Tracker:
        """A tracker of its own whose row s is a copy of row `rows[s]`; it need not go back behind this point."""


class Processor(ABC):
    """A setting of one such part. It may remember things from one run to the next; a tracker remembers one run.

    It is a part of the law: what methods declare about their output, they declare of the law with it.

    Cost: no forward pass. But the laws of a drafted block are found slot after slot, those of a tree level after level
    with a tracker for each node, where a law without processors gives all at once.
    """

    @abstractmethod
    def start(self, tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]) -> Tracker:
        """A tracker that has seen the first `lengths[r]` steps of row r."""


class PrefixProcessor(Processor):
    """A processor that is a function of logits and prefix: a subclass gives `logits` or `law`."""

    def logits(
        self, logits: Float[Tensor, "R Q V"], tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]
    ) -> Float[Tensor, "R Q V"]:
        """As `Tracker.logits`, given a prefix: the first `lengths[r]` steps of `tokens[r]`."""
        return logits

    def law(
        self,
        logp: Float[Tensor, "R Q V"],
        full: Float[Tensor, "R Q V"],
        tokens: Int[Tensor, "R S Q"],
        lengths: Int[Tensor, "R"],
    ) -> Float[Tensor, "R Q V"]:
        """As `Tracker.law`, given a prefix."""
        return logp

    def start(self, tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]) -> PrefixTracker:
        return PrefixTracker(self, tokens.clone(), lengths.clone())


class PrefixTracker(Tracker):
    """Remembers the prefix of each row. Each fork, such as a drafter's or a tree's, copies it."""

    def __init__(self, processor: PrefixProcessor, tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]):
        self.processor, self.tokens, self.lengths = processor, tokens, lengths
        self._most = tokens.shape[1]  # at least the longest row, known without asking the device

    def logits(self, logits: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        return self.processor.logits(logits, self.tokens, self.lengths)

    def law(self, logp: Float[Tensor, "R Q V"], full: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        return self.processor.law(logp, full, self.tokens, self.lengths)

    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        if self._most == self.tokens.shape[1]:
            self._most = int(self.lengths.max())
            if self._most == self.tokens.shape[1]:
                room = self.tokens.new_zeros(len(tokens), max(16, self._most), self.tokens.shape[2])
                self.tokens = torch.cat((self.tokens, room), 1)
        row = torch.arange(len(tokens), device=tokens.device)
        self.tokens[row, self.lengths] = tokens
        self.lengths = self.lengths + moves
        self._most += 1

    def rollback(self, n: Int[Tensor, "R"]) -> None:
        self.lengths = self.lengths - n

    def fork(self, rows: Int[Tensor, "S"]) -> PrefixTracker:
        return PrefixTracker(self.processor, self.tokens[rows], self.lengths[rows])


def seen(
    tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"], vocabulary: int, window: int | None = None
) -> Int[Tensor, "R Q V"]:
    """How often each token of each codebook stands among a row's last `window` steps (default: all)."""
    step = torch.arange(tokens.shape[1], device=tokens.device)
    there = step < lengths[:, None]
    if window is not None:
        there &= step >= lengths[:, None] - window
    return counted(tokens, there[..., None], vocabulary)


def counted(tokens: Int[Tensor, "R S Q"], there: Bool[Tensor, "R S #Q"], vocabulary: int) -> Int[Tensor, "R Q V"]:
    """How often each token of each codebook stands where it is `there`."""
    there = there & (tokens >= 0) & (tokens < vocabulary)
    counts = tokens.new_zeros(tokens.shape[0], tokens.shape[2], vocabulary)
    return counts.scatter_add_(2, tokens.where(there, 0).mT, there.mT.to(counts.dtype))
