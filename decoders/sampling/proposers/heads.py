"""Heads on the target's hidden state draft a tree of candidates, with no model beside it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.autoregressive import AutoregressiveDecoder, core_of
from zoo.decoders.heads import MultiTokenHeads
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Proposer
from zoo.decoders.sampling.proposers.chain import draw_chain
from zoo.decoders.sampling.proposers.trees import Tree


class Heads(Proposer):
    """Head i gives the candidates of the step i + 2 behind the hidden state's, which gave the last known step.

    Parallel heads, which give all nodes of a level the same candidates: Stern et al., "Blockwise Parallel Decoding"
    (arXiv 1811.03115), with trees Cai et al., "Medusa" (arXiv 2401.10774). Sequential heads, which read the way to the
    node: Ankner et al., "Hydra" (arXiv 2402.05109).

    Cheng et al., "Recurrent Drafter" (arXiv 2403.09919), is not here. It reads the way, too, but by one recurrent cell
    for all levels, and drafts what a beam search finds. Here each level has weights of its own, which read all steps of
    the way at once; and which ranks of candidates a tree has is fixed before the run, whatever they turn out to be.

    Candidates are ranked by what the target's law makes of their logits, with the noise of the step that is drafted as
    rules of shared noise want; what has no chance under that law comes last, by its logits. So at temperature 0 a node
    has several children, too.

    Output: identical under the rule `equal`. With `width` 1 drafts are chains drawn from laws, as `DraftModel` draws
    them, which all rules take; trees have no laws.

    Cost: a pass of each head for its level (parallel) or for each node above it (sequential), and in trees a sort of
    each law. A round in which no row has a hidden state, as behind a prompt of one step, drafts nothing.

    Args:
        heads: Made for the target's hidden states, in eval mode, where the target is.
        width: Candidates of a node.
        hit: See `Tree.likeliest`.

    Raises:
        ValueError: See `Tree.likeliest`.
    """

    def __init__(self, heads: MultiTokenHeads, width: int = 4, hit: float = 0.6):
        Tree.likeliest(1, width, None, hit)
        self.heads, self.width, self.hit = heads, width, hit
        self._tree: Tree
        self._decoder: AutoregressiveDecoder | None  # of the target, that shared heads look things up in

    def start(self, ctx: Context) -> None:
        info, made = ctx.model.info, self.heads.config
        if tuple(made.cards) != info.cards or made.width != info.width:
            raise ValueError(
                f"heads of the cards {tuple(made.cards)} on hidden states of width {made.width}, a "
                f"target of {info.cards} and {info.width}; give heads made for it"
            )
        self._decoder = core_of(ctx.model)
        if made.shared and self._decoder is None:
            raise ValueError("heads that share the target's head need a target that has one, an AutoregressiveDecoder")
        width = min(self.width, *info.cards)
        self._tree = Tree.likeliest(ctx.slots, width, self.heads.config.heads, self.hit)

    @torch.no_grad()
    def propose(self, ctx: Context, n: int) -> Draft:
        hidden = ctx.hidden
        if hidden is None:
            return Draft.empty(ctx.rows, ctx.tokens.shape[2], ctx.length.device)
        draft = self._chain(ctx, n, hidden) if self.width == 1 else self._grown(ctx, n, hidden)
        return replace(draft, count=draft.count.masked_fill(ctx.length == 1, 0))

    def _grown(self, ctx: Context, n: int, hidden: Float[Tensor, "R D"]) -> Draft:
        """A tree of the likeliest candidates."""
        sequential = self.heads.config.sequential

        def candidates(level: int, ways: Tensor) -> Tensor:
            nodes = ways.shape[1]
            slots = hidden[:, None].expand(-1, nodes if sequential else 1, -1)
            logits = self.heads(slots, level, ways if sequential else None, self._decoder)
            gumbel = ctx.noise.gumbel((ctx.length + level)[:, None], *logits.shape[2:])
            ranked = _ranked(ctx.law.drafting()(logits) + gumbel, logits, self.width)
            return ranked.transpose(2, 3).expand(-1, nodes, -1, -1)

        return self._tree.filled(ctx, n, candidates)

    def _chain(self, ctx: Context, n: int, hidden: Float[Tensor, "R D"]) -> Draft:
        """One step behind the other; a pass of a head is none of a model."""
        way: list[Int[Tensor, "R 1 Q"]] = []

        def behind(step: Int[Tensor, "R 1 Q"]) -> Float[Tensor, "R 1 Q V"]:
            way.append(step)
            between = torch.cat(way, 1)[:, None] if self.heads.config.sequential else None
            return self.heads(hidden[:, None], len(way) - 1, between, self._decoder)

        n = min(n, self.heads.config.heads)
        return replace(draw_chain(ctx, n, behind(ctx.last[:, None]), behind), forwards=0)


def _ranked(
    chance: Float[Tensor, "*rows V"], logits: Float[Tensor, "*rows V"], width: int
) -> Int[Tensor, "*rows width"]:
    """The likeliest tokens, best first; what has no chance comes behind all that has one, by its logits."""
    width = min(width, chance.shape[-1])
    first = chance.topk(width)
    if first.values.isfinite().all():
        return first.indices
    others = logits.masked_fill(chance.isfinite(), -torch.inf).topk(width).indices
    ranked = torch.cat((first.indices, others), -1)
    impossible = torch.cat((~first.values.isfinite(), torch.zeros_like(others, dtype=torch.bool)), -1)
    return ranked.gather(-1, impossible.long().argsort(dim=-1, stable=True)[..., :width])
