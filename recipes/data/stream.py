"""Training batches as one endless, numbered stream that resumes exactly, and the Lightning data module around it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import lightning
import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from torch.utils.data import DataLoader, IterableDataset


class Source(Protocol):
    """Whatever can make the crop of any number, always the same one for the same number."""

    def crop(self, index: int) -> Float32[ndarray, "channel *space"]:
        """Crop number `index`."""


class CropStream(IterableDataset):
    """Batches of crops from the stream under the key `media` ("audio" or "image"), shared among ranks and workers.

    Batch b of rank r holds the crops `start + (b * batch_size + k) * ranks + r`; the order does not depend on the
    number of workers.
    """

    def __init__(
        self, source: Source, batch_size: int, batches: int, rank: int = 0, ranks: int = 1, media: str = "audio"
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.batches = batches
        self.rank = rank
        self.ranks = ranks
        self.media = media
        self.start = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in range(first, self.batches, step):
            numbers = self.start + (batch * self.batch_size + np.arange(self.batch_size)) * self.ranks + self.rank
            crops = [self.source.crop(int(number)) for number in numbers]
            yield {self.media: torch.from_numpy(np.stack(crops))}


class ResumableLoader(DataLoader):
    """A loader of a `CropStream` that continues after the crops already consumed, in a new epoch or a new process."""

    dataset: CropStream

    def __init__(self, stream: CropStream, consumed: int = 0, workers: int = 0) -> None:
        super().__init__(stream, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
        self.consumed = consumed

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.dataset.start = self.consumed
        for batch in super().__iter__():
            # Counted before the batch is handed out: a checkpoint written while it is in use must contain it.
            self.consumed += batch[self.dataset.media].shape[0] * self.dataset.ranks
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of crops consumed by all ranks together."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a saved loader was."""
        self.consumed = state["consumed"]


class StreamDataModule(lightning.LightningDataModule, ABC):
    """A data module whose training data is a stream: the number of crops consumed is all of its state.

    Lightning restores a loader by itself only in the middle of an epoch; the module's own state covers its end too.

    Attributes:
        media: Key of a batch's crops.

    Args:
        batch_size: Crops in a batch, on each device.
        epoch_batches: Batches that make an epoch, on each device.
        workers: Worker processes; the crops are the same for any number.
    """

    media = "audio"

    def __init__(self, batch_size: int, epoch_batches: int, workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.epoch_batches = epoch_batches
        self.workers = workers
        self._consumed = 0
        self._loader: ResumableLoader | None = None

    @abstractmethod
    def train_source(self) -> Source:
        """Where the crops come from; made by `setup`."""

    def train_dataloader(self) -> ResumableLoader:
        """The stream of crops, from where training stopped."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = CropStream(self.train_source(), self.batch_size, self.epoch_batches, rank, ranks, self.media)
        self._loader = ResumableLoader(stream, self._consumed, self.workers)
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """The number of crops consumed: with the seed, all that it takes to continue."""
        return {"consumed": self._loader.consumed if self._loader else self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the stream of crops where a checkpoint left it."""
        self._consumed = state["consumed"]
        if self._loader:
            self._loader.consumed = self._consumed
