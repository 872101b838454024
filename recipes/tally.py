"""What validation asks of a decoder of tokens, and the cross-entropy that it counts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo.decoders.layouts import Layout
from zoo.recipes.metrics import Score

IGNORED = -100  # a target that is none
LOG2 = math.log(2)


class Foretold(NamedTuple):
    """What validation measures.

    Attributes:
        logits: float32, of what is asked.
        targets: int64, what came; `IGNORED` where nothing is asked.
        weight: What a target of each row counts; None: 1.
    """

    logits: Float[Tensor, "R M S V"]
    targets: Int[Tensor, "R M S"]
    weight: Float[Tensor, "R"] | None = None

    @property
    def nats(self) -> Float[Tensor, "R M S"]:
        """Cross-entropy of each target."""
        return cross_entropy(self.logits.permute(0, 3, 1, 2), self.targets, reduction="none")


class Measured(NamedTuple):
    """The same of decoders that have no logits for a single code, but know what each row costs: its targets' shares."""

    nats: Float[Tensor, "R M S"]
    targets: Int[Tensor, "R M S"]
    weight: Float[Tensor, "R"] | None = None


class Tally:
    """Nats, targets and bytes of a validation, for each slot of a layout's steps."""

    def __init__(self, layout: Layout):
        self.slots = len(layout.slots)
        self.sums = torch.zeros(3, self.slots, dtype=torch.float64)

    def add(
        self,
        logits: Float[Tensor, "R M S V"],
        targets: Int[Tensor, "R M S"],
        sizes: Int[Tensor, "V"] | None = None,
        weight: Float[Tensor, "R"] | None = None,
    ) -> None:
        """As `count`, of logits."""
        self.count(Foretold(logits, targets).nats, targets, sizes, weight)

    @torch.no_grad()
    def count(
        self,
        nats: Float[Tensor, "R M S"],
        targets: Int[Tensor, "R M S"],
        sizes: Int[Tensor, "V"] | None = None,
        weight: Float[Tensor, "R"] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            nats: What each target costs.
            sizes: Bytes of each token, for text.
            weight: What a target of each row counts; default: 1.
        """
        known = targets != IGNORED
        amount = torch.zeros_like(targets) if sizes is None else sizes.to(targets.device)[targets.clamp(min=0)] * known
        parts = torch.stack([part.sum(1).double() for part in (nats, known, amount)])
        self.sums += (parts if weight is None else parts * weight[:, None]).sum(1).cpu()

    def take(self) -> dict[str, Score]:
        """Nats of each codebook, bits of a code, and of text bits of a byte, by `metric/label`; then begin anew."""
        nats, count, amount = self.sums
        asked = [q for q in range(self.slots) if count[q]]
        scores = {f"cross_entropy/codebook {q}": Score(float(nats[q] / count[q])) for q in asked}
        scores["bits/code"] = Score(float(nats.sum() / count.sum() / LOG2))
        if amount.sum():
            scores["bits/byte"] = Score(float(nats.sum() / amount.sum() / LOG2))
        self.sums = torch.zeros_like(self.sums)
        return scores
