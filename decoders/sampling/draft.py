"""Drafts: steps that a proposer bets on, as a chain or as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """What a proposer bets will come behind the last step of each row.

    Attributes:
        tokens: int64 `[R, N, Q]`, one node a slot. N is the same for all rows; what lies behind a row's `count` is
            ignored, whatever it is.
        count: int64 `[R]`, nodes of each row; 0 proposes nothing.
        parent: int64 `[R, N]`, for trees: the slot that each node follows, -1 for the last known step. Parents come
            before their children. None: a chain, each node follows the one before.
        logq: float32 `[R, N, Q, V]`, the law that each node was drawn from, as it was when it was drawn. None says that
            nodes are to be taken as certain, as deterministic proposers must; rules that ask for the law
            (`Rule.densities`) accept less of it. Siblings of a tree lie in the order in which they were drawn, each
            with the law that those before it left: of draws with replacement always the same; without, that law
            without their tokens, renormalised (of Gumbel top-k and stochastic beams: by falling noise). A node that
            its own law calls impossible is a gap, which is no bet.
        forwards: Forward passes of draft models that this took.
    """

    tokens: Int[Tensor, "R N Q"]
    count: Int[Tensor, "R"]
    parent: Int[Tensor, "R N"] | None = None
    logq: Float[Tensor, "R N Q V"] | None = None
    forwards: int = 0

    @staticmethod
    def empty(rows: int, codebooks: int, device: torch.device | None = None) -> Draft:
        """A draft of nothing."""
        zeros = torch.zeros(rows, 0, codebooks, dtype=torch.int64, device=device)
        return Draft(zeros, torch.zeros(rows, dtype=torch.int64, device=device))

    @property
    def slots(self) -> int:
        """N."""
        return self.tokens.shape[1]

    def present(self) -> Bool[Tensor, "R N"]:
        """Which nodes are there."""
        return self._present

    def ancestors(self) -> Bool[Tensor, "#R N N"]:
        """Entry `[r, i, j]`: node j lies on the way from the root to node i, or is i."""
        return self._ancestors

    def depth(self) -> Int[Tensor, "#R N"]:
        """Steps from the last known step to each node: 1 for its children."""
        return self._depth

    @cached_property
    def _present(self) -> Bool[Tensor, "R N"]:
        return torch.arange(self.slots, device=self.count.device) < self.count[:, None]

    @cached_property
    def _ancestors(self) -> Bool[Tensor, "#R N N"]:  # a round asks some ten times
        if self.parent is None:
            return torch.ones(1, self.slots, self.slots, dtype=torch.bool, device=self.tokens.device).tril()
        slot = torch.arange(self.slots, device=self.tokens.device)
        reach = ((self.parent[..., None] == slot) | (slot[:, None] == slot)).float()
        for _ in range((self.slots - 1).bit_length()):  # each product doubles how far up a node sees
            reach = (reach @ reach).clamp(max=1)
        return reach > 0

    @cached_property
    def _depth(self) -> Int[Tensor, "#R N"]:
        if self.parent is None:
            return torch.arange(1, self.slots + 1, device=self.tokens.device)[None]
        return self.ancestors().sum(-1)

    def before(self) -> Int[Tensor, "#R N"]:
        """The slot of the block (0: the last known step, i + 1: node i) whose logits each node is judged by."""
        if self.parent is None:
            return torch.arange(self.slots, device=self.tokens.device)[None]
        return self.parent + 1

    def block_depth(self) -> Int[Tensor, "#R N_plus_1"]:
        """Depth of each slot of the block that verifies this draft; the root, its slot 0, has 0."""
        depth = self.depth()
        return torch.cat((depth.new_zeros(len(depth), 1), depth), 1)

    def block_mask(self) -> Bool[Tensor, "R N_plus_1 N_plus_1"] | None:
        """What each slot of the block sees of it; None for chains: all before it."""
        if self.parent is None:
            return None
        mask = torch.zeros(len(self.tokens), self.slots + 1, self.slots + 1, dtype=torch.bool)
        mask = mask.to(self.tokens.device)
        mask[:, :, 0] = True
        mask[:, 1:, 1:] = self.ancestors()
        return mask
