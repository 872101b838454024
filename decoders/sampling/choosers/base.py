"""What a chooser is: of the candidates drawn for all open places, it says which are kept in this step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness


@dataclass(frozen=True)
class View:
    """What a chooser may look at in one step.

    Attributes:
        candidates: int64 `[R, S, Q]`, drawn for open places; the tokens themselves elsewhere, -1 where another level or
            nothing stands.
        open: bool `[R, S, Q]`, places to be filled, of the level that is being filled.
        filled: bool `[R, S, Q]`, places that were filled in earlier steps, and not known from the start.
        left: int64 `[R]`, how many places are to be open behind this step.
        logits: float32 `[R, S, Q, V]`, the model's, streams summed: confidence is measured here, at temperature 1.
        logp: float32 `[R, S, Q, V]`, the law that candidates were drawn from.
        hidden: `[R, S, D]`, the model's hidden states, of the first stream.
        progress: Share of the steps of this level that are done behind this one, in (0, 1].
        noise: The chooser's own, of this step.
    """

    candidates: Int[Tensor, "R S Q"]
    open: Bool[Tensor, "R S Q"]
    filled: Bool[Tensor, "R S Q"]
    left: Int[Tensor, "R"]
    logits: Float[Tensor, "R S Q V"]
    logp: Float[Tensor, "R S Q V"]
    hidden: Float[Tensor, "R S D"]
    progress: float
    noise: Noise

    @property
    def places(self) -> Int[Tensor, "R S"]:
        """The number of each place, which keys noise."""
        return torch.arange(self.open.shape[1], device=self.open.device).expand(self.open.shape[:2])

    def log_prob(self, logp: Float[Tensor, "R S Q V"]) -> Float[Tensor, "R S Q"]:
        """Of the candidates, under that law; of token 0 where nothing stands."""
        return logp.gather(-1, self.candidates.clamp(min=0)[..., None])[..., 0]


class Chooser(ABC):
    """Base class of choosers.

    Attributes:
        exactness: What the chooser does to the output of the step-by-step process that it stands for.
    """

    exactness: ClassVar[Exactness] = Exactness.IDENTICAL

    @abstractmethod
    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        """Places of `view.open` or `view.filled` that hold a token behind this step.

        Those of `filled` that are left out are masked again, if they belong to the level that is being filled. In the
        last step of a level nobody is asked: all candidates are kept.
        """


class Ranked(Chooser):
    """Keeps what was filled, and as many candidates as the schedule says, those of the highest score."""

    @abstractmethod
    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        """Higher is kept sooner. Of equal scores the first place is."""

    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        is_open = view.open.flatten(1)
        score = self.score(view).flatten(1).clamp(min=torch.finfo().min).masked_fill(~is_open, -torch.inf)
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(1)
        kept = is_open & (rank < (is_open.sum(1) - view.left)[:, None])
        return kept.view_as(view.open) | view.filled
