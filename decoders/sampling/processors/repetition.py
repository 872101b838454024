"""Tokens that came before become less probable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.processors.base import PrefixProcessor, seen


@dataclass(frozen=True)
class RepetitionPenalty(PrefixProcessor):
    """Positive logits of tokens that stand in the prefix are divided, negative ones multiplied, by `penalty`.

    Keskar et al., "CTRL" (arXiv 1909.05858). With a window it forgets: "Penalty Decoding" (Zhu et al., EMNLP 2023).
    Each codebook has its own tokens.

    Cost: for each step, the tokens of the prefix are counted in a table of the vocabulary: time grows with the prefix,
    with a window, too.

    Attributes:
        penalty: Above 1 discourages, below 1 encourages; CTRL takes 1.2.
        window: How many of the last steps count; None: all, the prompt included.

    Raises:
        ValueError: A penalty or window that is not positive.
    """

    penalty: float = 1.2
    window: int | None = None

    def __post_init__(self) -> None:
        if self.penalty <= 0 or (self.window is not None and self.window < 1):
            raise ValueError(f"penalty {self.penalty} and window {self.window} must be positive; penalty 1 is none")

    def logits(
        self, logits: Float[Tensor, "R Q V"], tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]
    ) -> Float[Tensor, "R Q V"]:
        repeated = seen(tokens, lengths, logits.shape[-1], self.window) > 0
        return torch.where(repeated, torch.where(logits > 0, logits / self.penalty, logits * self.penalty), logits)
