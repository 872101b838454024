"""Other orders of filling in: by the whole law of a place, by its margin, by chance, and in a line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View


@dataclass(frozen=True)
class Entropy(Ranked):
    """Places come first whose law has the least entropy, whatever was drawn there.

    One of the orders of Ye et al., "Dream 7B" (arXiv 2508.15487).

    Output: identical, as a process of its own; see `Ranked`. Cost: no forward pass; the softmax and the entropy of the
    logits of each place, and sorting.
    """

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        return -torch.special.entr(view.logits.softmax(-1)).sum(-1)


@dataclass(frozen=True)
class Margin(Ranked):
    """Places come first whose most probable token is ahead of the second one by the most, in probability.

    Kim et al., "Train for the worst, plan for the best" (arXiv 2502.06768): where two tokens are about as probable as
    each other, confidence in one of them hides that the place is undecided.

    Output: identical, as a process of its own; see `Ranked`. Cost: no forward pass; the softmax of the logits of each
    place, its best two, and sorting.
    """

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        return leads(view.logits.softmax(-1))


@dataclass(frozen=True)
class Shuffled(Ranked):
    """Places come in random order: ancestral sampling of masked diffusion, with a fixed count in each step.

    Sahoo et al., "Simple and effective masked diffusion language models" (arXiv 2406.07524). With one place a step, the
    law of the output is the mean over all orders of the product of the model's own laws.

    Output: identical, as a process of its own; see `Ranked`. Cost: no forward pass; a random number for each place, and
    sorting.
    """

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        return view.noise.uniform(view.places, view.open.shape[2]).float()


@dataclass(frozen=True)
class LeftToRight(Ranked):
    """Places come as they lie, all codebooks of one before the next: the order of autoregressive models.

    Output: identical, as a process of its own; see `Ranked`. With one place a step, a model that foretells each place
    by those before it gives the same law as `decode`, and at temperature 0 the same tokens. Cost: no forward pass, but
    sorting.
    """

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        return -view.places[..., None].expand_as(view.open).float()


def leads(values: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows"]:
    """By how much the largest value is ahead of the second one; of a lone one, of 0."""
    if values.shape[-1] == 1:
        return values[..., 0]
    best = values.topk(2).values
    return best[..., 0] - best[..., 1]
