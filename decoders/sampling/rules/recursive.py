"""Speculative sampling for trees: siblings are tried one after the other, each against what those before it left."""

from __future__ import annotations

import torch

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.rules.base import Scores, Streams, Verified
from zoo.decoders.sampling.rules.rejection import Rejection, residual


class Recursive(Rejection):
    """A node stands with probability min(1, p / q); if it falls, p becomes what it has beyond q, and the next sibling
    is tried against that. Chains are judged as by `rejection`.

    Siblings drawn with replacement: Miao et al., "SpecInfer" (arXiv 2305.09781); without: Jeon et al., "Recursive
    Speculative Decoding" (arXiv 2402.14160), Chen et al., "Sequoia" (arXiv 2402.12374). The rule is one for all, as
    `Draft.logq` of each sibling is the law that those before it left to it. Without replacement as many siblings as
    there are tokens cannot all fall, with replacement they can.

    Output: of the same distribution. Which siblings and children there are may depend on what was drawn before them in
    the order of slots and on the noise's values, as in stochastic beam search, not on tokens that come behind.

    Cost: one uniform number a node, and the slots of the draft one after the other, with no question to the device.
    """

    trees = True

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        if draft.parent is None:
            return super().verify(draft, scores, noise)
        codebooks, vocabulary = scores.logp.shape[2:]
        if codebooks > 1:
            raise ValueError(
                f"a tree of steps of {codebooks} codes, whose joint law `recursive` does not form; draft chains, or "
                "take the rule `equal`"
            )
        row, present = torch.arange(len(draft.count), device=draft.count.device), draft.present()
        n, at, path = torch.zeros_like(row), torch.zeros_like(row), draft.parent.new_zeros(draft.parent.shape)
        law, judge = scores.logp[:, 0, 0], draft.before()
        for slot in range(draft.slots):
            token, logq = draft.tokens[:, slot, 0], None if draft.logq is None else draft.logq[:, slot, 0]
            asked = present[:, slot] & (judge[:, slot] == at)
            ratio = law[row, token]
            if logq is not None:
                ratio = ratio - logq[row, token]
                asked = asked & (logq[row, token] > -torch.inf)
            step = scores.steps[row, at][:, None]
            passes = asked & (noise.test.derive(slot).uniform(step, 1)[:, 0, 0].log() < ratio)
            law = torch.where((asked & ~passes)[:, None], residual(law, token, logq).log_softmax(-1), law)
            law = torch.where(passes[:, None], scores.logp[:, slot + 1, 0], law)
            path[row, n] = torch.where(passes, slot, path[row, n])
            n, at = n + passes, torch.where(passes, slot + 1, at)
        gumbel = noise.draw.gumbel(scores.steps[row, at][:, None], codebooks, vocabulary)
        return Verified(n, path, draw(law[:, None, None], gumbel)[:, 0])
