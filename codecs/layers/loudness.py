"""Loudness of a recording, measured piece by piece."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SILENCE = 1e-12  # mean square of -120 dB re full scale, below the last bit of 16


class LoudnessMeter:
    """Root mean square of the blocks that carry signal: not silent, and above -10 dB re all that are not.

    This is the relative gate of ITU-R BS.1770 over blocks of a tenth of a second, without its frequency weighting, and
    without its absolute gate at -70 dB: the gain must follow the level of faint recordings exactly. Pauses do not
    count, so that it hardly depends on how much of them a recording has. The result is the same however the samples
    are cut into pieces.

    Args:
        rate: Sampling rate in Hz.
        level: Root mean square that counts as gain 1.
    """

    def __init__(self, rate: int, level: float):
        self.block, self.level = rate // 10, level
        self.energies: list[Tensor] = []
        self.rest: Tensor | None = None

    def update(self, samples: Float[Tensor, "row channel time"]) -> None:
        """Take the next samples of each row."""
        joined = samples if self.rest is None else torch.cat([self.rest, samples], dim=2)
        whole = joined.shape[2] // self.block * self.block
        if whole:
            self.energies.append(joined[..., :whole].unflatten(2, (-1, self.block)).square().mean(dim=(1, 3)))
        self.rest = joined[..., whole:]

    def scale(self) -> Float[Tensor, "row"]:
        """Gain of each row over the nominal level; 1 for silence.

        Raises:
            ValueError: Nothing was measured yet.
        """
        if self.rest is None:
            raise ValueError("no samples were measured yet: call update first")
        energies = list(self.energies)
        if not energies:  # shorter than a block: what there is counts as one
            energies.append(self.rest.square().mean(dim=(1, 2))[:, None])
        energy = torch.cat(energies, dim=1)
        carries = energy > SILENCE
        mean = (energy * carries).sum(1) / carries.sum(1).clamp(min=1)
        carries &= energy > 0.1 * mean[:, None]
        loud = (energy * carries).sum(1) / carries.sum(1).clamp(min=1)
        return torch.where(carries.any(1), loud.sqrt() / self.level, 1.0)


class LevelMeter:
    """Root mean square of the channels' mean over a whole recording, pauses included: EnCodec 48 kHz's gain."""

    def __init__(self) -> None:
        self.energy: Tensor | float = 0.0
        self.count = 0

    def update(self, samples: Float[Tensor, "row channel time"]) -> None:
        """Take the next samples of each row."""
        self.energy = self.energy + samples.double().mean(dim=1).square().sum(dim=1)
        self.count += samples.shape[2]

    def scale(self) -> Float[Tensor, "row"]:
        """Gain of each row; 1e-8 for silence.

        Raises:
            ValueError: Nothing was measured yet.
        """
        if not self.count:
            raise ValueError("no samples were measured yet: call update first")
        return ((self.energy / self.count).sqrt() + 1e-8).float()
