"""What every layout is: a table that says which code stands in which slot of which step, and all that follows from it.

Axes: B rows, Q codebooks, N steps, S slots of a step (as many as codebooks, or G times as many where a step holds G
frames). Codes are `[B, Q, *grid]`, of a shape `(T,)` or `(H, W)`; packed, they are tokens `[B, N, S]`.

Ids of a slot whose codebook has `size` codes:

    0 .. size - 1 | absent | end | mask, padding, begin, end of row, end of grid
    codes         | these two only if the layout has them
    `- what can come out: its card -´ `- what only goes in: see `Special` -´
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum
from functools import lru_cache
from math import prod

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

Shape = tuple[int, ...]


class Special(IntEnum):
    """Ids that only go in: behind the card of each slot, in this order."""

    MASK = 0  # not known yet; never in a packed stream, there for decoders that fill in
    PAD = 1  # no code here: delayed, behind the last frame of a group, behind the end
    BEGIN = 2
    ROW_END = 3
    GRID_END = 4


@dataclass(frozen=True)
class Table:
    """The steps of a layout for one shape, as a subclass states them.

    Attributes:
        cells: Index in the flattened grid of the frame or cell whose code stands in each slot; -1 where none does.
        positions: Coordinates of each step; no two steps have the same.
        blocks: Steps of the same number are decoded in one forward pass; from 0, growing. None: each step has its own.
        special: What stands where no code does. None: padding.
    """

    cells: Int[Tensor, "N S"]
    positions: Int[Tensor, "N axes"]
    blocks: Int[Tensor, "N"] | None = None
    special: Int[Tensor, "N S"] | None = None


@dataclass(frozen=True)
class Layout(ABC):
    """How codes become steps and back; it knows sizes of codebooks, and neither models nor codecs.

    The sequence of steps is what a decoder reads. A causal decoder finds step n + 1 in the logits of step n, so it
    needs `begin` or a condition in front; one that goes block by block finds all steps of a block at once.

    Attributes:
        sizes: Number of codes of each codebook, coarse to fine.
        absent: Codebooks have a token for "no code here", as in streams whose cells use only some codebooks: code -1.
            It can come out, so it counts in `cards`.
        end: The first codebook has a token for "no frame here, and none after", which can come out, too: for streams
            that decide upon their length. There is then room for one more frame, in which only it can stand. Grids of
            one axis only.
        begin: There is one more step in front, of begin tokens.
    """

    sizes: tuple[int, ...]
    _: KW_ONLY
    absent: bool = False
    end: bool = False
    begin: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes {self.sizes} are not those of one or more codebooks; each needs at least one code")

    @abstractmethod
    def table(self, shape: Shape) -> Table:
        """The steps of a grid of that shape, without the begin step; the shape was checked, some axis may be 0."""

    @property
    def axes(self) -> int | None:
        """Axes that a grid must have; None: any number of them."""
        return 1 if self.end else None

    @property
    def slots(self) -> tuple[int, ...]:
        """The codebook of each slot of a step."""
        return tuple(range(len(self.sizes)))

    @property
    def ranks(self) -> tuple[int, ...]:
        """In which order the slots of a step are sampled.

        Slots of the same rank are independent given all steps before and all slots of lower rank in their step, so they
        are sampled together. More than one rank asks for a model with `depth`.
        """
        return (0,) * len(self.slots)

    @property
    def cards(self) -> tuple[int, ...]:
        """Tokens that can come out of each slot: codes, and the absent and the end token where it has them."""
        return tuple(self.sizes[q] + self.absent + (self.end and q == 0) for q in self.slots)

    @property
    def specials(self) -> int:
        """How many ids behind the cards a model has to know, the mask among them."""
        return 1 + (Special.BEGIN if self.begin else Special.PAD)

    def special(self, kind: Special) -> Int[Tensor, "S"]:
        """The id of a special token in each slot."""
        return torch.tensor(self.cards) + kind

    @property
    def end_id(self) -> int | None:
        """The end token's id, in slots of the first codebook; None if the layout has none."""
        return self.sizes[0] + self.absent if self.end else None

    def steps(self, shape: Shape) -> int:
        """N: how many steps a grid has; see the table of layouts for formulas."""
        return len(_plan(self, shape).blocks)

    def rounds(self, shape: Shape) -> int:
        """How many forward passes follow one another when nothing is guessed: the number of blocks."""
        blocks = _plan(self, shape).blocks
        return int(blocks[-1]) + 1 if len(blocks) else 0

    def coords(self, shape: Shape) -> Int[Tensor, "N S"]:
        """Index in the flattened grid of the frame or cell whose code stands in each slot; -1 where none does.

        Which codebook's it is, `slots` says.
        """
        return _plan(self, shape).cells.clone()

    def forced(self, shape: Shape) -> Int[Tensor, "N S"]:
        """The token that structure puts into each slot, whatever the codes; -1 where the decoder is free."""
        return _plan(self, shape).forced.clone()

    def positions(self, shape: Shape) -> Int[Tensor, "N axes"]:
        """Coordinates of each step, for rotary or learned positions; the begin step has the origin."""
        return _plan(self, shape).positions.clone()

    def block_ids(self, shape: Shape) -> Int[Tensor, "N"]:
        """Which forward pass each step is decoded in, growing; `ids[:, None] >= ids` is the block-causal mask."""
        return _plan(self, shape).blocks.clone()

    def places(self, shape: Shape) -> Int[Tensor, "Q *grid"]:
        """Where each code stands in `tokens.flatten(1)`: step x S + slot."""
        return _plan(self, shape).places.clone()

    def completed_at(self, shape: Shape) -> Int[Tensor, "*grid"]:
        """After how many steps each frame or cell has all its codes: after n steps, `completed_at(shape) <= n` have."""
        return _plan(self, shape).places.amax(0) // len(self.slots) + 1

    def neighbours(self, shape: Shape) -> Int[Tensor, "N S axes"]:
        """For each slot and axis of the grid, where the code before it stands that is known when the slot is decoded.

        It is the code of the same codebook one cell (in groups: one group) back along that axis: the frame before, the
        cell above, the cell at the left. What Jacobi decoding may start from.

        Returns:
            Places in `tokens.flatten(1)`, all in earlier blocks; -1 where there is none.
        """
        plan, slots = _plan(self, shape), len(self.slots)
        places, found = plan.places, torch.full((plan.cells.numel(), len(shape)), -1)
        blocks = plan.blocks[places // slots]
        for axis in range(1, places.ndim):
            # Cells of one pass don't know each other, so the look goes to the front of the run of cells of that pass.
            index = torch.arange(places.shape[axis]).view([-1 if a == axis else 1 for a in range(places.ndim)])
            before = torch.where(blocks != blocks.roll(1, axis), index, 0).cummax(axis).values - 1
            known = (before >= 0) & (blocks.gather(axis, before.clamp(min=0)) < blocks)
            found[places.flatten(), axis - 1] = places.gather(axis, before.clamp(min=0)).where(known, -1).flatten()
        return found.view(-1, slots, len(shape))

    def pack(self, codes: Int[Tensor, "B Q *grid"], lengths: Int[Tensor, "B"] | None = None) -> Int[Tensor, "B N S"]:
        """The steps of codes, structure tokens included.

        Args:
            codes: int64, each below its codebook's size; -1 for none, if the layout has the absent token.
            lengths: Frames of each row, for grids of one axis (default: all). What lies behind is not looked at; it
                becomes padding, behind an end token if the layout has one.

        Raises:
            ValueError: Codes of another shape, out of range, or behind one that is absent; lengths out of range.
        """
        shape = tuple(codes.shape[2:])
        if codes.ndim < 3 or codes.shape[1] != len(self.sizes):
            raise ValueError(f"codes of shape {list(codes.shape)}; expected [rows, {len(self.sizes)}, *grid]")
        plan = _plan(self, shape).to(codes.device)
        if lengths is not None:
            self._check_lengths(lengths, codes)
        self._check_codes(codes, lengths)
        flat = torch.cat([codes.flatten(1), codes.new_zeros(len(codes), 1)], 1)
        tokens = flat[:, plan.index]
        if self.absent:
            tokens = tokens.where(tokens >= 0, plan.sizes)
        tokens = tokens.where(plan.forced < 0, plan.forced)
        return tokens if lengths is None else self._cut(tokens, plan, lengths)

    def unpack(self, tokens: Int[Tensor, "B N S"], shape: Shape) -> Int[Tensor, "B Q *grid"]:
        """The codes of all steps of a grid of that shape, or of the first few.

        Returns:
            int64, -1 where no code is: absent, behind the end, not decoded yet (see `completed_at`), masked.

        Raises:
            ValueError: Another number of slots, or more steps than the grid has.
        """
        plan = self._prefix(tokens, shape)
        if self.end:
            tokens = self._cut(tokens, plan, self._lengths(tokens, plan))
        tokens = tokens.where((tokens >= 0) & (tokens < plan.sizes), -1)
        flat = tokens.new_full((len(tokens), plan.places.numel() + 1), -1)
        flat[:, plan.index] = tokens  # slots without a code meet in the last column
        codes = flat[:, :-1].view(len(tokens), len(self.sizes), *shape)
        if self.absent:  # a code behind an absent one stands for nothing
            codes = codes.where((codes >= 0).long().cumprod(1) > 0, -1)
        return codes

    def lengths(self, tokens: Int[Tensor, "B N S"], shape: Shape) -> Int[Tensor, "B"]:
        """Frames before the first end token of each row; all of the grid if none was decoded yet."""
        return self._lengths(tokens, self._prefix(tokens, shape))

    def close(self, tokens: Int[Tensor, "B N S"], shape: Shape) -> Int[Tensor, "B N S"]:
        """The same steps with padding in all slots of frames behind the end, as `pack` puts it there."""
        plan = self._prefix(tokens, shape)
        return self._cut(tokens, plan, self._lengths(tokens, plan))

    def _lengths(self, tokens: Tensor, plan: _Plan) -> Tensor:
        if not self.end:
            return tokens.new_full((len(tokens),), plan.places.shape[-1])
        ends = plan.frames.where((plan.frames >= 0) & plan.coarsest & (tokens == self.end_id), plan.places.shape[-1])
        return torch.cat([ends.flatten(1), ends.new_full((len(ends), 1), plan.places.shape[-1])], 1).amin(1)

    def _cut(self, tokens: Tensor, plan: _Plan, lengths: Tensor) -> Tensor:
        """Padding from each row's length on, behind its end token."""
        lengths = lengths.to(tokens.device)[:, None, None]
        tokens = tokens.where(plan.frames < lengths, plan.padding)
        if self.end_id is not None:
            tokens = tokens.masked_fill((plan.frames == lengths) & plan.coarsest, self.end_id)
        return tokens

    def _prefix(self, tokens: Tensor, shape: Shape) -> _Plan:
        """The plan of the steps that the tokens have."""
        plan, slots = _plan(self, shape), len(self.slots)
        if tokens.ndim != 3 or tokens.shape[2] != slots or tokens.shape[1] > len(plan.blocks):
            raise ValueError(
                f"tokens of shape {list(tokens.shape)}; a grid of {shape} has [rows, up to {len(plan.blocks)} steps, "
                f"{slots} slots] in this layout"
            )
        return plan.to(tokens.device, tokens.shape[1])

    def _check_lengths(self, lengths: Tensor, codes: Tensor) -> None:
        if codes.ndim != 3 or tuple(lengths.shape) != (len(codes),):
            raise ValueError(
                f"lengths {list(lengths.shape)} for codes {list(codes.shape)}; give one for each row, for grids of one "
                "axis"
            )
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= codes.shape[2]:
            raise ValueError(f"lengths {lengths.tolist()} are not all in 0 .. {codes.shape[2]}, the number of frames")

    def _check_codes(self, codes: Tensor, lengths: Tensor | None) -> None:
        sizes = torch.tensor(self.sizes, device=codes.device).view(-1, *[1] * (codes.ndim - 2))
        bad = (codes >= sizes) | (codes < (-1 if self.absent else 0))
        behind = (codes[:, 1:] >= 0) & (codes[:, :-1] < 0)
        if lengths is not None:
            inside = torch.arange(codes.shape[2], device=codes.device) < lengths.to(codes.device)[:, None, None]
            bad, behind = bad & inside, behind & inside
        if bad.any():
            row, codebook, *cell = bad.nonzero()[0].tolist()
            remedy = "" if self.absent else "; for cells without codes, make the layout with absent=True"
            raise ValueError(
                f"code {codes[row, codebook, *cell].item()} (row {row}, codebook {codebook}, cell {tuple(cell)}) is "
                f"not in 0 .. {self.sizes[codebook] - 1}{remedy}"
            )
        if behind.any():
            row, codebook, *cell = behind.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, cell {tuple(cell)} has a code in codebook {codebook + 1} but none in the one before; "
                "cells use their first codebooks"
            )


@dataclass(frozen=True)
class _Plan:
    """A layout's table for one shape, and what `pack` and its inverse read from it.

    Attributes:
        cells: As in `Table`, with the begin step, and -1 in the frame of the end.
        frames: The same with the frame of the end.
        index: `[N, S]` in the flattened codes; one behind the last code where there is none.
        forced: Tokens, -1 where free.
        padding, sizes: `[S]`, the padding's id and the number of codes.
        coarsest: bool `[S]`, slots of the first codebook.
    """

    cells: Int[Tensor, "N S"]
    frames: Int[Tensor, "N S"]
    index: Int[Tensor, "N S"]
    forced: Int[Tensor, "N S"]
    positions: Int[Tensor, "N axes"]
    blocks: Int[Tensor, "N"]
    places: Int[Tensor, "Q *grid"]
    padding: Int[Tensor, "S"]
    sizes: Int[Tensor, "S"]
    coarsest: Bool[Tensor, "S"]

    def to(self, device: torch.device, steps: int | None = None) -> _Plan:
        """On a device, with the first so many steps."""
        by_step = ("cells", "frames", "index", "forced", "positions", "blocks")
        parts = {name: part[:steps] if name in by_step else part for name, part in vars(self).items()}
        return _Plan(**{name: part.to(device) for name, part in parts.items()})


@lru_cache(maxsize=64)  # shapes of a bucketed data set, or of one decoding
def _plan(layout: Layout, shape: Shape) -> _Plan:
    axes = layout.axes
    if not shape or min(shape) < 0 or (axes is not None and len(shape) != axes):
        wanted = "one axis or more" if axes is None else f"{axes} {'axis' if axes == 1 else 'axes'}"
        raise ValueError(f"a grid of shape {shape}; {type(layout).__name__} as made here lays out grids of {wanted}")
    table = layout.table((shape[0] + 1,) if layout.end else shape)
    frames, positions, blocks, special = table.cells, table.positions, table.blocks, table.special
    blocks = torch.arange(len(frames)) if blocks is None else blocks
    special = torch.full_like(frames, Special.PAD) if special is None else special
    if layout.begin:
        first = torch.full((1, len(layout.slots)), -1)
        frames = torch.cat([first, frames])
        special = torch.cat([torch.full_like(first, Special.BEGIN), special])
        blocks = torch.cat([torch.zeros(1, dtype=torch.int64), blocks + 1])
        positions = pad(positions, (0, 0, 1, 0))
        positions[1:, 0] += 1
    total, coarsest = prod(shape), torch.tensor(layout.slots) == 0
    cells = frames.where(frames < total, -1)
    forced = torch.where(cells < 0, torch.tensor(layout.cards) + special, -1)
    if layout.end_id is not None:
        forced = forced.masked_fill((frames == total) & coarsest, layout.end_id)
    codes = len(layout.sizes) * total
    index = torch.where(cells < 0, codes, torch.tensor(layout.slots) * total + cells)
    places = torch.empty(codes + 1, dtype=torch.int64)
    places[index.flatten()] = torch.arange(index.numel())
    return _Plan(
        cells,
        frames,
        index,
        forced,
        positions,
        blocks,
        places[:-1].view(len(layout.sizes), *shape),
        layout.special(Special.PAD),
        torch.tensor([layout.sizes[q] for q in layout.slots]),
        coarsest,
    )
