"""Trees that a draft model grows: which nodes there are follows from what it holds probable, node by node."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.at_fault import at_fault
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context
from zoo.decoders.sampling.proposers.chain import Logits
from zoo.decoders.sampling.proposers.draft_model import DraftModel


class Grown(DraftModel):
    """Base class: reads known steps as `DraftModel` does, and the tree so far in one block behind them.

    Nothing of the tree is kept: what came out of it is read again with the next round's first pass, which is due
    anyway.

    Args:
        model: As of `DraftModel`, able to run trees.
        cond: As of `DraftModel`.
        sharp: See `estimated`.

    Raises:
        ValueError: A sharpness of 0 or less.
    """

    def __init__(self, model: TokenModel, cond: Any = None, sharp: float = 2.0):
        if sharp <= 0:
            raise ValueError(f"chances of sharpness {sharp}; expected more than 0")
        super().__init__(model, cond)
        self.sharp = sharp

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        if not self.model.info.trees:
            raise ValueError("the draft model runs chains only (info.trees); draft by `DraftModel`")

    def propose(self, ctx: Context, n: int) -> Draft:
        assert self._state is not None, "`start` comes first"
        n = min(n, ctx.slots)
        if int(ctx.room.max()) < 2:
            return Draft.empty(ctx.rows, ctx.tokens.shape[2], ctx.length.device)
        return self.grow(ctx, n, Reader(self, ctx, self._read(ctx, self._state)))

    @abstractmethod
    def grow(self, ctx: Context, n: int, reader: Reader) -> Draft:
        """A tree of at most `n` nodes. The last step wanted comes behind it."""


class Reader:
    """What the draft model makes of a tree, under the target's law; of temperature 0, that of 1 ranks candidates."""

    LEVELS: Final = 4  # whose noise is drawn at once: half of its time is the calls

    def __init__(self, proposer: Grown, ctx: Context, root: Logits):
        self.proposer, self.ctx, self.root = proposer, ctx, root
        self.forwards = 1
        self.law = ctx.law.drafting(replace(ctx.law.law, temperature=1.0) if ctx.law.certain else None)
        self._noise = root.new_zeros(ctx.rows, 0, *root.shape[2:], dtype=torch.float32)

    def laws(self, tree: Draft) -> Float[Tensor, "R N_plus_1 Q V"]:
        """Log-probabilities behind the last known step and behind each node."""
        logits, state, model = self.root, self.proposer._state, self.proposer.model
        if tree.slots and state is not None:
            self.forwards += 1
            above = tree.ancestors()
            positions = self.ctx.places(state.length[:, None] + above.sum(-1) - 1, model)
            tokens = tree.tokens.where(tree.present()[..., None], 0)
            with at_fault(self.proposer._name):
                behind = model(tokens, positions, state, above).logits
            logits = torch.cat((logits, behind), 1)
        return self.law.fork().block(logits, tree)

    def noise(self, levels: int) -> Float[Tensor, "R levels_or_more Q V"]:
        """Of the steps behind the last known one, as the rule shares it with drafts."""
        while (known := self._noise.shape[1]) < levels:
            steps = self.ctx.length[:, None] + torch.arange(known, known + self.LEVELS, device=self.ctx.length.device)
            more = self.ctx.noise.gumbel(steps, *self.root.shape[2:])
            self._noise = torch.cat((self._noise, more.expand(*steps.shape, *self.root.shape[2:])), 1)
        return self._noise


def estimated(
    ctx: Context, logp: Float[Tensor, "*rows V"], gumbel: Float[Tensor, "*#rows V"], sharp: float = 1.0
) -> Float[Tensor, "*rows V"]:
    """Log-chance of each token to stand if it is drafted.

    Where drafts share their judge's noise, that noise is known, and what counts is by how much a token wins: the chance
    is that of the softmax of `sharp` times log-probability plus noise, as if the target's logits differed from these by
    Gumbel noise over `sharp`. At temperature 0 and a sharpness of 1 these are the model's probabilities. Else it is the
    token's own probability, by which it is drawn.
    """
    return logp if ctx.densities else (sharp * (logp + gumbel)).log_softmax(-1)


def at_law(logp: Float[Tensor, "*rows Q V"], tokens: Int[Tensor, "*rows Q"]) -> Float[Tensor, "*rows Q"]:
    """What stands there for each token; for ids that no law knows, anything."""
    return logp.gather(-1, tokens.clamp(max=logp.shape[-1] - 1)[..., None])[..., 0]
