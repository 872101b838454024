"""Take back what was filled with little confidence, and fill it anew in the light of what came since."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Chooser, Ranked, View, highest
from zoo.decoders.sampling.choosers.confidence import Confidence

_AGAIN = 1  # stream of noise


@dataclass(frozen=True)
class Remask(Chooser):
    """In each step, a share of what is filled is masked again, and as many candidates more are kept.

    Wang et al., "Remasking discrete diffusion models with inference-time scaling" (arXiv 2503.00307): the share is
    capped, and never larger than leaves the schedule reachable; it falls on tokens at random, with weights that fall
    with the probability that each token had when it was drawn. Theirs are draws for each token by itself, these are
    counts: as many as the share says, without replacement.

    Output: identical, as a process of its own that stands for no other; it pays with many steps. Cost: no forward pass;
    that of the order, a random number for each place, and sorting.

    Attributes:
        share: Of the filled places, at most; in [0, 1].
        order: Which candidates are kept.

    Raises:
        ValueError: A share out of its range.
    """

    share: float = 0.1
    order: Ranked = field(default_factory=Confidence, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"a share of {self.share} to mask again; expected 0 to 1")

    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        among = view.filled & view.level
        count = (self.share * among.flatten(1).sum(1)).floor().long().minimum(view.left)
        gumbel = view.noise.derive(_AGAIN).gumbel(view.places, view.open.shape[2], 1)[..., 0]
        again = highest(gumbel - view.confidence.exp(), among, count)
        kept = highest(self.order.score(view), view.open, view.due + count)
        return kept | (view.filled & ~again)
