"""A smaller model of the same vocabulary drafts, one step at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.rules.base import leading
from zoo.decoders.state import State


class DraftModel(Proposer):
    """Draws a chain from its own model under the target's law, from the noise that the rule names.

    Leviathan et al. (arXiv 2211.17192). It reads the first stream only, so that a guided target is drafted for without
    guidance.

    Cost: one forward pass of the draft model for each drafted step.

    Args:
        model: Causal, of the target's cards, in eval mode.
        cond: What its `init_state` takes, for the rows of the output.
    """

    def __init__(self, model: TokenModel, cond: Any = None):
        self.model, self.cond = model, cond
        self._state: State | None = None
        self._unread = 0  # most known steps that a row of the state lacks
        self._drafted: Tensor | None = None  # `[R, N, Q]`, of this round

    def start(self, ctx: Context) -> None:
        cards, target = self.model.info.cards, ctx.model.info.cards
        if cards != target or not self.model.info.causal or self.model.info.depth:
            raise ValueError(
                f"the draft model has the cards {cards}, the target {target}; a draft must have the target's, be "
                "causal, and give the codes of a step independently"
            )
        # Two more: rows that lack one or two steps read them in one block.
        self._state = self.model.init_state(ctx.rows, ctx.capacity + 2, self.cond)
        self._unread, self._drafted = int(ctx.length.max()), None

    def propose(self, ctx: Context, n: int) -> Draft:
        assert self._state is not None, "`start` comes first"
        state, law, tokens, laws = self._state, ctx.law.fork(), [], []
        row = torch.arange(ctx.rows, device=ctx.length.device)
        index = state.length[:, None] + torch.arange(self._unread, device=row.device)
        behind = (ctx.length - state.length)[:, None]
        block = ctx.tokens[row[:, None], index].where((index < ctx.length[:, None])[..., None], 0)
        n = min(n, int(ctx.room.max()) - 1)
        for step in range(n):
            positions = state.length[:, None] + torch.arange(block.shape[1], device=row.device)
            output = self.model(block, positions.clamp(max=self.model.info.context - 1), state)
            if step == 0:
                state.commit(None, behind[:, 0])
                logits = output.logits[row[:, None], behind - 1]
                state = state.fork()  # what is drafted is not known
            else:
                state.commit(None, 1)
                logits = output.logits
            logp = law(logits)
            steps = ctx.length[:, None] + step
            block = ctx.fix(draw(logp, ctx.noise.gumbel(steps, *logp.shape[2:])), steps)
            law.advance(block[:, 0], ctx.room > step + 1)
            tokens.append(block)
            laws.append(logp)
        self._drafted = torch.cat(tokens, 1)
        logq = torch.cat(laws, 1) if ctx.densities else None
        return Draft(self._drafted, (ctx.room - 1).clamp(0, n), None, logq, forwards=n)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Keep what was read of the steps that came out: the drafted ones but the last, as far as they agree."""
        assert self._state is not None, "`start` comes first"
        if self._drafted is not None:
            read = min(self._drafted.shape[1] - 1, outcome.tokens.shape[1])
            agrees = (self._drafted[:, :read] == outcome.tokens[:, :read]).all(-1)
            self._state.commit(None, torch.minimum(leading(agrees), (outcome.count - 1).clamp(min=0)))
            self._drafted = None
        self._unread = int((ctx.length - self._state.length).max())
