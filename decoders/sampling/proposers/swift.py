"""Self-speculation that finds out by itself which layers can be left out."""

from __future__ import annotations

from functools import reduce
from itertools import combinations
from math import comb
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context
from zoo.decoders.sampling.proposers.choice import by_row
from zoo.decoders.sampling.proposers.early_exit import EarlyExit
from zoo.decoders.sampling.proposers.grown import at_law
from zoo.decoders.state import State


class Swift(EarlyExit):
    """Drafts with the set of layers that, of those tried so far, agrees best with what the target has given.

    Xia et al., "SWIFT" (arXiv 2410.06916). Sets are tried on what came since the run began, one in a round: how often
    it would have given the same step (under rules whose drafts have noise of their own: how probable the step is). Each
    is tried as soon as a quarter of `context` steps came, and again when all of them have; then the search ends. Each
    row takes the set that is best for it. The first and the last layer always run. Sets are drawn at random, the first
    one, which drafts until then, evenly spaced; the authors have a Gaussian process propose some of them.

    Output: identical under the rule `equal`; other rules get the laws that it drew from.

    Cost: that of `EarlyExit`, once for each set that is some row's best; two passes of each set over up to `context`
    steps, and until then a second copy of the target's memory.

    Args:
        share: Of all layers, how many are left out.
        trials: How many sets there are to try, at most all.
        context: Steps that sets are tried on.
        confident: Where drafts end early; see `draw_chain`.
        seed: Of the sets.

    Raises:
        ValueError: A share outside (0, 1), no trial, no context.
    """

    def __init__(self, share: float = 0.45, trials: int = 16, context: int = 32, confident: float = 0.0, seed: int = 0):
        if not 0 < share < 1 or trials < 1 or context < 1:
            raise ValueError(
                f"a share of {share}, {trials} trials on {context} steps; expected a share between 0 and 1, and 1 or"
                " more"
            )
        super().__init__((), confident)
        self.share, self.trials, self.context, self.seed = share, trials, context, seed
        self._parts: list[TokenModel]
        self._round: int
        self._best: Int[Tensor, "R"]
        self._agrees: Float[Tensor, "R sets"]
        self._tried: Int[Tensor, "R sets"]  # on so many steps
        self._begin: Int[Tensor, "R"]
        self._memory: State | None  # of the target, as the run began

    def start(self, ctx: Context) -> None:
        self._parts = [self.part(ctx, depths) for depths in self._sets(ctx.model.info.layers)]
        self._round, self._best = 0, torch.zeros_like(ctx.length)
        self._agrees = torch.zeros(ctx.rows, len(self._parts), device=ctx.length.device)
        self._tried = torch.zeros_like(self._agrees, dtype=torch.int64)
        self._begin, self._memory = ctx.length, ctx.state.select(torch.arange(ctx.state.rows, device=ctx.length.device))

    def propose(self, ctx: Context, n: int) -> Draft:
        tried = self._try(ctx)
        wanted = self._best[ctx.room > 1].unique().tolist() or [0]
        drafts = [(part, self.chain(ctx, n, self._parts[part])) for part in wanted]
        draft = reduce(lambda a, b: (b[0], by_row(self._best == b[0], b[1], a[1], ctx.room)), drafts)[1]
        return Draft(draft.tokens, draft.count, draft.parent, draft.logq, draft.forwards + tried)

    def _sets(self, layers: int) -> list[tuple[int, ...]]:
        """The depths that run, of each set that may be tried."""
        inner, left_out = range(1, layers - 1), max(1, round(self.share * layers))
        if layers < 3:
            raise ValueError(f"a target of {layers} layers, of which the first and the last always run; it needs 3")
        left_out = min(left_out, len(inner))
        even = {inner[(2 * place + 1) * len(inner) // (2 * left_out)] for place in range(left_out)}
        if comb(len(inner), left_out) <= self.trials:
            others = [set(some) for some in combinations(inner, left_out)]
        else:
            draws = Random(self.seed)
            others = [set(draws.sample(inner, left_out)) for _ in range(self.trials - 1)]
        found = [even, *(some for some in others if some != even)]
        return [tuple(depth for depth in range(layers) if depth not in some) for some in found]

    def _try(self, ctx: Context) -> int:
        """See how the set of this round does on what came since the run began; returns the passes that this took."""
        number, self._round = self._round % len(self._parts), self._round + 1
        if self._memory is None:
            return 0
        live = ctx.room > 1
        if ((self._tried == self.context) | ~live[:, None]).all():
            self._memory = None
            return 0
        quarter, came = -(-self.context // 4), ctx.length - self._begin
        steps = torch.where(came >= self.context, self.context, torch.where(came >= quarter, quarter, 0))
        steps = steps.where(live & (steps > self._tried[:, number]), 0)
        longest = int(steps.max())
        if not longest:
            return 0
        part, copies = self._parts[number], self._memory.rows // ctx.rows
        row, slot = torch.arange(ctx.rows, device=came.device)[:, None], torch.arange(longest, device=came.device)
        there = slot < steps[:, None]
        index = (self._begin[:, None] + slot).where(there, 0)
        given = ctx.tokens[row, index]
        read = ctx.tokens[row, (index - 1).clamp(min=0)].repeat(copies, 1, 1)
        places = ctx.places(self._memory.length[:, None] + slot, part)
        logits = ctx.law.combine(part(read, places, self._memory).logits)
        logp = ctx.law.law.tempered(logits)
        if ctx.densities:
            agrees = at_law(logp, given).exp().prod(-1)
        else:
            drafted = ctx.fix(draw(logp, ctx.noise.gumbel(index, *logp.shape[2:])), index)
            agrees = (drafted == given).all(-1).float()
        share = (agrees * there).sum(1) / steps.clamp(min=1)
        self._agrees[:, number] = torch.where(steps > 0, share, self._agrees[:, number])
        self._tried[:, number] = torch.maximum(self._tried[:, number], steps)
        self._best = self._agrees.argmax(1)
        return 1
