"""What a causal decoder says of a batch, step by step."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import Output, TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout
from zoo.recipes.tally import IGNORED
from zoo.token_facts import positions_of


def read(
    decoder: TokenModel,
    layout: Layout,
    tokens: Int[Tensor, "R N S"],
    batch: Mapping[str, Any],
    cond: Conditions | None,
) -> Output:
    """What a causal decoder says behind each step of a batch but the last; of all codes of the next one."""
    state = None if cond is None else decoder.init_state(len(tokens), 0, cond)
    logits, hidden = decoder(tokens[:, :-1], places(decoder, layout, tokens, batch), state)
    if decoder.info.depth:
        logits = decoder.depth(hidden, tokens[:, 1:])
    return Output(logits, hidden)


def places(
    decoder: TokenModel, layout: Layout, tokens: Int[Tensor, "R N S"], batch: Mapping[str, Any]
) -> Int[Tensor, "R M *axes"] | None:
    """Positions of each step of a batch but the last; None: their order."""
    positions = positions_of(layout, decoder.info, tuple(batch["codes"].shape[2:]))
    if positions is None:
        return None
    positions = positions[:, :-1].to(tokens.device)
    return positions.expand(len(tokens), *positions.shape[1:])


def came_behind(layout: Layout, tokens: Int[Tensor, "R N S"]) -> Int[Tensor, "R M S"]:
    """What came behind each step of a batch but the last: tokens that can come out, `IGNORED` for all others."""
    after = tokens[:, 1:]
    return after.where(after < torch.tensor(layout.cards, device=tokens.device), IGNORED)
