"""The data module that every corpus of recordings shares: random crops to train on, whole clips to validate on."""

from abc import abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.recipes.data.clips import ClipStore
from zoo.recipes.data.crops import CropConfig, CropSource
from zoo.recipes.data.files import FileList, in_turns
from zoo.recipes.data.stream import StreamDataModule


class AudioCorpus(StreamDataModule):
    """Random crops of a list of files, and whole clips of another; a subclass says which files.

    Training batches are `{"audio": float32 [batch, channel, time]}`, drawn as `CropConfig` says; validation batches are
    one whole clip each, `{"audio": float32 [1, channel, time], "names": [str]}`. A file that cannot be read is reported
    once, counted (`skipped`) and left out.

    Args:
        sample_rate: In Hz; files of other rates are resampled.
        channels: 1 averages the channels of every file, 2 repeats mono.
        crops: How training crops are drawn.
        batch_size: Crops in a batch, on each device.
        epoch_batches: Batches that make an epoch, on each device.
        cache: "memory" decodes everything once, to 16 bit (230 MB for two hours at 16 kHz); "none" reads from disk.
        workers: Worker processes; the crops are the same for any number.
        valid_clips: At most so many clips are validated on, taken in turn from every folder.
        valid_seconds: Longer clips are cut to this length for validation.
    """

    def __init__(
        self,
        sample_rate: int = 16_000,
        channels: int = 1,
        crops: CropConfig = CropConfig(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        epoch_batches: int = 500,
        cache: Literal["memory", "none"] = "memory",
        workers: int = 0,
        valid_clips: int = 16,
        valid_seconds: float = 10.0,
    ) -> None:
        super().__init__(batch_size, epoch_batches, workers)
        self.sample_rate = sample_rate
        self.channels = channels
        self.crops = crops
        self.cache = cache
        self.valid_clips = valid_clips
        self.valid_seconds = valid_seconds
        self._train: CropSource | None = None
        self._valid: WholeClips | None = None

    @abstractmethod
    def find_clips(self) -> tuple[FileList, FileList]:
        """The files to train on and the files to validate on."""

    def setup(self, stage: str) -> None:
        """Find the files and, with the memory cache, decode them."""
        train, valid = self.find_clips()
        if self._valid is None:
            places = in_turns([path.as_posix() for path in valid.paths], valid.folders, self.valid_clips)
            chosen = [valid.paths[place] for place in places]
            self._valid = WholeClips(self._store(chosen, in_memory=True), valid.root, self.valid_seconds)
        if stage == "fit" and self._train is None:
            store = self._store(train.paths, in_memory=self.cache == "memory")
            self._train = CropSource(store, train.folders, self.crops)

    @property
    def skipped(self) -> int:
        """Number of files that could not be read so far."""
        return sum(part.store.skipped for part in (self._train, self._valid) if part is not None)

    def train_source(self) -> CropSource:
        """The corpus to crop from."""
        assert self._train is not None, "setup('fit') comes first"
        return self._train

    def val_dataloader(self) -> DataLoader:
        """Whole clips, one in a batch."""
        return DataLoader(self._valid, batch_size=None)

    def _store(self, paths: list[Path], in_memory: bool) -> ClipStore:
        return ClipStore(paths, self.sample_rate, self.channels, in_memory)


class WholeClips(Dataset):
    """Whole clips as batches of one."""

    def __init__(self, store: ClipStore, root: Path, longest_seconds: float) -> None:
        self.store = store
        self._root = root
        self._longest = round(longest_seconds * store.sample_rate)
        self._readable = np.flatnonzero(store.lengths)

    def __len__(self) -> int:
        return len(self._readable)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor | list[str]]:
        clip = int(self._readable[place])
        audio = torch.from_numpy(self.store.read(clip, 0, self._longest))[None]
        return {"audio": audio, "names": [self.store.paths[clip].relative_to(self._root).as_posix()]}
