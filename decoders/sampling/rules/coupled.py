"""Speculative sampling for Jacobi windows: what is drawn anew behind a rejection is tied to what stood there.

A window converges as soon as its tokens stop changing, so the redraw should change as few as the law allows. Teng et
al., "Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi Decoding" (arXiv
2410.01699), draw all of them afresh, which is `Jacobi` under `rejection`; the rules here couple the draws.

Why the output keeps its law: look at one step, all steps before it given. They determine every law q that this step
was ever drawn from, and the round in which it comes out; the noise of this step is its own. So what stands in the
window is drawn from the q of the last round, whatever it was coupled to, and `rejection` turns that into a draw from p.
Two things break it: to call an older law q for a token that was kept, and a draft whose law of a step depends on what
was drafted for that step itself or behind it. Those of `Jacobi` and `DraftModel` depend on the steps before it alone.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.rules.base import Scores, Streams, Verified
from zoo.decoders.sampling.rules.rejection import Rejection, residual, tested


class Coupled(Rejection):
    """Maximal coupling: behind a rejection, too, a token stays with probability min(1, p / q), else it is redrawn from
    what p has beyond q. No coupling of two draws changes fewer of them.

    The law of every redraw is p, so p is the q of the next round. For proposers that keep no window it is `rejection`.

    Cost: that of `rejection`, and one draw of a token for each slot.
    """

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        found = super().verify(draft, scores, noise)
        laws, tokens, stays = scores.logp, draft.tokens, draft.present()[..., None]
        if draft.slots:
            left = residual(laws[:, :-1], tokens, draft.logq)
            laws = torch.cat((torch.where(stays[..., None], left, laws[:, :-1]), laws[:, -1:]), 1)
            stays = stays & tested(draft, scores, noise.test)
        redrawn = draw(laws, noise.draw.gumbel(scores.steps, *laws.shape[2:]))
        return found._replace(redrawn=torch.where(pad(stays, (0, 0, 0, 1)), pad(tokens, (0, 0, 0, 1)), redrawn))


class GumbelCoupled(Rejection):
    """Gumbel coupling: drafts of a step share their noise through all rounds, so that like laws give like tokens.

    A token stays with probability (1 - TV) / (1 + TV) or more. Tests and residuals have noise of their own, new in each
    round, or the output would lose its law.

    Cost: that of `rejection`.
    """

    def streams(self, noise: Noise, round: int) -> Streams:
        return super().streams(noise, round)._replace(draft=super().streams(noise, 0).draft)
