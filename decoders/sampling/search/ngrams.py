"""A small language model of counts, for searches that need a second opinion."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class NGrams:
    """How often each token follows the last tokens, blended from long contexts to short ones.

    Witten and Bell's blend (1991): in a context seen c times with d different tokens behind it, the counts weigh
    c / (c + d) and the context that is a token shorter the rest; behind the shortest, all tokens are as probable.

    Args:
        texts: Tokens to count.
        vocabulary: V.
        order: Longest n-gram; contexts have up to order - 1 tokens.

    Raises:
        ValueError: An order below 1.
    """

    def __init__(self, texts: Iterable[Sequence[int]], vocabulary: int, order: int = 6):
        if order < 1:
            raise ValueError(f"n-grams of {order} tokens; expected at least 1")
        self.vocabulary, self.order = vocabulary, order
        self._behind: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            line = tuple(text)
            for place, token in enumerate(line):
                for size in range(min(order - 1, place) + 1):
                    self._behind[line[place - size : place]][token] += 1

    def logp(self, context: Sequence[int]) -> Float[Tensor, "V"]:
        """float32 log-probabilities of the next token; none is impossible."""
        p = torch.full((self.vocabulary,), 1 / self.vocabulary, dtype=torch.float64)
        for size in range(min(self.order - 1, len(context)) + 1):
            counts = self._behind.get(tuple(context[len(context) - size :]))
            if counts is None:
                break
            p *= len(counts) / (counts.total() + len(counts))
            for token, count in counts.items():
                p[token] += count / (counts.total() + len(counts))
        return p.log().float()
