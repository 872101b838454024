"""What lies near a sure place is kept on easier terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import max_pool1d

from zoo.decoders.sampling.choosers.base import View
from zoo.decoders.sampling.choosers.eager import Eager


@dataclass(frozen=True)
class LocalLeap(Eager):
    """Candidates above one threshold are kept and are anchors; those near an anchor are kept above a lower one.

    Kong et al., "Accelerating diffusion LLM inference via local determinism propagation" (arXiv 2510.07081). Of grids,
    near is a square around the anchor, in the axes of the positions; codebooks are looked at one by one.

    Approximate: candidates that are kept at once were drawn blind to each other, and near an anchor the threshold is
    low.

    Cost: that of the order, and a maximum over the neighbours of each place; of grids, a comparison of all pairs of
    places, whose memory grows with their square.

    Attributes:
        anchor: Probability of an anchor; the authors take 0.9, for text.
        near: Probability of what is kept near one; the authors take 0.75.
        radius: How far an anchor reaches to each side, in places.

    Raises:
        ValueError: A probability out of its range, or no radius.
    """

    anchor: float = 0.9
    near: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.anchor <= 1 or not 0 < self.near <= 1 or self.radius < 1:
            raise ValueError(
                f"anchors above {self.anchor}, others above {self.near} within {self.radius} places; expected "
                "probabilities above 0, and a radius of at least 1"
            )

    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        anchors = view.open & (view.confidence >= math.log(self.anchor))
        return anchors | (self._reached(anchors, view) & (view.confidence >= math.log(self.near)))

    def _reached(self, anchors: Bool[Tensor, "R S Q"], view: View) -> Bool[Tensor, "R S Q"]:
        if view.positions is None:
            around = max_pool1d(anchors.mT.float(), 2 * self.radius + 1, stride=1, padding=self.radius)
            return around.mT > 0
        places = view.positions.reshape(*view.positions.shape[:2], -1)
        close = (places[:, :, None] - places[:, None]).abs().amax(-1) <= self.radius
        return (close.float() @ anchors.float()) > 0
