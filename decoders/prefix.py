"""A transformer that can be given a prefix: vectors in front of the tokens, which see them and are not seen by them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.state import State
from zoo.decoders.transformer import Conditioning, Transformer


@dataclass(frozen=True)
class PrefixConditioning(Conditioning):
    """A condition that may have a prefix.

    Attributes:
        prefix: In front of the first token; None: none.
        lengths: How much of it each row has; its first vectors. 0: the row is one without prefix.
    """

    prefix: Float[Tensor, "R M D"] | None = None
    lengths: Int[Tensor, "R"] | None = None


class PrefixTransformer(Transformer):
    """A transformer whose state may begin with a prefix.

    Where the state has memory, the prefix is run once and committed: `state.length` counts it, and so do positions of
    one axis. Without memory it is run with every block, gradients included, and positions count from behind it. A model
    of several axes has its prefix at the origin.
    """

    def init_state(self, rows: int, slots: int, cond: Conditioning | None = None) -> State:
        """As `Transformer.init_state`; room for the prefix is added to the slots.

        Raises:
            ValueError: A prefix of another shape, or for learned positions of one axis, in which it has no place.
        """
        if not isinstance(cond, PrefixConditioning) or cond.prefix is None:
            return super().init_state(rows, slots, cond)
        prefix, lengths = self._prefix(rows, cond)
        state = super().init_state(rows, slots + prefix.shape[1] if slots else 0, cond)
        if not slots:
            state.condition |= {"prefix": [prefix], "prefix_lengths": [lengths]}
            return state
        there = torch.arange(prefix.shape[1], device=prefix.device) < lengths[:, None]
        with torch.no_grad():
            super().forward(prefix, self._places(prefix), state, self._within(there))
        state.commit(None, lengths)
        return state

    def forward(
        self,
        x: Float[Tensor, "R N D"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None = None,
        block_mask: Bool[Tensor, "#R N N"] | None = None,
        depths: Iterable[int] | None = None,
        exits: Collection[int] = (),
        injected: Float[Tensor, "R N D"] | None = None,
    ) -> tuple[Float[Tensor, "R N D"], list[Float[Tensor, "R N D"]]]:
        """As `Transformer.forward`.

        Raises:
            ValueError: A pass that goes on inside the loops, behind a prefix that is not remembered.
        """
        if state is None or "prefix" not in state.condition:
            return super().forward(x, positions, state, block_mask, depths, exits, injected)
        if injected is not None:
            raise ValueError("without memory, a pass behind a prefix can't go on from inside the loops; run it whole")
        (prefix,), (lengths,) = state.condition["prefix"], state.condition["prefix_lengths"]
        first, slots = prefix.shape[1], x.shape[1]
        there = torch.arange(first, device=x.device) < lengths[:, None]
        if self.config.axes == 1:
            positions = positions + lengths[:, None]
        block = x.new_ones(1, slots, slots, dtype=torch.bool)
        block = block_mask if block_mask is not None else block.tril() if self.config.causal else block
        front = pad(self._within(there), (0, slots))
        behind = torch.cat((there[:, None].expand(-1, slots, -1), block.expand(len(x), -1, -1)), 2)
        both = torch.cat((self._places(prefix), positions), 1)
        mask = torch.cat((front, behind), 1)
        hidden, left = super().forward(torch.cat((prefix, x), 1), both, state, mask, depths, exits)
        return hidden[:, first:], [each[:, first:] for each in left]

    def _prefix(self, rows: int, cond: PrefixConditioning) -> tuple[Float[Tensor, "R M D"], Int[Tensor, "R"]]:
        prefix, config = cond.prefix, self.config
        if self.rope is None and config.axes == 1:
            raise ValueError("a prefix needs rotary positions; learned ones belong to tokens")
        if prefix.ndim != 3 or prefix.shape[0] != rows or prefix.shape[2] != config.width:
            raise ValueError(f"the prefix is {list(prefix.shape)}; this state takes [{rows}, length, {config.width}]")
        lengths = cond.lengths
        if lengths is None:
            lengths = torch.full((rows,), prefix.shape[1], device=prefix.device)
        if tuple(lengths.shape) != (rows,) or not 0 <= lengths.min() <= lengths.max() <= prefix.shape[1]:
            raise ValueError(f"lengths {lengths.tolist()} of a prefix {list(prefix.shape)}; expected one a row")
        return prefix, lengths

    def _within(self, there: Bool[Tensor, "R M"]) -> Bool[Tensor, "R M M"]:
        """What vectors of the prefix see."""
        seen = there[:, None].expand(-1, there.shape[1], -1)
        return seen.tril() if self.config.causal else seen

    def _places(self, prefix: Float[Tensor, "R M D"]) -> Int[Tensor, "R M *axes"]:
        rows, length, _ = prefix.shape
        if self.config.axes > 1:
            return torch.zeros(rows, length, self.config.axes, dtype=torch.int64, device=prefix.device)
        return torch.arange(length, device=prefix.device).expand(rows, -1)
