"""The default rule: draw as without a draft, and keep of the draft what was drawn."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified, known_codes, leading


class Equal(Rule):
    """A draft stands as long as it equals what sampling gives: the largest of log-probability plus keyed Gumbel noise.

    The noise depends on seed, row, step, codebook and token alone, so the output is that of sampling step by step,
    token for token, whatever drafts, trees, windows and batches are. Drafts share the noise, which makes them agree
    more
    often: with probability (1 - TV) / (1 + TV) or more for two laws of total variation TV. Daliri et al., "Coupling
    without Communication and Drafter-Invariant Speculative Decoding" (arXiv 2408.07978). At temperature 0 it is greedy
    matching.

    Cost: one uniform number and two logarithms for each slot, codebook and token.
    """

    exactness = Exactness.IDENTICAL
    trees = True
    densities = False

    def streams(self, noise: Noise, round: int) -> Streams:
        return Streams(noise, noise, noise)

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        tokens = draw(scores.logp, noise.draw.gumbel(scores.steps, *scores.logp.shape[2:]))
        row = torch.arange(len(tokens), device=tokens.device)
        found = followed(draft, draft.tokens == tokens[row[:, None], draft.before()], tokens, scores.chained)
        return found._replace(redrawn=None if scores.chained else tokens)


def followed(
    draft: Draft, passes: Bool[Tensor, "R N Q"], tokens: Int[Tensor, "R N_plus_1 Q"], chained: bool
) -> Verified:
    """The longest way along which all codes pass, and behind it the token of its last slot.

    Args:
        tokens: Drawn behind each slot; of chains, those codes that pass are the drafted ones.
        chained: See `Scores`.
    """
    stands = passes.all(-1) & draft.present()
    if draft.parent is not None:
        return _deepest(draft, stands, tokens)
    n, row = leading(stands), torch.arange(len(tokens), device=tokens.device)
    next = tokens[row, n]
    if chained:
        accepted = pad(passes, (0, 0, 0, 1))[row, n]
        next = next.where(known_codes(accepted, n < draft.count), -1)
    return Verified(n, None, next)


def _deepest(draft: Draft, stands: Tensor, tokens: Tensor) -> Verified:
    """The way to the deepest node all of whose ancestors stand; of several, the first."""
    if not draft.slots:
        return Verified(draft.count, None, tokens[:, 0])
    reach, depth = draft.ancestors(), draft.depth()
    whole = (stands[:, None] | ~reach).all(-1)
    n, last = (depth * whole).max(-1)
    row = torch.arange(len(n), device=n.device)
    # Slots of the way in order of depth come first: what is off it sorts behind.
    on_way = reach[row, last] & (n > 0)[:, None]
    path = torch.where(on_way, depth, draft.slots + 1).argsort(1)
    return Verified(n, path, tokens[row, torch.where(n > 0, last + 1, 0)])
