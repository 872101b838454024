"""Choosers that keep more than the schedule asks, and so end sooner."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Chooser, Ranked, View
from zoo.decoders.sampling.choosers.confidence import Confidence
from zoo.decoders.sampling.result import Exactness


@dataclass(frozen=True)
class Eager(Chooser):
    """Keeps what another order keeps by the schedule, and beyond it all candidates that are sure already.

    It stands for the process that fills in at the schedule's pace, and saves passes of it: once nothing is open, no
    more are taken. With one step for each place and the schedule "linear" that is one candidate a step, and all others
    are the chooser's own doing.

    Approximate: candidates that are kept at once were drawn blind to each other, where the process draws the later ones
    in the light of those before.

    Cost: that of the order, and of telling what is sure; each step that is saved saves its pass.

    Attributes:
        order: What keeps candidates by the schedule.
    """

    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE
    order: Ranked = field(default_factory=Confidence, kw_only=True)

    @abstractmethod
    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        """Candidates that are kept, due or not; elsewhere than at open places it means nothing."""

    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        return self.order.choose(view) | (self.sure(view) & view.open)


@dataclass(frozen=True)
class Threshold(Eager):
    """All candidates are kept that the model gives at least this probability.

    Wu et al., "Fast-dLLM" (arXiv 2505.22618). Their cache is no part of this.

    Approximate, as candidates that are kept at once were drawn blind to each other; the higher the threshold, the less
    that matters. Cost: that of the order, and a comparison for each place.

    Attributes:
        probability: In (0, 1]. The authors take 0.9, for text.

    Raises:
        ValueError: A probability out of its range.
    """

    probability: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"a threshold of {self.probability}; expected a probability above 0")

    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        return view.confidence >= math.log(self.probability)
