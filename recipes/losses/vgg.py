"""How different two pictures look to a network that was trained to name things: distances of VGG16's features."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d
from torchvision.models import VGG16_Weights

from zoo.codecs.errors import UserError

STAGES = (2, 2, 3, 3, 3)  # convolutions between poolings


class VGGDistance(nn.Module):
    """LPIPS without its learnt channel weights (Zhang et al. 2018): features scaled to unit length at each place.

    The weights are torchvision's, taken from the cache of `torch.hub` and never downloaded. They are part of no
    checkpoint.

    Raises:
        UserError: The weights are not in the cache.
    """

    def __init__(self) -> None:
        super().__init__()
        saved = torch.load(cached_weights(), map_location="cpu", weights_only=True)
        convolutions = sorted({int(name.split(".")[1]) for name in saved if name.startswith("features.")})
        for place, number in enumerate(convolutions):  # as buffers, which need not be saved
            self.register_buffer(f"weight_{place}", saved[f"features.{number}.weight"], persistent=False)
            self.register_buffer(f"bias_{place}", saved[f"features.{number}.bias"], persistent=False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(
        self, real: Float[Tensor, "batch 3 height width"], fake: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, ""]:
        """Squared difference summed over channels, averaged over places, stages and rows; 0 for equal pictures."""
        with torch.no_grad():
            wanted = self.features(real)
        distances = [(w - f).square().sum(1).mean() for w, f in zip(wanted, self.features(fake), strict=True)]
        return torch.stack(distances).mean()

    def features(self, picture: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch channel _ _"]]:
        """Features of unit length at each place, of every stage."""
        x, found, place = (picture - self.mean) / self.deviation, [], 0
        for stage, convolutions in enumerate(STAGES):
            if stage:
                x = max_pool2d(x, 2)
            for _ in range(convolutions):
                x = conv2d(x, getattr(self, f"weight_{place}"), getattr(self, f"bias_{place}"), padding=1).relu()
                place += 1
            found.append(x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt())
        return found


def cached_weights() -> Path:
    """Where torchvision keeps VGG16's weights once they have been fetched."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_Weights.IMAGENET1K_V1.url).name
    if not path.is_file():
        raise UserError(
            f"{path} is missing: fetch it from {VGG16_Weights.IMAGENET1K_V1.url},"
            " or train with perceptual_kind: contrast"
        )
    return path
