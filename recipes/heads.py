"""How heads that draft learn to look ahead, on the hidden states of a decoder that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import core_of
from zoo.decoders.conditioning import Conditions
from zoo.decoders.heads import HeadsConfig, MultiTokenHeads
from zoo.decoders.sampling.proposers import Heads
from zoo.recipes.decoder import CHOICE, OPTIMIZATION, WRITING, Objective, TokenRecipe
from zoo.recipes.divergence import Divergence, divergence
from zoo.recipes.fitting import check_lengths
from zoo.recipes.metrics import Score
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Pace, Preview
from zoo.recipes.reading import read
from zoo.recipes.tally import IGNORED, Foretold
from zoo.recipes.teacher import Teacher
from zoo.recipes.writing import chosen, written

PREVIEW = Preview(batches=4, steps=64, temperature=0.0)


class HeadsRecipe(TokenRecipe):
    """Trains heads on a frozen decoder, of whose layout and conditions they are; see `TokenRecipe` for what else.

    Parallel heads: Stern et al., "Blockwise Parallel Decoding" (arXiv 1811.03115), Cai et al., "Medusa" (arXiv
    2401.10774). Sequential heads: Ankner et al., "Hydra" (arXiv 2402.05109); as in Cheng et al., "Recurrent Drafter"
    (arXiv 2403.09919), but each level has weights of its own where that has one recurrent cell. They start as the
    decoder's own head, if it is an `AutoregressiveDecoder`.

    With `learn_from="law"`, a head learns the decoder's own law of the step that it stands for, given the data up to
    there: what the decoder would say counts, not what the data do (Hydra, Recurrent Drafter). With `written`, the
    decoder also writes a share of the sequences itself (self-distillation, Medusa), which takes a pass for each step.

    Args:
        target: The decoder, as `zoo.load` takes it, or the `last.ckpt` of its training run.
        steps, seed, optimization, condition_dropout, start_from: See `TokenRecipe`.
        heads, blocks, sequential, shared: See `HeadsConfig`.
        learn_from: The tokens that come, or the decoder's law of them.
        divergence: From that law; see `zoo.recipes.divergence.divergence`.
        decay: The loss of each head counts so much of that of the one before.
        written: Share of the batches that the decoder goes on with, behind their beginnings.
        prompt: Share of the steps that is given there, at least the first one.
        preview: Items of validation that the decoder goes on with, the heads drafting chains; how many steps a pass
            gives, validation tells, as `steps/forward`. None: nothing.

    Raises:
        UserError: The target is no causal decoder, or one without a head to share; shares are not in 0 .. 1.
    """

    def __init__(
        self,
        target: str,
        steps: int,
        heads: int = 4,
        blocks: int = 1,
        sequential: bool = False,
        shared: bool = False,
        learn_from: Literal["data", "law"] = "data",
        divergence: Divergence = "forward",
        decay: float = 0.8,
        written: float = 0.0,
        prompt: float = 0.25,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
    ):
        teacher = Teacher(target)
        info, tokens = teacher.decoder.info, teacher.decoder.tokens
        if not info.causal:
            raise UserError(f"{target} doesn't go step by step; heads look ahead for decoders that do")
        if not 0 <= written <= 1 or not 0 <= prompt <= 1 or not decay > 0:
            raise UserError(f"written {written} and prompt {prompt} are shares in 0 .. 1, and decay {decay} is above 0")
        model, core = MultiTokenHeads(HeadsConfig.of(info, heads, blocks, sequential, shared)), core_of(teacher.decoder)
        if shared and core is None:
            raise UserError(f"{target} is {type(teacher.decoder).__name__}, which has no head to share; leave it out")
        if core is not None and not shared:
            model.start_from(core)
        super().__init__(model, tokens.layout, steps, seed, optimization, condition_dropout, preview, start_from)
        self.teacher, self.learn_from, self.divergence, self.decay = teacher, learn_from, divergence, decay
        self.written, self.prompt = written, prompt
        self.pace = Pace()

    def setup(self, stage: str) -> None:
        """
        Raises:
            UserError: Data of other tokens than the target's, or longer than its context.
        """
        super().setup(stage)
        self.teacher.check(self.facts)
        check_lengths(self.teacher.decoder, self.layout, getattr(self.trainer, "datamodule", None))

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    @property
    def conditioning(self) -> tuple[str, ...]:
        """Of the target: the heads are told nothing."""
        return self.teacher.decoder.info.conditioning

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """The heads' losses, each counting less than the one before."""
        tokens, given, target = self.pack(batch), 0, self.teacher.decoder
        if chosen(self.noise_of(number, CHOICE), self.written):
            noise = self.noise_of(number, WRITING)
            tokens, given = written(target, self.layout, batch, tokens, cond, noise, self.prompt)
        with torch.no_grad():
            law, hidden = read(target, self.layout, tokens, batch, cond)
        losses, parts, count = [], {}, 0
        for head, (logits, targets) in enumerate(self.decoder.ahead(hidden, tokens, core_of(target))):
            targets = targets.where(targets >= 0, IGNORED)
            targets[:, : max(given - head - 2, 0)] = IGNORED
            if not (targets != IGNORED).any():
                continue
            with torch.autocast(self.device.type, enabled=False):
                losses.append(self.decay**head * self.missed(logits, targets, law[:, head + 1 :]))
            parts[f"head {head + 1}"] = losses[-1].detach() / self.decay**head
            count += int((targets != IGNORED).sum())
        if not losses:
            raise UserError("no item of this batch has three steps, and heads look ahead two or more; give longer ones")
        return Objective(torch.stack(losses).sum(), parts, count)

    def missed(
        self, logits: Float[Tensor, "R M S V"], targets: Int[Tensor, "R M S"], law: Float[Tensor, "R M S V"]
    ) -> Float[Tensor, ""]:
        """How far a head is from the tokens that came, or from the law that they came from."""
        if self.learn_from == "data":
            return cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORED)
        return divergence(logits, law, targets, 1.0, self.divergence)

    def foretell(
        self, decoder: MultiTokenHeads, batch: Mapping[str, Any], cond: Conditions | None, number: int
    ) -> Foretold:
        """The data's tokens, by all heads."""
        tokens = self.pack(batch)
        target = self.teacher.decoder
        hidden = read(target, self.layout, tokens, batch, cond).hidden
        said = decoder.ahead(hidden, tokens, core_of(target))
        logits, targets = (torch.cat(parts, 1) for parts in zip(*said, strict=True))
        return Foretold(logits, targets.where(targets >= 0, IGNORED))

    def sample(self, decoder: MultiTokenHeads, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """How the target goes on with the beginning of the item, the heads drafting."""
        media = self.preview.sample(
            self.teacher.decoder, self.layout, batch, cond, self.noise_of(0),
            Heads(decoder, width=1), self.decoder.config.heads,
        )  # fmt: skip
        self.pace.count(media)
        return media

    def summary(self) -> dict[str, Score]:
        """Nats of a code over all heads, and how many steps a pass of the target gives, the heads drafting."""
        return super().summary() | self.pace.take()
