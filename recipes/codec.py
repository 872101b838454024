"""How a codec is trained: `training_step` reads from top to bottom, and a step is one generator update.

What audio and image codecs share; `AudioRecipe` and `ImageRecipe` add their distances and their validation.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from zoo.codecs.base import Codec, CodecOutput
from zoo.codecs.depth import rate_unit, spread_at_rates
from zoo.codecs.errors import UserError
from zoo.codecs.quantizers.base import Spread
from zoo.recipes.balancer import AdaptiveAdversary, Balancer
from zoo.recipes.ema import WeightAverage
from zoo.recipes.losses.adversarial import LeCam, feature_matching, hinge_discriminator, hinge_generator
from zoo.recipes.metrics import Score
from zoo.recipes.optimization import Optimization, adamw
from zoo.recipes.start import start
from zoo.recipes.validation import CodeHistogram, Validated


@dataclass(frozen=True)
class Losses:
    """Weight of each loss that recipes of all media have. A loss of weight 0 is not computed.

    Attributes:
        commitment: The quantizer's own loss, entropy terms and the like included.
        adversarial: Hinge loss of the discriminators.
        features: Feature matching of the discriminators.
        lecam: Regularisation of the discriminators (see `LeCam`), part of their loss.
        balance: Make the weights of all but commitment shares of the gradient (see `Balancer`).
        adaptive: Scale the adversarial loss to the gradient of the others (see `AdaptiveAdversary`).
    """

    commitment: float = 0.25
    adversarial: float = 0.0
    features: float = 0.0
    lecam: float = 0.0
    balance: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.balance and self.adaptive:
            raise UserError("balance and adaptive both set the size of the adversarial gradient; switch one off")

    @property
    def needs_discriminator(self) -> bool:
        return self.adversarial > 0 or self.features > 0


@dataclass(frozen=True)
class CodecOptimization(Optimization):
    """How both networks' weights move; `rate` is the codec's.

    Attributes:
        discriminator_rate: Highest learning rate of the discriminators.
    """

    discriminator_rate: float = 3e-4


class CodecRecipe(LightningModule, ABC):
    """Trains any codec as a quantized autoencoder, with or without adversaries.

    All that is random in a step is drawn from (seed, step), so a resumed run equals an uninterrupted one.

    A subclass says what batches hold (`media`) and which of its losses compare pictures or sounds (`compared`), and
    writes `distances`, `validate` and `show`.

    Args:
        codec: What to train.
        losses: Their weights.
        judges: The discriminators, if a loss needs them: media to a list of `Verdict`.
        steps: Length of the run in generator updates: `trainer.max_steps`, and the end of the learning-rate schedule.
        seed: Of the numbers of codebooks and of all that the codec itself draws.
        optimization: Learning rates and the like.
        discriminator_start: First step with adversaries.
        quantize_after: First step with the quantizer; until then the codec is a plain autoencoder, so that
            codebooks begin on latents that mean something.
        full_share: Share of rows that use all codebooks; the others draw from 1 to all, log-uniformly.
        rates: Rows draw a rate between these instead, log-uniformly, and spread it over their cells as
            `encode_at_rate` does (bits per pixel, or kbps; before entropy coding).
        validate_codebooks: Numbers of codebooks to measure at validation (besides no quantization).
        codebooks_first: Gather latents for the k-means start of the codebooks before the first step, with the encoder
            as it is then: for codecs whose latents need no training.
        start_from: Checkpoint whose weights to begin with instead of random ones, as `zoo.load` takes it: a bundled
            name, a folder, or `hf-hub:user/repo@revision`. Its codec must have the same shape.
    """

    media: ClassVar[str]
    compared: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        codec: Codec,
        losses: Losses,
        judges: nn.Module | None,
        steps: int,
        seed: int = 0,
        optimization: CodecOptimization = CodecOptimization(),
        discriminator_start: int = 0,
        quantize_after: int = 0,
        full_share: float = 0.4,
        rates: tuple[float, float] | None = None,
        validate_codebooks: tuple[int, ...] = (1, 2, 4, 8),
        codebooks_first: bool = False,
        start_from: str | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.steps, self.seed, self.losses, self.optimization = steps, seed, losses, optimization
        self.discriminator_start, self.quantize_after, self.full_share = discriminator_start, quantize_after, full_share
        if rates is not None and not 0 < rates[0] <= rates[1]:
            raise ValueError(f"rates must be two numbers above 0, the lower first, got {rates}")
        self.rates, self.codebooks_first = rates, codebooks_first
        self.validate_codebooks = tuple(n for n in validate_codebooks if n <= codec.info.codebooks)
        if start_from is not None:
            start(codec, start_from)
        self.codec = codec
        self.average = WeightAverage(codec, optimization.average)
        self.balancer = None
        if losses.balance:
            self.balancer = Balancer((*self.compared, "adversarial", "features"))
        elif losses.adaptive:
            self.balancer = AdaptiveAdversary()
        self.discriminators = judges
        self.lecam = LeCam() if losses.lecam else None
        self.histogram = CodeHistogram(codec.info.codebook_sizes)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def network(self) -> Codec:
        """What is trained for its own sake, as against the discriminators."""
        return self.codec

    @abstractmethod
    def distances(self, real: Tensor, fake: Float[Tensor, "batch channel *space"]) -> dict[str, Tensor]:
        """Losses that compare the reconstruction with its target, by name, in float32."""

    @abstractmethod
    def validate(self, target: Tensor, codebooks: tuple[int, ...]) -> Validated:
        """Reconstructions of the averaged weights, without quantization and at each number of codebooks."""

    @abstractmethod
    def show(self, board: Any, name: str, media: Mapping[str, Tensor], first: bool) -> None:
        """Give the target and its reconstructions to TensorBoard; `first`: at the first validation of a run."""

    def summary(self) -> dict[str, Score]:
        """Scores of a whole validation set, by `metric/label`, for metrics that single media don't have."""
        return self.histogram.take()

    def on_train_start(self) -> None:
        """Start the codebooks by k-means, if that is to come first; nothing else of the codec changes."""
        if self.codebooks_first:
            start_codebooks(self.codec, self.batches_alone())
            self.average.restart(self.codec)

    def batches_alone(self) -> Iterator[Float[Tensor, "batch channel *space"]]:
        """Endless training media, without moving the place in the stream where training begins or goes on."""
        stream = copy(self.trainer.train_dataloader.dataset)
        stream.batches = sys.maxsize
        for batch in stream:
            yield batch[self.media].to(self.device)

    def training_step(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        step = int(self.step)
        real: Float[Tensor, "batch channel *space"] = batch[self.media]
        generator, discriminator = self.prepare(step)

        output = self.codec(real, self.draw_codebooks(step, real), quantize=step >= self.quantize_after)
        report = {}
        adversaries = self.discriminators is not None and step >= self.discriminator_start
        if adversaries:
            report |= self.update_discriminators(discriminator, real, output.media.detach())

        with torch.autocast(self.device.type, enabled=False):
            losses = self.distances(real, output.media.float())
        if adversaries:
            losses |= self.deceptions(real, output.media)
        self.backward_through(output, losses)
        report["gradient"] = clip_grad_norm_(self.codec.parameters(), self.optimization.clip)
        generator.step()
        generator.zero_grad()

        self.step += 1
        (self.average.update if step >= self.quantize_after else self.average.restart)(self.codec)
        return {"scalars": report | losses | {"commitment": output.loss}, "usage": output.usage}

    def prepare(self, step: int) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer | None]:
        """Seed the step, set its learning rates and give out both optimizers.

        Lightning counts a step each time that one of its wrapped optimizers steps. Only the generator's is wrapped, so
        that its `global_step` and `max_steps` count generator updates.
        """
        torch.manual_seed(self.seed * 1_000_003 + step * self.trainer.world_size + self.global_rank)
        wrapped, raw = self.optimizers(), self.optimizers(use_pl_optimizer=False)
        pairs = zip(_listed(raw), (self.optimization.rate, self.optimization.discriminator_rate), strict=False)
        for optimizer, rate in pairs:
            for group in optimizer.param_groups:
                group["lr"] = rate * self.optimization.factor(step, self.steps)
        return _listed(wrapped)[0], (_listed(raw) + [None])[1]

    def draw_codebooks(self, step: int, real: Float[Tensor, "batch channel *space"]) -> Int[Tensor, "batch"] | Spread:
        """Number of codebooks of each row: all of them for a share of the rows, log-uniform for the rest.

        Each doubling of the rate is as likely as any other, so that low rates are practised as much as high ones. With
        `rates`: how each row spreads its own rate over its cells.
        """
        everything, rows = self.codec.info.codebooks, len(real)
        generator = torch.Generator().manual_seed(
            (self.seed + 1) * 7_919_777 + step * self.trainer.world_size + self.global_rank
        )
        if self.rates is not None:
            low, high = self.rates
            drawn = low * (high / low) ** torch.rand(rows, generator=generator)
            return spread_at_rates(self.codec, drawn * rate_unit(self.codec, tuple(real.shape[-2:])))
        full = torch.rand(rows, generator=generator) < self.full_share
        drawn = (everything + 1) ** torch.rand(rows, generator=generator)
        return torch.where(full, everything, drawn.long()).clamp(max=everything).to(self.device)

    def update_discriminators(
        self, optimizer: torch.optim.Optimizer, real: Tensor, fake: Float[Tensor, "batch channel *space"]
    ) -> dict[str, Tensor]:
        """One step of the discriminators, on a reconstruction without gradient."""
        self.discriminators.requires_grad_(True)
        truth, verdicts = self.discriminators(real), self.discriminators(fake)
        loss = total = hinge_discriminator(truth, verdicts)
        if self.lecam is not None:
            total = loss + self.losses.lecam * self.lecam(truth, verdicts)
        self.manual_backward(total)
        norm = clip_grad_norm_(self.discriminators.parameters(), self.optimization.clip)
        optimizer.step()
        optimizer.zero_grad()
        self.discriminators.requires_grad_(False)
        return {"discriminator": loss.detach(), "discriminator_gradient": norm}

    def deceptions(self, real: Tensor, fake: Float[Tensor, "batch channel *space"]) -> dict[str, Tensor]:
        """Losses of the generator against discriminators that hold still."""
        losses, verdicts = {}, self.discriminators(fake)
        if self.losses.adversarial:
            losses["adversarial"] = hinge_generator(verdicts)
        if self.losses.features:
            with torch.no_grad():
                truth = self.discriminators(real)
            losses["features"] = feature_matching(truth, verdicts)
        return losses

    def backward_through(self, output: CodecOutput, losses: Mapping[str, Tensor]) -> None:
        """Gradients of the weighted losses, balanced at the output if asked for."""
        weights = {name: getattr(self.losses, name) for name in losses}
        total = self.losses.commitment * output.loss
        if self.balancer is None:
            total = total + sum(weights[name] * loss for name, loss in losses.items())
        else:
            gradient = self.balancer(losses, weights, output.media)
            total = total + (output.media * gradient).sum()
        self.manual_backward(total)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings = self.optimization
        networks = [(self.codec, settings.rate), (self.discriminators, settings.discriminator_rate)]
        return [adamw(network, rate, settings) for network, rate in networks if network is not None]

    def validation_step(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Reconstructions and scores of the averaged weights, in float32 as they are shipped."""
        target, quantized = batch[self.media], int(self.step) > self.quantize_after
        with torch.autocast(self.device.type, enabled=False):
            result = self.validate(target, self.validate_codebooks if quantized else ())
        if result.codes is not None:
            self.histogram.add(result.codes)
        return {"media": {"target": target} | result.media, "scores": result.scores}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights belong to, so that `export` needs nothing but the file."""
        kind = type(self.codec)
        class_path = f"{kind.__module__}.{kind.__qualname__}"
        checkpoint["codec"] = {"class_path": class_path, "config": asdict(self.codec.config), "seed": self.seed}


@torch.no_grad()
def start_codebooks(codec: Codec, media: Iterator[Tensor]) -> None:
    """Show latents to a quantizer until its codebooks have started by k-means; at once if they have.

    Raises:
        UserError: The quantizer waits for no latents.
    """
    waiting = getattr(codec.quantizer, "start", None)
    if waiting is None:
        raise UserError("codebooks_first needs a quantizer that starts by k-means; give the codec kmeans_vectors")
    if waiting.fitted:
        return
    codec.train()
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}")) as bar:
        task = bar.add_task("codebooks", total=waiting.vectors, note="gathering latents")
        for batch in media:
            seen = len(waiting.gathered)
            note = "k-means of every level" if 2 * seen >= waiting.vectors else "gathering latents"
            bar.update(task, completed=seen, note=note)
            codec.quantizer(codec.latents(batch))
            if waiting.fitted:
                break


def _listed(optimizers: Any) -> list[Any]:
    return list(optimizers) if isinstance(optimizers, list | tuple) else [optimizers]
