"""How a token decoder learns, over any layout of any codes; a step is one update of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.layouts import Layout
from zoo.decoders.sampling import Noise, guidance
from zoo.decoders.sampling.law import combined
from zoo.recipes.divergence import Distillation, divergence
from zoo.recipes.ema import WeightAverage
from zoo.recipes.exits import check_exits, exit_weights, read_exits
from zoo.recipes.fitting import check_conditions, check_lengths
from zoo.recipes.metrics import Score
from zoo.recipes.optimization import Optimization, adamw
from zoo.recipes.preview import Preview, show_sample
from zoo.recipes.reading import came_behind, read
from zoo.recipes.sharding import shard
from zoo.recipes.start import adapt, start
from zoo.recipes.tally import IGNORED, Foretold, Measured, Tally
from zoo.recipes.teacher import Teacher
from zoo.recipes.towers import Names, TrainedTowers
from zoo.recipes.writing import Written, chosen, written
from zoo.text_vocabulary import TextVocabulary
from zoo.token_facts import TokenFacts

CHOICE, WRITING = 1, 2  # what the noise of a batch is for; with no name, it leaves out conditions
DURATIONS = 0.1  # weight of the loss of predicted durations, which share no weights with anything else
FACTS = (
    "vocabulary",
    "codec",
    "weights",
    "labels",
    "paces",
    "grid",
    "reference",
)  # what a data module may know of its tokens
OPTIMIZATION = Optimization(betas=(0.9, 0.95), weight_decay=0.1, clip=1.0)
PREVIEW = Preview()


class Objective(NamedTuple):
    """What a training step is to lower.

    Attributes:
        loss: float32.
        parts: What is logged, by name.
        tokens: How many were learned from.
    """

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    tokens: int


class TokenRecipe(LightningModule, ABC):
    """Trains a decoder of tokens; a subclass says what it is asked.

    Batches hold `codes`, int64 `[batch, codebook, *grid]`, and `lengths`, how many cells of each are there; for
    conditioned decoders also `label`, int64 `[batch]`, `text`, strings or ids `[batch, id]` (of bytes, or of the data's
    `text_vocabulary`), for timed ones `durations`, and `reference`, codes `[batch, frame, codebook]`. All that is
    random in a step is drawn from (seed, number of the batch), so a resumed run equals an uninterrupted one. Precision,
    gradient accumulation and strategies are the trainer's options; where it accumulates, give epochs of a multiple of
    as many batches. For fully sharded weights: `--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy
    --trainer.strategy.save_distributed_checkpoint=false`.

    Args:
        decoder: What to train.
        layout: How codes become its steps.
        steps: Length of the run in updates: `trainer.max_steps`, and the end of the learning-rate schedule.
        seed: Of dropout, of the conditions left out and of samples.
        optimization: Learning rates and the like; only matrices decay.
        condition_dropout: Share of rows trained without their conditions, for guidance.
        preview: What validation shows in TensorBoard; None: nothing.
        start_from: Checkpoint whose weights to begin with instead of random ones; see `zoo.recipes.start.trained`.
        adapt_from: The same of another kind of decoder, of the same width and layers, as far as it has them.

    Raises:
        UserError: The layout's tokens are not the decoder's.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        seed: int,
        optimization: Optimization,
        condition_dropout: float,
        preview: Preview | None,
        start_from: str | None,
        adapt_from: str | None = None,
    ):
        super().__init__()
        if decoder.info.cards != layout.cards:
            raise UserError(
                f"the layout's steps have slots of {layout.cards} tokens, the decoder's codebooks are of "
                f"{decoder.info.cards}; make them the same"
            )
        self.steps, self.seed, self.optimization = steps, seed, optimization
        self.condition_dropout, self.preview = condition_dropout, preview
        if adapt_from is not None:
            adapt(decoder, adapt_from)
        if start_from is not None:
            start(decoder, start_from)
        self.decoder, self.layout = decoder, layout
        self.class_path = f"{type(decoder).__module__}.{type(decoder).__qualname__}"  # sharding makes it another class
        self.average = WeightAverage(decoder, optimization.average)
        self.facts = TokenFacts(layout)
        self.tally = Tally(layout)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._report: dict[str, Tensor] = {}
        self._loss: Tensor | None = None

    @abstractmethod
    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """What training batch `number` is to lower, of the weights in training."""

    @abstractmethod
    def foretell(
        self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int
    ) -> Foretold | Measured:
        """What a decoder says of validation batch `number`."""

    @abstractmethod
    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """Codes of the first item of a batch (`target`), and of what the decoder makes of it (`sample`).

        Both `[codebook, *grid]`, -1 is no code; `given` is how many steps were given.

        Args:
            cond: Of that item.
        """

    def noise_of(self, number: int, *names: int) -> Noise:
        """What is random about training batch `number`; `names` tell apart what it is for."""
        return Noise(self.seed).derive(number, *names)

    @property
    def conditioning(self) -> tuple[str, ...]:
        """Kinds of condition that are taken from batches."""
        return self.decoder.info.conditioning

    @property
    def network(self) -> TokenModel:
        """What is trained."""
        return self.decoder

    def setup(self, stage: str) -> None:
        """Learn what the tokens are from the data module.

        Raises:
            UserError: Codes of other codebooks than the layout's, or conditions that the decoder can't be told.
        """
        data = getattr(self.trainer, "datamodule", None)
        sizes = tuple(getattr(data, "codebook_sizes", self.layout.sizes))
        if sizes != self.layout.sizes:
            raise UserError(f"the data has codebooks of {sizes} codes, the layout of {self.layout.sizes}")
        given = {name: getattr(data, name, None) for name in FACTS}
        self.facts = TokenFacts(self.layout, **{name: value for name, value in given.items() if value})
        if "text" in self.conditioning:
            self.facts = replace(self.facts, text_vocabulary=self.text_vocabulary(data))
        check_conditions(self.decoder, len(self.facts.labels), self.facts.text_vocabulary)

    def text_vocabulary(self, data: Any) -> TextVocabulary | None:
        """Of the texts that conditions are made of; None: bytes."""
        return getattr(data, "text_vocabulary", None)

    def configure_model(self) -> None:
        """Part the weights among the devices, if the strategy is a mesh of devices (`ModelParallelStrategy`)."""
        if self.device_mesh is not None:
            for decoder in (self.decoder, self.average.module):
                shard(decoder, self.device_mesh["data_parallel"])

    def training_step(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        number = int(self.batches) * self.trainer.world_size + self.global_rank
        self.refuse_divergence()  # here a GPU has nothing left to do: reading the number waited for the step before
        torch.manual_seed(self.seed * 1_000_003 + number)
        conditions = self.conditions(batch)
        if conditions is not None:
            conditions = conditions.dropped(self.condition_dropout, self.noise_of(number))
        loss, self._report, tokens = self.objective(batch, conditions, number)
        if "durations" in self.decoder.info.conditioning:
            self._report["durations"] = self.decoder.duration_loss(conditions)
            loss = loss + DURATIONS * self._report["durations"]
        self._loss = loss.detach()
        self.batches += 1
        counts = {"tokens": tokens * self.trainer.world_size}
        return {"loss": loss, "scalars": self._report, "means": {"padding": padding(batch)}, "counts": counts}

    def refuse_divergence(self) -> None:
        """Stop a run that learns nothing any more.

        A GPU must have finished a loss for anyone to look at it, so that of a batch is looked at where the GPU is
        waited for anyway: before the next batch, before validation and before a checkpoint is written over a sound one.

        Raises:
            UserError: The loss of the last batch is not finite.
        """
        if self._loss is not None and not self._loss.isfinite():
            raise UserError(
                f"the loss is {self._loss.item()} after {int(self.step)} of {self.steps} steps: training diverged; try "
                f"a lower rate (--model.optimization.rate, {self.optimization.rate}), a longer warmup or a lower clip "
                f"(--model.optimization.clip, {self.optimization.clip})"
            )

    def conditions(self, batch: Mapping[str, Any]) -> Conditions | None:
        """Conditions of a batch, of the kinds that the decoder takes; None if it takes none."""
        kinds = self.conditioning
        if not kinds:
            return None
        text = batch.get("text")
        if isinstance(text, list | tuple):
            text = text_ids(text, self.facts.text_vocabulary).to(self.device)
        given = {"labels": batch.get("label"), "text": text, "reference": batch.get("reference")}
        if "reference" in kinds and given["reference"] is None:
            raise UserError(
                "this decoder learns from references, and the data has none; ask for some: --data.reference=FRAMES"
            )
        if "durations" in kinds:
            if "durations" not in batch:
                raise UserError(
                    "this decoder learns when each byte of a text is said, and the data doesn't tell; find it out:"
                    " python -m zoo.recipes.align SET"
                )
            given["durations"] = batch["durations"].float()
        return Conditions(**{kind: given[kind] for kind in kinds})

    def pack(self, batch: Mapping[str, Any]) -> Int[Tensor, "R N S"]:
        """The steps of a batch."""
        codes, lengths = batch["codes"], batch["lengths"]
        return self.layout.pack(codes, lengths if lengths.ndim == 1 else None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.decoder, self.optimization.rate, self.optimization, matrices_only=True)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step: the learning rate of its number, the update, and the mean of weights."""
        for group in optimizer.param_groups:
            group["lr"] = self.optimization.rate * self.optimization.factor(int(self.step), self.steps)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
        self.average.update(self.decoder)

    def configure_gradient_clipping(self, optimizer: Any, *trainers_own: Any, **also_its_own: Any) -> None:
        """By the norm over all weights, as `optimization` says."""
        norm = clip_grad_norm_(self.decoder.parameters(), self.optimization.clip)
        self._report["gradient"] = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def on_validation_start(self) -> None:
        """See `refuse_divergence`."""
        self.refuse_divergence()

    def validation_step(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Cross-entropy, and samples of the first batches, of the averaged weights, in float32 as they are shipped."""
        with torch.autocast(self.device.type, enabled=False):
            decoder, conditions = self.average.module, self.conditions(batch)
            found = self.foretell(decoder, batch, conditions, index * self.trainer.world_size + self.global_rank)
            sizes = self.facts.vocabulary.sizes if self.facts.vocabulary else None
            self.tally.count(found.nats, found.targets, sizes, found.weight)
            media = {}
            if self.preview is not None and index < self.preview.batches:
                first = None if conditions is None else conditions.rows(slice(1))
                media = self.sample(decoder, batch, first)
        return {"items": len(found.targets), "media": media}

    def on_validation_epoch_end(self) -> None:
        """Sum over all processes."""
        if self.trainer.world_size > 1:
            self.tally.sums = self.all_gather(self.tally.sums.to(self.device)).sum(0).cpu()

    def summary(self) -> dict[str, Score]:
        """See `Tally.take`."""
        return self.tally.take()

    def show(self, board: Any, name: str, media: Mapping[str, Any], first: bool) -> None:
        """Give a sample to TensorBoard; `first`: at the first validation of a run, with what it continues."""
        show_sample(board, name, media, self.facts, self.preview, int(self.step), first)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights belong to, so that `export` needs nothing but the file; see also `refuse_divergence`."""
        self.refuse_divergence()
        checkpoint["decoder"] = {
            "class_path": self.class_path,
            "config": asdict(self.decoder.config),
            "seed": self.seed,
            "tokens": self.facts.to_json(),
        }


class DecoderRecipe(TokenRecipe):
    """Trains any causal decoder to predict the next step of its layout; see `TokenRecipe` for what else there is.

    Args:
        decoder: What to train.
        layout: How codes become its steps.
        steps, seed, optimization, condition_dropout, preview, start_from, adapt_from: See `TokenRecipe`.
        distillation: Learn from a teacher, too.
        exits: Behind so many layers, loops counted, the heads learn to foretell, too, as the drafts of
            `EarlyExit(range(n))` need it; of batches of the data. Elhoushi et al., "LayerSkip" (arXiv 2404.16710): the
            loss is the mean, weighted by e, of the loss behind all L layers and of the cross-entropies behind n layers,

                e(n) = s (1 + 2 + ... + n)    e(L) = L + s (1 + 2 + ... + (L - 1))

            where the paper counts from 0 and so never learns the exit behind the first layer. Its random layer dropout
            and its curriculum of exits are not here.
        exit_scale: s.
        towers_from: Of a `Zipper`, a trained decoder for each tower to begin as, by its name or the `last.ckpt` of its
            run; null leaves a tower random. Which ones stay as they are, the zipper's `frozen` says. Strings of text
            become tokens of the tower that reads them.

    Raises:
        UserError: The layout's tokens are not the decoder's, it is not causal, or it has no such exits or towers.
    """

    def __init__(
        self,
        decoder: TokenModel,
        layout: Layout,
        steps: int,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        distillation: Distillation | None = None,
        preview: Preview | None = PREVIEW,
        start_from: str | None = None,
        adapt_from: str | None = None,
        exits: tuple[int, ...] = (),
        exit_scale: float = 1.0,
        towers_from: Names | None = None,
    ):
        if not decoder.info.causal:
            raise UserError("this recipe predicts the next step and needs a causal decoder")
        if exits:
            check_exits(decoder, exits, exit_scale)
        towers = None if towers_from is None else TrainedTowers(decoder, towers_from)
        super().__init__(decoder, layout, steps, seed, optimization, condition_dropout, preview, start_from, adapt_from)
        self.distillation = distillation
        self.teacher: Teacher | None = None
        self.exits, self.exit_scale, self.towers = exits, exit_scale, towers

    def setup(self, stage: str) -> None:
        """Fetch the teacher, too.

        Raises:
            UserError: Data that the layout or the decoder can't take, or a teacher or towers of other tokens.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        check_lengths(self.decoder, self.layout, data)
        if self.towers is not None:
            self.towers.check(self.facts)
        if self.distillation is not None and self.teacher is None:
            self.teacher = Teacher(self.distillation.teacher)
            self.teacher.check(self.facts)
            check_lengths(self.teacher.decoder, self.layout, data)

    def text_vocabulary(self, data: Any) -> TextVocabulary | None:
        """That of the data's ids; strings become tokens of a tower that reads them."""
        brought = self.towers is not None and getattr(data, "text", "text") == "text"
        return self.towers.vocabulary if brought else super().text_vocabulary(data)

    def configure_model(self) -> None:
        """
        Raises:
            UserError: Exits of a decoder whose weights are to be parted.
        """
        if self.exits and self.device_mesh is not None:
            raise UserError("exits are learned on whole weights; leave them out, or take --trainer.strategy=ddp")
        super().configure_model()

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Cross-entropy of each step given those before it, behind exits too, and divergence from the teacher's law."""
        tokens, given, early = self.pack(batch), 0, []
        if own := self.goes_on_alone(number):
            tokens, given = self.write(batch, tokens, cond, number)
        if self.exits and not own:
            *early, logits = read_exits(self.decoder, self.layout, tokens, batch, cond, self.exits)
            targets = self.targets(tokens)
        else:
            logits, targets = self.predict(self.decoder, tokens, batch, cond)
        targets[:, : max(given - 1, 0)] = IGNORED
        with torch.autocast(self.device.type, enabled=False):
            loss, parts = logits.new_zeros(()), {}
            if not own:
                loss = parts["cross_entropy"] = cross_entropy(logits.flatten(0, 2), targets.flatten())
            if self.teacher is not None:
                with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                    law = self.taught(tokens, batch, cond)
                how, weight = self.distillation, 1.0 if own else self.distillation.weight
                far = divergence(logits, law, targets, how.temperature, how.divergence)
                parts["written" if own else "distillation"] = far
                loss = (1 - weight) * loss + weight * far
            if early:
                losses = [cross_entropy(each.flatten(0, 2), targets.flatten()) for each in early]
                parts |= {f"exit {n}": each for n, each in zip(self.exits, losses, strict=True)}
                weights = exit_weights(self.exits, self.decoder.info.layers, self.exit_scale)
                loss = sum(weight * each for weight, each in zip(weights, [*losses, loss], strict=True))
        return Objective(loss, parts, int((targets != IGNORED).sum()))

    def taught(
        self, tokens: Int[Tensor, "R N S"], batch: Mapping[str, Any], cond: Conditions | None
    ) -> Float[Tensor, "R M S V"]:
        """The teacher's logits."""
        weights = guidance(self.distillation.guidance)
        streams = [self.predict(self.teacher.decoder, tokens, batch, each)[0] for each in (cond, None)[: len(weights)]]
        return combined(torch.cat(streams), weights)

    def goes_on_alone(self, number: int) -> bool:
        """Whether batch `number` is to be gone on with instead of the data's own."""
        return self.distillation is not None and chosen(self.noise_of(number, CHOICE), self.distillation.written)

    def write(
        self, batch: Mapping[str, Any], tokens: Int[Tensor, "R N S"], cond: Conditions | None, number: int
    ) -> Written:
        """The batch's steps, gone on with by student or teacher."""
        writer = self.decoder if self.distillation.writer == "student" else self.teacher.decoder
        noise, prompt = self.noise_of(number, WRITING), self.distillation.prompt
        return written(writer, self.layout, batch, tokens, cond, noise, prompt)

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Foretold:
        """Every step but the first."""
        return Foretold(*self.predict(decoder, self.pack(batch), batch, cond))

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """How the decoder goes on with the beginning of the item."""
        return self.preview.sample(decoder, self.layout, batch, cond, Noise(self.seed))

    def predict(
        self, decoder: TokenModel, tokens: Int[Tensor, "R N S"], batch: Mapping[str, Any], cond: Conditions | None
    ) -> tuple[Float[Tensor, "R M S V"], Int[Tensor, "R M S"]]:
        """Logits of each step but the first, and what came: tokens that can come out, `IGNORED` for all others."""
        return read(decoder, self.layout, tokens, batch, cond).logits, self.targets(tokens)

    def targets(self, tokens: Int[Tensor, "R N S"]) -> Int[Tensor, "R M S"]:
        """What came: tokens that can come out, `IGNORED` for all others."""
        return came_behind(self.layout, tokens)


def padding(batch: Mapping[str, Any]) -> float:
    """Share of a batch's cells that hold nothing."""
    codes, lengths = batch["codes"], batch["lengths"]
    cells = lengths.view(len(codes), -1).prod(1).sum()
    return 1 - int(cells) / codes[:, 0].numel()
