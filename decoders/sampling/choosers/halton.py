"""Fill in evenly spread places, in an order that is the same for all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.decoders.sampling.choosers.base import Ranked, View

BASES = (2, 3)


@dataclass(frozen=True)
class Halton(Ranked):
    """Places come in the order in which a Halton sequence over the grid first hits them.

    Besnier et al., "Halton scheduler for masked generative image transformer" (arXiv 2503.17076): places that are
    filled in one step lie far apart, and so know little of each other. One axis takes base 2, two take 2 and 3.

    Output: identical, as a process of its own; see `Ranked`. Cost: no forward pass; in each step, Python and a look-up
    for each row, for which a GPU waits. The order of a grid is found once, point by point until each cell was hit.

    Raises:
        ValueError: Positions of more axes.
    """

    def score(self, view: View) -> Float[Tensor, "R S Q"]:
        positions = view.places[..., None] if view.positions is None else view.positions
        positions = positions.reshape(*positions.shape[:2], -1)
        if positions.shape[-1] > len(BASES):
            raise ValueError(f"positions of {positions.shape[-1]} axes; this order is for up to {len(BASES)}")
        rank = torch.zeros(positions.shape[:2], device=positions.device)
        for row, inside in enumerate(view.inside):
            sides = tuple((positions[row, inside].amax(0) + 1).tolist())
            index = positions[row].minimum(torch.tensor(sides, device=positions.device) - 1)
            rank[row] = halton_ranks(sides).to(rank.device)[index.unbind(-1)]
        return -rank[..., None].expand(view.open.shape)


@lru_cache(maxsize=64)
def halton_ranks(sides: tuple[int, ...]) -> Float[Tensor, "*sides"]:
    """When each cell of a grid is hit first: 0, 1, ..."""
    ranks: dict[tuple[int, ...], int] = {}
    cells = torch.Size(sides).numel()
    for number in count(1):
        cell = tuple(int(_radical_inverse(number, base) * side) for base, side in zip(BASES, sides, strict=False))
        ranks.setdefault(cell, len(ranks))
        if len(ranks) == cells:
            break
    table = torch.zeros(sides)
    for cell, rank in ranks.items():
        table[cell] = rank
    return table


def _radical_inverse(number: int, base: int) -> float:
    """The number's digits in that base, mirrored at the point: evenly spread in [0, 1)."""
    value, unit = 0.0, 1.0
    while number:
        unit /= base
        number, digit = divmod(number, base)
        value += digit * unit
    return value
