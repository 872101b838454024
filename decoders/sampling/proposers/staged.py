"""A draft model that is drafted for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.at_fault import at_fault
from zoo.decoders.sampling.checks import promised
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.fixed import as_certain, restored
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.draft_model import DraftModel
from zoo.decoders.sampling.rules import Equal, Scores, in_line, slot_of
from zoo.decoders.state import State

EQUAL = Equal()


class Staged(DraftModel):
    """Draws a chain from its own model with a proposer of its own, under the target's law.

    Spector & Re, "Accelerating LLM Inference with Staged Speculative Decoding" (arXiv 2308.04623): n-grams draft for a
    small model, which drafts for a large one. The draft is what `DraftModel` would draw step by step; here its model
    judges a block of steps a pass. It reads the first stream only, and is certain of what it drew: use it with rules of
    shared noise.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: one forward pass of the draft model over what came out in the last round, which gives the first step, and as
    many more as its own drafts leave; with drafts that never stand as many as `DraftModel`, of longer blocks. The inner
    proposer begins anew in each round, since it is not made to forget steps that the target refused.

    Args:
        model: As of `DraftModel`.
        proposer: Drafts for it.
        cond: As of `DraftModel`.
    """

    def __init__(self, model: TokenModel, proposer: Proposer, cond: Any = None):
        super().__init__(model, cond)
        self.proposer = proposer

    def propose(self, ctx: Context, n: int) -> Draft:
        assert self._state is not None, "`start` comes first"
        count, longest = (ctx.room - 1).clamp(0, n), min(int(ctx.room.max()) - 1, n)
        if longest < 1:
            return Draft.empty(ctx.rows, ctx.tokens.shape[2], ctx.length.device)
        nothing = Draft.empty(ctx.rows, ctx.tokens.shape[2], ctx.length.device)
        inner = self._inner(ctx, count, nothing, self._state)
        with at_fault(f"what drafts for {self._name}"):
            self.proposer.start(inner)
        forwards = 1
        while (left := int(inner.room.max())) > 0:
            draft = nothing
            if left > 1:
                with at_fault(f"what drafts for {self._name}"):
                    draft = promised(self.proposer.propose(inner, left - 1), inner, left - 1, EQUAL, self.proposer)
                forwards += draft.forwards
            self.proposer.observe(inner, self._pass(inner, draft))
            forwards += 1
        row = torch.arange(ctx.rows, device=count.device)[:, None]
        drafted = inner.tokens[row, ctx.length[:, None] + torch.arange(longest, device=count.device)]
        return Draft(drafted, count, forwards=forwards)

    def _inner(self, ctx: Context, count: Int[Tensor, "R"], nothing: Draft, state: State) -> Context:
        """What the inner proposer looks at: a run of the draft model, which has given its first step."""
        logits = self._read(ctx, state)
        inner = replace(
            ctx,
            tokens=ctx.tokens.clone(),
            room=count,
            law=ctx.law.drafting(replace(ctx.law.law, streams=(1.0,), plausible=None)),
            model=self.model,
            state=state.fork(),
            densities=False,
            positions=ctx.positions if self.model.info.axes == ctx.model.info.axes else None,
        )
        _judged(inner, nothing, logits, self._hidden[:, None])
        return inner

    def _pass(self, inner: Context, draft: Draft) -> Outcome:
        """Of the draft model, over the last step and what was drafted behind it."""
        tokens = torch.cat((inner.last[:, None], draft.tokens), 1)
        positions = inner.places(inner.state.length[:, None] + draft.block_depth(), self.model)
        with at_fault(self._name):
            logits, hidden = self.model(tokens, positions, inner.state, draft.block_mask())
        outcome = _judged(inner, draft, logits, hidden)
        path = outcome.verified.path
        index = None if path is None else torch.cat((path.new_zeros(len(path), 1), path + 1), 1)
        inner.state.commit(index, outcome.count)
        return outcome


def _judged(inner: Context, draft: Draft, logits: Float[Tensor, "R S Q V"], hidden: Float[Tensor, "R S D"]) -> Outcome:
    """What stands of a draft, and the step behind it; both are known from now on."""
    scores = Scores(inner.law.block(logits, draft), inner.length[:, None] + draft.block_depth(), hidden)
    verified = restored(EQUAL.verify(*as_certain(draft, scores, inner), EQUAL.streams(inner.noise, 0)), inner)
    inner.law.settle(verified.n, verified.path)
    count = torch.minimum(verified.n + 1, inner.room)
    inner.law.advance(verified.next, count == verified.n + 1)
    tokens = in_line(verified, draft.tokens, verified.next)
    outcome = Outcome(draft, scores, verified, tokens, count, count >= inner.room)
    inner.extend(outcome, hidden[torch.arange(len(count), device=count.device), slot_of(verified)])
    return outcome
