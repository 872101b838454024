"""Token recycling: what the target held probable behind a token, wherever that was, is bet on behind it again."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.trees import Tree


class Recycling(Proposer):
    """Drafts a tree from a matrix of the candidates that the target gave behind each token, in any block so far.

    Luo et al., "Turning Trash into Treasure" (arXiv 2408.08696). The laws behind rejected nodes are learned from like
    those behind accepted ones. Each row has a matrix of its own, of each codebook: candidate i of a step holds
    candidate i of each code. Newer candidates come before older ones, which stay as far as there is room: at
    temperature 0 a law has one candidate, and the others are those that it had before. Laws of chance are drawn from
    with the noise of the step that is drafted, as rules of shared noise want.

    Output: identical under the rule `equal`. Drafts have no laws; with `width` 1 they are chains, which all rules take.

    Cost: no forward pass; memory of rows x codebooks x vocabulary x width x 12 bytes, a sort of each slot's law.

    Args:
        width: Candidates of a token.
        hit: See `Tree.likeliest`.

    Raises:
        ValueError: See `Tree.likeliest`.
    """

    def __init__(self, width: int = 8, hit: float = 0.6):
        Tree.likeliest(1, width, None, hit)
        self.width, self.hit = width, hit
        self._tree: Tree
        # Row of the matrix: the token. One more holds what is of no use.
        self._ids: Int[Tensor, "R Q ids_plus_1 W"]  # -1: none
        self._logp: Float[Tensor, "R Q ids_plus_1 W"]  # of each candidate when it was one

    def start(self, ctx: Context) -> None:
        info = ctx.model.info
        width = min(self.width, info.vocabulary)
        self._tree = Tree.likeliest(ctx.slots, width, None, self.hit)
        size = (ctx.rows, info.codebooks, info.vocabulary + info.specials + 1, width)
        self._ids = torch.full(size, -1, dtype=torch.int64, device=ctx.length.device)
        self._logp = torch.full(size, -torch.inf, device=ctx.length.device)

    def propose(self, ctx: Context, n: int) -> Draft:
        info, (row, book) = ctx.model.info, _row_and_book(ctx)

        def candidates(level: int, ways: Tensor) -> Tensor:
            last = ways[:, :, -1]
            ids, logp = self._ids[row, book, last], self._logp[row, book, last]
            noise = ctx.noise.gumbel((ctx.length + level)[:, None], info.codebooks, info.vocabulary)
            noise = noise.expand(ctx.rows, last.shape[1], info.codebooks, info.vocabulary)
            score = logp + noise.gather(-1, ids.clamp(min=0))
            return ids.gather(-1, score.argsort(dim=-1, descending=True, stable=True)).transpose(2, 3)

        return self._tree.filled(ctx, n, candidates)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Put the candidates behind each node of the block into the row of its token; of equal ones, the last."""
        row, book = _row_and_book(ctx)
        root = ctx.tokens[row[:, 0, 0], ctx.length - outcome.count - 1]
        tokens = torch.cat((root[:, None], outcome.draft.tokens), 1)
        present = torch.nn.functional.pad(outcome.draft.present(), (1, 0), value=True)
        again = (tokens[:, :, None] == tokens[:, None]) & present[:, None, :, None]  # slot i has the token of slot j
        again = (again & torch.ones_like(again[0, :, :, 0]).triu(1)[..., None]).any(2)
        place = tokens.where(present[..., None] & ~again, self._ids.shape[2] - 1)

        logp, ids = outcome.scores.logp.topk(self._ids.shape[-1])
        possible = logp > -torch.inf
        old, old_logp = self._ids[row, book, place], self._logp[row, book, place]
        known = (old >= 0) & ~((old[..., None] == ids[..., None, :]) & possible[..., None, :]).any(-1)
        keep = torch.cat((possible, known), -1)
        order = (~keep).long().argsort(dim=-1, stable=True)[..., : self._ids.shape[-1]]
        self._ids[row, book, place] = torch.cat((ids, old), -1).where(keep, -1).gather(-1, order)
        self._logp[row, book, place] = torch.cat((logp, old_logp), -1).masked_fill(~keep, -torch.inf).gather(-1, order)


def _row_and_book(ctx: Context) -> tuple[Int[Tensor, "R 1 1"], Int[Tensor, "1 1 Q"]]:
    device = ctx.length.device
    return torch.arange(ctx.rows, device=device)[:, None, None], torch.arange(ctx.tokens.shape[2], device=device)
