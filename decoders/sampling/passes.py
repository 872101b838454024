"""What the model says of a grid, by one forward pass; or by none, if it was asked ahead of time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.base import Output, TokenModel
from zoo.decoders.sampling.filling import Filling, Grid


class Answer(NamedTuple):
    """What the model says of a grid, and the passes that it took: of the model, and of those that the chooser asks."""

    output: Output
    target: int
    draft: int


class Passes:
    """One pass for each grid.

    Args:
        rows: R.
        copies: Streams of the law.
        cond: Rows of all streams.
        mask: bool `[R, S, S]`, what each place sees; default: all, or what lies before it.
        slots: S, of which the state has room, so that a prefix of conditions is run once; 0: a state without memory.
    """

    def __init__(
        self,
        model: TokenModel,
        rows: int,
        copies: int,
        cond: Any,
        mask: Bool[Tensor, "R S S"] | None,
        slots: int = 0,
    ) -> None:
        self.model, self.rows, self.copies, self.mask = model, rows, copies, mask
        self.state = model.init_state(rows * copies, slots, cond)

    def ask(self, filling: Filling, grid: Grid, number: int) -> Answer:
        """Of the grid before the step of that number."""
        return Answer(self.run([filling.tokens(grid)], filling.positions), 1, 0)

    def run(self, grids: list[Int[Tensor, "R S Q"]], positions: Tensor | None) -> Output:
        """Of several grids in one pass, one behind the other, each with the rows of all streams."""
        state = self.state
        if len(grids) > 1:
            rows = torch.arange(self.rows * self.copies, device=grids[0].device)
            state = state.select(rows.repeat(len(grids)))
        copies = len(grids) * self.copies
        tokens = torch.cat([copied(tokens, self.copies) for tokens in grids])
        mask = None if self.mask is None else copied(self.mask, copies)
        return self.model(tokens, repeated(positions, self.rows, copies), state, mask)


class Ahead(Passes):
    """Self-speculation: the model drafts the next steps itself, and is asked what comes behind them in the same pass.

    Gao et al., "Self speculative decoding for diffusion large language models" (arXiv 2510.04147). What the model said
    of the last grid takes the next steps, as far as it goes, with the law, noise and chooser of these steps; the true
    grid and those drafts make one batch. As long as true steps come out as drafted, no further pass is needed.

    Exact: a step is only ever taken from what the model says of the very grid that stands there, and a step is a
    function of both. The tokens are those without drafts, up to float rounding.

    Cost: a pass has `ahead` + 1 times the rows, which a processor with idle units hardly feels and a busy one does. It
    pays where steps fill few places and the law is sharp: a draft stands if all of a step's tokens were foreseen. All
    rows of a batch are asked again as soon as one of them has to be.
    """

    def __init__(
        self, model: TokenModel, rows: int, copies: int, cond: Any, mask: Bool[Tensor, "R S S"] | None, ahead: int
    ) -> None:
        super().__init__(model, rows, copies, cond, mask)
        self.ahead = ahead
        self._asked: Int[Tensor, "W R S Q"] | None = None  # grids of the last pass
        self._said: Output | None = None  # of these, `[W x C x R, ...]`
        self._last: Output | None = None  # of the grid before this one

    def ask(self, filling: Filling, grid: Grid, number: int) -> Answer:
        target, draft, tokens = 0, 0, filling.tokens(grid)
        which = self._foreseen(tokens, filling.open(grid, number).flatten(1).any(1))
        if which is None:
            drafts, draft = self._drafts(filling, grid, number)
            self._asked = torch.stack([tokens, *drafts])
            self._said = self.run(list(self._asked), filling.positions)
            which = torch.zeros(self.rows, dtype=torch.int64, device=tokens.device)
            target = 1
        self._last = self._of(which)
        return Answer(self._last, target, draft)

    def _foreseen(self, tokens: Tensor, waiting: Bool[Tensor, "R"]) -> Int[Tensor, "R"] | None:
        """Which of the grids of the last pass each row's is; None if one of the rows that wait was not asked about."""
        if self._asked is None:
            return None
        same = (self._asked == tokens).flatten(2).all(2)
        return same.int().argmax(0) if (same.any(0) | ~waiting).all() else None

    def _drafts(self, filling: Filling, grid: Grid, number: int) -> tuple[list[Int[Tensor, "R S Q"]], int]:
        """Grids of the next steps, as far as the last answer foretells them, and passes of models that choosers ask."""
        drafts: list[Tensor] = []
        asked = 0
        for later in range(number, len(filling.stages) - 1):
            if self._last is None or len(drafts) == self.ahead:
                break
            if filling.open(grid, later).any():
                grid = filling.step(grid, self._last, later)
                drafts.append(filling.tokens(grid))
                asked += filling.asks(later)
        return drafts, asked

    def _of(self, which: Int[Tensor, "R"]) -> Output:
        assert self._said is not None
        row = torch.arange(self.copies * self.rows, device=which.device)
        index = copied(which, self.copies) * len(row) + row
        return Output(*(part[index] for part in self._said))


def copied(x: Tensor, copies: int) -> Tensor:
    """One copy of the rows for each stream."""
    return x.repeat(copies, *[1] * (x.ndim - 1))


def repeated(positions: Tensor | None, rows: int, copies: int) -> Tensor | None:
    """Positions of all rows of all streams."""
    return None if positions is None else copied(positions.expand(rows, *positions.shape[1:]), copies)
