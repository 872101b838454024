"""No run of tokens comes twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.processors.base import PrefixProcessor, counted


@dataclass(frozen=True)
class NoRepeat(PrefixProcessor):
    """Forbids tokens that would end a run of `length` tokens which stood before in the same codebook.

    Paulus et al., "A Deep Reinforced Model for Abstractive Summarization" (arXiv 1705.04304), who take runs of 3. Where
    every token is forbidden, the law has nothing left and says so.

    Cost: for each step, every run of the prefix is compared with its end, and what followed is counted in a table of
    the vocabulary: time grows with the prefix.

    Attributes:
        length: At least 1, which forbids every token that came before, those of the prompt included.

    Raises:
        ValueError: A length below 1.
    """

    length: int = 3

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"runs of {self.length} tokens; expected at least 1")

    def logits(
        self, logits: Float[Tensor, "R Q V"], tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]
    ) -> Float[Tensor, "R Q V"]:
        if tokens.shape[1] < self.length:
            return logits
        runs = tokens.unfold(1, self.length, 1)  # [R, runs, Q, length]
        there = torch.arange(runs.shape[1], device=tokens.device) + self.length <= lengths[:, None]
        before = torch.arange(1 - self.length, 0, device=tokens.device)
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        last = tokens[row, (lengths[:, None] + before).clamp(min=0)].mT[:, None]
        begins_alike = (runs[..., :-1] == last).all(-1) & there[..., None]
        return logits.masked_fill(counted(runs[..., -1], begins_alike, logits.shape[-1]) > 0, -torch.inf)
