"""Masked decoding step by step, as functions: what is asked, what of it is kept, and what the grid is then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.base import DecoderInfo, Output
from zoo.decoders.sampling.choosers import Chooser, View
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.schedules import Schedule, places_left

_DRAW, _CHOOSE = 4, 5  # names of streams, others than those of rules


class Stage(NamedTuple):
    """A step of the loop.

    Attributes:
        level: bool `[Q]`, the codebooks that it fills.
        step, count: Its number within their level, and how many steps that has.
    """

    level: Bool[Tensor, "Q"]
    step: int
    count: int


class Grid(NamedTuple):
    """What stands between two steps.

    Attributes:
        codes: int64 `[R, S, Q]`, -1 where nothing has stood yet.
        filled: bool `[R, S, Q]`, places that were filled, and not known from the start; others are open.
        logp: float32 `[R, S, Q]`, log-probability of each code under the law that it was drawn from.
        confidence: float32 `[R, S, Q]`, the same by the model at temperature 1.
        first: int64 `[R]`, places that were open before the first step of the level.
    """

    codes: Int[Tensor, "R S Q"]
    filled: Bool[Tensor, "R S Q"]
    logp: Float[Tensor, "R S Q"]
    confidence: Float[Tensor, "R S Q"]
    first: Int[Tensor, "R"]


@dataclass(frozen=True)
class Filling:
    """What stays the same from step to step; see `decode_masked`.

    The next grid is a function of the number of the step, of the grid and of what the model says of it: steps may be
    tried out, and taken again, with the same outcome.

    Attributes:
        info: Of the model.
        known: bool `[R, S, Q]`, places that held a token from the start.
        inside: bool `[R, S]`, places that each row has.
        stages, laws: Of each step.
        positions: Of the places, `[R, S, axes]`, where the model needs them.
        checked: Look at values.
    """

    info: DecoderInfo
    known: Bool[Tensor, "R S Q"]
    inside: Bool[Tensor, "R S"]
    stages: Sequence[Stage]
    laws: Sequence[Law]
    noise: Noise
    schedule: Schedule
    chooser: Chooser
    positions: Int[Tensor, "R S *axes"] | None
    checked: bool

    def begin(self, codes: Int[Tensor, "R S Q"]) -> Grid:
        """Before the first step."""
        none = torch.zeros(codes.shape, device=codes.device)
        return Grid(codes, torch.zeros_like(self.known), none, none, torch.zeros_like(codes[:, 0, 0]))

    def open(self, grid: Grid, number: int) -> Bool[Tensor, "R S Q"]:
        """Places that step may fill."""
        return self.inside[..., None] & ~self.known & ~grid.filled & self.stages[number].level

    def tokens(self, grid: Grid) -> Int[Tensor, "R S Q"]:
        """What the model is asked: the codes, open places as the mask token."""
        masked = torch.tensor(self.info.cards, device=grid.codes.device)
        return grid.codes.where(self.known | grid.filled, masked).where(self.inside[..., None], 0)

    def step(self, grid: Grid, output: Output, number: int) -> Grid:
        """The grid behind that step.

        Args:
            output: Of the model, for `tokens(grid)`, the rows once for each stream of the law.

        Raises:
            ValueError: A chooser that breaks its promise; NaN logits.
        """
        stage = self.stages[number]
        view = self.view(grid, output, number)
        last = stage.step + 1 == stage.count
        kept = view.open | grid.filled if last else self._kept(view) | (grid.filled & ~stage.level)
        new = kept & view.open
        return Grid(
            torch.where(new, view.candidates, grid.codes),
            kept,
            torch.where(new, view.log_prob(view.logp), grid.logp),
            torch.where(new, view.confidence, grid.confidence),
            self._first(grid, number),
        )

    def asks(self, number: int) -> int:
        """Forward passes of other models in that step: in the last one of a level, the chooser is not asked."""
        stage = self.stages[number]
        return 0 if stage.step + 1 == stage.count else self.chooser.forwards

    def view(self, grid: Grid, output: Output, number: int) -> View:
        """What the chooser sees in that step."""
        (level, step, count), law, tokens = self.stages[number], self.laws[number], self.tokens(grid)
        is_open, first = self.open(grid, number), self._first(grid, number)
        running = law.start(tokens, checked=self.checked)
        logits = running.combine(output.logits)
        laws = running(logits)
        at = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        gumbel = (Quiet() if law.certain else self.noise.derive(_DRAW, number)).gumbel(at, *laws.shape[2:])
        candidates = torch.where(is_open, draw(laws, gumbel), grid.codes.where(self.known | grid.filled, -1))
        sure = logits.log_softmax(-1).gather(-1, candidates.clamp(min=0)[..., None])[..., 0]
        progress = (step + 1) / count
        return View(
            tokens=tokens,
            inside=self.inside,
            positions=self.positions,
            candidates=candidates,
            open=is_open,
            filled=grid.filled,
            level=level,
            left=places_left(self.schedule, progress, first, is_open.flatten(1).sum(1)),
            logits=logits,
            law=law,
            logp=laws,
            gumbel=gumbel,
            confidence=torch.where(is_open, sure, grid.confidence),
            hidden=output.hidden[: len(tokens)],
            progress=progress,
            noise=self.noise.derive(_CHOOSE, number),
        )

    def _first(self, grid: Grid, number: int) -> Int[Tensor, "R"]:
        return grid.first if self.stages[number].step else self.open(grid, number).flatten(1).sum(1)

    def _kept(self, view: View) -> Bool[Tensor, "R S Q"]:
        kept, name = self.chooser.choose(view), type(self.chooser).__name__
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != view.open.shape:
            given = f"{kept.dtype} {list(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
            raise ValueError(f"{name} chose by {given}; a chooser must return bool {list(view.open.shape)}")
        if (kept & ~(view.open | view.filled)).any():
            raise ValueError(f"{name} keeps places that are known, outside the row, or of another level")
        return kept


def stages(steps: int | Sequence[int], codebooks: int, device: torch.device) -> list[Stage]:
    """Of so many steps for all codebooks together, or for each in turn."""
    if isinstance(steps, int):
        every = torch.ones(codebooks, dtype=torch.bool, device=device)
        return [Stage(every, step, steps) for step in range(steps)]
    level = torch.eye(codebooks, dtype=torch.bool, device=device)
    return [Stage(level[book], step, count) for book, count in enumerate(steps) for step in range(count)]
