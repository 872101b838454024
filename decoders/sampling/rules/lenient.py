"""Two ways to let more of a draft stand than the law allows: a handicap for q, and the target's first choices."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.rules.base import Scores, Streams, Verified
from zoo.decoders.sampling.rules.plausible import Plausible, log_prob
from zoo.decoders.sampling.rules.rejection import Rejection


class Lenient(Rejection):
    """`rejection` with q times a lenience: a token stands with probability min(1, p / (lenience q)).

    Leviathan et al. (arXiv 2211.17192), appendix A.5. Output: approximate, but no token gets more than its probability
    over the lenience. At lenience 1 it is `rejection`.

    Cost: that of `rejection`.

    Args:
        lenience: The smaller, the more is accepted.

    Raises:
        ValueError: Not in (0, 1].
    """

    exactness = Exactness.APPROXIMATE

    def __init__(self, lenience: float = 0.5):
        if not 0 < lenience <= 1:
            raise ValueError(f"the lenience is {lenience}; expected more than 0 and at most 1")
        self.lenience = lenience

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        logq = draft.logq
        if logq is None:  # certain
            logq = one_hot(draft.tokens, scores.logp.shape[-1]).to(scores.logp.dtype).log()
        return super().verify(replace(draft, logq=logq + math.log(self.lenience)), scores, noise)


class TopK(Plausible):
    """A token stands that is among the target's k most probable ones, and possible.

    Stern et al., "Blockwise Parallel Decoding for Deep Autoregressive Models" (arXiv 1811.03115), section 5.1. Output:
    approximate; at temperature 0, where a single token is possible, identical.

    Cost: a top-k for each slot, beyond that of `equal`.

    Args:
        k: How many; of equally probable ones, all.

    Raises:
        ValueError: k is below 1.
    """

    def __init__(self, k: int = 2):
        if k < 1:
            raise ValueError(f"k is {k}; expected 1 or more")
        self.k = k

    def plausible(self, logp: Float[Tensor, "R N Q V"], tokens: Int[Tensor, "R N Q"]) -> Bool[Tensor, "R N Q"]:
        least = logp.topk(min(self.k, logp.shape[-1])).values[..., -1]
        own = log_prob(logp, tokens)
        return (own >= least) & (own > -torch.inf)
