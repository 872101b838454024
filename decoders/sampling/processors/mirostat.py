"""A truncation that feedback moves, so that what comes is as surprising as asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.processors.base import Processor, Tracker


@dataclass(frozen=True)
class Mirostat(Processor):
    """Tokens stay whose surprise is within a bound; each step moves the bound by how far its own missed the target.

    Basu et al., "Mirostat" (arXiv 2007.14966), version 2, which cuts by surprise and needs no guess of a Zipf law. So
    the perplexity of long outputs comes to 2 ** `surprise`. Surprise is measured behind the temperature and before
    truncations; the most probable token stays always. Each codebook has a bound of its own, at first twice the target.

    Only steps that stand move the bound: not the prompt, and not what was drafted in vain. Tokens that the law had
    forbidden, as the layout may force them, don't move it either.

    Cost: a few passes over the vocabulary for each step, however long the prefix is. The laws of a draft are kept until
    it has been judged.

    Attributes:
        surprise: What is aimed at, in bits for each token; more than 0.
        rate: How much of a miss the bound takes over, in (0, 1]; the paper takes 0.1.

    Raises:
        ValueError: A setting out of its range.
    """

    surprise: float = 3.0
    rate: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.surprise < math.inf and 0 < self.rate <= 1):
            raise ValueError(
                f"surprise {self.surprise} and rate {self.rate}; expected bits, more than 0, and a share in (0, 1]"
            )

    def start(self, tokens: Int[Tensor, "R S Q"], lengths: Int[Tensor, "R"]) -> MirostatTracker:
        bound = torch.full((tokens.shape[0], tokens.shape[2]), 2 * self.surprise, device=tokens.device)
        return MirostatTracker(self, bound, None)


class MirostatTracker(Tracker):
    """Remembers the bound, and the law that the next step is drawn from, as the step's surprise is found by it."""

    def __init__(self, processor: Mirostat, bound: Float[Tensor, "R Q"], full: Float[Tensor, "R Q V"] | None):
        self.processor, self.bound, self.full = processor, bound, full
        self._past: list[tuple[Tensor, Tensor | None, Tensor]] = []  # bound and law before each step, and who moved

    def law(self, logp: Float[Tensor, "R Q V"], full: Float[Tensor, "R Q V"]) -> Float[Tensor, "R Q V"]:
        self.full = full
        kept = -full / math.log(2) <= self.bound[..., None]
        kept = kept.scatter(-1, logp.argmax(-1, keepdim=True), True)
        return logp.masked_fill(~kept, -math.inf).log_softmax(-1)

    def advance(self, tokens: Int[Tensor, "R Q"], moves: Bool[Tensor, "R"]) -> None:
        self._past.append((self.bound, self.full, moves))
        if self.full is None:
            return
        vocabulary = self.full.shape[-1]
        logp = self.full.gather(-1, tokens.clamp(0, vocabulary - 1)[..., None])[..., 0]
        miss = -logp / math.log(2) - self.processor.surprise
        counts = moves[:, None] & (tokens < vocabulary) & torch.isfinite(miss)
        self.bound = torch.where(counts, self.bound - self.processor.rate * miss, self.bound)

    def rollback(self, n: Int[Tensor, "R"]) -> None:
        for bound, full, moves in reversed(self._past):
            back = moves & (n > 0)
            self.bound = torch.where(back[:, None], bound, self.bound)
            if full is not None and self.full is not None:
                self.full = torch.where(back[:, None, None], full, self.full)
            n = n - back.long()
        self._past.clear()

    def fork(self, rows: Int[Tensor, "S"]) -> MirostatTracker:
        full = None if self.full is None else self.full[rows]
        return MirostatTracker(self.processor, self.bound[rows], full)
