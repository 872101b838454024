"""Waveform to short-time spectra and back, with exactly one frame a stride and no reach beyond a window."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import pad


class FrameTransform(nn.Module):
    """Short-time Fourier transform whose frame t is centred on samples [t * stride, (t + 1) * stride).

    Analysis and synthesis both use a square-root Hann window, so that their product overlaps to a constant.

    Args:
        window: Samples of a frame, a multiple of twice the stride.
        stride: Samples between frames, an even number: the window reaches equally far to both sides of it.
    """

    def __init__(self, window: int, stride: int):
        super().__init__()
        if stride % 2 or window % (2 * stride):
            raise ValueError(
                f"stride must be even and window a multiple of twice the stride, got stride {stride}, window {window}"
            )
        self.window, self.stride, self.margin = window, stride, (window - stride) // 2
        # The root Hann window's square overlaps to window / (2 * stride): fold that into the shape.
        shape = torch.hann_window(window).sqrt() * (2 * stride / window) ** 0.5
        self.register_buffer("shape", shape, persistent=False)

    @property
    def reach(self) -> int:
        """Frames before and behind a frame whose windows overlap its stride."""
        return -(-self.margin // self.stride)

    def analyse(self, audio: Float[Tensor, "batch time"]) -> Complex[Tensor, "batch frame frequency"]:
        """Spectra of audio whose length is a multiple of the stride; zeros stand before and behind it."""
        audio = audio.float()  # there is no Fourier transform in half precision on CPUs
        frames = pad(audio, (self.margin, self.margin)).unfold(1, self.window, self.stride)
        return torch.fft.rfft(frames * self.shape)

    def synthesise(self, spectrum: Complex[Tensor, "batch frame frequency"]) -> Float[Tensor, "batch time"]:
        """Audio of `frame * stride` samples by overlap-add."""
        batch, count, _ = spectrum.shape
        frames = torch.fft.irfft(spectrum, n=self.window) * self.shape
        parts = frames.unflatten(2, (-1, self.stride))  # [batch, frame, part, stride]
        slots = count + parts.shape[2] - 1
        audio = frames.new_zeros(batch, slots, self.stride)
        for part in range(parts.shape[2]):
            audio[:, part : part + count] += parts[:, :, part]
        return audio.flatten(1)[:, self.margin : self.margin + count * self.stride]
