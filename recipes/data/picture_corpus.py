"""The data module that every corpus of pictures shares: random crops to train on, pictures to validate on."""

from abc import abstractmethod
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset

from zoo.codecs.image.io import to_float
from zoo.recipes.data.files import in_turns
from zoo.recipes.data.picture_crops import PictureCropConfig, PictureCropSource, cut
from zoo.recipes.data.picture_store import PictureList, PictureStore
from zoo.recipes.data.stream import StreamDataModule


class PictureCorpus(StreamDataModule):
    """Random crops of a list of pictures, and another list to validate on; a subclass says which.

    Training batches are `{"image": float32 [batch, 3, size, size]}` in [0, 1], drawn as `PictureCropConfig` says;
    validation batches are one picture each, `{"image": float32 [1, 3, height, width], "names": [str]}`. A file that
    cannot be read is reported once, counted (`skipped`) and left out.

    Args:
        crops: How training crops are drawn.
        batch_size: Crops in a batch, on each device.
        epoch_batches: Batches that make an epoch, on each device.
        cache: "memory" decodes everything once (3 bytes a pixel); "none" reads from disk.
        workers: Worker processes; the crops are the same for any number.
        valid_pictures: At most so many pictures are validated on, taken in turn from every folder.
        valid_size: The largest square in the middle of each, brought to so many pixels a side; None for pictures as
            they are.
    """

    media = "image"

    def __init__(
        self,
        crops: PictureCropConfig = PictureCropConfig(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        epoch_batches: int = 500,
        cache: Literal["memory", "none"] = "none",
        workers: int = 0,
        valid_pictures: int = 16,
        valid_size: int | None = 256,
    ) -> None:
        super().__init__(batch_size, epoch_batches, workers)
        self.crops = crops
        self.cache = cache
        self.valid_pictures = valid_pictures
        self.valid_size = valid_size
        self._train: PictureCropSource | None = None
        self._valid: WholePictures | None = None

    @abstractmethod
    def find_pictures(self) -> tuple[PictureList, PictureList]:
        """The pictures to train on and those to validate on."""

    def setup(self, stage: str) -> None:
        """Find the pictures and, with the memory cache, decode them."""
        train, valid = self.find_pictures()
        if self._valid is None:
            chosen = in_turns(valid.names, valid.folders, self.valid_pictures)
            middle = partial(middle_square, size=self.valid_size) if self.valid_size else None
            self._valid = WholePictures(PictureStore(valid, chosen, in_memory=True, prepare=middle))
        if stage == "fit" and self._train is None:
            store = PictureStore(train, range(len(train.names)), in_memory=self.cache == "memory")
            self._train = PictureCropSource(store, self.crops)

    @property
    def skipped(self) -> int:
        """Number of files that could not be read so far."""
        return sum(part.store.skipped for part in (self._train, self._valid) if part is not None)

    def train_source(self) -> PictureCropSource:
        """The corpus to crop from."""
        assert self._train is not None, "setup('fit') comes first"
        return self._train

    def val_dataloader(self) -> DataLoader:
        """Pictures, one in a batch."""
        return DataLoader(self._valid, batch_size=None)


class WholePictures(Dataset):
    """Pictures as batches of one."""

    def __init__(self, store: PictureStore) -> None:
        self.store = store
        self._readable = np.flatnonzero(store.readable)

    def __len__(self) -> int:
        return len(self._readable)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor | list[str]]:
        picture = int(self._readable[place])
        image = torch.from_numpy(to_float(self.store.read(picture)))[None]
        return {"image": image, "names": [self.store.names[picture]]}


def middle_square(pixels: UInt8[ndarray, "height width 3"], size: int) -> UInt8[ndarray, "size size 3"]:
    """The largest square in the middle, brought to `size` pixels a side."""
    return cut(pixels, min(pixels.shape[:2]), (0.5, 0.5), size)
