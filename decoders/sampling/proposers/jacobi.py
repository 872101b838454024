"""Jacobi decoding: a window of guesses, all guessed again at once from what the target said about the last ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.layouts import Layout
from zoo.decoders.layouts.base import Shape
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.noise import SlidingGumbel
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer, write_line

AXES = {"left": -1, "above": -2}


class Jacobi(Proposer):
    """Bets on the target's own guesses, which cost nothing: the laws behind the tokens of the last round that fell.

    The rule makes the method; the window slides, and `trace` tells how many tokens a forward pass gave.

    | rule | a step is guessed by | output |
    |---|---|---|
    | `equal`, temperature 0 | the most probable token: Santilli et al., arXiv 2305.10427 | identical |
    | `equal` | the noise of its place, the same in all rounds: the sampled fixed point | identical |
    | `rejection` | a fresh draw each round: speculative Jacobi decoding, Teng et al., arXiv 2410.01699 | same law |
    | `coupled`, `gumbel` | a draw coupled to the last one; see `rules.coupled` | same law |

    Each guess goes with the law that it was drawn from in this very round, which is what makes the last two exact.

    Cost: no forward pass; one draw of a token for each slot. Laws of a round, and noise that is the same in all rounds,
    are kept until the next one.

    Args:
        guess: What stands in slots of which the target has said nothing yet. "random": any token, of temperature 0 the
            first one. "last": the step before again. "left", "above": the code of the cell before along that axis of
            the grid, pictures being smooth; where there is none, any token.
        layout, shape: Of the grid, for "left" and "above". The prompt's first step is the layout's.
        block: Gauss-Seidel-Jacobi: the window never reaches beyond the next multiple of so many steps behind the
            prompt, and each such block is solved before the next one begins. None: it slides on.

    Raises:
        ValueError: Another guess; a grid without an axis, a layout without need or need without layout; a block of no
            step.
    """

    def __init__(
        self, guess: str = "random", layout: Layout | None = None, shape: Shape | None = None, block: int | None = None
    ):
        if guess not in ("random", "last", *AXES):
            raise ValueError(f"there is no guess {guess!r}; there are random, last, {', '.join(AXES)}")
        if block is not None and block < 1:
            raise ValueError(f"blocks of {block} steps; expected 1 or more, or None for a window that slides on")
        places = None
        if guess in AXES:
            if layout is None or shape is None or len(shape) < -AXES[guess]:
                raise ValueError(
                    f"the guess {guess!r} needs a layout and a shape that has this axis, not {shape}; take random or"
                    " last"
                )
            places = layout.neighbours(shape)[..., AXES[guess]]
        elif layout is not None or shape is not None:
            raise ValueError(f"the guess {guess!r} looks at no grid; leave layout and shape out")
        self.guess, self.block, self._places = guess, block, places
        self._laws: Float[Tensor, "R N Q V"] | None = None  # of the last block
        self._next: Int[Tensor, "R"]  # slot of that block whose law is that of the step that comes next
        self._redrawn: Int[Tensor, "R S Q"] | None = None  # what the rule drew from them
        self._holds: Int[Tensor, "R"]  # how many of them there are
        self._begin: Int[Tensor, "R"]
        self._near: Int[Tensor, "T Q"] | None = None  # place in `ctx.tokens.flatten(1)` that is copied; -1: none
        self._reach = 1  # steps from a code to the nearest that copies it
        self._any: Float[Tensor, "Q V"]  # the law of any token
        self._gumbel: SlidingGumbel

    def start(self, ctx: Context) -> None:
        info, device = ctx.model.info, ctx.length.device
        self._laws, self._redrawn, self._begin = None, None, ctx.length
        self._gumbel = SlidingGumbel()
        self._holds = torch.zeros_like(ctx.length)
        cards = torch.tensor(info.cards, device=device)[:, None]
        self._any = -cards.log().expand(-1, info.vocabulary)
        self._any = self._any.masked_fill(torch.arange(info.vocabulary, device=device) >= cards, -torch.inf)
        near = torch.arange(-info.codebooks, (ctx.capacity - 1) * info.codebooks, device=device).clamp(min=-1)
        self._near = near.view(-1, info.codebooks) if self.guess == "last" else None
        if self._places is not None:
            if self._places.shape[1] != info.codebooks:
                raise ValueError(
                    f"the layout has {self._places.shape[1]} slots a step, the model {info.codebooks} codebooks"
                )
            self._near = near.new_full((ctx.capacity, info.codebooks), -1)
            known = self._places[: ctx.capacity]
            self._near[: len(known)] = known.to(device)
            steps = torch.arange(ctx.capacity, device=device)[:, None] - self._near // info.codebooks
            self._reach = int(steps[self._near >= 0].min()) if (self._near >= 0).any() else ctx.capacity

    def propose(self, ctx: Context, n: int) -> Draft:
        n = min(n, int(ctx.room.max()) - 1)
        slot = torch.arange(n, device=ctx.length.device)
        steps, row = ctx.length[:, None] + slot, torch.arange(ctx.rows, device=slot.device)[:, None]
        holds = (slot < self._holds[:, None])[..., None].expand(-1, -1, len(self._any))
        # Before this the rule drew for all rows; laws are large, and looked at where they are needed.
        drawn = 0 if self._redrawn is None else min(n, max(0, int(self._holds.min())))
        first = 0 if ctx.densities else drawn
        laws = self._any.expand(ctx.rows, n - first, -1, -1)
        if self._laws is not None:
            index = (self._next[:, None] + slot).clamp(max=self._laws.shape[1] - 1)
            if n > first:
                laws = torch.where(holds[:, first:, :, None], self._laws[row, index[:, first:]], laws)
        tokens = draw(laws[:, drawn - first :], self._gumbel(ctx.noise, steps[:, drawn:], *laws.shape[2:]))
        if self._redrawn is not None:
            redrawn = self._redrawn[row, index]
            tokens = torch.where(holds, redrawn, torch.cat((redrawn[:, :drawn], tokens), 1))
        tokens = ctx.fix(tokens, steps)
        if self._near is not None:
            tokens, copied = self._copied(ctx, tokens, steps, holds, self._near)
            if ctx.densities:
                own = tokens.clamp(max=laws.shape[-1] - 1)[..., None]
                certain = torch.full_like(laws, -torch.inf).scatter_(-1, own, 0)
                laws = torch.where(copied[..., None], certain, laws)
        count = torch.full_like(ctx.length, n)
        if self.block is not None:  # the last step of a block comes behind the draft
            count = (self.block - 1 - (ctx.length - self._begin) % self.block).clamp(max=n)
        return Draft(tokens, count, None, laws if ctx.densities else None)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        """Keep the laws of what lies behind the steps that came out."""
        self._laws, self._redrawn, self._next = outcome.scores.logp, outcome.verified.redrawn, outcome.count
        self._holds = outcome.draft.count + 1 - outcome.count
        if outcome.draft.parent is not None:  # another proposer's tree, whose slots are no line of steps
            self._holds = torch.zeros_like(self._holds)

    def _copied(
        self,
        ctx: Context,
        tokens: Int[Tensor, "R N Q"],
        steps: Int[Tensor, "R N"],
        holds: Bool[Tensor, "R N Q"],
        near: Int[Tensor, "T Q"],
    ) -> tuple[Int[Tensor, "R N Q"], Bool[Tensor, "R N Q"]]:
        """Slots of which nothing is known copy a code that may itself have been copied; and which did."""
        copied, first = torch.zeros_like(holds), int(self._holds.clamp(0, tokens.shape[1]).min())
        fresh = steps[:, first:]
        if not fresh.shape[1]:
            return tokens, copied
        line, row = ctx.tokens.clone(), torch.arange(ctx.rows, device=tokens.device)[:, None]
        write_line(line, ctx.length, tokens)
        place, drawn, free = near[fresh], tokens[:, first:], ~holds[:, first:]
        free = free & (place >= 0)
        if (forced := ctx.forced_at(fresh)) is not None:
            free &= forced < 0
        cards = torch.tensor(ctx.model.info.cards, device=tokens.device)
        place = place.clamp(min=0).flatten(1)
        for _ in range(-(-fresh.shape[1] // self._reach)):  # each time copies reach that much further
            source = line.flatten(1).gather(1, place).view_as(drawn)
            copied[:, first:] = free & (source < cards)  # ids that only go in are no guess
            line[row, fresh] = torch.where(copied[:, first:], source, drawn)
        return torch.cat((tokens[:, :first], line[row, fresh]), 1), copied
