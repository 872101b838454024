"""How different two pictures look: the distance of their Laplacian pyramids, normalised by local contrast."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

OPPONENTS = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))  # grey, blue against it, red
LEAST_SIDE = 8  # of the coarsest level, in pixels


class ContrastDistance(nn.Module):
    """The normalized Laplacian pyramid distance (Laparra et al. 2016, "Perceptual image quality assessment using a
    normalized Laplacian pyramid"), on colours too, as a loss that needs no trained weights.

    Each picture is split into bands of detail, each an octave wide; each band is divided by its own mean amplitude in
    the neighbourhood, plus `floor`. So a lost texture counts as much in faint as in strong places, and an error hides
    where there is much going on already: what eyes do, and what squared differences don't.

    Its effect is small and costs nothing (`contrast.json`): 400 more steps of the decoder of `variable.photos` with 20
    times this beside 100 times the squared error, against 400 without it, at .25 bits per pixel: the distance falls
    from .0784 to .0777, PSNR rises from 28.32 to 28.35 dB, MS-SSIM stays (.9363, .9364). It brings no texture back that
    the codes don't hold; that takes adversaries.

    Args:
        levels: Bands at most; small pictures have fewer.
        floor: Amplitude under which contrast counts little; pixels are in [0, 1].
        colour: Weight of each of the two colour channels; that of grey is 1.
    """

    def __init__(self, levels: int = 5, floor: float = 0.05, colour: float = 0.25):
        super().__init__()
        self.levels, self.floor = levels, floor
        binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("blur", torch.outer(binomial, binomial).expand(3, 1, 5, 5), persistent=False)
        self.register_buffer("opponents", torch.tensor(OPPONENTS)[:, :, None, None], persistent=False)
        self.register_buffer("weights", torch.tensor([1.0, colour, colour])[:, None, None], persistent=False)

    def forward(
        self, real: Float[Tensor, "batch 3 height width"], fake: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, ""]:
        """Mean over rows and bands of the root mean square difference; 0 for equal pictures."""
        difference = [(r - f).square() for r, f in zip(self.bands(real), self.bands(fake), strict=True)]
        return torch.stack([((d * self.weights).mean((1, 2, 3)) + 1e-8).sqrt().mean() for d in difference]).mean()

    def bands(self, picture: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch 3 _ _"]]:
        """Normalised detail, fine to coarse."""
        rest, bands = conv2d(picture, self.opponents), []
        while len(bands) < self.levels and min(rest.shape[2:]) >= 2 * LEAST_SIDE:
            coarser = avg_pool2d(self.blurred(rest), 2, ceil_mode=True)
            smooth = interpolate(coarser, rest.shape[2:], mode="bilinear", align_corners=False)
            band = rest - smooth
            bands.append(band / (self.floor + self.blurred(band.abs())))
            rest = coarser
        return bands or [rest - rest.mean((2, 3), keepdim=True)]

    def blurred(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        return conv2d(pad(x, (2, 2, 2, 2), mode="replicate"), self.blur, groups=3)
