"""A transformer that can be given a prefix: vectors in front of the tokens, which see them and are not seen by them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.state import Block, State
from zoo.decoders.transformer import Conditioning, Transformer


@dataclass(frozen=True)
class Aligned:
    """What is told beside the tokens: each vector during its own time, ever more mixed with the next one.

    Attributes:
        vectors: Two more than there are times: of nothing, 0, as are those behind the end of a row.
        bounds: Steps at which the time of each vector begins; the last two are those of the vectors of nothing.
    """

    vectors: Float[Tensor, "R M D"]
    bounds: Float[Tensor, "R M"]

    @classmethod
    def lasting(cls, vectors: Float[Tensor, "R N D"], durations: Float[Tensor, "R M"]) -> Aligned:
        """Vectors one behind the other from step 0 on.

        Args:
            vectors: The first M count; 0 where a row has fewer.
            durations: In steps; 0 where a row has fewer.
        """
        bounds = pad(durations, (1, 0)).cumsum(1)
        bounds = torch.cat((bounds, bounds[:, -1:] + 1), 1)
        return cls(pad(vectors, (0, 0, 0, bounds.shape[1] - vectors.shape[1])), bounds)

    def at(self, positions: Int[Tensor, "R N"]) -> Float[Tensor, "R N D"]:
        """What is told at these steps; 0 when all is over."""
        steps = positions.to(self.bounds.dtype).contiguous()
        index = torch.searchsorted(self.bounds[:, 1:-1].contiguous(), steps, right=True)
        start, end = self.bounds.gather(1, index), self.bounds.gather(1, index + 1)
        share = ((steps - start) / (end - start))[..., None].to(self.vectors.dtype)
        return torch.lerp(self._taken(index), self._taken(index + 1), share)

    def _taken(self, index: Int[Tensor, "R N"]) -> Float[Tensor, "R N D"]:
        return self.vectors.gather(1, index[..., None].expand(-1, -1, self.vectors.shape[2]))


@dataclass(frozen=True)
class PrefixConditioning(Conditioning):
    """A condition that may have a prefix.

    Attributes:
        prefix: In front of the first token; None: none.
        lengths: How much of it each row has; its first vectors. 0: the row is one without prefix.
        places: Where its vectors stand, on the axis of the tokens' positions; None: they end where tokens begin.
        aligned: Added to the tokens' embeddings.
    """

    prefix: Float[Tensor, "R M D"] | None = None
    lengths: Int[Tensor, "R"] | None = None
    places: Float[Tensor, "R M"] | None = None
    aligned: Aligned | None = None


class PrefixState(State):
    """A state with memory that begins with a prefix; its `length` counts what came behind.

    Args:
        whole: Its memory, in which the prefix is committed.
        lengths: Of the prefix, in each row.
    """

    def __init__(self, whole: State, lengths: Int[Tensor, "R"]):
        self._whole, self._lengths = whole, lengths

    @property
    def length(self) -> Int[Tensor, "R"]:
        return self._whole.length - self._lengths

    @property
    def rows(self) -> int:
        return self._whole.rows

    @property
    def capacity(self) -> int:
        return self._whole.capacity

    @property
    def condition(self) -> dict[str, list[Tensor]]:
        return self._whole.condition

    def check(self, rows: int, slots: int) -> None:
        self._whole.check(rows, slots)

    def commit(self, index: Int[Tensor, "R K"] | None, n: Int[Tensor, "R"] | int) -> None:
        self._whole.commit(index, n)

    def open(self, slots: int, block_mask: Bool[Tensor, "#R N N"] | None, causal: bool) -> Block:
        return self._whole.open(slots, block_mask, causal)

    def fork(self) -> PrefixState:
        return PrefixState(self._whole.fork(), self._lengths)

    def select(self, rows: Int[Tensor, "S"]) -> PrefixState:
        return PrefixState(self._whole.select(rows), self._lengths[rows])

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        self._whole.reorder(rows)
        self._lengths = self._lengths[rows]


class PrefixTransformer(Transformer):
    """A transformer whose state may begin with a prefix.

    The prefix stands where its condition says, else it ends where tokens begin: at the positions before 0, or, for
    positions of several axes, at the origin. Only rotary positions of one axis give it an order; for others, something
    must have read it before. With memory it is run once; without, with every block, gradients included.
    """

    def init_state(self, rows: int, slots: int, cond: Conditioning | None = None) -> State:
        """As `Transformer.init_state`; room for the prefix is added to the slots.

        Raises:
            ValueError: A prefix of another shape.
        """
        if not isinstance(cond, PrefixConditioning) or cond.prefix is None:
            return super().init_state(rows, slots, cond)
        prefix, lengths = cond.prefix, self._lengths(rows, cond.prefix, cond.lengths)
        places = self._places(prefix, lengths) if cond.places is None else self._checked(cond.places, prefix)
        state = super().init_state(rows, slots + prefix.shape[1] if slots else 0, cond)
        if cond.aligned is not None:
            state.condition |= {"aligned": [cond.aligned.vectors, cond.aligned.bounds]}
        if not slots:
            state.condition |= {"prefix": [prefix], "prefix_lengths": [lengths], "prefix_places": [places]}
            return state
        with torch.no_grad():
            super().forward(prefix, places, state, self._within(prefix, lengths))
        state.commit(None, lengths)
        return PrefixState(state, lengths)

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
        depths = None if depths is None else list(depths)
        if state is not None and "aligned" in state.condition and not (depths and depths[0]):
            x = x + Aligned(*state.condition["aligned"]).at(positions)
        if state is None or "prefix" not in state.condition:
            return super().forward(x, positions, state, block_mask, depths, exits, injected)
        if injected is not None:
            raise ValueError("without memory, a pass behind a prefix can't go on from inside the loops; run it whole")
        prefix, lengths, places = (state.condition[name][0] for name in ("prefix", "prefix_lengths", "prefix_places"))
        first, slots = prefix.shape[1], x.shape[1]
        block = x.new_ones(1, slots, slots, dtype=torch.bool)
        block = block_mask if block_mask is not None else block.tril() if self.config.causal else block
        there = _there(prefix, lengths)[:, None].expand(-1, slots, -1)
        behind = torch.cat((there, block.expand(len(x), -1, -1)), 2)
        mask = torch.cat((pad(self._within(prefix, lengths), (0, slots)), behind), 1)
        both = torch.cat((places, positions), 1)
        hidden, left = super().forward(torch.cat((prefix, x), 1), both, state, mask, depths, exits)
        return hidden[:, first:], [each[:, first:] for each in left]

    def _lengths(self, rows: int, prefix: Float[Tensor, "R M D"], lengths: Int[Tensor, "R"] | None) -> Int[Tensor, "R"]:
        if prefix.ndim != 3 or len(prefix) != rows or prefix.shape[2] != self.config.width:
            wanted = f"[{rows}, length, {self.config.width}]"
            raise ValueError(f"the prefix is {list(prefix.shape)}; this state takes {wanted}")
        if lengths is None:
            lengths = torch.full((rows,), prefix.shape[1], device=prefix.device)
        if tuple(lengths.shape) != (rows,) or not 0 <= lengths.min() <= lengths.max() <= prefix.shape[1]:
            raise ValueError(f"lengths {lengths.tolist()} of a prefix {list(prefix.shape)}; expected one a row")
        return lengths

    def _checked(self, places: Float[Tensor, "R M"], prefix: Float[Tensor, "R M D"]) -> Float[Tensor, "R M"]:
        if self.config.axes != 1 or places.shape != prefix.shape[:2]:
            raise ValueError(f"places {list(places.shape)} of a prefix {list(prefix.shape)}, {self.config.axes} axes")
        return places

    def _within(self, prefix: Float[Tensor, "R M D"], lengths: Int[Tensor, "R"]) -> Bool[Tensor, "R M M"]:
        """What vectors of the prefix see."""
        seen = _there(prefix, lengths)[:, None].expand(-1, prefix.shape[1], -1)
        return seen.tril() if self.config.causal else seen

    def _places(self, prefix: Float[Tensor, "R M D"], lengths: Int[Tensor, "R"]) -> Int[Tensor, "R M *axes"]:
        places = torch.arange(prefix.shape[1], device=prefix.device) - lengths[:, None]
        if self.config.axes == 1:
            return places
        return torch.zeros_like(places)[..., None].expand(-1, -1, self.config.axes)


def _there(prefix: Float[Tensor, "R M D"], lengths: Int[Tensor, "R"]) -> Bool[Tensor, "R M"]:
    return torch.arange(prefix.shape[1], device=prefix.device) < lengths[:, None]
