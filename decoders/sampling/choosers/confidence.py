"""Keep the candidates that the model is surest of."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View


@dataclass(frozen=True)
class Confidence(Ranked):
    """Ranks candidates by the model's log-probability, with Gumbel noise that fades out over the steps.

    Chang et al., "MaskGIT" (arXiv 2202.04200). Confidence is that of the model at temperature 1, not of the law.

    Output: identical, as a process of its own; see `Ranked`. Cost: no forward pass but sorting, and with a temperature
    a random number for each place.

    Attributes:
        temperature: Of the noise before the first step; it falls in a straight line to 0 at the last one. 0: none.
            MaskGIT's images take 4.5.

    Raises:
        ValueError: A negative temperature.
    """

    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"the temperature of the choice is {self.temperature}; expected 0 or more")

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        return annealed(view.confidence, view, self.temperature)


def annealed(score: Float[Tensor, "R S Q"], view: View, temperature: float) -> Float[Tensor, "R S Q"]:
    """With the noise of this step."""
    if not temperature:
        return score
    gumbel = view.noise.gumbel(view.places, view.open.shape[2], 1)[..., 0]
    return score + temperature * (1 - view.progress) * gumbel
