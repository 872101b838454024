"""Memory of a decoder: keys and values of the steps behind it, allocated once, with a length for each row.

A forward pass writes the keys and values of its block behind `length` and never moves it; only `commit` does. What was
not committed is overwritten by the next block, so there is nothing to roll back, and a chain commits without copying.

    slots of row r:  [ committed: 0 .. length[r] - 1 | block: length[r] .. length[r] + N - 1 | room: .. capacity - 1 ]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Condition = Mapping[str, Sequence[Tensor]]
"""Lists of tensors by name, rows first: what a model computed from its condition, such as keys of cross-attention."""


@dataclass
class _Memory:
    """What a state and its forks share.

    Attributes:
        runs: `[layer, keys or values, R, heads, capacity, head_dim]` of each run of layers of one shape, so that one
            step slices or gathers all of these at once.
    """

    runs: list[Tensor]
    written: int = 0  # end of the last block written, of the longest row


class State:
    """Static key-value memory of `rows` rows, and what the model computed from its condition.

    Attributes:
        length: int64 `[R]`, committed steps of each row. Read it; `commit` alone moves it.
        capacity: Slots of each row; 0 is a state without memory, which carries a condition only.
        condition: See `Condition`.

    Args:
        rows: R.
        capacity: Slots to allocate for each row: the steps that will be committed plus the largest block.
        shapes: Key-value heads and their size, of each layer.
        like: Gives device and dtype of the memory.
        condition: Computed by the model; `select` and `reorder` keep it beside its rows.
    """

    def __init__(
        self,
        rows: int,
        capacity: int,
        shapes: Sequence[tuple[int, int]],
        like: Tensor,
        condition: Condition | None = None,
    ):
        if rows < 1 or capacity < 0:
            raise ValueError(f"a state needs at least one row and no negative room, got {rows} rows, {capacity} slots")
        with torch.inference_mode(False):  # so that every mode may write to it later
            runs = [(len(list(same)), *shape) for shape, same in groupby(shapes)] if capacity else []
            # Zeros, not `empty`: hidden slots have the weight 0, and 0 times NaN is NaN.
            memory = [like.new_zeros((layers, 2, rows, heads, capacity, dim)) for layers, heads, dim in runs]
            self.length: Int[Tensor, "R"] = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.capacity = capacity
        self.condition: dict[str, list[Tensor]] = {name: list(parts) for name, parts in (condition or {}).items()}
        self._memory = _Memory(memory)
        self._longest = 0  # at least the length of every row, known without asking the device
        self._uniform = True  # all rows are as long as `_longest`

    @property
    def rows(self) -> int:
        return len(self.length)

    def check(self, rows: int, slots: int) -> None:
        """Whether a block of so many rows and slots can be written.

        Raises:
            ValueError: Another number of rows, or a block beyond the room of the longest row.
        """
        if rows != self.rows:
            raise ValueError(f"the block has {rows} rows, the state {self.rows}; give each row of the state its own")
        if self.capacity and self._longest + slots > self.capacity:
            self._longest = int(self.length.max())
            if self._longest + slots > self.capacity:
                raise ValueError(
                    f"a block of {slots} slots behind {self._longest} committed steps is beyond the state's "
                    f"{self.capacity} slots; give `init_state` the steps to commit plus the largest block"
                )

    def commit(self, index: Int[Tensor, "R K"] | None, n: Int[Tensor, "R"] | int) -> None:
        """Make slots of the last block steps of the past.

        Args:
            index: None keeps the first `n` slots of the block, and copies nothing. Else row r keeps slots
                `index[r, : n[r]]` of the block, in that order: a path in a tree. It is one gather; what lies
                behind `n[r]` is ignored.
            n: int64 `[R]`, or one number for all rows; 0 for rows that are finished or accept nothing.

        Raises:
            ValueError: More steps, or other slots, than the last block had; a state without memory.
        """
        counts = [n] * self.rows if isinstance(n, int) else n.tolist() if n.device.type == "cpu" else None
        most = self._block() if counts is None else max(counts)
        if counts is not None and (len(counts) != self.rows or min(counts) < 0 or most > self._block()):
            raise ValueError(
                f"cannot commit {counts} steps to {self.rows} rows: the last block had {self._block()} slots"
            )
        if index is not None:
            self._gather(index, most, counts)
        self.length += n  # in place: forks have their own, and captured graphs read this one
        if counts is None:
            self._longest, self._uniform = self._longest + most, False
        elif self._uniform:
            self._longest, self._uniform = self._longest + most, min(counts) == most
        else:
            self._longest = int(self.length.max())
            self._uniform = bool((self.length == self._longest).all())

    def fork(self) -> State:
        """A state of the same memory with a length of its own.

        What is committed to the fork, this state doesn't see, and overwrites with its next block; until then it may
        commit those steps itself. So a draft runs ahead, step by step, at no cost: early exit and skipped layers on the
        target's own state, a draft model on a fork of its own.
        """
        fork = self._like(self.length.clone())
        fork._memory = self._memory
        fork.condition = self.condition
        return fork

    def select(self, rows: Int[Tensor, "S"]) -> State:
        """A new state whose row s is a copy of row `rows[s]`; rows may repeat, be left out and change places."""
        state = self._like(self.length[rows])
        state._memory = _Memory([memory[:, :, rows] for memory in self._memory.runs], self._memory.written)
        state.condition = {name: [part[rows] for part in parts] for name, parts in self.condition.items()}
        return state

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """As `select` with as many rows, in place, as beam search needs at every step: committed steps are copied only.

        Raises:
            ValueError: Not as many rows as the state has.
        """
        if tuple(rows.shape) != (self.rows,):
            raise ValueError(f"{list(rows.shape)} rows for a state of {self.rows}; `select` changes their number")
        for memory in self._memory.runs:
            memory[..., : self._longest, :] = memory[:, :, rows, :, : self._longest]
        self.condition = {name: [part[rows] for part in parts] for name, parts in self.condition.items()}
        self.length.copy_(self.length[rows])

    def open(self, slots: int, block_mask: Bool[Tensor, "#R N N"] | None, causal: bool) -> Block:
        """Where a block of so many slots is written and what it sees; for models, once a forward pass.

        Args:
            causal: What slots see of the block if there is no mask: those up to themselves, or all.

        Raises:
            ValueError: No room, or gradients are on: the past has none, so those of the block would be wrong.
        """
        self.check(self.rows, slots)
        if torch.is_grad_enabled():
            raise ValueError("memory keeps no gradients: call under torch.no_grad, or give a state without memory")
        start, span = self._longest, self._longest + slots
        self._memory.written = span
        memory, device, like = self._memory.runs, self.length.device, self._memory.runs[0]
        if self._uniform and start == 0:
            return lone_block(slots, block_mask, causal, like, memory)
        see = _see(slots, block_mask, causal, device)
        if self._uniform:
            visible = None
            if see is not None:
                visible = torch.ones(len(see), slots, span, dtype=torch.bool, device=device)
                visible[:, :, start:] = see
            return Block.over(memory, slice(start, span), span, _bias(visible, like.dtype))
        behind = torch.arange(span, device=device) - self.length[:, None]  # slot of the block; negative: committed
        visible = ((behind < slots) if see is None else (behind < 0))[:, None].expand(-1, slots, -1)
        if see is not None:
            inside = behind.clamp(0, slots - 1)[:, None].expand(-1, slots, -1)
            seen = see.expand(self.rows, -1, -1).gather(2, inside)
            visible = visible | (seen & ((behind >= 0) & (behind < slots))[:, None])
        index = self.length[:, None] + torch.arange(slots, device=device)
        return Block.over(memory, index, span, _bias(visible, like.dtype))

    def _block(self) -> int:
        """Slots behind the longest row that hold keys and values."""
        return self._memory.written - self._longest

    def _gather(self, index: Tensor, most: int, counts: list[int] | None) -> None:
        block, device = self._block(), index.device
        if len(index) != self.rows or (counts is not None and index.shape[1] < most):
            raise ValueError(f"an index {list(index.shape)} for {self.rows} rows that commit up to {most} steps")
        index = index[:, :most]
        if counts is not None:
            kept = torch.arange(index.shape[1], device=device) < torch.tensor(counts, device=device)[:, None]
            index = index.where(kept, 0)
            if index.numel() and not 0 <= index.min() <= index.max() < block:
                raise ValueError(f"index {index.tolist()} names slots that the last block of {block} did not have")
        row = torch.arange(self.rows, device=device)[:, None]
        source = self.length[:, None] + index.clamp(0, block - 1)
        target = self.length[:, None] + torch.arange(index.shape[1], device=device)
        for memory in self._memory.runs:
            memory[:, :, row, :, target] = memory[:, :, row, :, source]

    def _like(self, length: Tensor) -> State:
        """A state of these lengths that lacks its memory and condition."""
        state = object.__new__(State)
        state.capacity, state.length = self.capacity, length
        state._longest, state._uniform = self._longest, self._uniform
        return state


@dataclass(frozen=True)
class Block:
    """A block being run: layers give it their keys and values and get back all that it sees.

    Attributes:
        seen: For each layer, views of the memory's `[R, H, span, E]` keys, and of its values; empty if nothing is
            remembered.
        written: Where the block goes: for each layer, views of its slots in keys and in values; or, where rows differ
            in length, the slots `[R, N]`.
        span: Slots that any row of the block sees.
        bias: `[R or 1, 1, N, span]`, 0 where a slot sees and -inf where not, to be added to attention scores; None if
            every slot sees the whole span, or if
        causal: nothing is committed, and each slot sees the block up to itself.
    """

    seen: tuple[list[Tensor], list[Tensor]]
    written: tuple[list[Tensor], list[Tensor]] | Int[Tensor, "R N"]
    span: int
    bias: Float[Tensor, "#R 1 N span"] | None
    causal: bool = False

    @staticmethod
    def over(
        runs: list[Tensor], slots: slice | Int[Tensor, "R N"], span: int, bias: Tensor | None, causal: bool = False
    ) -> Block:
        """A block of these slots of a state's memory; all layers are sliced here, at once."""
        written = slots if isinstance(slots, Tensor) else _sliced(runs, slots)
        return Block(_sliced(runs, slice(0, span)), written, span, bias, causal)

    def extend(
        self, layer: int, keys: Float[Tensor, "R H N E"], values: Float[Tensor, "R H N E"]
    ) -> tuple[Float[Tensor, "R H span E"], Float[Tensor, "R H span E"]]:
        """Write the block's keys and values of one layer; returns those of the past and the block."""
        all_keys, all_values = self.seen
        if not all_keys:
            return keys, values
        if isinstance(self.written, tuple):
            self.written[0][layer].copy_(keys)
            self.written[1][layer].copy_(values)
        else:
            row = torch.arange(len(self.written), device=keys.device)[:, None]
            all_keys[layer][row, :, self.written] = keys.transpose(1, 2)
            all_values[layer][row, :, self.written] = values.transpose(1, 2)
        return all_keys[layer], all_values[layer]

    def row(self, row: int, length: int) -> Block:
        """The same block of one row alone, `length` steps long, cut to what it sees: all before each slot."""
        assert isinstance(self.written, Tensor)
        slots = self.written.shape[1]
        seen = [[part[row : row + 1, :, : length + slots] for part in parts] for parts in self.seen]
        written = [[part[:, :, length:] for part in parts] for parts in seen]
        return Block((seen[0], seen[1]), (written[0], written[1]), length + slots, None)


def _sliced(runs: list[Tensor], slots: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Views of the slots, in keys and values of each layer."""
    keys, values = ([layer for run in runs for layer in run[:, part, :, :, slots].unbind()] for part in range(2))
    return keys, values


def open_block(
    state: State | None, x: Float[Tensor, "R N D"], block_mask: Bool[Tensor, "#R N N"] | None, causal: bool
) -> Block:
    """`State.open` where there is memory; else a block that sees itself alone and is written nowhere."""
    if state is None or not state.capacity:
        return lone_block(x.shape[1], block_mask, causal, x, [])
    return state.open(x.shape[1], block_mask, causal)


def lone_block(
    slots: int, block_mask: Bool[Tensor, "#R N N"] | None, causal: bool, like: Tensor, memory: list[Tensor]
) -> Block:
    """A block with nothing before it; its bias has the dtype and device of `like`."""
    see = None if block_mask is None else _see(slots, block_mask, causal, like.device)
    return Block.over(memory, slice(0, slots), slots, _bias(see, like.dtype), see is None and causal and slots > 1)


def _see(slots: int, block_mask: Tensor | None, causal: bool, device: torch.device) -> Tensor | None:
    """bool `[R or 1, N, N]`, what each slot sees of the block; None: all of it."""
    if block_mask is not None:
        return block_mask | torch.eye(slots, dtype=torch.bool, device=device)
    if causal and slots > 1:
        return torch.ones(1, slots, slots, dtype=torch.bool, device=device).tril_()
    return None


def _bias(visible: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if visible is None:
        return None
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return bias.masked_fill_(~visible, float("-inf"))[:, None]
