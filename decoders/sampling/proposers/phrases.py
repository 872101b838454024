"""A draft that phrases of the target's own lengthen."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.pool import Pool
from zoo.decoders.sampling.proposers.trees import packed


class Phrases(Proposer):
    """Another proposer's chain, and behind its last step those phrases of a pool that begin with it, side by side.

    Zhao et al., "Ouroboros" (arXiv 2402.13720). A phrase is a drafted step and what the target said behind it and
    behind those that follow it in the draft, whether they stood or not: corrected once, as in a Jacobi iteration. Their
    small model is helped by phrases as well; here it is helped by whatever drafts for it: `Staged`.

    Output: identical under the rule `equal`, of the same distribution under `recursive`, for which nodes are certain.

    Cost: that of the chain, which gets the slots that are left; no forward pass for phrases.

    Args:
        inner: Drafts chains.
        ngram: Steps of a phrase, the one that it begins with included.
        most: Phrases of a draft.
        pool: Phrases that are kept of each row, at least; the oldest go first.

    Raises:
        ValueError: Phrases of less than 2 steps, none, no pool.
    """

    def __init__(self, inner: Proposer, ngram: int = 4, most: int = 2, pool: int = 256):
        if ngram < 2 or most < 1 or pool < 1:
            raise ValueError(
                f"{most} phrases of {ngram} steps, a pool of {pool}; expected 1 or more, of 2 steps or more, and 1 or"
                " more"
            )
        self.inner, self.ngram, self.most, self.pool = inner, ngram, most, pool
        self._pool: Pool
        self._chain: Int[Tensor, "R"]  # nodes of the draft that are the chain's

    def start(self, ctx: Context) -> None:
        self._pool = Pool(ctx, max(self.pool, self.most, ctx.slots), self.ngram)
        self._chain = torch.zeros_like(ctx.length)
        self.inner.start(ctx)

    def propose(self, ctx: Context, n: int) -> Draft:
        rest = self.ngram - 1
        chain = self.inner.propose(ctx, max(1, n - self.most * rest))
        if chain.parent is not None:
            raise ValueError(f"{type(self.inner).__name__} drafts trees, which have no last step; give chains")
        self._chain = torch.minimum(chain.count, (ctx.room - 1).clamp(min=0))
        row = torch.arange(ctx.rows, device=ctx.length.device)
        last = ctx.last
        if chain.slots:
            last = torch.where((self._chain > 0)[:, None], chain.tokens[row, (self._chain - 1).clamp(min=0)], last)
        found, known = self._pool.behind(last, self.most)
        step = torch.arange(rest, device=row.device)
        deep = (self._chain[:, None] + step + 1)[:, None].expand(-1, self.most, -1)  # of each step of a phrase
        parent = chain.slots + torch.arange(self.most * rest, device=row.device).view(self.most, rest) - 1
        parent = torch.where(step == 0, (self._chain - 1)[:, None, None], parent)
        slot = torch.arange(chain.slots, device=row.device)
        there = known[..., None] & (deep < ctx.room[:, None, None])
        return packed(
            torch.cat((chain.tokens, found.flatten(1, 2)), 1)[:, :n],
            torch.cat(((slot - 1).expand(ctx.rows, -1), parent.flatten(1)), 1)[:, :n],
            torch.cat((slot < self._chain[:, None], there.flatten(1)), 1)[:, :n],
            chain.forwards,
        )

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Keep what the target said along the chain."""
        scores, chain = outcome.scores, int(self._chain.max())
        windows = chain + 3 - self.ngram  # of a drafted step, or the last known one, and `ngram` - 1 laws behind it
        if windows > 0:
            laws, steps = scores.logp[:, : chain + 1], scores.steps[:, : chain + 1]
            said = draw(laws, ctx.noise.gumbel(steps, *laws.shape[2:]))
            row = torch.arange(ctx.rows, device=said.device)
            root = ctx.tokens[row, (ctx.length - outcome.count - 1)][:, None]
            begins = torch.cat((root, outcome.draft.tokens[:, :chain]), 1)[:, :windows]
            follow = said.unfold(1, self.ngram - 1, 1)[:, :windows].transpose(2, 3)
            place = torch.arange(windows, device=said.device)
            there = (place + self.ngram - 2 <= self._chain[:, None]) & (outcome.count > 0)[:, None]
            self._pool.keep(torch.cat((begins[:, :, None], follow), 2), there)
        self._chain = torch.zeros_like(self._chain)  # the last round drafts nothing
        self.inner.observe(ctx, outcome)
