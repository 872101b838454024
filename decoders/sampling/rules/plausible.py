"""What rules have in common that keep a drafted token because the target finds it good enough, however it was drawn."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.rules.base import Scores, Streams, Verified
from zoo.decoders.sampling.rules.equal import Equal, followed


class Plausible(Equal):
    """Base class: keeps what `equal` keeps and whatever else is plausible; of a tree, the deepest way of such nodes.

    Output: approximate. It leans to what is drafted, the more so the better the drafter knows what is plausible; where
    a draft falls, and without drafts, tokens are drawn from the law.
    """

    exactness = Exactness.APPROXIMATE

    @abstractmethod
    def plausible(self, logp: Float[Tensor, "R N Q V"], tokens: Int[Tensor, "R N Q"]) -> Bool[Tensor, "R N Q"]:
        """Which tokens are good enough under their laws. Never impossible ones."""

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        tokens = draw(scores.logp, noise.draw.gumbel(scores.steps, *scores.logp.shape[2:]))
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        judge = draft.before()
        passes = (draft.tokens == tokens[row, judge]) | self.plausible(scores.logp[row, judge], draft.tokens)
        if draft.parent is None:  # where a step falls, those of its codes that pass are kept
            keeps = passes & draft.present()[..., None]
            tokens = torch.cat((draft.tokens.where(keeps, tokens[:, :-1]), tokens[:, -1:]), 1)
        return followed(draft, passes, tokens, scores.chained)


def log_prob(logp: Float[Tensor, "*rows V"], tokens: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Log-probability of each token under its law."""
    return logp.gather(-1, tokens[..., None])[..., 0]
