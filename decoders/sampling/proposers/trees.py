"""Trees whose shape is fixed before their tokens are: which ranks of candidates to bet on, filled level by level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context

Candidates = Callable[[int, Int[Tensor, "R M L Q"]], Int[Tensor, "R M W Q"]]
"""Level, and ways of `level` + 1 steps from the last known one on -> W candidates for the step behind each, best first;
-1 where there is none."""


@dataclass(frozen=True)
class Tree:
    """Nodes as slots of a draft, the more probable ones first, so that the first n are a tree as well.

    Attributes:
        parent: Slot that each follows; -1 is the last known step.
        rank: Which of its parent's candidates it is; 0 is the best.
    """

    parent: tuple[int, ...]
    rank: tuple[int, ...]

    @staticmethod
    def likeliest(slots: int, width: int, deepest: int | None = None, hit: float = 0.6) -> Tree:
        """The tree of most accepted steps on average, if the best candidate is right with the chance `hit`, if not the
        second one with that chance again, and so on.

        Args:
            slots: Most nodes.
            width: Most children of a node; 1 is a chain.
            deepest: Most steps of a way; None: any.

        Raises:
            ValueError: No width, or a chance outside (0, 1).
        """
        if width < 1 or not 0 < hit < 1:
            raise ValueError(f"{width} candidates, of which the best is right with the chance {hit}; expected 1 or more"
                             " and a chance between 0 and 1")  # fmt: skip
        heap, parent, rank = [(-hit, 1, -1, 0)], [], []
        while heap and len(parent) < slots:
            chance, depth, above, place = heappop(heap)
            if place + 1 < width:
                heappush(heap, (chance * (1 - hit), depth, above, place + 1))
            if deepest is None or depth < deepest:
                heappush(heap, (chance * hit, depth + 1, len(parent), 0))
            parent.append(above)
            rank.append(place)
        return Tree(tuple(parent), tuple(rank))

    def levels(self, n: int) -> list[list[int]]:
        """Those of the first n slots that lie 1, 2, ... steps behind the last known one."""
        depth: list[int] = []
        for above in self.parent[:n]:
            depth.append(1 if above < 0 else depth[above] + 1)
        return [[slot for slot, d in enumerate(depth) if d == level] for level in range(1, max(depth, default=0) + 1)]

    def filled(self, ctx: Context, n: int, candidates: Candidates, forwards: int = 0) -> Draft:
        """A draft of this tree's first n nodes; those that have no candidate are left out, and so is what is below.

        A chain if no node has two children.
        """
        n, codebooks, device = min(n, len(self.parent)), ctx.tokens.shape[2], ctx.length.device
        tokens = ctx.tokens.new_zeros(ctx.rows, n, codebooks)
        there = torch.zeros(ctx.rows, n + 1, dtype=torch.bool, device=device)
        there[:, n] = True  # slot -1: the last known step
        ways, above = ctx.last[:, None, None], [-1]
        for level, slots in enumerate(self.levels(n)):
            parents = [self.parent[slot] for slot in slots]
            inner = [slot for slot in above if slot in parents]
            ways, at = ways[:, [above.index(slot) for slot in inner]], [inner.index(slot) for slot in parents]
            found = candidates(level, ways)[:, at, [self.rank[slot] for slot in slots]]
            steps = (ctx.length + level)[:, None].expand(-1, len(slots))
            found = ctx.fix(found, steps)
            wanted = (ctx.room > level + 1)[:, None]  # the last step comes behind the draft
            there[:, slots] = there[:, parents] & (found >= 0).all(-1) & wanted
            tokens[:, slots] = found.clamp(min=0)
            ways, above = torch.cat((ways[:, at], tokens[:, slots][:, :, None]), 2), slots
        parent = torch.tensor(self.parent[:n], dtype=torch.int64, device=device).expand(ctx.rows, -1)
        draft = packed(tokens, parent, there[:, :n], forwards)
        return draft if any(above != slot - 1 for slot, above in enumerate(self.parent[:n])) else _chain(draft)


def packed(
    tokens: Int[Tensor, "R N Q"], parent: Int[Tensor, "R N"], there: Bool[Tensor, "R N"], forwards: int
) -> Draft:
    """The nodes that are there, in their order, in the first slots of each row."""
    row = torch.arange(len(tokens), device=tokens.device)[:, None]
    order = (~there).long().argsort(dim=1, stable=True)
    place = there.long().cumsum(1) - 1  # of each node from now on
    parent = torch.where(parent < 0, -1, place.gather(1, parent.clamp(min=0)))
    parent = parent[row, order].where(there[row, order], -1)
    return Draft(tokens[row, order], there.sum(1), parent, forwards=forwards)


def _chain(draft: Draft) -> Draft:
    return Draft(draft.tokens, draft.count, forwards=draft.forwards)
