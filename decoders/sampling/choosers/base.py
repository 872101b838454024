"""What a chooser is: of the candidates drawn for all open places, it says which are kept in this step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness


@dataclass(frozen=True)
class View:
    """What a chooser may look at in one step.

    Attributes:
        tokens: int64 `[R, S, Q]`, what the model was asked: open places of all levels are the mask token.
        inside: bool `[R, S]`, places that each row has.
        positions: int64 `[R, S, axes]` of the places, for models of several axes; None: 0, 1, ...
        candidates: int64 `[R, S, Q]`, drawn for open places; the tokens themselves elsewhere, -1 where another level or
            nothing stands.
        open: bool `[R, S, Q]`, places to be filled, of the level that is being filled.
        filled: bool `[R, S, Q]`, places that were filled in earlier steps, and not known from the start.
        level: bool `[Q]`, the codebooks that are being filled.
        left: int64 `[R]`, how many places are to be open behind this step.
        logits: float32 `[R, S, Q, V]`, the model's, streams summed.
        law: What candidates were drawn from.
        logp: float32 `[R, S, Q, V]`, this law's.
        gumbel: float32, that shape or 1 in each axis: the noise that drew them; the largest of both together won.
        confidence: float32 `[R, S, Q]`, log-probability of each candidate by the logits, at temperature 1; of a filled
            place, what it was when its token was drawn; 0 of what was known from the start.
        hidden: `[R, S, D]`, the model's hidden states, of the first stream.
        progress: Share of the steps of this level that are done behind this one, in (0, 1].
        noise: The chooser's own, of this step.
    """

    tokens: Int[Tensor, "R S Q"]
    inside: Bool[Tensor, "R S"]
    positions: Int[Tensor, "R S *axes"] | None
    candidates: Int[Tensor, "R S Q"]
    open: Bool[Tensor, "R S Q"]
    filled: Bool[Tensor, "R S Q"]
    level: Bool[Tensor, "Q"]
    left: Int[Tensor, "R"]
    logits: Float[Tensor, "R S Q V"]
    law: Law
    logp: Float[Tensor, "R S Q V"]
    gumbel: Float[Tensor, "#R #S #Q #V"]
    confidence: Float[Tensor, "R S Q"]
    hidden: Float[Tensor, "R S D"]
    progress: float
    noise: Noise

    @property
    def places(self) -> Int[Tensor, "R S"]:
        """The number of each place, which keys noise."""
        return torch.arange(self.open.shape[1], device=self.open.device).expand(self.open.shape[:2])

    @property
    def due(self) -> Int[Tensor, "R"]:
        """How many candidates the schedule keeps in this step."""
        return self.open.flatten(1).sum(1) - self.left

    def log_prob(self, logp: Float[Tensor, "R S Q V"]) -> Float[Tensor, "R S Q"]:
        """Of the candidates, under that law; of token 0 where nothing stands."""
        return logp.gather(-1, self.candidates.clamp(min=0)[..., None])[..., 0]


class Chooser(ABC):
    """Base class of choosers: pure functions of what they see, so that steps may be tried out.

    Attributes:
        exactness: What the chooser does to the output of the step-by-step process that it stands for.
        forwards: Forward passes of other models that it takes in each step.
    """

    exactness: ClassVar[Exactness] = Exactness.IDENTICAL
    forwards: ClassVar[int] = 0

    @abstractmethod
    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        """Places of `view.open` or `view.filled` that hold a token behind this step.

        Those of `filled` that are left out are masked again, if they belong to the level that is being filled. In the
        last step of a level nobody is asked: all candidates are kept.
        """


class Ranked(Chooser):
    """Keeps what was filled, and as many candidates as the schedule says, those of the highest score.

    Output: identical, as the order of filling in and the schedule are what the process is: there is none that it stands
    for. Candidates of one step were drawn blind to each other, whatever is kept of them.

    Cost: no forward pass; two sorts of a row's places in each step, and what the score takes.
    """

    @abstractmethod
    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        """Higher is kept sooner. Of equal scores the first place is."""

    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        return highest(self.score(view), view.open, view.due) | view.filled


def highest(
    score: Float[Tensor, "R S Q"], among: Bool[Tensor, "R S Q"], count: Int[Tensor, "R"]
) -> Bool[Tensor, "R S Q"]:
    """In each row, that many places among those, of the highest scores; of equal ones the first."""
    flat = score.flatten(1).clamp(min=torch.finfo(score.dtype).min).masked_fill(~among.flatten(1), -torch.inf)
    rank = flat.argsort(dim=1, descending=True, stable=True).argsort(1)
    return (rank < count[:, None]).view_as(among) & among
