"""Layouts that go through a grid frame by frame or cell by cell, with several steps for each or several in a step."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.layouts.base import Layout, Shape, Special, Table


@dataclass(frozen=True)
class Parallel(Layout):
    """A frame or cell a step, in reading order, its codes independent given the frames before: T steps.

    With one codebook this is text, a row of image tokens (TiTok), or any sequence.
    """

    def table(self, shape: Shape) -> Table:
        return reading_order(shape, len(self.sizes))


@dataclass(frozen=True)
class Raster(Parallel):
    """A picture, cell by cell and row by row, its codes independent given the cells before: HW steps.

    As in LlamaGen (Sun et al., "Autoregressive Model Beats Diffusion", arXiv 2406.06525); with the ends of rows and of
    the grid, as in Lumina-mGPT (Liu et al., arXiv 2408.02657), H + 1 steps more. Positions are row and column.

    Attributes:
        row_end: Behind each row there is a step of end-of-row tokens, in one more column.
        grid_end: Behind all rows there is a step of end-of-grid tokens, in one more row.
    """

    _: KW_ONLY
    row_end: bool = False
    grid_end: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end:
            raise ValueError("pictures don't decide upon their size; for a token behind the last row, set grid_end")

    @property
    def axes(self) -> int:
        return 2

    @property
    def specials(self) -> int:
        last = Special.GRID_END if self.grid_end else Special.ROW_END if self.row_end else None
        return super().specials if last is None else 1 + last

    def table(self, shape: Shape) -> Table:
        height, width = shape
        columns = width + self.row_end
        ends = torch.full((height, 1), -1)
        cells = torch.arange(prod(shape)).view(shape)
        cells = (torch.cat([cells, ends], 1) if self.row_end else cells).flatten()
        positions = unravel((height, columns))
        special = torch.full_like(cells, Special.ROW_END)
        if self.grid_end:
            cells = torch.cat([cells, torch.tensor([-1])])
            special = torch.cat([special, torch.tensor([Special.GRID_END])])
            positions = torch.cat([positions, torch.tensor([[height, 0]])])
        slots = len(self.sizes)
        return Table(of_all(cells, slots), positions, special=of_all(special, slots))


@dataclass(frozen=True)
class Flat(Layout):
    """One code a step, coarse to fine, frame by frame: TK steps.

    The slots of all other codebooks hold padding, so that each codebook keeps its head. Positions are those of the
    frame, and the codebook. Borsos et al., "AudioLM" (arXiv 2209.03143), within one of its stages.
    """

    def table(self, shape: Shape) -> Table:
        slots = len(self.sizes)
        frame, codebook = unravel((prod(shape), slots)).unbind(1)
        cells = torch.where(codebook[:, None] == torch.arange(slots), frame[:, None], -1)
        return Table(cells, torch.cat([unravel(shape)[frame], codebook[:, None]], 1))


@dataclass(frozen=True)
class Delay(Layout):
    """Each codebook comes some steps later than the one before, so that a code knows the coarser ones: T + K - 1 steps.

    The codes of a step belong to different frames and are independent given the steps before. Copet et al., "Simple
    and Controllable Music Generation" (arXiv 2306.05284).

    Attributes:
        delays: Steps that each codebook is late, from 0, never falling; T + delays[-1] steps. (): 0, 1, .. K - 1.
    """

    _: KW_ONLY
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        delays = self.shifts
        if len(delays) != len(self.sizes) or delays[0] != 0 or list(delays) != sorted(delays):
            raise ValueError(
                f"delays {delays}: expected one for each of {len(self.sizes)} codebooks, from 0 and never falling, as "
                "codes must not come before coarser ones"
            )

    @property
    def shifts(self) -> tuple[int, ...]:
        """The delay of each codebook."""
        return self.delays or tuple(range(len(self.sizes)))

    @property
    def axes(self) -> int | None:
        return 1 if self.shifts[-1] else super().axes

    def table(self, shape: Shape) -> Table:
        if not self.shifts[-1]:
            return reading_order(shape, len(self.sizes))
        return Table(*delayed(torch.arange(prod(shape)), self.shifts))


@dataclass(frozen=True)
class FrameDepth(Delay):
    """A frame or cell a step, whose codes are sampled one after the other by a small transformer: T steps.

    Lee et al., "Autoregressive Image Generation using Residual Quantization" (arXiv 2203.01941), the RQ-transformer;
    with Moshi's acoustic delay (Défossez et al., arXiv 2410.00037), `delays=(0, 1, 1, ...)`, T + 1 steps.

    Attributes:
        delays: As in `Delay`, but (): none. Of pictures, none is possible.
    """

    @property
    def shifts(self) -> tuple[int, ...]:
        return self.delays or (0,) * len(self.sizes)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(range(len(self.sizes)))


@dataclass(frozen=True)
class StackDelay(Layout):
    """Codebooks come one step after another, as in `Delay`, through frames in an interleaved order: T + K - 1 steps.

    After Le Lan et al., "Stack-and-Delay: a new codebook pattern for music generation" (arXiv 2309.08804), of which we
    know what the abstract says: one stream for each codebook, frames in a permuted order, about as fast as the delay
    layout. The order here and its count of steps are ours, the plainest that keep a code from being decoded while a
    neighbour of its frame is half done: the frames are cut into K parts of (nearly) the same length, and their first
    frames come first, then their second ones, and so on. From 3K frames on, neighbours are at least K steps apart. The
    order depends on T, so it must be known in advance: there is no end token.

    Positions are the frame that the step begins, and steps go on counting behind the last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end:
            raise ValueError("stack-and-delay must know the number of frames in advance: it can't have an end token")

    @property
    def axes(self) -> int:
        return 1

    def table(self, shape: Shape) -> Table:
        parts = len(self.sizes)
        length, longer = divmod(shape[0], parts)
        lengths = torch.full((parts,), length) + (torch.arange(parts) < longer)
        turn = torch.arange(length + 1)[:, None]
        order = (lengths.cumsum(0) - lengths + turn)[turn < lengths]
        cells, positions = delayed(order, range(parts))
        positions[: shape[0], 0] = order
        return Table(cells, positions)


@dataclass(frozen=True)
class FrameGroups(Layout):
    """What layouts share that have the codes of several frames in a step: those of the first, of the second, ...

    Attributes:
        group: Frames of a step.
    """

    _: KW_ONLY
    group: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 1:
            raise ValueError(f"group is {self.group}; a step holds at least one frame")

    @property
    def axes(self) -> int:
        return 1

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(range(len(self.sizes))) * self.group


@dataclass(frozen=True)
class Grouped(FrameGroups):
    """Several frames a step, all their codes independent given the steps before: T/G steps, rounded up.

    Chen et al., "VALL-E 2" (arXiv 2406.05370), which groups the codes of the first codebook and adds the others
    afterwards: that is `CoarseFirst` with a group. Slots are those of a group's first frame, then of its second, ...

    Attributes:
        group: G, frames of a step.
    """

    _: KW_ONLY
    group: int = 2

    def table(self, shape: Shape) -> Table:
        frames = in_groups(shape[0], self.group)
        cells = frames.repeat_interleave(len(self.sizes), 1)
        return Table(cells, torch.arange(len(cells))[:, None])


def in_groups(frames: int, group: int) -> Int[Tensor, "groups group"]:
    """Frames in their order, -1 behind the last."""
    index = torch.arange(-(-frames // group) * group)
    return index.where(index < frames, -1).view(-1, group)


def delayed(order: Int[Tensor, "T"], shifts: range | tuple[int, ...]) -> tuple[Int[Tensor, "N S"], Int[Tensor, "N 1"]]:
    """Frames of each slot if each codebook goes through `order` so many steps late, and the numbers of the steps."""
    frames = len(order)
    steps = torch.arange(frames + shifts[-1] if frames else 0)
    turn = steps[:, None] - torch.tensor(shifts)
    there = (turn >= 0) & (turn < frames)
    cells = torch.full_like(turn, -1)
    cells[there] = order[turn[there]]
    return cells, steps[:, None]


def reading_order(shape: Shape, slots: int) -> Table:
    """A cell a step, the last axis fastest."""
    return Table(of_all(torch.arange(prod(shape)), slots), unravel(shape))


def unravel(shape: Shape) -> Int[Tensor, "cells axes"]:
    """Coordinates of each cell of a grid, in reading order."""
    return torch.cartesian_prod(*map(torch.arange, shape)).view(-1, len(shape))


def of_all(values: Int[Tensor, "N"], slots: int) -> Int[Tensor, "N S"]:
    """The same value in all slots of a step."""
    return values[:, None].repeat(1, slots)
