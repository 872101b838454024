"""Training batches as one endless, numbered stream that resumes exactly, and the Lightning data modules around it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

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


class NumberedStream(IterableDataset, ABC):
    """An endless stream of batches, shared among ranks and workers; the order does not depend on how many workers.

    Attributes:
        start: What has been consumed before the first batch, counted as the stream itself counts.
        step: What one batch of every rank consumes together.

    Args:
        batches: How many make an epoch.
    """

    def __init__(self, batches: int, step: int) -> None:
        self.batches = batches
        self.step = step
        self.start = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in range(first, self.batches, step):
            yield self.batch(self.start + batch * self.step)

    @abstractmethod
    def batch(self, first: int) -> dict[str, Any]:
        """This rank's batch when so much has been consumed by all."""


class CropStream(NumberedStream):
    """Batches of crops under the key `media` ("audio" or "image").

    Batch b of rank r holds the crops `start + (b * batch_size + k) * ranks + r`.
    """

    def __init__(
        self, source: Source, batch_size: int, batches: int, rank: int = 0, ranks: int = 1, media: str = "audio"
    ) -> None:
        super().__init__(batches, batch_size * ranks)
        self.source = source
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.media = media

    def batch(self, first: int) -> dict[str, torch.Tensor]:
        """See `NumberedStream.batch`."""
        numbers = first + np.arange(self.batch_size) * self.ranks + self.rank
        return {self.media: torch.from_numpy(np.stack([self.source.crop(int(number)) for number in numbers]))}


class BatchStream(NumberedStream):
    """Batches that a function makes from their numbers: batch b of rank r is number `start + b * ranks + r`."""

    def __init__(self, make: Callable[[int], dict[str, Any]], batches: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(batches, ranks)
        self.make = make
        self.rank = rank

    def batch(self, first: int) -> dict[str, Any]:
        """See `NumberedStream.batch`."""
        return self.make(first + self.rank)


class ResumableLoader(DataLoader):
    """A loader of a numbered stream that continues behind what was consumed, in a new epoch or a new process."""

    dataset: NumberedStream

    def __init__(self, stream: NumberedStream, consumed: int = 0, workers: int = 0) -> None:
        super().__init__(stream, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
        self.consumed = consumed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.dataset.start = self.consumed
        for batch in super().__iter__():
            # Counted before the batch is handed out: a checkpoint written while it is in use must contain it.
            self.consumed += self.dataset.step
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What all ranks together have consumed, in crops or batches, as the stream counts."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a saved loader was."""
        self.consumed = state["consumed"]


class ResumableDataModule(lightning.LightningDataModule, ABC):
    """A data module whose training data is a numbered stream: how much of it was consumed is all of its state.

    Lightning restores a loader by itself only in the middle of an epoch; the module's own state covers its end too.

    Args:
        epoch_batches: Batches that make an epoch, on each device.
        workers: Worker processes; the batches are the same for any number.
    """

    def __init__(self, epoch_batches: int, workers: int) -> None:
        super().__init__()
        self.epoch_batches = epoch_batches
        self.workers = workers
        self._consumed = 0
        self._loader: ResumableLoader | None = None

    @abstractmethod
    def train_stream(self, rank: int, ranks: int) -> NumberedStream:
        """The batches of one rank; what it needs was made by `setup`."""

    def train_dataloader(self) -> ResumableLoader:
        """The stream of batches, from where training stopped."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self._loader = ResumableLoader(self.train_stream(rank, ranks), self._consumed, self.workers)
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """What was consumed: with the seed, all that it takes to continue."""
        return {"consumed": self._loader.consumed if self._loader else self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the stream where a checkpoint left it."""
        self._consumed = state["consumed"]
        if self._loader:
            self._loader.consumed = self._consumed


class StreamDataModule(ResumableDataModule):
    """A data module whose training data are crops of a source.

    Attributes:
        media: Key of a batch's crops.

    Args:
        batch_size: Crops in a batch, on each device.
        epoch_batches, workers: See `ResumableDataModule`.
    """

    media = "audio"

    def __init__(self, batch_size: int, epoch_batches: int, workers: int) -> None:
        super().__init__(epoch_batches, workers)
        self.batch_size = batch_size

    @abstractmethod
    def train_source(self) -> Source:
        """Where the crops come from; made by `setup`."""

    def train_stream(self, rank: int, ranks: int) -> CropStream:
        """See `ResumableDataModule.train_stream`."""
        return CropStream(self.train_source(), self.batch_size, self.epoch_batches, rank, ranks, self.media)
