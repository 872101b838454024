"""Typical acceptance: where the target is in doubt, many tokens will do."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.rules.plausible import Plausible, log_prob


class Typical(Plausible):
    """A token stands that has more probability than min(epsilon, delta exp(-H)), H the entropy of the target's law.

    Cai et al., "Medusa" (arXiv 2401.10774), also taken by Hydra (arXiv 2402.05109). Output: approximate; at temperature
    0 identical.

    Cost: an entropy for each slot, beyond that of `equal`.

    Args:
        epsilon: Probability that is always enough.
        delta: Share of exp(-H), the probability of a typical token, that is enough. The authors take the root of
            epsilon.

    Raises:
        ValueError: A threshold that is not in (0, 1].
    """

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3):
        if not (0 < epsilon <= 1 and 0 < delta <= 1):
            raise ValueError(f"epsilon is {epsilon}, delta {delta}; expected both above 0 and at most 1")
        self.epsilon, self.delta = epsilon, delta

    def plausible(self, logp: Float[Tensor, "R N Q V"], tokens: Int[Tensor, "R N Q"]) -> Bool[Tensor, "R N Q"]:
        entropy = torch.special.entr(logp.exp()).sum(-1)
        return log_prob(logp, tokens) > (math.log(self.delta) - entropy).clamp(max=math.log(self.epsilon))
