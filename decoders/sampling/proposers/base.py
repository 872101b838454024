"""What a proposer is: it bets on the next steps of each row, and is told what became of its bets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import LawState
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.rules.base import Scores, Verified
from zoo.decoders.state import State


@dataclass
class Context:
    """What proposers may look at: R rows of one run. Only the loop changes it.

    Attributes:
        tokens: int64 `[R, capacity, Q]`, prompt and what was emitted, of the first stream; behind `length` lies
            anything.
        length: int64 `[R]`, steps known: row r has `tokens[r, : length[r]]`, and a draft is about step `length[r]` on.
        room: int64 `[R]`, steps that are still wanted; 0 once a row is finished.
        law: Behind the known steps; `fork` it before moving it along a draft.
        noise: What drafts are to be drawn from in this round: `noise.gumbel` at the absolute step of each token.
        model: The target.
        state: The target's, of all its rows (streams x R, streams first): all known steps but the last are committed.
            `fork` it to let a part of the target draft.
        hidden: `[R, D]`, the target's hidden state that gave the last known step; None if no pass has given it yet,
            zero for rows whose prompt is a single step.
        densities: The rule makes use of `Draft.logq`.
        slots: Most nodes that will be asked for.
        forced: int64 `[R or 1, steps, Q]`, tokens that the layout fixes, by absolute step; -1 where it doesn't, and
            behind the last; None if it fixes nothing that this round may meet.
        positions: int64 `[R or 1, steps]` or `[R or 1, steps, axes]`, of each absolute step; None: the step itself.
    """

    tokens: Int[Tensor, "R S Q"]
    length: Int[Tensor, "R"]
    room: Int[Tensor, "R"]
    law: LawState
    noise: Noise
    model: TokenModel
    state: State
    hidden: Float[Tensor, "R D"] | None
    densities: bool
    slots: int
    forced: Int[Tensor, "#R T Q"] | None = None
    positions: Int[Tensor, "#R T *axes"] | None = None

    @property
    def rows(self) -> int:
        return len(self.length)

    @property
    def capacity(self) -> int:
        """Slots for every step that a row will ever know and a draft behind it: what a state of its own should have."""
        return self.tokens.shape[1]

    @property
    def last(self) -> Int[Tensor, "R Q"]:
        """The last known step."""
        return self.tokens[torch.arange(self.rows, device=self.tokens.device), self.length - 1]

    def forced_at(self, steps: Int[Tensor, "R N"]) -> Int[Tensor, "R N Q"] | None:
        """What the layout fixes at those absolute steps."""
        if self.forced is None:
            return None
        row = torch.arange(len(self.forced), device=steps.device)[:, None]
        return self.forced[row, steps.clamp(max=self.forced.shape[1] - 1)]

    def forced_of(self, draft: Draft) -> Int[Tensor, "R N Q"] | None:
        """What the layout fixes where the nodes of a draft would come."""
        return None if self.forced is None else self.forced_at(self.length[:, None] - 1 + draft.depth())

    def places(self, steps: Int[Tensor, "S N"], model: TokenModel) -> Int[Tensor, "S N *axes"]:
        """Where a model that drafts reads those absolute steps; those that only fill a block up stay in its context.

        It reads them where the target does, if its positions are of the same kind; else in line.

        Args:
            steps: Of R rows, or of the target's, stream after stream.
        """
        table = self.positions
        if table is None or model.info.axes != self.model.info.axes:
            return steps.clamp(max=model.info.context - 1)
        row = torch.arange(len(steps), device=steps.device) % len(table)
        return table[row[:, None], steps.clamp(max=table.shape[1] - 1)]

    def fix(self, tokens: Int[Tensor, "R N Q"], steps: Int[Tensor, "R N"]) -> Int[Tensor, "R N Q"]:
        """These tokens, save where the layout fixes others: what a draft has at those steps."""
        forced = self.forced_at(steps)
        return tokens if forced is None else torch.where(forced >= 0, forced, tokens)

    def extend(self, outcome: Outcome, hidden: Float[Tensor, "R D"]) -> None:
        """The steps that came out become known."""
        write_line(self.tokens, self.length, outcome.tokens)
        self.length = self.length + outcome.count
        self.room = torch.where(outcome.finished, 0, self.room - outcome.count)
        self.hidden = hidden


def write_line(into: Num[Tensor, "R S Q"], begin: Int[Tensor, "R"], line: Num[Tensor, "R K Q"]) -> None:
    """Put a line of steps into each row, from `begin` on."""
    row = torch.arange(len(begin), device=begin.device)[:, None]
    into[row, begin[:, None] + torch.arange(line.shape[1], device=begin.device)] = line


@dataclass(frozen=True)
class Outcome:
    """What a round gave.

    Attributes:
        draft: As verified.
        scores: What the target said about it: candidates, probabilities, hidden states.
        verified: What the rule made of it, with `next` complete.
        tokens: int64 `[R, K, Q]`, the steps that came out; what lies behind a row's `count` is ignored.
        count: int64 `[R]`, how many: accepted nodes and the step behind them, fewer where a row ended before.
        finished: bool `[R]`, rows from which nothing more comes.
    """

    draft: Draft
    scores: Scores
    verified: Verified
    tokens: Int[Tensor, "R K Q"]
    count: Int[Tensor, "R"]
    finished: Bool[Tensor, "R"]


class Proposer(ABC):
    """Base class of proposers. What it proposes changes how fast tokens come, not which law they have."""

    def start(self, ctx: Context) -> None:
        """A run begins; its prompt is known. What the last run left is dropped, unless it is meant to stay.

        Raises:
            ValueError: A target that this proposer can't draft for.
        """
        return None

    @abstractmethod
    def propose(self, ctx: Context, n: int) -> Draft:
        """A draft of at most `n` slots. What it bets for rows without room is ignored.

        A row's draft must not depend on other rows, nor on how many there are.
        """

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """The draft was verified; `ctx` already knows the steps that came out."""
        return None
