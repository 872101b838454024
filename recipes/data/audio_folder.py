"""A Lightning data module for any folder tree of audio files."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.codecs.errors import UserError
from zoo.recipes.data.clips import ClipStore, find_audio, folders_below
from zoo.recipes.data.crops import CropConfig, CropSource
from zoo.recipes.data.stream import StreamDataModule


class AudioFolder(StreamDataModule):
    """Random crops of every audio file below a folder, and whole clips to validate on.

    Training batches are `{"audio": float32 [batch, channel, time]}`, drawn as `CropConfig` says; validation batches are
    one whole clip each, `{"audio": float32 [1, channel, time], "names": [str]}`.

    Without `valid_dir`, the files whose path below `train_dir` has a SHA-256 that, modulo 10,000, is
    under 100 times `valid_percent` are for validation and the others for training.

    Files may be wav, flac, ogg, mp3 and what else libsndfile reads, or what ffmpeg reads where it is installed. A file
    that cannot be read is reported once, counted (`skipped`) and left out.

    Args:
        train_dir: Folder tree of audio files. Its first level of folders (speakers) is what `crops.shares` speaks of.
        valid_dir: Folder tree to validate on; None to set apart files of `train_dir`.
        sample_rate: In Hz; files of other rates are resampled.
        channels: 1 averages the channels of every file, 2 repeats mono.
        crops: How training crops are drawn.
        batch_size: Crops in a batch, on each device.
        epoch_batches: Batches that make an epoch, on each device.
        cache: "memory" decodes everything once, to 16 bit (230 MB for two hours at 16 kHz); "none" reads from disk.
        workers: Worker processes; the crops are the same for any number.
        valid_clips: At most so many clips are validated on, taken in turn from every folder of the first level.
        valid_seconds: Longer clips are cut to this length for validation.
        valid_percent: Percentage of files set apart where there is no `valid_dir`.
    """

    def __init__(
        self,
        train_dir: str,
        valid_dir: str | None = None,
        sample_rate: int = 16_000,
        channels: int = 1,
        crops: CropConfig = CropConfig(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        epoch_batches: int = 500,
        cache: Literal["memory", "none"] = "memory",
        workers: int = 0,
        valid_clips: int = 16,
        valid_seconds: float = 10.0,
        valid_percent: float = 5.0,
    ) -> None:
        super().__init__(batch_size, epoch_batches, workers)
        self.train_dir = Path(train_dir)
        self.valid_dir = Path(valid_dir) if valid_dir else None
        self.sample_rate = sample_rate
        self.channels = channels
        self.crops = crops
        self.cache = cache
        self.valid_clips = valid_clips
        self.valid_seconds = valid_seconds
        self.valid_percent = valid_percent
        self._train: CropSource | None = None
        self._valid: WholeClips | None = None

    def setup(self, stage: str) -> None:
        """Find the files and, with the memory cache, decode them."""
        train, train_root, valid, valid_root = self.find_clips()
        if self._valid is None:
            chosen = in_turns(valid, folders_below(valid_root, valid), self.valid_clips)
            self._valid = WholeClips(self._store(chosen, in_memory=True), valid_root, self.valid_seconds)
        if stage == "fit" and self._train is None:
            store = self._store(train, in_memory=self.cache == "memory")
            self._train = CropSource(store, folders_below(train_root, train), self.crops)

    def find_clips(self) -> tuple[list[Path], Path, list[Path], Path]:
        """Files to train on and the folder that they are below, then the same to validate on."""
        found = find_audio(self.train_dir)
        if self.valid_dir:
            return found, self.train_dir, find_audio(self.valid_dir), self.valid_dir
        apart = [held_out(path.relative_to(self.train_dir).as_posix(), self.valid_percent) for path in found]
        train = [path for path, away in zip(found, apart, strict=True) if not away]
        valid = [path for path, away in zip(found, apart, strict=True) if away]
        if not (train and valid):
            raise UserError(
                f"{self.train_dir}: {self.valid_percent} % of {len(found)} files leave {len(train)} for training and"
                f" {len(valid)} for validation; change valid_percent or give a valid_dir"
            )
        return train, self.train_dir, valid, self.train_dir

    @property
    def skipped(self) -> int:
        """Number of files that could not be read so far."""
        return sum(part.store.skipped for part in (self._train, self._valid) if part is not None)

    def train_source(self) -> CropSource:
        """The corpus to crop from."""
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


def held_out(name: str, percent: float) -> bool:
    """Whether a file belongs to validation, a fixed function of its path below the corpus (`"june/digits/7.flac"`)."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10_000 < 100 * percent


def in_turns(paths: list[Path], folders: list[str], most: int) -> list[Path]:
    """At most `most` paths: one of each folder in turn, within a folder in the order of the SHA-256 of their names."""
    queues: dict[str, list[Path]] = {}
    for path, folder in zip(paths, folders, strict=True):
        queues.setdefault(folder, []).append(path)
    for queue in queues.values():
        queue.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
    rounds = max(len(queue) for queue in queues.values())
    turns = [queue[k] for k in range(rounds) for _, queue in sorted(queues.items()) if k < len(queue)]
    return turns[:most]
