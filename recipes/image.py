"""How an image codec is trained: distances of pixels and of looks, and picture metrics at validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from zoo.codecs.image.base import ImageCodec
from zoo.recipes.codec import CodecRecipe, Losses
from zoo.recipes.logging import show_pictures
from zoo.recipes.losses.contrast import ContrastDistance
from zoo.recipes.losses.picture_discriminators import PictureDiscriminatorConfig, PictureDiscriminators
from zoo.recipes.losses.vgg import VGGDistance
from zoo.recipes.metrics import Score
from zoo.recipes.picture_metrics import FrechetDistance
from zoo.recipes.validation import Validated, validate_pictures

PERCEPTUAL: dict[str, Callable[[], nn.Module]] = {"contrast": ContrastDistance, "vgg": VGGDistance}


@dataclass(frozen=True)
class ImageLosses(Losses):
    """Weight of each loss, and their settings. A loss of weight 0 is not computed.

    Attributes:
        absolute: Mean absolute difference of pixels in [0, 1].
        squared: Mean squared difference of pixels.
        perceptual: Distance of looks, of the kind `perceptual_kind`.
        perceptual_kind: "contrast" needs nothing (see `ContrastDistance`); "vgg" needs torchvision's VGG16 weights in
            the cache of `torch.hub` (see `VGGDistance`).
    """

    absolute: float = 1.0
    squared: float = 0.0
    perceptual: float = 0.0
    perceptual_kind: Literal["contrast", "vgg"] = "contrast"


DISCRIMINATORS = PictureDiscriminatorConfig()


class ImageRecipe(CodecRecipe):
    """Trains any `ImageCodec`; batches hold `image`.

    Args:
        codec: What to train.
        losses: Their weights.
        discriminators: Which adversaries, if a loss needs them.
        frechet: Measure the Fréchet distance (FID) of the validation set, at the most codebooks.
        schedule: The arguments of `CodecRecipe`.
    """

    losses: ImageLosses
    media = "image"
    compared = ("absolute", "squared", "perceptual")

    def __init__(
        self,
        codec: ImageCodec,
        losses: ImageLosses = ImageLosses(),  # noqa: B008 (frozen)
        discriminators: PictureDiscriminatorConfig = DISCRIMINATORS,
        frechet: bool = False,
        **schedule: Any,
    ):
        judges = PictureDiscriminators(discriminators) if losses.needs_discriminator else None
        super().__init__(codec, losses, judges, **schedule)
        self.perceptual = PERCEPTUAL[losses.perceptual_kind]() if losses.perceptual else None
        self.frechet = FrechetDistance() if frechet else None

    def distances(self, real: Tensor, fake: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """See `CodecRecipe.distances`."""
        weights, losses = self.losses, {}
        if weights.absolute:
            losses["absolute"] = (real - fake).abs().mean()
        if weights.squared:
            losses["squared"] = (real - fake).square().mean()
        if weights.perceptual:
            losses["perceptual"] = self.perceptual(real, fake)
        return losses

    def validate(self, target: Float[Tensor, "batch 3 height width"], codebooks: tuple[int, ...]) -> Validated:
        """See `CodecRecipe.validate`."""
        result = validate_pictures(self.average.module, target, codebooks)
        if self.frechet is not None and codebooks:
            self.frechet.update(target, result.media[f"{max(codebooks)} codebooks"])
        return result

    def summary(self) -> dict[str, Score]:
        """See `CodecRecipe.summary`."""
        scores = super().summary()
        if self.frechet is not None:
            scores[f"fid/{max(self.validate_codebooks)} codebooks"] = self.frechet.take()
        return scores

    def show(self, board: Any, name: str, media: Mapping[str, Tensor], first: bool) -> None:
        """The target and its reconstructions side by side."""
        show_pictures(board, name, media, int(self.step))
