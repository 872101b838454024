"""Speculative sampling: accept a drafted token with probability min(1, p / q), else draw from what p has beyond q."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified, known_codes, leading


class Rejection(Rule):
    """Accepts as often as any rule can that looks at one token at a time: with probability 1 - TV(p, q).

    Leviathan et al. (arXiv 2211.17192); Chen et al. (arXiv 2302.01318). Each codebook is judged by itself, a step
    stands if all its codes do; where one falls, the codes of that step which stand are kept and the others drawn anew,
    which keeps the law, as codes are independent given the past. Where they depend on each other, codes behind the
    first that falls are drawn anew.

    Cost: one uniform number a code, and one draw of a token a row.
    """

    exactness = Exactness.DISTRIBUTION

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        rows, slots, codebooks, vocabulary = scores.logp.shape
        row = torch.arange(rows, device=scores.logp.device)
        gumbel = noise.draw.gumbel
        if not draft.slots:
            next = draw(scores.logp, gumbel(scores.steps, codebooks, vocabulary))[:, 0]
            if scores.chained:
                none = torch.zeros_like(next, dtype=torch.bool)
                next = next.where(known_codes(none, none[:, 0]), -1)
            return Verified(draft.count, None, next)
        passes = tested(draft, scores, noise.test)
        n = leading(passes.all(-1) & draft.present())
        drafted = n < draft.count
        at = n.clamp(max=draft.slots - 1)
        token, law = draft.tokens[row, at], scores.logp[row, n]
        rest = residual(law, token, None if draft.logq is None else draft.logq[row, at])
        law = torch.where(drafted[:, None, None], rest, law)
        next = draw(law, gumbel(scores.steps[row, n][:, None], codebooks, vocabulary)[:, 0])
        accepted = passes[row, at] & drafted[:, None]
        next = torch.where(accepted, token, next)
        if scores.chained:
            next = next.where(known_codes(accepted, drafted), -1)
        return Verified(n, None, next)


def tested(draft: Draft, scores: Scores, noise: Noise) -> Bool[Tensor, "R N Q"]:
    """Which codes of a chain pass, each by itself: with probability min(1, p / q)."""
    ratio = _at(scores.logp[:, :-1], draft.tokens)  # log p / q
    if draft.logq is not None:
        ratio = ratio - _at(draft.logq, draft.tokens)
    return noise.uniform(scores.steps[:, :-1], draft.tokens.shape[2]).log() < ratio


def residual(
    logp: Float[Tensor, "*rows V"], token: Int[Tensor, "*rows"], logq: Float[Tensor, "*rows V"] | None
) -> Float[Tensor, "*rows V"]:
    """Logarithm, up to a constant, of what is left of p once a token drawn from q was rejected: max(0, p - q).

    Args:
        token: The rejected token.
        logq: None: the token was certain.

    Where p equals q up to rounding nothing is left, and a rejection is rounding too: then p itself.
    """
    if logq is None:
        left = logp.scatter(-1, token[..., None], -torch.inf)
    else:
        left = (logp.exp() - logq.exp()).clamp(min=0).log()
    return torch.where(left.isneginf().all(-1, keepdim=True), logp, left)


def _at(logp: Tensor, tokens: Tensor) -> Tensor:
    return logp.gather(-1, tokens[..., None])[..., 0]
