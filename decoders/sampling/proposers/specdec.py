"""A draft model that stops where a trained head foretells a rejection."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.acceptance import AcceptanceHead, Verdicts
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome
from zoo.decoders.sampling.proposers.chain import Logits
from zoo.decoders.sampling.proposers.draft_model import DraftModel
from zoo.decoders.sampling.proposers.grown import at_law, estimated


class SpecDec(DraftModel):
    """Draws a chain until the chance that some step of it falls is above a threshold, by what a head says of each.

    Huang et al., "SpecDec++" (arXiv 2405.19715): where drafting and verifying cost the same each time, such a threshold
    is the best policy. `DraftModel` with `confident` has the model's own probability for a head.

    Output: identical under the rule `equal`; other rules get the laws that it drew from. Where a draft ends depends on
    its own steps, as `block` allows, too.

    Cost: that of `DraftModel`, and some small products for each drafted step.

    Args:
        model: As of `DraftModel`.
        head: Made for the model, and trained on what became of its drafts: `train_acceptance`.
        threshold: A chance, in (0, 1).
        cond: As of `DraftModel`.

    Raises:
        ValueError: A head of another shape, a threshold out of its range.
    """

    def __init__(self, model: TokenModel, head: AcceptanceHead, threshold: float = 0.5, cond: Any = None):
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold is {threshold}; expected a chance between 0 and 1")
        if head.shape[:2] != (model.info.width, model.info.codebooks):
            raise ValueError(
                f"a head for states of width {head.shape[0]} and {head.shape[1]} codebooks, a draft model of "
                f"{model.info.width} and {model.info.codebooks}; give a head that was made for it"
            )
        super().__init__(model, cond, confident=1 - threshold)
        self.head = head

    def stands(
        self, ctx: Context, logits: Logits, gumbel: Float[Tensor, "#R 1 #Q #V"], step: Int[Tensor, "R 1 Q"]
    ) -> Float[Tensor, "R"]:
        return self.head(features(ctx, self._hidden, logits, gumbel, step)).sigmoid()


class Watched(DraftModel):
    """A `DraftModel` that remembers what became of its drafts, for a head to learn from.

    Attributes:
        verdicts: Of all rounds so far, of all runs.
    """

    def __init__(self, model: TokenModel, cond: Any = None):
        super().__init__(model, cond, confident=torch.finfo(torch.float32).tiny)  # asks, and never stops
        self.verdicts: list[Verdicts] = []
        self._features: list[Tensor] = []

    def propose(self, ctx: Context, n: int) -> Draft:
        self._features = []
        return super().propose(ctx, n)

    def stands(
        self, ctx: Context, logits: Logits, gumbel: Float[Tensor, "#R 1 #Q #V"], step: Int[Tensor, "R 1 Q"]
    ) -> Float[Tensor, "R"]:
        self._features.append(features(ctx, self._hidden, logits, gumbel, step))
        return logits.new_ones(len(step))

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        super().observe(ctx, outcome)
        if self._features:
            n, place = outcome.verified.n[:, None], torch.arange(len(self._features), device=ctx.length.device)
            judged = (place <= n) & (place < outcome.draft.count[:, None])
            self.verdicts.append(Verdicts(torch.stack(self._features, 1), place < n, judged))
            self._features = []


def features(
    ctx: Context, hidden: Float[Tensor, "R D"], logits: Logits, gumbel: Float[Tensor, "#R 1 #Q #V"],
    step: Int[Tensor, "R 1 Q"],
) -> Float[Tensor, "R F"]:  # fmt: skip
    """What a head reads; see `Verdicts`."""
    chance = at_law(estimated(ctx, ctx.law.law.tempered(logits), gumbel), step)[:, 0]
    return torch.cat((hidden.float(), chance.float()), -1)
