"""Distance of log-mel spectra at several window sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from zoo.recipes.losses.spectra import Pair


class MelDistance(nn.Module):
    """Mean absolute difference of log-mel spectra (natural log), averaged over window sizes.

    The number of bands grows with the window (80 at 1024), so that each band holds at least one frequency bin.

    Args:
        sample_rate: Hz.
        sizes: Window sizes, a subset of those that the spectra come in.
        squared: Weight of the root mean square difference of each frame that is added (EnCodec's L1 + L2).
        floor: Magnitudes below it count as it; a full-scale sine has magnitude 1.
    """

    def __init__(self, sample_rate: int, sizes: Sequence[int], squared: float = 0.0, floor: float = 1e-5):
        super().__init__()
        self.sizes, self.squared, self.floor = tuple(sizes), squared, floor
        for size in self.sizes:
            bank = melscale_fbanks(size // 2 + 1, 0.0, sample_rate / 2, max(4, size * 5 // 64), sample_rate)
            self.register_buffer(f"bank_{size}", bank, persistent=False)

    def forward(self, spectra: dict[int, Pair]) -> Float[Tensor, ""]:
        """Distance of (target, output) spectra by window size, as `Spectra` gives them."""
        return torch.stack([self.distance(size, *spectra[size]) for size in self.sizes]).mean()

    def distance(self, size: int, target: Tensor, output: Tensor) -> Float[Tensor, ""]:
        difference = self.log_mel(size, target) - self.log_mel(size, output)
        distance = difference.abs().mean()
        if self.squared:
            distance = distance + self.squared * (difference.square().mean(-1) + 1e-12).sqrt().mean()
        return distance

    def log_mel(self, size: int, spectrum: Complex[Tensor, "row frame frequency"]) -> Float[Tensor, "row frame band"]:
        return (_magnitude(spectrum) @ getattr(self, f"bank_{size}")).clamp(min=self.floor).log()


def _magnitude(spectrum: Complex[Tensor, "row frame frequency"]) -> Float[Tensor, "row frame frequency"]:
    # Several times faster on a CPU than abs() and its gradient, and the gradient stays finite at zero.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
