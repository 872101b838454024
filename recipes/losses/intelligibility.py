"""How well the envelopes of speech survive: the correlation that STOI measures, as a loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.recipes.losses.spectra import Pair

BANDS, LOWEST = 15, 150.0  # third octaves, and the centre of the lowest in Hz
SEGMENT = 0.384  # seconds over which envelopes are compared
QUIET = 1e-4  # energy relative to a row's loudest segment under which a segment is a pause


class EnvelopeCorrelation(nn.Module):
    """1 - the correlation of third-octave envelopes over segments of 384 ms (STOI, Taal et al. 2011).

    Unlike the measure it keeps the sampling rate, uses the spectra that other losses use, and doesn't clip.

    Args:
        sample_rate: Hz, at least 10000.
        size: Of the spectra's window, in samples; about 32 ms.
    """

    def __init__(self, sample_rate: int, size: int):
        super().__init__()
        frequencies = torch.arange(size // 2 + 1) * sample_rate / size
        centres = LOWEST * 2 ** (torch.arange(BANDS) / 3)
        inside = (frequencies[:, None] >= centres * 2 ** (-1 / 6)) & (frequencies[:, None] < centres * 2 ** (1 / 6))
        self.register_buffer("bank", inside.float(), persistent=False)
        self.frames = round(SEGMENT * sample_rate / (size // 4))

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        """Mean over bands and segments of (target, output) spectra `[row, frame, frequency]`; 0 is no difference."""
        target, output = (self.segments(spectrum) for spectrum in pair)
        energy = target.square().sum((2, 3))
        speech = (energy > QUIET * energy.amax(1, keepdim=True)).float()
        target, output = (x - x.mean(3, keepdim=True) for x in (target, output))
        scales = (target.square().sum(3) + 1e-8).sqrt() * (output.square().sum(3) + 1e-8).sqrt()
        correlation = ((target * output).sum(3) / scales).mean(2)
        return 1 - (correlation * speech).sum() / speech.sum().clamp(min=1)

    def segments(self, spectrum: Tensor) -> Float[Tensor, "row segment band frame"]:
        """Envelope of each band in overlapping segments."""
        power = spectrum.real.square() + spectrum.imag.square()
        envelope = (power @ self.bank + 1e-9).sqrt()
        frames = min(self.frames, envelope.shape[1])
        return envelope.unfold(1, frames, max(1, frames // 4))
