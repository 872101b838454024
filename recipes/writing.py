"""Sequences that a decoder in training, or its teacher, writes itself, to learn from them or to show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout
from zoo.decoders.layouts.base import Special
from zoo.decoders.sampling import Noise, decode
from zoo.token_facts import positions_of


class Written(NamedTuple):
    """A batch's steps, of which a decoder wrote all but the first.

    Attributes:
        tokens: int64, as `Layout.pack` gives them; structure and padding are those of the batch.
        given: How many steps of each row are the batch's.
    """

    tokens: Int[Tensor, "R N S"]
    given: int


def written(
    decoder: TokenModel,
    layout: Layout,
    batch: Mapping[str, Any],
    tokens: Int[Tensor, "R N S"],
    cond: Conditions | None,
    noise: Noise,
    prompt: float,
) -> Written:
    """How a causal decoder goes on with the beginnings of a batch, drawn from its own law, in float32.

    A row is as long as that of the batch, or ends before by an end token of its own.

    Args:
        tokens: The steps of the batch.
        prompt: Share of the steps that is given, at least the first one.
    """
    given = given_of(tokens, prompt)
    with at_rest(decoder):
        result = decode(
            decoder, tokens[:, :given], tokens.shape[1] - given, None, noise, cond=cond, stop=stops(layout),
            **grid_of(decoder, layout, batch),
        )  # fmt: skip
    return Written(continued(layout, tokens, given, result.codes), given)


def continued(
    layout: Layout, tokens: Int[Tensor, "R N S"], given: int, codes: Int[Tensor, "R M S"]
) -> Int[Tensor, "R N S"]:
    """A batch's steps, of which all but the first are exchanged for what a decoder wrote; -1 is nothing."""
    came, cards = torch.full_like(tokens[:, given:], -1), torch.tensor(layout.cards, device=tokens.device)
    came[:, : codes.shape[1]] = codes
    came = came.where(came >= 0, layout.special(Special.PAD).to(tokens.device))
    return torch.where(tokens < cards, torch.cat((tokens[:, :given], came), 1), tokens)


def given_of(tokens: Int[Tensor, "R N S"], prompt: float) -> int:
    """How many of the steps are that share: at least one, and not all."""
    return min(max(1, round(prompt * tokens.shape[1])), tokens.shape[1] - 1)


def stops(layout: Layout) -> tuple[int, ...]:
    """Tokens of the first codebook that end a row."""
    return () if layout.end_id is None else (layout.end_id,)


def grid_of(decoder: TokenModel, layout: Layout, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What `decode` is to know of a batch's grid: the structure of its layout, and the positions of its steps."""
    shape, device = tuple(batch["codes"].shape[2:]), batch["codes"].device
    positions = positions_of(layout, decoder.info, shape)
    return {
        "forced": layout.forced(shape)[None].to(device),
        "positions": None if positions is None else positions.to(device),
    }


@contextmanager
def at_rest(decoder: TokenModel) -> Iterator[None]:
    """In eval mode and in float32, as sampling needs it, then again as it was."""
    training = decoder.training
    decoder.eval()
    try:
        with torch.autocast(next(decoder.parameters()).device.type, enabled=False):
            yield
    finally:
        decoder.train(training)


def chosen(noise: Noise, share: float) -> bool:
    """Whether a batch is of that share; depends on the noise alone."""
    return float(noise.uniform(torch.zeros(1, 1, dtype=torch.int64), 1)) < share
