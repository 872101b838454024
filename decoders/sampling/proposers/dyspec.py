"""A tree that is drawn node by node, each where it is most likely to be of use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context
from zoo.decoders.sampling.proposers.grown import Grown, Reader, at_law, estimated


class DySpec(Grown):
    """Each node is drawn below the one that most likely stands while none of its children so far does.

    Xiong et al., "DySpec" (arXiv 2410.11744). That chance is the product of the draft model's probabilities on the way,
    times what its law has left beyond the children that are there. Siblings are drawn without replacement. Where a node
    goes is settled before its token is drawn: that is why the law is kept, and why it is not `OptTree`, which looks at
    tokens first. Chances are those of `estimated`.

    Output: identical under the rule `equal`; of the same distribution under `recursive`, which gets the law that each
    sibling was drawn from. At temperature 0 there is nothing to draw: nodes are the most probable tokens, and certain.

    Cost: a forward pass of the draft model, over the tree so far, wherever the best node is one that it has not read:
    at most as many as nodes. The GPU is asked once a node.

    Args:
        model, cond, sharp: See `Grown`.
        least: Where no node has as much of a chance, the tree ends.

    Raises:
        ValueError: A chance outside (0, 1).
    """

    def __init__(self, model: TokenModel, cond: Any = None, least: float = 0.01, sharp: float = 2.0):
        if not 0 < least < 1:
            raise ValueError(f"nodes of a chance of {least} or more; expected one between 0 and 1")
        super().__init__(model, cond, sharp)
        self.least = least

    def grow(self, ctx: Context, n: int, reader: Reader) -> Draft:
        row = torch.arange(ctx.rows, device=ctx.length.device)
        drawn = ctx.densities and not ctx.law.certain
        tree = Draft(ctx.tokens[:, :0], torch.zeros_like(ctx.length), ctx.length.new_zeros(ctx.rows, 0))
        laws, logqs = reader.laws(tree), []  # of each slot of the block, what it has left
        stands, left = laws.new_ones(ctx.rows, 1), laws.new_ones(ctx.rows, 1)  # of the last known step, of each node
        depth = torch.zeros_like(tree.count)[:, None]
        for slot in range(n):
            use = (stands * left).masked_fill(depth + 1 >= ctx.room[:, None], 0)
            best, at = use.max(1)
            live = best >= self.least
            if not live.any():
                break
            if (live & (at >= laws.shape[1])).any():
                laws = torch.cat((laws, reader.laws(tree)[:, laws.shape[1] :]), 1)
            at = at.where(live, 0)
            logq, steps = laws[row, at], (ctx.length + depth[row, at])[:, None]
            noise = ctx.noise.derive(slot) if drawn else ctx.noise
            gumbel = noise.gumbel(steps, *logq.shape[1:])
            token = draw(logq[:, None], gumbel)
            chance = at_law(estimated(ctx, logq[:, None], gumbel, self.sharp), token)[:, 0].exp()
            token, forced = ctx.fix(token, steps), ctx.forced_at(steps)
            if forced is not None:
                chance = chance.masked_fill(forced[:, 0] >= 0, 1)
            tree = _grown(tree, token, (at - 1)[:, None], live)
            logqs.append(logq)
            hit = chance.prod(-1)
            stands = torch.cat((stands, torch.where(live, best * hit, 0)[:, None]), 1)
            left = pad(left, (0, 1), value=1.0)
            left[row, at] = torch.where(live & (hit < 1 - 1e-6), left[row, at] * (1 - hit), left[row, at] * ~live)
            depth = torch.cat((depth, depth[row, at][:, None] + 1), 1)
            rest = logq.scatter(-1, token[:, 0].clamp(max=logq.shape[-1] - 1)[..., None], -torch.inf)
            there = live[:, None, None] & (rest > -torch.inf).any(-1, keepdim=True)
            laws[row, at] = torch.where(there, rest.log_softmax(-1), logq)
        logq = torch.stack(logqs, 1) if drawn and logqs else None
        return Draft(tree.tokens, tree.count, tree.parent, logq, reader.forwards)


def _grown(tree: Draft, token: Tensor, parent: Tensor, live: Tensor) -> Draft:
    """With one node more, in rows that are live."""
    assert tree.parent is not None
    parent = parent.where(live[:, None], -1)
    return Draft(torch.cat((tree.tokens, token), 1), tree.count + live, torch.cat((tree.parent, parent), 1))
