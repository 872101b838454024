"""A draft model that is drafted for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Proposer


class Staged(Proposer):
    """Draws a chain from its own model by `decode` with a proposer of its own, under the target's law.

    Spector & Re, "Accelerating LLM Inference with Staged Speculative Decoding" (arXiv 2308.04623): n-grams draft for a
    small model, which drafts for a large one. The draft is what `DraftModel` would draw step by step. It reads the
    first stream only, and is certain of what it drew: use it with rules of shared noise.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: for each round one forward pass of the draft model over all known steps, which it does not remember, and as
    many short ones as its own drafts leave: worth it where calls are slow, not steps, as of small models on large GPUs.

    Args:
        model: Causal, of the target's cards, in eval mode.
        proposer: Drafts for it.
        cond: What its `init_state` takes, for the rows of the output.
    """

    def __init__(self, model: TokenModel, proposer: Proposer, cond: Any = None):
        self.model, self.proposer, self.cond = model, proposer, cond

    def start(self, ctx: Context) -> None:
        if self.model.info.cards != ctx.model.info.cards:
            raise ValueError(
                f"the draft model has the cards {self.model.info.cards}, the target {ctx.model.info.cards}; a draft "
                "must have the target's"
            )

    def propose(self, ctx: Context, n: int) -> Draft:
        from zoo.decoders.sampling.decode import decode  # which proposers are part of

        count = (ctx.room - 1).clamp(0, n)
        result = decode(
            self.model,
            ctx.tokens[:, : int(ctx.length.max())],
            count.clamp(min=1),
            replace(ctx.law.law, streams=(1.0,), plausible=None),
            ctx.noise,
            self.proposer,
            lengths=ctx.length.where(count > 0, 1),  # rows that want nothing may have filled the context
            cond=self.cond,
            window=n,
            forced=ctx.forced,
        )
        forwards = int(result.trace.target_forwards.sum()) + 1
        return Draft(result.codes.clamp(min=0), torch.minimum(count, result.lengths), forwards=forwards)
