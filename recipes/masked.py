"""How a masked decoder learns to fill in what is hidden: MaskGIT, SoundStorm, MAGNeT, MobileSpeech, masked diffusion.

`zoo.decoders.masked` names the papers and how their decoders differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.configs import from_json
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout, Parallel
from zoo.decoders.masked import Hidden, Masking, masked_loss
from zoo.decoders.sampling import Law, Noise, decode_masked
from zoo.decoders.sampling.choosers import Confidence, Spans
from zoo.recipes.decoder import OPTIMIZATION, Objective, TokenRecipe
from zoo.recipes.fitting import check_lengths
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Preview
from zoo.recipes.tally import IGNORED, Foretold
from zoo.token_facts import positions_of

TRAINING, VALIDATION = 0, 1  # what hidden codes are drawn for
PREVIEW = Preview(steps=12)


class MaskedRecipe(TokenRecipe):
    """Trains a decoder that is not causal to find hidden codes; see `TokenRecipe` for what else there is.

    Which codes are hidden is drawn from (seed, number of the batch); at validation, at which the same ones are hidden
    each time, from the seed and the number of its batch.

    Args:
        decoder: What to train.
        layout: `Parallel` or `Raster`, without structure tokens: a cell a step, a codebook a slot.
        steps, seed, optimization, condition_dropout, start_from: See `TokenRecipe`.
        masking: Fields of `Masking` but for the cards, which are the layout's.
        bound: The loss is the mean of each row, then of the rows; under `schedule="linear"` this bounds the negative
            log-likelihood of a code, and validation tells the bound. Else all hidden codes count the same.
        finer: How much the finer codebooks of rows hidden by level count, beside what is hidden. Decoding never asks
            for them that early, but a pass then teaches of all codes instead of a sixth.
        adapt_from: See `TokenRecipe`. A causal decoder is worth beginning with: it learned from all codes in each pass,
            not from hidden ones alone.
        preview: What validation shows in TensorBoard: the first item of a batch, of which the first cells are given and
            all others are filled in, in so many `steps`, by level in as many for each codebook.

    Raises:
        UserError: A causal decoder or one without mask token, a layout of other tokens or of several steps a cell, a
            masking that makes no sense.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        masking: dict[str, Any] | None = None,
        bound: bool = False,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
        finer: float = 0.0,
        adapt_from: str | None = None,
    ):
        if decoder.info.causal or decoder.info.specials < 1:
            raise UserError(
                "this recipe needs a decoder that is not causal and knows a mask token, such as a MaskedDecoder"
            )
        check_cells(layout)
        super().__init__(decoder, layout, steps, seed, optimization, condition_dropout, preview, start_from, adapt_from)
        self.masking = from_json(Masking, {"cards": layout.cards} | (masking or {}), "masking")
        if self.masking.cards != layout.cards:
            raise UserError(f"masking of cards {self.masking.cards}, the layout's are {layout.cards}; leave them out")
        if finer and not self.masking.by_level:
            raise UserError(f"finer={finer}: codebooks are hidden all at once, there are no finer ones; leave it out")
        self.bound, self.finer = bound, finer

    def setup(self, stage: str) -> None:
        """
        Raises:
            UserError: Data that the layout or the decoder can't take.
        """
        super().setup(stage)
        self.facts = replace(self.facts, masking=self.masking)
        check_lengths(self.decoder, self.layout, getattr(self.trainer, "datamodule", None))

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Cross-entropy of what is hidden, given what is not."""
        hidden = self.hide(batch, TRAINING, number)
        logits = self.predict(self.decoder, hidden, batch, cond)
        with torch.autocast(self.device.type, enabled=False):
            loss = masked_loss(logits.float(), hidden.targets, self.bound)
            parts = {"cross_entropy": loss}
            if self.finer:
                parts["finer"] = masked_loss(logits.float(), hidden.finer)
                loss = loss + self.finer * parts["finer"]
        return Objective(loss, parts, int((hidden.targets >= 0).sum()))

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Foretold:
        """What is hidden, all levels as often; for a bound, each row counts as many codes as it has."""
        hidden = self.hide(batch, VALIDATION, number)
        logits, asked = self.predict(decoder, hidden, batch, cond), hidden.targets >= 0
        weight = None
        if self.bound:
            codes = hidden.visible[:, 0].sum(1) * len(self.layout.cards)
            weight = codes / asked.flatten(1).sum(1).clamp(min=1)
        return Foretold(logits, hidden.targets.where(asked, IGNORED), weight)

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """What the decoder fills in behind the beginning of the item."""
        return fill(decoder, self.layout, self.masking, batch, cond, Noise(self.seed), self.preview)

    def hide(self, batch: Mapping[str, Any], purpose: int, number: int) -> Hidden:
        """The steps of a batch, of which some codes are hidden; what for, its number and the seed say which."""
        masking = self.masking if purpose == TRAINING else replace(self.masking, levels=())
        tokens = steps_inside(self.layout, batch)
        draws = np.random.SeedSequence((self.seed, purpose, number)).generate_state(1, np.uint64)
        return masking.mask_for_training(tokens, torch.Generator().manual_seed(int(draws[0])))

    def predict(
        self, decoder: TokenModel, hidden: Hidden, batch: Mapping[str, Any], cond: Conditions | None
    ) -> Float[Tensor, "R S Q V"]:
        """Logits of all places."""
        tokens = hidden.inputs
        state = None if cond is None else decoder.init_state(len(tokens), 0, cond)
        positions = positions_of(self.layout, decoder.info, tuple(batch["codes"].shape[2:]))
        if positions is not None:
            positions = positions.to(tokens.device).expand(len(tokens), *positions.shape[1:])
        mask = None if hidden.visible.all() else hidden.visible  # attention without a mask is faster
        return decoder(tokens, positions, state, mask).logits


def check_cells(layout: Layout) -> None:
    """
    Raises:
        UserError: A layout of other steps than cells.
    """
    probe = (2,) * (layout.axes or 1)
    if not isinstance(layout, Parallel) or layout.steps(probe) != prod(probe):
        raise UserError(
            "decoders that are not causal fill in cells, each of which is a step; take a Parallel or Raster layout "
            f"without begin, end, row_end and grid_end, not {layout}"
        )


def steps_inside(layout: Layout, batch: Mapping[str, Any]) -> Int[Tensor, "R S Q"]:
    """The cells of a batch as steps, -1 where there is nothing."""
    inside = cells_inside(batch)
    tokens = layout.pack(batch["codes"].where(inside[:, None], 0))
    return tokens.where(inside.flatten(1)[..., None], -1)


def cells_inside(batch: Mapping[str, Any]) -> Bool[Tensor, "batch *grid"]:
    """Which cells of a batch hold something."""
    codes, lengths = batch["codes"], batch["lengths"].view(len(batch["codes"]), -1)
    inside = torch.ones_like(codes[:, 0], dtype=torch.bool)
    for axis, size in enumerate(codes.shape[2:]):
        there = torch.arange(size, device=codes.device) < lengths[:, axis, None]
        inside &= there.view(len(codes), *(size if other == axis else 1 for other in range(lengths.shape[1])))
    return inside


def fill(
    decoder: TokenModel,
    layout: Layout,
    masking: Masking,
    batch: Mapping[str, Any],
    cond: Conditions | None,
    noise: Noise,
    preview: Preview,
) -> dict[str, Tensor]:
    """Codes of the first item of a batch (`target`), and what the decoder makes of it (`sample`): `[codebook, *grid]`.

    `given` is how many cells were given: a share of the preview's `prompt`, and of codebooks that the masking never
    hides, all.
    """
    lengths = batch["lengths"][:1].view(-1).tolist()
    codes = batch["codes"][(slice(1), slice(None), *map(slice, lengths))]
    shape, tokens = tuple(codes.shape[2:]), layout.pack(codes)
    given = min(round(preview.prompt * tokens.shape[1]), tokens.shape[1] - 1)
    prompt = tokens.clone()
    prompt[:, given:, masking.first :] = -1
    positions = positions_of(layout, decoder.info, shape)
    result = decode_masked(
        decoder, prompt, (preview.steps,) * len(layout.cards) if masking.by_level else preview.steps,
        Law(temperature=preview.temperature), noise, "linear" if masking.schedule == "linear" else "cosine",
        Spans(masking.span) if masking.span > 1 else Confidence(), cond=cond,
        positions=None if positions is None else positions.to(tokens.device),
    )  # fmt: skip
    return {"target": codes[0], "sample": layout.unpack(result.codes, shape)[0], "given": torch.tensor(given)}
