"""Rank candidates by what two models say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View
from zoo.decoders.sampling.choosers.confidence import annealed
from zoo.decoders.sampling.choosers.judge import Judge


@dataclass(frozen=True)
class Rescored(Ranked):
    """`Confidence` in the weighted mean of the decoder's probability and a second model's.

    Ziv et al., "MAGNeT" (arXiv 2401.04577). The second model only ranks what the decoder drew. It may be the decoder
    itself, differently conditioned or not at all.

    Output: identical, as a process of its own that stands for no other. Cost: a pass of the second model in each step.

    Attributes:
        judge: The second model.
        weight: Of the decoder, in [0, 1].
        temperature: Of the noise; see `Confidence`.

    Raises:
        ValueError: A weight or temperature out of its range.
    """

    forwards: ClassVar[int] = 1
    judge: Judge
    weight: float = 0.7
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or not self.temperature >= 0:
            raise ValueError(
                f"a weight of {self.weight} and a temperature of {self.temperature}; expected 0 to 1, and 0 or more"
            )

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        shares = (self.weight, view.confidence), (1 - self.weight, view.log_prob(self.judge.logp(view)))
        parts = [math.log(share) + logp for share, logp in shares if share]
        return annealed(torch.stack(parts).logsumexp(0), view, self.temperature)
