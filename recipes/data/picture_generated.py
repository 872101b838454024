"""Generated pictures for tests and smoke runs: striped discs over gradients, nothing to download."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from torch.utils.data import DataLoader

from zoo.recipes.data.stream import StreamDataModule

_VALID_FROM = 1 << 40  # validation pictures have numbers that no training run reaches


class GeneratedPictures(StreamDataModule):
    """Endless pictures, each a pure function of the seed and its number; the batches are those of `PictureFolder`."""

    media = "image"

    def __init__(
        self,
        size: int = 64,
        seed: int = 0,
        batch_size: int = 4,
        epoch_batches: int = 10,
        workers: int = 0,
        valid_pictures: int = 2,
        valid_size: int = 176,
    ) -> None:
        super().__init__(batch_size, epoch_batches, workers)
        self._scenes = Scenes(size, seed)
        self._valid_scenes = Scenes(valid_size, seed)
        self.valid_pictures = valid_pictures

    def train_source(self) -> "Scenes":
        """The generator of pictures."""
        return self._scenes

    def val_dataloader(self) -> DataLoader:
        """Pictures that training never sees, one in a batch."""
        pictures = [
            {"image": torch.from_numpy(self._valid_scenes.crop(_VALID_FROM + k))[None], "names": [f"generated-{k}"]}
            for k in range(self.valid_pictures)
        ]
        return DataLoader(pictures, batch_size=None)


@dataclass(frozen=True)
class Scenes:
    """Makes a gradient between two colours, with one to six striped ellipses on it and a little noise."""

    size: int
    seed: int

    def crop(self, index: int) -> Float32[ndarray, "3 height width"]:
        """Picture number `index`, in [0, 1]."""
        chance = np.random.default_rng([self.seed, index])
        y, x = np.mgrid[: self.size, : self.size] / self.size
        tilt = chance.uniform(0, 2 * np.pi)
        ramp = 0.5 + 0.5 * (np.cos(tilt) * (x - 0.5) + np.sin(tilt) * (y - 0.5))
        first, second = chance.uniform(0, 1, (2, 3, 1, 1))
        picture = first + (second - first) * ramp
        for _ in range(chance.integers(1, 7)):
            (across, down), (wide, high) = chance.uniform(0, 1, 2), chance.uniform(0.05, 0.35, 2)
            inside = ((x - across) / wide) ** 2 + ((y - down) / high) ** 2 < 1
            turn, pitch = chance.uniform(0, np.pi), chance.uniform(2, 40)
            stripes = 0.5 + 0.5 * np.sin(2 * np.pi * pitch * (np.cos(turn) * x + np.sin(turn) * y))
            light, dark = chance.uniform(0, 1, (2, 3, 1, 1))
            picture = np.where(inside, dark + (light - dark) * stripes, picture)
        picture = picture + chance.normal(0, 0.01, picture.shape)
        return np.clip(picture, 0, 1).astype(np.float32)
