"""Keep candidates from left to right as long as a model that goes step by step agrees to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View
from zoo.decoders.sampling.choosers.eager import Eager
from zoo.decoders.sampling.choosers.judge import Judge
from zoo.decoders.sampling.choosers.orders import LeftToRight
from zoo.decoders.sampling.law import draw


@dataclass(frozen=True)
class Adaptive(Eager):
    """Adaptive parallel decoding: from left to right, up to the first candidate on which the models part.

    Israel et al., "Accelerating diffusion LLMs via adaptive parallel decoding" (arXiv 2506.00413). Candidates are drawn
    place by place, blind to each other. A small model reads them in a line, and what it expects there is mixed with
    what the decoder says, as a weighted product of both. From the mixture, the same noise draws again: where the same
    token comes out, the candidate is kept. The first open one always is.

    Approximate: what is kept was drawn from the decoder's marginals, held against the mixture. With one step for each
    place, the schedule "linear" and a judge that always disagrees, it is decoding from left to right.

    Cost: a pass of the judge in each step. Keys and values of what stands are not kept here, and all open places are
    asked for in each step; the authors cap both.

    Attributes:
        judge: The small model.
        weight: Of the decoder in the product, in [0, 1]; 1 keeps everything at once.

    Raises:
        ValueError: A weight out of its range.
    """

    forwards: ClassVar[int] = 1
    judge: Judge
    weight: float = 0.5
    order: Ranked = field(default_factory=LeftToRight, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"a weight of {self.weight}; expected 0 to 1")

    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        shares = (self.weight, view.logits.log_softmax(-1)), (1 - self.weight, self.judge.logp(view))
        mixed = torch.stack([share * logp for share, logp in shares if share]).sum(0)
        again = draw(view.law.truncated(view.law.tempered(mixed)), view.gumbel)
        agreed = (again == view.candidates) & mixed.amax(-1).isfinite() | ~view.open
        return agreed.flatten(1).int().cumprod(1).bool().view_as(view.open)
