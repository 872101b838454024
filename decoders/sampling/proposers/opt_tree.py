"""The tree of most accepted steps that so many nodes can make, found anew for each draft."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context
from zoo.decoders.sampling.proposers.grown import Grown, Reader, estimated


class OptTree(Grown):
    """The nodes whose ways have the largest product of the draft model's probabilities: no other tree of as many nodes
    accepts more steps on average, if these are the chances that nodes stand.

    Wang et al., "OPT-Tree" (arXiv 2406.17276). Level by level, the candidates behind the nodes of the last level
    compete with all nodes so far; it ends where a level adds less than `gain` to the mean. Chances are those of
    `estimated`; the authors take probabilities as they are, which makes trees wide where a draft model is right more
    often than it knows.

    Output: identical under the rule `equal`, of the same distribution under `recursive`, for which nodes are certain.

    Cost: a forward pass of the draft model for each level, of the nodes so far.

    Args:
        model, cond, sharp: See `Grown`.
        width: Candidates of a node.
        gain: Steps. A level pays if it adds more of them than a round gives in the time of a pass of the draft model:
            about the steps of a round, times the part of a round's time that such a pass takes.
        least: Candidates of less chance are no nodes, so that blocks are shorter.

    Raises:
        ValueError: No width, a gain or chance of 1 or more, which nothing has, or below 0.
    """

    def __init__(
        self,
        model: TokenModel,
        cond: Any = None,
        width: int = 8,
        gain: float = 0.3,
        sharp: float = 2.0,
        least: float = 0.05,
    ):
        if width < 1 or not (0 <= gain < 1 and 0 <= least < 1):
            raise ValueError(
                f"{width} candidates, a gain of {gain}, a chance of {least}; expected 1 or more, and a part of a step,"
                " [0, 1)"
            )
        super().__init__(model, cond, sharp)
        self.width, self.gain, self.least = width, gain, least

    def grow(self, ctx: Context, n: int, reader: Reader) -> Draft:
        tree = Draft(ctx.tokens[:, :0], torch.zeros_like(ctx.length), ctx.length.new_zeros(ctx.rows, 0))
        value = reader.root.new_ones(ctx.rows, 1)  # of the last known step, then of each node
        fresh, last = torch.ones_like(value, dtype=torch.bool), 0  # the last slot that is fresh
        for level in range(n):
            found, chance = self._candidates(ctx, reader, _first(tree, last), level)
            chance = chance * (value * fresh)[:, : last + 1, None]
            chance = chance.where((chance >= self.least) & (ctx.room > level + 1)[:, None, None], 0)
            before = value.sum(1)
            tree, value, new = _best(tree, value, found, chance, n)
            fresh = new & (value.sum(1) - before >= self.gain)[:, None]
            last = int((fresh * torch.arange(fresh.shape[1], device=fresh.device)).max())
            if not last:
                break
        tree = _first(tree, int(tree.count.max()))
        return Draft(tree.tokens, tree.count, tree.parent, forwards=reader.forwards)

    def _candidates(
        self, ctx: Context, reader: Reader, tree: Draft, level: int
    ) -> tuple[Int[Tensor, "R S W Q"], Float[Tensor, "R S W"]]:
        """The best ones behind each slot of the block, as if all lay at that level, and their chances."""
        logp, noise = reader.laws(tree), reader.noise(level + 1)[:, level : level + 1]
        best = estimated(ctx, logp, noise, self.sharp).topk(min(self.width, logp.shape[-1]))
        tokens, chance = best.indices.transpose(2, 3), best.values.exp().transpose(2, 3)
        forced = ctx.forced_at((ctx.length + level)[:, None])
        if forced is not None:
            forced = forced[:, :, None]
            tokens, chance = torch.where(forced >= 0, forced, tokens), chance.masked_fill(forced >= 0, 1)
            first = torch.arange(tokens.shape[2], device=tokens.device) == 0
            chance = chance * (first | (forced < 0).any(-1))[..., None]  # what is fixed altogether is one candidate
        return tokens, chance.prod(-1)


def _first(tree: Draft, count: int) -> Draft:
    """Its first nodes, which are a tree as well."""
    assert tree.parent is not None
    return Draft(tree.tokens[:, :count], tree.count.clamp(max=count), tree.parent[:, :count])


def _best(
    tree: Draft,
    value: Float[Tensor, "R N_plus_1"],
    found: Int[Tensor, "R S W Q"],
    chance: Float[Tensor, "R S W"],
    n: int,
) -> tuple[Draft, Float[Tensor, "R M_plus_1"], Bool[Tensor, "R M_plus_1"]]:
    """The `n` nodes of most value among those of the tree and those found behind its first slots, and which are new.

    No node has more than its parent, and of equal ones the older comes first, so parents come before their children.
    """
    old, slot = tree.slots, torch.arange(-1, found.shape[1] - 1, device=value.device)
    assert tree.parent is not None
    tokens = torch.cat((tree.tokens, found.flatten(1, 2)), 1)
    parent = torch.cat((tree.parent, slot.repeat_interleave(found.shape[2]).expand(len(value), -1)), 1)
    values = torch.cat((value[:, 1:], chance.flatten(1)), 1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    values, order = values[:, :n], order[:, :n]
    place = torch.full_like(parent, -1).scatter(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    above = parent.gather(1, order)
    parent = torch.where(above < 0, -1, place.gather(1, above.clamp(min=0)))
    count = (values > 0).sum(1)
    parent = parent.where(values > 0, -1)
    row = torch.arange(len(value), device=order.device)[:, None]
    kept = Draft(tokens[row, order], count, parent)
    return kept, pad(values, (1, 0), value=1.0), pad((order >= old) & (values > 0), (1, 0), value=False)
