"""The smallest parallel decoders, their training on toys, and sums over all that a loss sums over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.decoders.conditioning import ConditionConfig, Conditions, text_ids
from zoo.decoders.parallel import ParallelDecoder, mean_nats
from zoo.decoders.transformer import TransformerConfig

CORE = TransformerConfig(16, 1, heads=2, causal=False)
SOURCE = ConditionConfig(16, text=256, encoder=CORE)
COND = Conditions(text=text_ids(["abc", "d", ""]))


def small_parallel(kind: type, cards: tuple[int, ...], upsampling: int = 2, random: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    config = kind.config_class(cards=cards, transformer=CORE, condition=SOURCE, upsampling=upsampling, **options)
    model: ParallelDecoder = kind(config)
    if not random:
        return model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def train(parameters: Any, loss_of: Callable[[], Tensor], steps: int, rate: float = 1e-2) -> float:
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def trained(model: Any, texts: list[str], codes: Tensor, steps: int) -> Any:
    """The model behind some steps on all examples, in eval mode."""
    cond = Conditions(text=text_ids(texts))
    train(model.train().parameters(), lambda: mean_nats(model.nats(codes, cond), codes), steps)
    return model.eval()
