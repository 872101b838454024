"""How loud a difference sounds: the disturbance of ITU-T P.862 (PESQ), as a loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from zoo.codecs.errors import UserError
from zoo.recipes.losses.spectra import Pair

# Tables of P.862.2 for 16 kHz and frames of 512: of each of its 49 bands, from low to high,
# fmt: off
BINS = [  # how many frequencies of the spectrum it holds,
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4,
    3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20,
]
WIDTH = [  # its width in Bark,
    0.157344, 0.317994, 0.322441, 0.326934, 0.331474, 0.336061, 0.340697, 0.345381, 0.350114, 0.354897,
    0.359729, 0.364611, 0.369544, 0.374529, 0.379565, 0.384653, 0.389794, 0.394989, 0.400236, 0.405538,
    0.410894, 0.416306, 0.421773, 0.427297, 0.432877, 0.438514, 0.444209, 0.449962, 0.455774, 0.461645,
    0.467577, 0.473569, 0.479621, 0.485736, 0.491912, 0.498151, 0.504454, 0.510819, 0.517250, 0.523745,
    0.530308, 0.536934, 0.543629, 0.550390, 0.557220, 0.564119, 0.571085, 0.578125, 0.585232,
]
DENSITY = [  # what makes the sum of its powers a density,
    100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 50.0, 100.0, 100.0, 100.0, 100.0, 100.0,
    53.047, 110.0, 117.992, 65.0, 68.760, 70.0, 71.429, 75.0, 76.843, 80.969, 88.646, 63.864, 68.155,
    72.548, 75.585, 58.379, 80.951, 64.136, 54.385, 73.822, 64.437, 59.176, 65.521, 61.400, 58.144,
    57.005, 64.126, 54.311, 61.115, 55.078, 56.849, 55.629, 53.137, 54.986, 79.547,
]
THRESHOLD = [  # and the least density that is heard.
    51286152.0, 2454709.5, 70794.594, 4897.789, 1174.898, 389.045, 104.713, 45.709, 17.783, 9.772,
    4.898, 3.090, 1.905, 1.259, 0.977, 0.724, 0.562, 0.457, 0.389, 0.331, 0.295, 0.269, 0.257, 0.251,
    0.251, 0.251, 0.251, 0.264, 0.288, 0.309, 0.339, 0.372, 0.398, 0.437, 0.468, 0.490, 0.501, 0.501,
    0.513, 0.525, 0.525, 0.525, 0.513, 0.479, 0.427, 0.372, 0.363, 0.417, 0.537,
]
# fmt: on
SIZE, RATE = 512, 16000
DENSITY_SCALE, LOUDNESS_SCALE = 6.910853e-6, 0.1866055
LEVEL = 1e7  # power between 325 and 3250 Hz to which P.862 scales recordings


class Disturbance(nn.Module):
    """What P.862.2 subtracts from a perfect score: 0.1 * symmetric + 0.0309 * asymmetric disturbance.

    It follows the standard from powers in Bark bands over loudness to disturbance, with the gain of each frame
    compensated and whatever is masked or inaudible left out; noise that was added counts more than sound that is
    missing. What the standard does for telephone lines is left out: time alignment and the compensation of a
    stationary filter. All is relative to the target's level, as in the standard.

    0 is no audible difference; about 1.5 a mapped score of 3.2, about 2.5 a score of 2.0.
    """

    def __init__(self, sample_rate: int):
        super().__init__()
        if sample_rate != RATE:
            raise UserError(f"the loudness loss is defined at {RATE} Hz, not {sample_rate}; set its weight to 0")
        bark = torch.tensor(WIDTH)
        bank = torch.zeros(SIZE // 2 + 1, len(BINS))
        first = 0
        for band, count in enumerate(BINS):
            bank[first : first + count, band] = DENSITY[band] * DENSITY_SCALE
            first += count
        bank[0] = 0.0  # P.862 ignores the constant part
        centre = bark.cumsum(0) - bark / 2
        self.register_buffer("bank", bank * _input_filter()[:, None], persistent=False)
        self.register_buffer("bark", bark, persistent=False)
        self.register_buffer("threshold", torch.tensor(THRESHOLD), persistent=False)
        self.register_buffer("exponent", 0.23 * (6 / (centre + 2)).clamp(1, 2) ** 0.15, persistent=False)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        """Mean over rows of (target, output) spectra `[row, frame, 257]` at 16 kHz, as `Spectra` scales them."""
        target, output = (_power(spectrum) for spectrum in pair)
        scale = LEVEL / _telephone_power(target).clamp(min=1e-9)
        target, output = (power * scale[:, None, None] @ self.bank for power in (target, output))
        audible = self.audible(target)
        gain = (audible + 5e3) / (self.audible(output) + 5e3)
        gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1).clamp(3e-4, 5)
        output = output * gain[:, :, None]

        heard, wanted = self.loudness(output), self.loudness(target)
        difference = ((heard - wanted).abs() - 0.25 * torch.minimum(heard, wanted)).relu()
        added = ((output + 50) / (target + 50)).pow(1.2).detach()
        added = torch.where(added < 3, 0.0, added.clamp(max=12))
        weight = ((audible + 1e5) / 1e7).pow(-0.04)
        bark = self.bark[1:]
        symmetric = ((bark * difference[:, :, 1:]).square().sum(2) * bark.sum() + 1e-8).sqrt() * weight
        asymmetric = (bark * (difference * added)[:, :, 1:]).sum(2) * weight
        return (0.1 * _over_time(symmetric) + 0.0309 * _over_time(asymmetric)).mean()

    def audible(self, density: Float[Tensor, "row frame band"]) -> Float[Tensor, "row frame"]:
        """Sum of the densities above the threshold."""
        return torch.where(density > self.threshold, density, 0.0)[:, :, 1:].sum(2)

    def loudness(self, density: Float[Tensor, "row frame band"]) -> Float[Tensor, "row frame band"]:
        """Zwicker's law: sones per Bark."""
        excess = (0.5 + 0.5 * density / self.threshold).clamp(min=1).pow(self.exponent) - 1
        return LOUDNESS_SCALE * (2 * self.threshold).pow(self.exponent) * excess


def _power(spectrum: Complex[Tensor, "row frame 257"]) -> Float[Tensor, "row frame 257"]:
    """Power of the plain Fourier transform under a Hann window; `Spectra` divides by a quarter of the size."""
    return (spectrum.real.square() + spectrum.imag.square()) * (SIZE / 4) ** 2


def _telephone_power(power: Float[Tensor, "row frame 257"]) -> Float[Tensor, "row"]:
    """Mean square of a signal between 325 and 3250 Hz (Parseval, for a Hann window)."""
    first, last = (round(hertz * SIZE / RATE) for hertz in (325, 3250))
    return 2 * power[:, :, first : last + 1].sum(2).mean(1) / (SIZE * SIZE * 3 / 8)


def _input_filter() -> Float[Tensor, "257"]:
    """Power response of P.862.2's input filter, a high-pass."""
    z = torch.exp(-2j * math.pi * torch.arange(SIZE // 2 + 1) / SIZE)
    return (2.740826 * (1 - z) ** 2 / (1 - 1.9444777 * z + 0.94597794 * z**2)).abs().square()


def _over_time(disturbance: Float[Tensor, "row frame"]) -> Float[Tensor, "row"]:
    """The loudest moments of each third of a second decide, then the root of the mean square."""
    disturbance = disturbance.clamp(max=45)
    windows = disturbance.unfold(1, min(40, disturbance.shape[1]), 20)
    return (windows + 1e-6).pow(6).mean(2).pow(1 / 3).mean(1).sqrt()
