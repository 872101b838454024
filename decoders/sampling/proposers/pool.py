"""N-grams of each row, found by the step that they begin with."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.sampling.proposers.base import Context


class Pool:
    """The latest n-grams of each row; the oldest go first.

    Args:
        ctx: Of the run that begins.
        size: Most n-grams of a row; no fewer than ever come at once.
        ngram: Steps of each.
    """

    def __init__(self, ctx: Context, size: int, ngram: int):
        self._ngrams: Int[Tensor, "R P ngram Q"] = ctx.tokens.new_zeros(ctx.rows, size, ngram, ctx.tokens.shape[2])
        self._age: Int[Tensor, "R P"] = torch.zeros_like(self._ngrams[:, :, 0, 0])  # larger is younger; 0: empty
        self._young = 0

    def behind(self, step: Int[Tensor, "R Q"], most: int) -> tuple[Int[Tensor, "R K rest Q"], Bool[Tensor, "R K"]]:
        """What follows in the latest n-grams that begin with that step, and which of them are there: the first ones."""
        fits = (self._ngrams[:, :, 0] == step[:, None]).all(-1)
        found = self._age.where(fits, 0).topk(most)
        row = torch.arange(len(step), device=step.device)[:, None]
        return self._ngrams[row, found.indices, 1:], found.values > 0

    def keep(self, grams: Int[Tensor, "R W ngram Q"], there: Bool[Tensor, "R W"] | None = None) -> None:
        """Put n-grams into the places of the oldest ones; what is there already only becomes young again."""
        width = grams.shape[1]
        places = torch.arange(self._young, self._young + width, device=grams.device)
        flat = grams.flatten(2)
        known = (flat[:, :, None] == self._ngrams.flatten(2)[:, None]).all(-1)
        again = (flat[:, :, None] == flat[:, None]).all(-1)  # a later one is the same
        if there is not None:
            known, again = known & there[..., None], again & there[:, None]
        again = again.triu(1).any(-1)
        self._age = self._age.masked_fill(known.any(1), 0)
        self._ngrams[:, places % self._age.shape[1]] = grams
        age = (places + 1).masked_fill(again if there is None else again | ~there, 0)
        self._age[:, places % self._age.shape[1]] = age
        self._young += width
