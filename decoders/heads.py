"""Heads that look several steps ahead, on the hidden states of any decoder that already exists.

Cai et al., "Medusa" (arXiv 2401.10774): each head is a residual block and a matrix, and reads the hidden state alone.
Ankner et al., "Hydra" (arXiv 2402.05109): it reads the steps between, too, all in one product of its own. A cell that
reads them one by one and is shared by all levels, as of Cheng et al., "Recurrent Drafter" (arXiv 2403.09919), is not
here, nor its beam search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, rms_norm, silu

from zoo.decoders.autoregressive import AutoregressiveDecoder
from zoo.decoders.base import DecoderInfo
from zoo.decoders.embedding import CodeEmbedding, CodeHeads


@dataclass(frozen=True)
class HeadsConfig:
    """Shape of heads.

    Attributes:
        cards: Tokens of each codebook of the decoder whose hidden states they read.
        width: Of these hidden states.
        specials: Input-only ids behind each card of that decoder.
        heads: How many steps they look ahead, beyond the one that the decoder itself gives.
        blocks: Residual blocks of each.
        sequential: A head reads the steps between the hidden state's and its own (Hydra).
        shared: Embedding and product are the decoder's own, which stay as they are (EAGLE, arXiv 2401.15077): a small
            part of the weights, and those are in the cache.
    """

    cards: tuple[int, ...]
    width: int
    specials: int = 0
    heads: int = 4
    blocks: int = 1
    sequential: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.blocks < 1:
            raise ValueError(f"{self.heads} heads of {self.blocks} blocks; give at least one of each")

    @staticmethod
    def of(
        info: DecoderInfo, heads: int = 4, blocks: int = 1, sequential: bool = False, shared: bool = False
    ) -> HeadsConfig:
        """For a decoder of which these are the facts."""
        return HeadsConfig(info.cards, info.width, info.specials, heads, blocks, sequential, shared)


@dataclass(frozen=True)
class HeadsInfo:
    """Facts about heads.

    Attributes:
        cards, width, specials, heads, sequential, shared: See `HeadsConfig`.
        parameters: Number of trainable scalars.
        conditioning: Nothing: what the decoder is told, its hidden states know.
    """

    cards: tuple[int, ...]
    width: int
    specials: int
    heads: int
    sequential: bool
    shared: bool
    parameters: int
    conditioning: tuple[str, ...] = ()

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


class MultiTokenHeads(nn.Module):
    """Head i of a slot gives the law of the step i + 2 behind it, as the decoder itself gives that of the next one.

    Only the heads are trained: give them hidden states that were computed without gradients.
    """

    config_class: ClassVar[type[HeadsConfig]] = HeadsConfig

    def __init__(self, config: HeadsConfig):
        super().__init__()
        self.config, width = config, config.width
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks))) for _ in range(config.heads)
        )
        own = not config.shared
        self.products = nn.ModuleList(CodeHeads(config.cards, width) for _ in range(config.heads if own else 0))
        self.embedding = CodeEmbedding(config.cards, config.specials, width) if config.sequential and own else None
        self.between = nn.ModuleList(
            nn.Linear((head + 1) * width, width, bias=False) for head in range(config.heads if config.sequential else 0)
        )

    @property
    def info(self) -> HeadsInfo:
        config = self.config
        parameters = sum(parameter.numel() for parameter in self.parameters())
        facts = (config.cards, config.width, config.specials, config.heads, config.sequential, config.shared)
        return HeadsInfo(*facts, parameters)

    @torch.no_grad()
    def start_from(self, decoder: AutoregressiveDecoder) -> None:
        """Give each head the decoder's own matrix, and the decoder's vectors to the steps between."""
        for product in self.products:
            for card, ours, theirs in zip(
                product.cards,
                product.product.weight.split(product.sizes),
                decoder.heads.product.weight.split(decoder.heads.sizes),
                strict=True,
            ):
                ours[:card] = theirs[:card]
        if self.embedding is not None:
            self.embedding.table.weight.copy_(decoder.embedding.table.weight)

    def forward(
        self,
        hidden: Float[Tensor, "R N D"],
        head: int,
        between: Int[Tensor, "R N K Q"] | None = None,
        decoder: AutoregressiveDecoder | None = None,
    ) -> Float[Tensor, "R N Q V"]:
        """Logits of one head, float32.

        Args:
            between: The `head` + 1 steps behind each slot, for heads that read them.
            decoder: Whose hidden states these are, for heads that share its embedding and product.

        Raises:
            ValueError: Steps between that this head doesn't read, or not as many as it reads; shared heads alone.
        """
        wanted = head + 1 if self.config.sequential else None
        if (None if between is None else between.shape[2]) != wanted:
            raise ValueError(f"head {head} reads {wanted or 'no'} steps between; give it these")
        if self.config.shared and decoder is None:
            raise ValueError("these heads share the embedding and the product of their decoder; give it, too")
        x = hidden
        if between is not None:
            embedding = decoder.embedding if self.config.shared else self.embedding
            vectors = embedding.table(between + embedding.first).sum(3)
            if self.config.shared:  # vectors of others are of any size, mostly small
                vectors = rms_norm(vectors, vectors.shape[-1:])
            x = x + self.between[head](vectors.flatten(2))
        product = decoder.heads if self.config.shared else self.products[head]
        return product(self.blocks[head](x))

    def ahead(
        self,
        hidden: Float[Tensor, "R N D"],
        tokens: Int[Tensor, "R T Q"],
        decoder: AutoregressiveDecoder | None = None,
    ) -> Iterator[tuple[Float[Tensor, "R M Q V"], Int[Tensor, "R M Q"]]]:
        """What each head says of all slots behind which its step comes, and that step; M is 0 if there are none.

        Args:
            hidden: Of all slots but the last two, or of more, which are not read.
            tokens: The steps of the slots themselves. Input-only ids are read and not asked for: they are -1.
            decoder: See `forward`.
        """
        cards = torch.tensor(self.config.cards, device=tokens.device)
        for head in range(self.config.heads):
            slots = max(tokens.shape[1] - head - 2, 0)
            between = None
            if self.config.sequential:
                between = torch.stack([tokens[:, step : step + slots] for step in range(1, head + 2)], 2)
            targets = tokens[:, head + 2 :]
            yield self(hidden[:, :slots], head, between, decoder), targets.where(targets < cards, -1)

    def losses(
        self,
        hidden: Float[Tensor, "R N D"],
        tokens: Int[Tensor, "R T Q"],
        decoder: AutoregressiveDecoder | None = None,
    ) -> Float[Tensor, "heads"]:
        """Cross-entropy of each head over all slots that have a target, nats a code; NaN for heads beyond the end."""
        return torch.stack(
            [
                cross_entropy(logits.permute(0, 3, 1, 2), targets, ignore_index=-1)
                for logits, targets in self.ahead(hidden, tokens, decoder)
            ]
        )


class ResidualBlock(nn.Module):
    """One product beside the identity, which it is at first."""

    def __init__(self, width: int):
        super().__init__()
        self.product = nn.Linear(width, width)
        nn.init.zeros_(self.product.weight)
        nn.init.zeros_(self.product.bias)

    def forward(self, x: Float[Tensor, "R N D"]) -> Float[Tensor, "R N D"]:
        return x + silu(self.product(x))
