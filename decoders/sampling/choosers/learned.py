"""Let a small network, trained on what the decoder does, say which candidates are final."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from zoo.decoders.sampling.choosers.base import Chooser, Ranked, View
from zoo.decoders.sampling.choosers.confidence import Confidence
from zoo.decoders.sampling.choosers.eager import Eager


class Filter(nn.Module):
    """Says how surely a candidate is final, by the confidence in it and in those around it; some thousand weights.

    Args:
        reach: Places to each side that it looks at, of the same codebook.
        width: Of its hidden layer.
    """

    def __init__(self, reach: int = 16, width: int = 32) -> None:
        super().__init__()
        self.around = nn.Conv1d(1, width, 2 * reach + 1, padding=reach)
        self.final = nn.Conv1d(width, 1, 1)

    def forward(self, certainty: Float[Tensor, "R S Q"]) -> Float[Tensor, "R S Q"]:
        """Logits of being final.

        Args:
            certainty: Of the candidates, as of `certainty`.
        """
        rows = certainty.mT.flatten(0, 1)[:, None]
        return self.final(self.around(rows).relu()).view(certainty.mT.shape).mT


@dataclass(frozen=True)
class Learned(Eager):
    """Candidates are kept that a trained filter finds final.

    Bao et al., "Learning to parallel" (arXiv 2509.25188): the filter is trained to tell which of the candidates will
    come out in the end, on the decoder's own runs. Theirs sees a block of places at once, this one as many to either
    side of each, so that it fits any number of them. Where a text has ended is not looked for here.

    Approximate: what the filter finds final need not be, and candidates that are kept at once were drawn blind to
    each other.

    Cost: that of the order, and a convolution of some thousand weights in each step. The filter is trained beforehand,
    on whole runs of the decoder.

    Attributes:
        filter: See `trained_filter`.
        probability: Of being final, from which on a candidate is kept; in (0, 1).

    Raises:
        ValueError: A probability out of its range.
    """

    filter: Filter
    probability: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"a probability of {self.probability}; expected more than 0 and less than 1")

    def sure(self, view: View) -> Bool[Tensor, "R S Q"]:
        return self.filter(certainty(view)) >= math.log(self.probability / (1 - self.probability))


class Example(NamedTuple):
    """A step of a run: certainty `[R, S, Q]`, which places were open, and which of their candidates came out."""

    certainty: Float[Tensor, "R S Q"]
    open: Bool[Tensor, "R S Q"]
    final: Bool[Tensor, "R S Q"]


@dataclass(frozen=True)
class Watched(Chooser):
    """Keeps what another chooser keeps, and remembers what a filter is to learn from, for one run.

    Output: identical to the other chooser's. Cost: the other's, and three tensors of the grid's size in each step.

    Attributes:
        chooser: The process whose outcome the filter foretells.
    """

    chooser: Ranked = field(default_factory=Confidence)
    _seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def choose(self, view: View) -> Bool[Tensor, "R S Q"]:
        self._seen.append((certainty(view), view.open, view.candidates))
        return self.chooser.choose(view)

    def examples(self, codes: Int[Tensor, "R S Q"]) -> list[Example]:
        """Of the run that ended with these codes."""
        return [Example(sure, open, (candidates == codes) & open) for sure, open, candidates in self._seen]


def certainty(view: View) -> Float[Tensor, "R S Q"]:
    """Probability of each candidate, 1 of what stands, 0 where nothing does."""
    there = (view.candidates >= 0) & view.inside[..., None]
    return torch.where(view.open, view.confidence.exp(), there.float())


def trained_filter(
    examples: Sequence[Example], steps: int = 500, reach: int = 16, width: int = 32, rate: float = 0.01, seed: int = 0
) -> Filter:
    """A filter that tells, on these examples, which candidates came out.

    Args:
        examples: Of `Watched`, which is given to runs of `decode_masked`; all of them are looked at in each step.
        steps: Of Adam.
        rate: Of learning.
        seed: Of the weights that it begins with.

    Raises:
        ValueError: No example has an open place.
    """
    if not any(example.open.any() for example in examples):
        raise ValueError("no examples to learn from; decode with `Watched` in two steps or more")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = Filter(reach, width).to(examples[0].certainty.device)
        optimizer = torch.optim.Adam(network.parameters(), rate)
        alike = groupby(sorted(examples, key=_shape), _shape)
        batches = [Example(*(torch.cat(parts) for parts in zip(*batch, strict=True))) for _, batch in alike]
        places = sum(int(batch.open.sum()) for batch in batches)
        for _ in range(steps):
            optimizer.zero_grad()
            for sure, asked, final in batches:
                found, target = network(sure)[asked], final[asked].to(sure.dtype)
                (binary_cross_entropy_with_logits(found, target, reduction="sum") / places).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def _shape(example: Example) -> tuple[int, ...]:
    return tuple(example.certainty.shape[1:])
