"""What every token decoder is: a function from token blocks to logits, with a state that only `commit` moves.

Axes, everywhere in the decoders: R rows (batch x guidance copies), N slots of one block, Q codebooks, V vocabulary,
D hidden width. The vocabulary of a codebook is its card; behind it lie input-only ids (mask, padding, begin, ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.decoders.state import State


@dataclass(frozen=True)
class DecoderInfo:
    """Facts about a decoder.

    Attributes:
        cards: For each codebook, how many tokens can come out: ids 0 .. card - 1.
        specials: Ids behind each card that can only go in: card is the mask, card + 1 the padding, and so on; 0 if the
            model knows none.
        context: Most steps that the model was made for; positions lie below it where they are learned.
        layers: Depth in layers run, loops counted.
        width: Hidden width D.
        parameters: Number of trainable scalars.
        causal: A slot sees itself and what lies before it, unless a block mask says otherwise; else it sees the whole
            block.
        axes: Coordinates of a position; 2 for grids of images.
        conditioning: Kinds of condition that `init_state` takes, such as "class" or "text".
        trees: `forward` obeys any block mask; else it runs only blocks in which each slot sees all before it.
        depth: The codes of one step depend on each other: `depth` gives their logits.
    """

    cards: tuple[int, ...]
    context: int
    layers: int
    width: int
    parameters: int
    specials: int = 0
    causal: bool = True
    axes: int = 1
    conditioning: tuple[str, ...] = ()
    trees: bool = True
    depth: bool = False

    @property
    def codebooks(self) -> int:
        return len(self.cards)

    @property
    def vocabulary(self) -> int:
        """V: the largest card. Logits of ids behind a smaller codebook's card are -inf."""
        return max(self.cards)

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"codebooks": self.codebooks, "vocabulary": self.vocabulary}


class Output(NamedTuple):
    """What a forward pass gives for each slot: the law of what comes next (causal) or stands there (masked models).

    Attributes:
        logits: float32 `[R, N, Q, V]`, not normalised; -inf where a codebook has no such token.
        hidden: `[R, N, D]`, what the heads read, in the model's own dtype.
    """

    logits: Float[Tensor, "R N Q V"]
    hidden: Float[Tensor, "R N D"]


class TokenModel(nn.Module, ABC):
    """Base class of decoders. A subclass gives `info`, `init_state` and `run`; callers use `forward`.

    The cycle of decoding is: `state = init_state(rows, slots, cond)`; `forward(prompt, state=state)`;
    `state.commit(None, n)`; then `forward` of a block and `commit` of what stands, until done. What was not committed
    is overwritten by the next block, so that nothing is ever rolled back.

    Attributes:
        checked: `forward` looks at values: token ranges before, NaN behind. Looking makes a GPU wait; whoever captures
            CUDA graphs or compiles switches it off.
    """

    checked: bool = True

    @property
    @abstractmethod
    def info(self) -> DecoderInfo:
        """Facts about this decoder."""

    @abstractmethod
    def init_state(self, rows: int, max_steps: int, cond: Any = None) -> State:
        """An empty state for `rows` rows, with everything that depends on the condition alone computed once.

        Args:
            max_steps: Slots to allocate: the steps that will be committed, plus the largest block. 0 gives a state
                without memory, which carries the condition only: `forward` with it sees the block alone, changes
                nothing and passes gradients, as training and masked decoding need.
            cond: What the model is conditioned on; its type is the model's own. None is no condition.

        Raises:
            ValueError: A condition that the model doesn't take or whose shapes don't fit.
        """

    @abstractmethod
    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        """`forward` with its arguments checked and its positions filled in.

        A model whose order of steps is decided while it decodes, as in self-infilling (arXiv 2311.17972), finds their
        places here, from the tokens that each slot sees; its state remembers them.
        """

    def run_one(self, books: Int[Tensor, "R N"], *block: Any) -> Output:
        """`run(*block)` where a single codebook of each slot is asked for: logits `[R, N, 1, V]`.

        A decoder whose heads can do less than all overrides it.
        """
        logits, hidden = self.run(*block)
        return Output(logits.gather(2, books[..., None, None].expand(-1, -1, 1, logits.shape[3])), hidden)

    def forward(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"] | None = None,
        state: State | None = None,
        block_mask: Bool[Tensor, "#R N N"] | None = None,
    ) -> Output:
        """Run one block of slots behind what is committed.

        Slot i of row r sees every committed step of its row and those slots j of the block that `block_mask[r, i, j]`
        allows; it always sees itself. Keys and values of the block are written behind `state.length`, which stays.
        With a state that has memory no gradients are kept.

        Args:
            tokens: int64 `[R, N, Q]`, ids below card + specials of their codebook.
            positions: int64 `[R, N]`, or `[R, N, axes]` for models of more axes. The slots of a tree have the position
                of their depth, not of their slot. Default, for one axis: `state.length` + 0 .. N - 1.
            state: None is an empty state without memory and without condition.
            block_mask: bool, row axis 1 or R. Default: each slot sees those up to itself (causal models) or the whole
                block.

        Raises:
            ValueError: Wrong number of codebooks or rows, no slot, tokens outside the vocabulary, a block beyond the
                state's room, steps beyond the context of a causal model (looked at on a CPU only, where looking is
                free), a mask or positions of another shape, a mask that the model can't obey, NaN logits (in eval
                mode).
        """
        self._check(tokens, state, block_mask)
        positions = self._positions(tokens, positions, state)
        if self.checked:
            self._check_context(positions)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (state is None or not state.capacity)):
            output = self.run(tokens, positions, state, block_mask)
        if self.checked and not self.training and output.logits.sum().isnan():
            raise ValueError("the model gave NaN logits; its weights or its condition hold NaN, or its dtype overflows")
        return output

    def depth(self, hidden: Float[Tensor, "R N D"], codes: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N Q V"]:
        """Logits of all codes of each step, given the codes before them in the same step (teacher-forced).

        Where `info.depth` holds, the logits of `forward` are those of the first codebook, and for the others what this
        gives; logits of codebook q don't depend on codes q and later. float32.

        Raises:
            ValueError: The codes of a step don't depend on each other here.
        """
        raise ValueError("this model's codes don't depend on each other within a step; use the logits of `forward`")

    def _check(self, tokens: Tensor, state: State | None, block_mask: Tensor | None) -> None:
        info = self.info
        if tokens.ndim != 3 or tokens.shape[2] != info.codebooks or not tokens.shape[1]:
            raise ValueError(
                f"tokens have the shape {list(tokens.shape)}; expected [rows, slots, {info.codebooks}] with at least "
                f"one slot, as this model has {info.codebooks} codebooks"
            )
        rows, slots, _ = tokens.shape
        if block_mask is not None and (
            block_mask.dtype != torch.bool or tuple(block_mask.shape) not in {(rows, slots, slots), (1, slots, slots)}
        ):
            raise ValueError(
                f"the block mask is {block_mask.dtype} {list(block_mask.shape)}; expected bool [{rows}, {slots}, "
                f"{slots}] or [1, {slots}, {slots}]"
            )
        if state is not None:
            state.check(rows, slots)
        if self.checked:
            self._check_range(tokens)

    def _check_range(self, tokens: Tensor) -> None:
        info = self.info
        low, high = torch.aminmax(tokens)
        if low >= 0 and high < min(info.cards) + info.specials:
            return
        limits = torch.tensor(info.cards, device=tokens.device) + info.specials
        bad = ((tokens < 0) | (tokens >= limits)).nonzero()
        if len(bad):
            row, slot, codebook = bad[0].tolist()
            raise ValueError(
                f"token {tokens[row, slot, codebook].item()} (row {row}, slot {slot}, codebook {codebook}) is outside "
                f"the vocabulary; ids lie in 0 .. {limits[codebook].item() - 1}"
            )

    def _check_context(self, positions: Tensor) -> None:
        info = self.info
        if not info.causal or info.axes > 1 or positions.device.type != "cpu":
            return
        if (last := int(positions.max())) >= info.context:
            raise ValueError(
                f"position {last} is beyond the context of {info.context}; give a shorter prompt or fewer steps"
            )

    def _positions(self, tokens: Tensor, positions: Tensor | None, state: State | None) -> Tensor:
        axes = self.info.axes
        shape = tokens.shape[:2] if axes == 1 else (*tokens.shape[:2], axes)
        if positions is None:
            if axes > 1:
                raise ValueError(f"this model's positions have {axes} coordinates; give positions {list(shape)}")
            slots = torch.arange(tokens.shape[1], device=tokens.device)
            return slots.expand(shape) if state is None or not state.capacity else state.length[:, None] + slots
        if tuple(positions.shape) != tuple(shape):
            raise ValueError(f"positions have the shape {list(positions.shape)}; expected {list(shape)}")
        return positions


def bare(model: TokenModel) -> Any:
    """The decoder itself, without what encodes its conditions."""
    return getattr(model, "decoder", model)
