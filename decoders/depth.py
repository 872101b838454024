"""A large transformer over frames and a small one over the codes of each frame.

Lee et al., "Autoregressive Image Generation using Residual Quantization" (arXiv 2203.01941), the RQ-transformer;
Défossez et al., "Moshi" (arXiv 2410.00037). Its layout is `FrameDepth`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.embedding import CodeEmbedding, lengthened
from zoo.decoders.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class DepthConfig(AutoregressiveConfig):
    """Shape of a frame and depth decoder.

    Attributes:
        depth: Of the small transformer, which is causal; it may be narrower.
    """

    depth: TransformerConfig

    def __post_init__(self) -> None:
        if len(self.cards) < 2 or not self.depth.causal:
            raise ValueError(f"{len(self.cards)} codebooks: depth goes through two or more, by a causal transformer")
        if self.tied or self.head_bias:
            raise ValueError("heads belong to the depth transformer; leave tied and head_bias out")


class DepthDecoder(AutoregressiveDecoder):
    """Codes of one frame depend on each other: `depth` gives their logits."""

    config_class: ClassVar[type[AutoregressiveConfig]] = DepthConfig

    def __init__(self, config: DepthConfig):
        super().__init__(config)
        self.heads = DepthHeads(config)
        count = sum(parameter.numel() for parameter in self.parameters())
        self._info = replace(self._info, depth=True, parameters=count)

    def depth(self, hidden: Float[Tensor, "R N D"], codes: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N Q V"]:
        return self.heads.given(hidden, codes)


class DepthHeads(nn.Module):
    """Logits of the codes of a frame, one after the other."""

    def __init__(self, config: DepthConfig):
        super().__init__()
        self.cards, core = config.cards, config.depth
        self.enter = nn.Linear(config.transformer.width, core.width, bias=False)
        self.embedding = CodeEmbedding(config.cards[:-1], config.specials, core.width)  # nothing follows the last code
        self.transformer = Transformer(core)
        self.products = nn.ModuleList(nn.Linear(core.width, card, bias=False) for card in config.cards)
        for product in (self.enter, *self.products):
            nn.init.normal_(product.weight, std=product.in_features**-0.5)

    def forward(self, hidden: Float[Tensor, "R N D"]) -> Float[Tensor, "R N Q V"]:
        """Those of the first codebook; of the others nothing is known yet, and all their tokens have the logit 0."""
        first = self._run(self.enter(hidden)[:, :, None])
        others = [first.new_zeros(*first.shape[:2], 1, card) for card in self.cards[1:]]
        return torch.cat([first, *(lengthened(logits, max(self.cards)) for logits in others)], 2)

    def given(self, hidden: Float[Tensor, "R N D"], codes: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N Q V"]:
        """See `TokenModel.depth`. Each code sees the hidden state and the codes before it."""
        before = self.embedding.table(codes[..., :-1] + self.embedding.first)
        return self._run(self.enter(hidden)[:, :, None] + pad(before, (0, 0, 1, 0)))

    def _run(self, x: Float[Tensor, "R N q C"]) -> Float[Tensor, "R N q V"]:
        rows, slots, books, _ = x.shape
        places = torch.arange(books, device=x.device).expand(rows * slots, -1)
        hidden, _ = self.transformer(x.flatten(0, 1), places)
        parts = [
            lengthened(product(part).float(), max(self.cards))
            for product, part in zip(self.products, hidden.unbind(1), strict=False)
        ]
        return torch.stack(parts, 1).unflatten(0, (rows, slots))
