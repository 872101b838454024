"""A smaller model of the same vocabulary drafts, one step at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.at_fault import at_fault
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.chain import Logits, draw_chain, surest
from zoo.decoders.sampling.rules.base import leading
from zoo.decoders.state import State


class DraftModel(Proposer):
    """Draws a chain from its own model under the target's law, from the noise that the rule names.

    Leviathan et al. (arXiv 2211.17192). It reads the first stream only, so that a guided target is drafted for without
    guidance.

    Output: identical under the rule `equal`; drafts are chains, and other rules get the laws that they were drawn from.
    Where a `confident` draft ends depends on its own steps, as `block` allows, too.

    Cost: one forward pass of the draft model for each drafted step, the first of which reads what came since; a state
    of its own for all steps.

    Args:
        model: Causal, of the target's cards, in eval mode.
        cond: What its `init_state` takes, for the rows of the output.
        confident: Where drafts end early; see `draw_chain`.

    Raises:
        ValueError: By `start`, a draft model that doesn't fit the target; while it drafts, errors of the draft model,
            such as NaN logits, which say that they are its own.
    """

    def __init__(self, model: TokenModel, cond: Any = None, confident: float = 0.0):
        self.model, self.cond, self.confident = model, cond, confident
        self._state: State | None = None
        self._unread = 0  # most known steps that a row of the state lacks
        self._drafted: Tensor | None = None  # `[R, N, Q]`, of this round
        self._hidden: Float[Tensor, "R D"]  # gave the logits of the last step that was drafted

    def start(self, ctx: Context) -> None:
        cards, target = self.model.info.cards, ctx.model.info.cards
        if cards != target or not self.model.info.causal or self.model.info.depth:
            raise ValueError(
                f"the draft model has the cards {cards}, the target {target}; a draft must have the target's, be "
                "causal, and give the codes of a step independently"
            )
        # Two more: rows that lack one or two steps read them in one block.
        with at_fault(self._name):
            self._state = self.model.init_state(ctx.rows, ctx.capacity + 2, self.cond)
        self._unread, self._drafted = int(ctx.length.max()), None

    def propose(self, ctx: Context, n: int) -> Draft:
        assert self._state is not None, "`start` comes first"
        logits = self._read(ctx, self._state)
        state = self._state.fork()  # what is drafted is not known

        def behind(last: Int[Tensor, "R 1 Q"]) -> Float[Tensor, "R 1 Q V"]:
            with at_fault(self._name):
                logits, hidden = self.model(last, ctx.places(state.length[:, None], self.model), state)
            state.commit(None, 1)
            self._hidden = hidden[:, 0]
            return logits

        draft = draw_chain(ctx, n, logits, behind, self.confident, partial(self.stands, ctx))
        self._drafted = draft.tokens
        return draft

    def stands(
        self, ctx: Context, logits: Logits, gumbel: Float[Tensor, "#R 1 #Q #V"], step: Int[Tensor, "R 1 Q"]
    ) -> Float[Tensor, "R"]:
        """See `chain.Stands`."""
        return surest(logits, gumbel, step)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Keep what was read of the steps that came out: the drafted ones but the last, as far as they agree."""
        assert self._state is not None, "`start` comes first"
        if self._drafted is not None:
            read = min(self._drafted.shape[1] - 1, outcome.tokens.shape[1])
            agrees = (self._drafted[:, :read] == outcome.tokens[:, :read]).all(-1)
            self._state.commit(None, torch.minimum(leading(agrees), (outcome.count - 1).clamp(min=0)))
            self._drafted = None
        self._unread = int((ctx.length - self._state.length).max())

    @property
    def _name(self) -> str:
        return f"the draft model of {type(self).__name__}"

    def _read(self, ctx: Context, state: State) -> Float[Tensor, "R 1 Q V"]:
        """Read all known steps; returns the logits behind the last one."""
        row = torch.arange(ctx.rows, device=ctx.length.device)[:, None]
        while True:
            # Rows of which others drafted in between may lack more steps than there is room behind the longest one.
            slots = min(self._unread, state.capacity - int(state.length.max()))
            index = state.length[:, None] + torch.arange(slots, device=row.device)
            block = ctx.tokens[row, index.clamp(max=ctx.capacity - 1)].where(
                (index < ctx.length[:, None])[..., None], 0
            )
            with at_fault(self._name):
                logits, hidden = self.model(block, ctx.places(index, self.model), state)
            lacks = ctx.length - state.length
            if slots == self._unread:
                state.commit(None, lacks)
                self._hidden = hidden[row[:, 0], lacks - 1]
                return logits[row, lacks[:, None] - 1]
            state.commit(None, (lacks - 1).clamp(0, slots))
            self._unread = int((ctx.length - state.length).max())
