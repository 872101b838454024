"""Decoders that predict the next step: embeddings, the transformer, and a head for each codebook."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.base import DecoderInfo, Output, TokenModel, bare
from zoo.decoders.embedding import CodeEmbedding, CodeHeads
from zoo.decoders.prefix import PrefixTransformer
from zoo.decoders.state import State
from zoo.decoders.transformer import Conditioning, TransformerConfig


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Shape of an autoregressive decoder.

    Attributes:
        cards: Tokens of each codebook.
        transformer: Its core.
        context: Steps that it is made for.
        specials: Input-only ids behind each card.
        learned_positions: Positions are learned vectors (GPT-2); else the transformer turns queries and keys.
        tied: Heads share the table of the embedding.
        head_bias: Heads have a bias.
        conditioning: Names of what it is conditioned on.
    """

    cards: tuple[int, ...]
    transformer: TransformerConfig
    context: int = 2048
    specials: int = 0
    learned_positions: bool = False
    tied: bool = False
    head_bias: bool = False
    conditioning: tuple[str, ...] = ()


class AutoregressiveDecoder(TokenModel):
    """Codes of one step are summed going in and come out of parallel heads, independent given the past.

    Copet et al., "Simple and Controllable Music Generation" (arXiv 2306.05284); with one codebook, any language model.
    """

    config_class: ClassVar[type[AutoregressiveConfig]] = AutoregressiveConfig

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.config = config
        core = config.transformer
        context = config.context if config.learned_positions else 0
        self.embedding = CodeEmbedding(config.cards, config.specials, core.width, context, core.axes)
        self.transformer = PrefixTransformer(core)
        self.heads = CodeHeads(config.cards, core.width, config.head_bias, self.embedding if config.tied else None)
        self._info = DecoderInfo(
            cards=config.cards,
            context=config.context,
            layers=core.depth,
            width=core.width,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            specials=config.specials,
            causal=core.causal,
            axes=core.axes,
            conditioning=config.conditioning,
        )

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Conditioning | None = None) -> State:
        return self.transformer.init_state(rows, max_steps, cond)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
        depths: Iterable[int] | None = None,
    ) -> Output:
        x = self.embedding(tokens, positions)
        hidden, _ = self.transformer(x, positions, state, block_mask, depths)
        return Output(self.heads(hidden), hidden)

    def run_one(self, books: Int[Tensor, "R N"], tokens: Tensor, positions: Tensor, *rest: Any) -> Output:
        hidden, _ = self.transformer(self.embedding(tokens, positions), positions, *rest)
        return Output(self.heads.of(hidden, books)[:, :, None], hidden)

    def exits(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        depths: Collection[int],
        state: State | None = None,
        block_mask: Bool[Tensor, "#R N N"] | None = None,
    ) -> list[Output]:
        """What the heads make of each depth in `depths`, in order, and of the last: for losses on early exits."""
        x = self.embedding(tokens, positions)
        last, left = self.transformer(x, positions, state, block_mask, exits=depths)
        hiddens = [*(self.transformer.last(x, state) for x in left), last]
        return [Output(self.heads(hidden), hidden) for hidden in hiddens]


def core_of(model: TokenModel) -> AutoregressiveDecoder | None:
    """The model itself, or what is behind its conditions, if that is such a decoder."""
    found = bare(model)
    return found if isinstance(found, AutoregressiveDecoder) else None


class PartialDecoder(TokenModel):
    """The same weights, run through some depths only: an early exit, or with layers left out, as a draft of the whole.

    LayerSkip (arXiv 2404.16710) exits early, SWIFT (arXiv 2410.06916) skips. Let it run on a fork of the whole
    decoder's state: there it reads the whole decoder's keys, and the next whole pass overwrites what it writes.

    Args:
        whole: Whose weights these are.
        depths: What runs, in order.

    Raises:
        ValueError: Depths that the decoder doesn't have, or not in order.
    """

    def __init__(self, whole: AutoregressiveDecoder, depths: Iterable[int]):
        super().__init__()
        self.depths = tuple(depths)
        ordered = all(a < b for a, b in zip(self.depths, self.depths[1:], strict=False))
        if not self.depths or not ordered or self.depths[0] < 0 or self.depths[-1] >= whole.info.layers:
            raise ValueError(f"depths {self.depths} are not some of 0 .. {whole.info.layers - 1}, in order")
        self.whole = whole
        self._info = replace(whole.info, layers=len(self.depths))

    @property
    def info(self) -> DecoderInfo:
        return self._info

    def init_state(self, rows: int, max_steps: int, cond: Conditioning | None = None) -> State:
        return self.whole.init_state(rows, max_steps, cond)

    def run(
        self,
        tokens: Int[Tensor, "R N Q"],
        positions: Int[Tensor, "R N *axes"],
        state: State | None,
        block_mask: Bool[Tensor, "#R N N"] | None,
    ) -> Output:
        return self.whole.run(tokens, positions, state, block_mask, self.depths)

    def run_one(self, books: Int[Tensor, "R N"], *block: Any) -> Output:
        return self.whole.run_one(books, *block, self.depths)
