"""Tokens that came too often of late are drawn again, from the law before truncations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.processors.base import PrefixProcessor, seen


@dataclass(frozen=True)
class RepetitionAware(PrefixProcessor):
    """A token that makes up more than `threshold` of the last steps is replaced by a draw from the law in full.

    Chen et al., "VALL-E 2" (arXiv 2406.05370), where the first draw is of the nucleus: `Law(top_p=...)`. Instead of
    drawing twice, this gives the law of what two draws end with: the truncated law where tokens are not repeated, and
    the mass of those that are, spread as the law was behind the temperature and before truncations. So one draw does,
    and drafts are judged by it as by any law. At temperature 0 it changes nothing.

    Each codebook has its own tokens; the prompt counts. Steps that a short prefix lacks count as other tokens.

    Cost: for each step, that of `RepetitionPenalty` and two passes more over the vocabulary.

    Attributes:
        threshold: A share of the window, in [0, 1).
        window: How many of the last steps are looked at.

    Raises:
        ValueError: A setting out of its range.
    """

    threshold: float = 0.1
    window: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or self.window < 1:
            raise ValueError(f"threshold {self.threshold} and window {self.window}; expected [0, 1) and at least 1")

    def law(
        self,
        logp: Float[Tensor, "R Q V"],
        full: Float[Tensor, "R Q V"],
        tokens: Int[Tensor, "R S Q"],
        lengths: Int[Tensor, "R"],
    ) -> Float[Tensor, "R Q V"]:
        often = seen(tokens, lengths, logp.shape[-1], self.window) / self.window > self.threshold
        again = logp.masked_fill(~often, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.logaddexp(logp.masked_fill(often, -torch.inf), again + full)
