"""Generated audio for tests and smoke runs: gliding harmonic tones and bursts of noise, nothing to download."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from torch.utils.data import DataLoader

from zoo.recipes.data.stream import StreamDataModule

_VALID_FROM = 1 << 40  # validation sounds have numbers that no training run reaches


class GeneratedAudio(StreamDataModule):
    """Endless sounds, each a pure function of the seed and its number; the batches are those of `AudioFolder`."""

    def __init__(
        self,
        sample_rate: int = 16_000,
        channels: int = 1,
        seconds: float = 1.0,
        seed: int = 0,
        batch_size: int = 4,
        epoch_batches: int = 10,
        workers: int = 0,
        valid_clips: int = 2,
    ) -> None:
        super().__init__(batch_size, epoch_batches, workers)
        self._sounds = Sounds(sample_rate, channels, seconds, seed)
        self.valid_clips = valid_clips

    def train_source(self) -> "Sounds":
        """The generator of sounds."""
        return self._sounds

    def val_dataloader(self) -> DataLoader:
        """Sounds that training never sees, one in a batch."""
        clips = [
            {"audio": torch.from_numpy(self._sounds.crop(_VALID_FROM + k))[None], "names": [f"generated-{k}"]}
            for k in range(self.valid_clips)
        ]
        return DataLoader(clips, batch_size=None)


@dataclass(frozen=True)
class Sounds:
    """Makes a gliding tone of falling harmonics, swelling three times, with a burst of noise in each pause."""

    sample_rate: int
    channels: int
    seconds: float
    seed: int

    def crop(self, index: int) -> Float32[ndarray, "channel time"]:
        """Sound number `index`, peaking between -18 and -3 dB of full scale."""
        chance = np.random.default_rng([self.seed, index])
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        start, end = chance.uniform(80, 320, 2)
        phase = 2 * np.pi * np.cumsum(np.linspace(start, end, time.size)) / self.sample_rate
        harmonics = np.arange(1, max(2, min(32, int(0.45 * self.sample_rate / max(start, end)))))
        loudness = harmonics ** -chance.uniform(0.7, 1.5) * chance.uniform(0.3, 1.0, harmonics.size)
        shifts = chance.uniform(0, 2 * np.pi, harmonics.size)
        tone = sum(a * np.sin(k * phase + b) for k, a, b in zip(harmonics, loudness, shifts, strict=True))
        swell = np.sin(np.pi * (3 * time / self.seconds + chance.uniform())) ** 2
        noise = chance.standard_normal((self.channels, time.size)) * 0.3 * (1 - swell) ** 4
        sound = tone * swell + noise
        peak = 10 ** (chance.uniform(-18, -3) / 20)
        return (sound * peak / np.abs(sound).max()).astype(np.float32)
