"""How decoders learn that make a sequence from a source in one pass (CTC, directed acyclic) or in a few (unrolled)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.directed_acyclic import DirectedAcyclicDecoder
from zoo.decoders.layouts import Layout
from zoo.decoders.parallel import ParallelDecoder, mean_nats
from zoo.decoders.sampling import Law, Noise
from zoo.decoders.unrolled_denoising import decode_unrolled, ruined, unrolled_loss
from zoo.recipes.decoder import OPTIMIZATION, Objective, TokenRecipe
from zoo.recipes.fitting import check_lengths
from zoo.recipes.masked import TRAINING, VALIDATION, check_cells, steps_inside
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Preview
from zoo.recipes.tally import IGNORED, Foretold, Measured
from zoo.token_facts import positions_of

PREVIEW = Preview(steps=8, temperature=0.0)


class ParallelRecipe(TokenRecipe):
    """Trains a decoder that knows what a whole sequence costs; see `TokenRecipe` for what else there is.

    Rows that are too long for the places made of their source teach nothing; how many there are, `impossible` tells.

    Args:
        decoder: What to train.
        layout: `Parallel`, without structure tokens. For CTC with `absent`: no code here, that is the blank.
        steps, seed, optimization, start_from: See `TokenRecipe`.
        glance: For directed acyclic decoders: what share of the wrong codes is shown in the first step and in the last;
            between them it changes in a straight line.
        preview: What validation shows in TensorBoard: what the decoder makes of the source of a batch's first item.

    Raises:
        UserError: A decoder of another kind, one that doesn't glance, or a layout of other tokens or steps.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        glance: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
    ):
        if not isinstance(decoder, ParallelDecoder):
            raise UserError(f"this recipe trains decoders of one pass, such as a CTCDecoder, not {type(decoder)}")
        if any(glance) and not isinstance(decoder, DirectedAcyclicDecoder):
            raise UserError(f"a glance of {glance}, but {type(decoder).__name__} doesn't glance; leave it out")
        check_cells(layout)
        super().__init__(decoder, layout, steps, seed, optimization, 0.0, preview, start_from)
        self.glance = glance

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Nats of a code, over the rows that are possible."""
        codes, options = steps_inside(self.layout, batch), {}
        if any(self.glance):
            first, last = self.glance
            draws = np.random.SeedSequence((self.seed, TRAINING, number)).generate_state(1, np.uint64)
            options["glance"] = first + (last - first) * int(self.step) / self.steps
            options["generator"] = torch.Generator().manual_seed(int(draws[0]))
        nats = self.decoder.nats(codes, cond, **options)
        loss = mean_nats(nats, codes)
        parts = {"nats": loss, "impossible": nats.isinf().float().mean()}
        return Objective(loss, parts, int((codes >= 0).sum()))

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Measured:
        """All codes of the rows that are possible."""
        codes = steps_inside(self.layout, batch)
        nats = decoder.nats(codes, cond)
        asked = (codes >= 0) & nats.isfinite()[:, None, None]
        share = nats / asked.flatten(1).sum(1).clamp(min=1)
        return Measured(share[:, None, None].expand(codes.shape).where(asked, 0), codes.where(asked, IGNORED))

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """What the decoder makes of the item's source."""
        law = Law(temperature=self.preview.temperature)
        return _shown(batch, decoder.generate(cond, law, Noise(self.seed)).codes[0].mT)


class UnrolledRecipe(TokenRecipe):
    """Trains a decoder that is not causal to restore codes; see `TokenRecipe` for what else there is.

    Under a layout with `absent` tokens, rows are filled up with them, and the decoder learns where a row ends.

    Args:
        decoder: What to train.
        layout: `Parallel` or `Raster`, without other structure tokens.
        steps, seed, optimization, condition_dropout, start_from: See `TokenRecipe`.
        passes: Of a training step; each restores what the one before made.
        preview: What validation shows in TensorBoard: what the decoder makes of random codes, and of the condition of a
            batch's first item, in so many `steps`.

    Raises:
        UserError: A causal decoder, or a layout of other tokens or steps.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        passes: int = 2,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
    ):
        if decoder.info.causal:
            raise UserError("this recipe needs a decoder that is not causal, such as a MaskedDecoder")
        check_cells(layout)
        super().__init__(decoder, layout, steps, seed, optimization, condition_dropout, preview, start_from)
        self.passes = passes

    def setup(self, stage: str) -> None:
        """See `TokenRecipe.setup`; how to draw from such a decoder is a fact, too.

        Raises:
            UserError: Data that the decoder can't take.
        """
        super().setup(stage)
        check_lengths(self.decoder, self.layout, getattr(self.trainer, "datamodule", None))
        self.facts = replace(self.facts, unrolled=True)

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Cross-entropy of all codes, over all passes."""
        codes, noise = self.steps_of(batch), Noise(self.seed).derive(TRAINING, number)
        state = None if cond is None else self.decoder.init_state(len(codes), 0, cond)
        loss = unrolled_loss(self.decoder, codes, noise, self.passes, state, self.positions(batch, len(codes)))
        return Objective(loss, {"cross_entropy": loss}, int((codes >= 0).sum()))

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Foretold:
        """All codes, given ruined ones; the same ones at each validation."""
        codes, noise = self.steps_of(batch), Noise(self.seed).derive(VALIDATION, number)
        state = None if cond is None else decoder.init_state(len(codes), 0, cond)
        visible = (codes >= 0)[:, None, :, 0].expand(-1, codes.shape[1], -1)
        given = ruined(codes, self.layout.cards, noise)
        logits = decoder(given, self.positions(batch, len(codes)), state, visible).logits
        return Foretold(logits, codes.where(codes >= 0, IGNORED))

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """What the decoder makes of random codes."""
        shape = tuple(batch["codes"].shape[2:])
        places = self.layout.steps(shape)
        law, noise = Law(temperature=self.preview.temperature), Noise(self.seed)
        positions = self.positions(batch, 1)
        made = decode_unrolled(decoder, (1, places), self.preview.steps, law, noise, cond=cond, positions=positions)
        return _shown(batch, self.layout.unpack(made.codes, shape)[0])

    def steps_of(self, batch: Mapping[str, Any]) -> Int[Tensor, "R S Q"]:
        """The cells of a batch; where there is nothing, the absent token, or -1 if the layout has none."""
        codes = steps_inside(self.layout, batch)
        return codes.where(codes >= 0, torch.tensor(self.layout.sizes).to(codes)) if self.layout.absent else codes

    def positions(self, batch: Mapping[str, Any], rows: int) -> Int[Tensor, "R S *axes"] | None:
        """Of the places, for decoders of several axes."""
        positions = positions_of(self.layout, self.decoder.info, tuple(batch["codes"].shape[2:]))
        return None if positions is None else positions.to(self.device).expand(rows, *positions.shape[1:])


def _shown(batch: Mapping[str, Any], sample: Tensor) -> dict[str, Tensor]:
    return {"target": batch["codes"][0], "sample": sample, "given": torch.tensor(0)}
