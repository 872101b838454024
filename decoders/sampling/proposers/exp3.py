"""A bandit for rewards that may change as they like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.proposers.bandit import Bandit
from zoo.decoders.sampling.proposers.base import Context, Proposer


class Exp3(Bandit):
    """Each row draws its arm, the more likely the less that arm has missed so far; nothing is assumed of how texts go.

    Hou et al., "BanditSpec" (arXiv 2505.15141), the rule EXP3Spec; Auer et al. (2002). A miss counts for as much more
    as its arm was unlikely to be drawn, which makes what is summed right on average. Rates fall with the root of the
    rounds, as nobody knows how many will come.

    Output, cost and arms are those of `Bandit`.

    Args:
        arms: Proposers, at least one.
        rate: Times the rate that suits the worst case.
        seed: Of the draws, which depend on it, on a row's length and its rewards: not on the noise of tokens.

    Raises:
        ValueError: No arm, a rate of 0 or less.
    """

    def __init__(self, arms: Sequence[Proposer], rate: float = 1.0, seed: int = 0):
        if rate <= 0:
            raise ValueError(f"a rate of {rate}; expected more than 0")
        super().__init__(arms)
        self.rate, self.seed = rate, seed
        self._missed: Float[Tensor, "R arms"]  # sum of estimates
        self._chance: Float[Tensor, "R arms"]

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        self._missed = torch.zeros_like(self._rounds)

    def choose(self, ctx: Context) -> Int[Tensor, "R"]:
        rounds = self._rounds.sum(1, keepdim=True) + 1
        rate = self.rate * (math.log(max(2, len(self.arms))) / (len(self.arms) * rounds)).sqrt()
        self._chance = (-rate * self._missed).softmax(-1)
        unit = Noise(self.seed, rows=(0,) * ctx.rows).uniform(ctx.length[:, None], 1)[..., 0]
        return (unit > self._chance.double().cumsum(1)[:, :-1]).sum(1)

    def learn(self, drew: Float[Tensor, "R arms"], share: Float[Tensor, "R 1"]) -> None:
        super().learn(drew, share)
        self._missed += drew * (1 - share) / self._chance
