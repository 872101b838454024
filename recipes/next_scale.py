"""How a decoder learns to draw ever finer maps of codes, each from all coarser ones: VAR (arXiv 2404.02905)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout, NextScale
from zoo.decoders.next_scale import NextScaleDecoder, decode_scales
from zoo.decoders.sampling import Law, Noise
from zoo.recipes.decoder import OPTIMIZATION, PREVIEW, Objective, TokenRecipe
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Preview
from zoo.recipes.tally import Foretold


class NextScaleRecipe(TokenRecipe):
    """Trains a decoder on all scales of a picture at once, each given the true codes of all coarser ones.

    Its codes are `[batch, codebook, n]`, as multi-scale codecs give them of pictures of one tile, and token sets hold
    them. See `TokenRecipe` for what else there is.

    Args:
        decoder: A `NextScaleDecoder`, with or without conditions.
        layout: `NextScale` of the same scales, without begin step.
        steps, seed, optimization, condition_dropout, start_from: See `TokenRecipe`.
        preview: What validation shows in TensorBoard: a picture drawn from nothing but the conditions of the first item
            of a batch; `prompt` and `steps` have no part in it.

    Raises:
        UserError: Another decoder, or another layout than its own.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
    ):
        core = bare(decoder)
        if not isinstance(core, NextScaleDecoder):
            raise UserError(f"this recipe trains a NextScaleDecoder, got {type(core).__name__}")
        if layout != NextScale(core.config.cards, scales=core.config.scales):
            raise UserError(
                f"the decoder's codebooks are of {core.config.cards}, its scales {core.config.scales}; take the layout "
                f"NextScale of just these, not {layout}"
            )
        super().__init__(decoder, layout, steps, seed, optimization, condition_dropout, preview, start_from)
        self.cells = sum(map(prod, core.config.scales))

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Cross-entropy of all codes."""
        logits, targets = self.predict(self.decoder, batch, cond)
        with torch.autocast(self.device.type, enabled=False):
            loss = cross_entropy(logits.flatten(0, 2), targets.flatten())
        return Objective(loss, {"cross_entropy": loss}, targets.numel())

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Foretold:
        """All codes."""
        return Foretold(*self.predict(decoder, batch, cond))

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """A picture of the item's conditions."""
        drawn = decode_scales(decoder, 1, Law(temperature=self.preview.temperature), Noise(self.seed), cond=cond)
        sample = self.layout.unpack(drawn.codes, (self.cells,))[0]
        return {"target": batch["codes"][0], "sample": sample, "given": torch.tensor(0)}

    def predict(
        self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None
    ) -> tuple[Float[Tensor, "R N Q V"], Int[Tensor, "R N Q"]]:
        """Logits of all cells, and their codes.

        Raises:
            UserError: Items of more or fewer codes than the scales have cells.
        """
        if (batch["lengths"] != self.cells).any():
            raise UserError(
                f"an item has {batch['lengths'].flatten().tolist()} codes, the scales have {self.cells} cells; "
                "make the token set of pictures of one tile, by a codec of these scales"
            )
        tokens = self.layout.pack(batch["codes"])
        state = None if cond is None else decoder.init_state(len(tokens), 0, cond)
        return decoder(tokens, None, state).logits, tokens
