"""How both stages of a two-stage decoder learn side by side: VALL-E (arXiv 2301.02111)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.codecs.errors import UserError
from zoo.decoders.conditioning import Conditions
from zoo.decoders.sampling import Law, Noise
from zoo.decoders.two_stage import TwoStageDecoder
from zoo.recipes.decoder import OPTIMIZATION, PREVIEW, Objective, TokenRecipe
from zoo.recipes.fitting import check_lengths
from zoo.recipes.masked import TRAINING
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Preview
from zoo.recipes.start import adapt
from zoo.recipes.tally import IGNORED, Foretold


class TwoStageRecipe(TokenRecipe):
    """Trains both stages at once; see `TokenRecipe` for what else there is.

    The loss is the sum of the stages'. Validation tells the cross-entropy of each codebook given all that is drawn
    before it: of the first codebook that of the first stage, end included, of the others that of the second.

    Args:
        decoder: What to train; its layout is its own.
        steps, seed, optimization, condition_dropout, start_from: See `TokenRecipe`.
        coarse_from, fine_from: As `adapt_from` in `TokenRecipe`, of each stage: an autoregressive decoder and a masked
            one of the same codes and conditions.
        preview: What validation shows in TensorBoard: how the decoder goes on with the beginning of an item, for so
            many `steps` of the first stage.

    Raises:
        UserError: Checkpoints of other shapes.
    """

    def __init__(
        self,
        decoder: TwoStageDecoder,
        steps: int,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
        coarse_from: str | None = None,
        fine_from: str | None = None,
    ):
        for stage, checkpoint in ((decoder.coarse, coarse_from), (decoder.fine, fine_from)):
            if checkpoint is not None:
                adapt(stage, checkpoint)
        super().__init__(decoder, decoder.layout, steps, seed, optimization, condition_dropout, preview, start_from)

    def setup(self, stage: str) -> None:
        """
        Raises:
            UserError: Data that the decoder can't take.
        """
        super().setup(stage)
        check_lengths(self.decoder, self.layout, getattr(self.trainer, "datamodule", None))

    def configure_model(self) -> None:
        """
        Raises:
            UserError: The strategy parts weights, which are gathered for a decoder as a whole and not for a stage.
        """
        if self.device_mesh is not None:
            raise UserError("stages are learned on whole weights; take --trainer.strategy=ddp")

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Cross-entropy of the first codebook, and of one of the others in each row."""
        draws = np.random.SeedSequence((self.seed, TRAINING, number)).generate_state(1, np.uint64)
        asked = self.decoder.ask(batch["codes"], torch.Generator().manual_seed(int(draws[0])), batch["lengths"], cond)
        with torch.autocast(self.device.type, enabled=False):
            parts = {stage: each.loss for stage, each in asked.items()}
        return Objective(sum(parts.values()), parts, sum(int((each.targets >= 0).sum()) for each in asked.values()))

    def foretell(
        self, decoder: TwoStageDecoder, batch: Mapping[str, Any], cond: Conditions | None, number: int
    ) -> Foretold:
        """All codes, and the end."""
        tokens = self.layout.pack(batch["codes"], decoder.whole(batch["lengths"]))
        state = None if cond is None else decoder.init_state(len(tokens), 0, cond)
        targets = tokens.where(tokens < torch.tensor(self.layout.cards, device=tokens.device), IGNORED)
        return Foretold(decoder(tokens, state=state).logits, targets)

    def sample(self, decoder: TwoStageDecoder, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """How the decoder goes on with the beginning of the item."""
        target, group = batch["codes"][:1, :, : int(batch["lengths"][0])], decoder.config.group
        given = min(round(self.preview.prompt * target.shape[2]), target.shape[2] - 1) // group * group
        frames = min(self.preview.steps * group, target.shape[2] - given)
        law, noise = Law(temperature=self.preview.temperature), Noise(self.seed)
        codes, _ = decoder.generate(1, frames, law, noise, cond, target[..., :given])
        return {"target": target[0], "sample": codes[0], "given": torch.tensor(given)}
