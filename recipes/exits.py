"""Early exits: heads that learn to foretell behind some of the layers, too, as drafts by these layers need it."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import core_of
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout
from zoo.recipes.reading import places


def read_exits(
    decoder: TokenModel,
    layout: Layout,
    tokens: Int[Tensor, "R N S"],
    batch: Mapping[str, Any],
    cond: Conditions | None,
    exits: Collection[int],
) -> list[Float[Tensor, "R M S V"]]:
    """Logits of an `AutoregressiveDecoder` for each step but the first, behind so many layers and behind all."""
    before, positions = tokens[:, :-1], places(decoder, layout, tokens, batch)
    if positions is None:
        positions = torch.arange(before.shape[1], device=tokens.device).expand(before.shape[:2])
    state = decoder.init_state(len(tokens), 0, cond)
    found = core_of(decoder).exits(before, positions, [n - 1 for n in exits], state)
    return [output.logits for output in found]


def exit_weights(exits: Collection[int], layers: int, scale: float) -> list[float]:
    """What the loss counts behind so many layers, and behind all: ever more, 1 together; see `DecoderRecipe`."""
    weights = [scale * n * (n + 1) / 2 for n in exits] + [layers + scale * (layers - 1) * layers / 2]
    return [weight / sum(weights) for weight in weights]


def check_exits(decoder: TokenModel, exits: tuple[int, ...], scale: float) -> None:
    """
    Raises:
        UserError: A decoder without exits, or without these, or a scale that is not above 0.
    """
    core, layers = core_of(decoder), decoder.info.layers
    if core is None or decoder.info.depth:
        raise UserError(
            f"exits {exits}: {type(decoder).__name__} exits nowhere early; leave them out, or take an "
            "AutoregressiveDecoder, alone or behind its conditions"
        )
    if list(exits) != sorted(set(exits)) or not 0 < exits[0] <= exits[-1] < layers:
        raise UserError(
            f"exits {exits} are not numbers of layers in 1 .. {layers - 1}, each larger than the one before"
        )
    if not scale > 0:
        raise UserError(f"exit_scale {scale} is not above 0; leave out exits that are not to be learned")
