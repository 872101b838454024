"""Block verification: a drafted chain is judged as a whole, so that a good token makes up for a poor one before it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified


class Block(Rule):
    """Accepts as many tokens in expectation as any rule can that sees the laws along the draft, never fewer than
    `rejection`.

    Sun et al., "Block Verification Accelerates Speculative Decoding" (arXiv 2403.10444). The first i tokens stand with
    probability k_i = min(1, k_{i-1} p_i / q_i), where `rejection` has the product of all min(1, p_j / q_j). Behind them
    comes a draw from what k_i p has beyond the law of the next drafted token.

    Output: of the same distribution. How long the draft is may depend on the tokens that it has, not on the next one.
    A step of several codes counts as so many tokens, one behind the other: codes before the first that falls are kept.

    Cost: one uniform number a code, one draw of a token a row, and what p has beyond q for each code instead of one.
    """

    exactness = Exactness.DISTRIBUTION

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        codebooks, vocabulary = scores.logp.shape[2:]
        row = torch.arange(len(draft.count), device=draft.count.device)
        book = torch.arange(codebooks, device=row.device)
        place = torch.arange(draft.slots * codebooks + 1, device=row.device)
        end = draft.count[:, None] * codebooks
        logp, q = scores.logp.flatten(1, 2)[:, : len(place)], _drafted(draft, vocabulary)
        keeps = kept(logp[:, :-1], q[:, :-1], draft.tokens.flatten(1))
        # Nothing is drafted at the end: all of k p is left there, and the chance of all to stand is k, as it must be.
        left = beyond(keeps, logp.exp(), q.masked_fill((place >= end)[..., None], 0))
        passes = noise.test.uniform(scores.steps[:, :-1], codebooks).flatten(1) < chances(keeps, left)[:, 1:]
        codes = (pad(passes & (place[1:] <= end), (1, 0)) * place).amax(1)  # however many before the last fell alone
        n, code = codes // codebooks, codes % codebooks
        rest = left[row, codes].log()
        rest = torch.where(rest.isneginf().all(-1, keepdim=True), logp[row, codes], rest)
        law = torch.where((book == code[:, None])[..., None], rest[:, None], scores.logp[row, n])
        next = draw(law[:, None], noise.draw.gumbel(scores.steps[row, n][:, None], codebooks, vocabulary))[:, 0]
        next = torch.where(book < code[:, None], pad(draft.tokens, (0, 0, 0, 1))[row, n], next)
        if scores.chained:
            next = next.where(book <= code[:, None], -1)
        return Verified(n, None, next)


def kept(
    logp: Float[Tensor, "R K V"], q: Float[Tensor, "R K V"], tokens: Int[Tensor, "R K"]
) -> Float[Tensor, "R K_plus_1"]:
    """The probability k_i, given the draft, that its first i tokens stand; i from 0 on."""
    at = tokens[..., None]
    ratio = pad((logp.gather(-1, at) - q.gather(-1, at).log())[..., 0].double().cumsum(1), (1, 0))
    return (ratio - ratio.cummax(1).values).exp().float()  # log k_i = min(0, log k_{i-1} + log p_i / q_i), unrolled


def beyond(keeps: Float[Tensor, "R K"], p: Float[Tensor, "R K V"], q: Float[Tensor, "R K V"]) -> Float[Tensor, "R K V"]:
    """What k p has beyond q."""
    return (keeps[..., None] * p - q).clamp(min=0)


def chances(keeps: Float[Tensor, "R K"], left: Float[Tensor, "R K V"]) -> Float[Tensor, "R K"]:
    """With what probability the first i tokens stand if no more of them do, such that k_i stands in all."""
    mass = left.sum(-1)
    # Where k is 1 and p is q, the token behind stands for certain, and the chance here does not matter.
    return (mass / (mass + 1 - keeps)).nan_to_num(nan=1.0)


def _drafted(draft: Draft, vocabulary: int) -> Float[Tensor, "R K_plus_1 V"]:
    """Probabilities that the codes were drawn from, in line, and zeros behind the last."""
    q = one_hot(draft.tokens, vocabulary).float() if draft.logq is None else draft.logq.exp()
    return pad(q.flatten(1, 2), (0, 0, 0, 1))
