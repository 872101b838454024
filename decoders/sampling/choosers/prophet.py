"""Stop filling in step by step as soon as the model has made up its mind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from zoo.decoders.sampling.choosers.base import View
from zoo.decoders.sampling.choosers.eager import Eager
from zoo.decoders.sampling.choosers.orders import leads


@dataclass(frozen=True)
class Prophet(Eager):
    """A row keeps all its candidates as soon as its best tokens are, in the mean of its open places, far ahead.

    Li et al., "Diffusion language models know the answer before decoding" (arXiv 2508.19982). Ahead of the second best,
    in logits; the gap that is asked for falls over the steps, in three parts of them, as being wrong costs less and
    less. Theirs is the mean over the places where a question's answer is expected, this is that of all open ones.

    Approximate: the candidates that a row keeps at the end were drawn blind to each other. Cost: that of the order, and
    the best two logits of each place.

    Attributes:
        gap: In nats, in the first third of the steps; two thirds of it in the second, one third in the last one.

    Raises:
        ValueError: A gap below 0.
    """

    gap: float = 7.5

    def __post_init__(self) -> None:
        if not self.gap >= 0:
            raise ValueError(f"a gap of {self.gap} nats; expected 0 or more")

    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        asked = self.gap * (1 if view.progress <= 1 / 3 else 2 / 3 if view.progress <= 2 / 3 else 1 / 3)
        ahead = leads(view.logits).where(view.open, 0.0).flatten(1).sum(1)
        count = view.open.flatten(1).sum(1)
        return (ahead >= asked * count)[:, None, None] & torch.ones_like(view.open)
