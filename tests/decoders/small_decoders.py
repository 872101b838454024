"""The smallest decoders that have every part, with weights large enough for wrong masks to show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from zoo.decoders.base import TokenModel
from zoo.decoders.transformer import TransformerConfig

CARDS = (11, 7)


def small_decoder(
    cards: tuple[int, ...] = CARDS, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> AutoregressiveDecoder:
    """A decoder in eval mode; options are those of the decoder or, if it has no such, of its transformer.

    Of other types than float64 it has the same weights, rounded.
    """
    outer = {name: options.pop(name) for name in list(options) if name in AutoregressiveConfig.__dataclass_fields__}
    core = TransformerConfig(**({"width": 16, "layers": 3, "heads": 4, "kv_heads": 2} | options))
    torch.manual_seed(seed)
    model = AutoregressiveDecoder(AutoregressiveConfig(cards, core, **outer)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.to(dtype)


def random_tokens(model: TokenModel, rows: int, slots: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(card, (rows, slots), generator=generator) for card in model.info.cards], -1)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Steps `index[r, k]` of each row: [R, S, ...] by [R, K] -> [R, K, ...]."""
    return tokens[torch.arange(len(index))[:, None], index]
