"""Keep runs of neighbours together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View
from zoo.decoders.sampling.choosers.confidence import Confidence


@dataclass(frozen=True)
class Spans(Ranked):
    """Ranks runs of so many places, side by side, by the best of their candidates.

    Ziv et al., "MAGNeT" (arXiv 2401.04577), whose decoder learned to fill in runs. What the schedule leaves of a run
    is kept or left open from left to right.

    Output: identical, as a process of its own; see `Ranked`. Cost: that of the order, and the best of each run.

    Attributes:
        length: Of a run, in places.
        order: Ranks candidates.

    Raises:
        ValueError: Runs of no place.
    """

    length: int = 3
    order: Ranked = field(default_factory=Confidence, kw_only=True)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"runs of {self.length} places; expected at least 1")

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        scores = self.order.score(view).masked_fill(~view.open, -torch.inf)
        runs = (view.places // self.length)[..., None].expand_as(scores)
        best = scores.new_full(scores.shape, -torch.inf).scatter_reduce(1, runs, scores, "amax")
        return best.gather(1, runs)
