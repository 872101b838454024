"""Look-ahead decoding: Jacobi trajectories run beside the text and leave n-grams, which are bet on when they fit."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.pool import Pool


class Lookahead(Proposer):
    """Drafts a tree: the window of trajectories, and n-grams of the pool that begin with the last known step.

    Fu et al., "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). For an
    n-gram of 4, column j of a window of width 3 holds guesses of the last three iterations, of steps one apart:

        root - 0 - 1 - 2        the oldest iterate, a chain of its own from the last known step on
               |   |   |
               3   4   5        the next one, each a step behind the one above it
               |   |   |
               6   7   8        the latest; what the target says behind each is the fourth token of an n-gram

    All n-grams go to the pool of their row. The chain is a bet, too. Columns stay where they are when steps come out;
    new ones at the far end begin as the known steps over again.

    Output: identical, as trees ask for the rule `equal`. What it gains at temperature 0 it gains in part elsewhere:
    n-grams were drawn with the noise of the steps where they were found.

    Cost: no forward pass, but the gain grows with the logarithm of the slots of each: half of the window of `decode`
    are columns, half n-grams of the pool, of ngram - 1 slots each.

    Args:
        ngram: Steps of an n-gram.
        pool: N-grams that are kept of each row, at least; the oldest go first.

    Raises:
        ValueError: N-grams of less than 2 steps, no pool.
    """

    def __init__(self, ngram: int = 3, pool: int = 256):
        if ngram < 2 or pool < 1:
            raise ValueError(f"{ngram}-grams, a pool of {pool}; expected n-grams of 2 steps or more, and 1 or more")
        self.levels, self.pool = ngram - 1, pool
        self._width: int  # W columns
        self._guesses: int  # n-grams of a round
        self._window: Int[Tensor, "R W levels Q"]  # column j, level l: a guess of the step j + l behind the known ones
        self._there: Bool[Tensor, "R W"]  # columns that hold something
        self._ngrams: Pool

    def start(self, ctx: Context) -> None:
        rows, codebooks = ctx.rows, ctx.tokens.shape[2]
        self._guesses = ctx.slots // self.levels // 2
        self._width = ctx.slots // self.levels - self._guesses
        if not self._guesses:
            raise ValueError(
                f"a window of {ctx.slots} slots; {self.levels + 1}-grams need {2 * self.levels} or more, for a column "
                "and a guess"
            )
        self._window = ctx.tokens.new_zeros(rows, self._width, self.levels, codebooks)
        self._there = torch.zeros_like(self._window[:, :, 0, 0], dtype=torch.bool)
        self._ngrams = Pool(ctx, max(self.pool, self._width), self.levels + 1)

    def propose(self, ctx: Context, n: int) -> Draft:
        device, row = ctx.length.device, torch.arange(ctx.rows, device=ctx.length.device)[:, None]
        column, level = torch.arange(self._width, device=device)[:, None], torch.arange(self.levels, device=device)
        steps = ctx.length[:, None] + (column + level).flatten()
        cards = torch.tensor(ctx.model.info.cards, device=device)
        fresh = ctx.tokens[row, steps % ctx.length[:, None]] % cards  # ids that only go in are no guess
        self._window = self._window.where(self._there[..., None, None], fresh.view_as(self._window))
        self._there = torch.ones_like(self._there)
        guesses, there = self._ngrams.behind(ctx.last, self._guesses)
        tokens = torch.cat((self._window.transpose(1, 2).flatten(1, 2), guesses.flatten(1, 2)), 1)[:, :n]
        count = (self._width + there.sum(1)) * self.levels
        return Draft(tokens, count.clamp(max=n), self._parents(device)[:n].expand(ctx.rows, -1))

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Move all trajectories on by one iteration, and keep the n-grams that they have become."""
        scores, last = outcome.scores, (self.levels - 1) * self._width + 1  # the slot of the latest iterate
        laws = scores.logp[:, last : last + self._width]
        if outcome.draft.parent is None or laws.shape[1] < self._width:  # another proposer's draft
            self._there = torch.zeros_like(self._there)
            return
        steps = scores.steps[:, last : last + self._width]
        grams = torch.cat((self._window, draw(laws, ctx.noise.gumbel(steps, *laws.shape[2:]))[:, :, None]), 2)
        self._ngrams.keep(grams)
        row = torch.arange(ctx.rows, device=laws.device)[:, None]
        column = torch.arange(self._width, device=laws.device) + outcome.count[:, None] - 1
        self._there = (column >= 0) & (column < self._width)
        self._window = grams[row, column.clamp(0, self._width - 1), 1:]

    def _parents(self, device: torch.device) -> Int[Tensor, "N"]:
        """Slots that slots follow: the levels of the window one after the other, then the guesses."""
        chain = torch.arange(-1, self._width - 1, device=device)
        below = torch.arange((self.levels - 1) * self._width, device=device)
        first = self._width * self.levels
        guess = torch.arange(first - 1, first - 1 + self._guesses * self.levels, device=device)
        guess = guess.masked_fill((guess - first + 1) % self.levels == 0, -1)
        return torch.cat((chain, below, guess))
