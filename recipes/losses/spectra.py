"""Short-time spectra of a target and its reconstruction, computed once and shared by the losses that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


class Spectra(nn.Module):
    """Complex spectra at several window sizes, in float32, scaled so that a sine of amplitude 1 has magnitude 1.

    Args:
        sizes: Window sizes in samples; the hop is a quarter of each.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = tuple(sorted(set(sizes), reverse=True))
        for size in self.sizes:
            # The Hann window sums to size / 2, and a sine splits over the two sides of the spectrum.
            self.register_buffer(f"window_{size}", torch.hann_window(size) * (4 / size), persistent=False)

    def forward(
        self, target: Float[Tensor, "batch channel time"], output: Float[Tensor, "batch channel time"]
    ) -> dict[int, Pair]:
        """(Target, output) spectra by window size, each `[batch * channel, frame, frequency]`."""
        target, output = (audio.float().flatten(0, 1) for audio in (target, output))
        return {size: (self.stft(target, size), self.stft(output, size)) for size in self.sizes}

    def stft(self, audio: Float[Tensor, "row time"], size: int) -> Complex[Tensor, "row frame frequency"]:
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(audio, size, size // 4, window=window, pad_mode="constant", return_complex=True)
        return spectrum.transpose(1, 2)  # as it lies in memory, which makes sums over frequency quick


def noise_to_signal(pair: Pair, floor: float = 1e-2) -> Float[Tensor, ""]:
    """|X - Y| / |X| of each frame, averaged: unlike a distance of magnitudes it teaches the phase.

    Args:
        pair: Spectra X of the target and Y of the output.
        floor: Amplitude that is added to |X|, so that near-silent frames don't dominate.
    """
    target, output = pair
    return (_frame_norm(target - output) / (_frame_norm(target) + floor)).mean()


def _frame_norm(spectrum: Complex[Tensor, "row frame frequency"]) -> Float[Tensor, "row frame"]:
    return torch.linalg.vector_norm(torch.view_as_real(spectrum).flatten(2), dim=2)
