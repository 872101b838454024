"""Which of several proposers drafts is found out while decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.choice import by_row


class Bandit(Proposer):
    """Each row drafts by the arm of the highest upper confidence bound on the steps that a round gives.

    Hou et al., "BanditSpec" (arXiv 2505.15141), the rule UCBSpec; EXP3Spec is `Exp3`. Arms may be proposers of any
    kind, and the same kind with several settings: thresholds where drafts end, layers that are skipped, lengths. All
    are told what came.

    Output: that of the arms under the rule; if one drafts trees, all drafts are trees.

    Cost: that of every arm that some row chose in a round. The reward does not know it: let arms
    cost about the same.

    Args:
        arms: Proposers, at least one; of equally good ones, the first is chosen.
        bold: Weight of what is not known yet; 0 only exploits.

    Raises:
        ValueError: No arm, a negative weight.
    """

    def __init__(self, arms: Sequence[Proposer], bold: float = 1.0):
        if not arms or bold < 0:
            raise ValueError(f"{len(arms)} arms, boldness {bold}; expected one or more, and 0 or more")
        self.arms, self.bold = tuple(arms), bold
        self._chosen: Int[Tensor, "R"]
        self._rounds: Float[Tensor, "R arms"]
        self._reward: Float[Tensor, "R arms"]  # sum of shares of what a round could have given

    def start(self, ctx: Context) -> None:
        self._chosen = torch.zeros_like(ctx.length)
        self._rounds = torch.zeros(ctx.rows, len(self.arms), device=ctx.length.device)
        self._reward = torch.zeros_like(self._rounds)
        for arm in self.arms:
            arm.start(ctx)

    def choose(self, ctx: Context) -> Int[Tensor, "R"]:
        """The arm of each row."""
        doubt = (2 * self._rounds.sum(1, keepdim=True).clamp(min=1).log() / self._rounds).sqrt()
        bound = self._reward / self._rounds + self.bold * doubt
        # The bound of an arm that has never been tried is NaN or infinite.
        return torch.where(self._rounds == 0, torch.inf, bound).argmax(1)

    def learn(self, drew: Float[Tensor, "R arms"], share: Float[Tensor, "R 1"]) -> None:
        """Which arm each row had drawn, 1 or 0, and the share that came of what a round could have given."""
        self._rounds += drew
        self._reward += drew * share

    def propose(self, ctx: Context, n: int) -> Draft:
        self._chosen = self.choose(ctx)
        wanted = self._chosen[ctx.room > 1].unique().tolist() or [0]
        drafts = [(arm, self.arms[arm].propose(ctx, n)) for arm in wanted]
        return reduce(lambda a, b: (b[0], by_row(self._chosen == b[0], b[1], a[1], ctx.room)), drafts)[1]

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        live = (outcome.count > 0).float()[:, None]
        drew = torch.nn.functional.one_hot(self._chosen, len(self.arms)) * live
        self.learn(drew, outcome.count[:, None] / (ctx.slots + 1))
        for arm in self.arms:
            arm.observe(ctx, outcome)
