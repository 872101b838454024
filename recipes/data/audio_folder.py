"""A Lightning data module for any folder tree of audio files."""

from pathlib import Path
from typing import Any

from zoo.recipes.data.clips import find_audio
from zoo.recipes.data.corpus import AudioCorpus
from zoo.recipes.data.files import FileList, split_tree


class AudioFolder(AudioCorpus):
    """Random crops of every audio file below a folder, and whole clips to validate on; see `AudioCorpus` for batches.

    Files may be wav, flac, ogg, mp3 and what else libsndfile reads, or what ffmpeg reads where it is installed.

    Without `valid_dir`, the files whose path below `train_dir` has a SHA-256 that, modulo 10,000, is under 100 times
    `valid_percent` are for validation and the others for training.

    Args:
        train_dir: Folder tree of audio files. Its first level of folders (speakers) is what `crops.shares` speaks of.
        valid_dir: Folder tree to validate on; None to set apart files of `train_dir`.
        valid_percent: Percentage of files set apart where there is no `valid_dir`.
        corpus: The arguments of `AudioCorpus`.
    """

    def __init__(self, train_dir: str, valid_dir: str | None = None, valid_percent: float = 5.0, **corpus: Any) -> None:
        super().__init__(**corpus)
        self.train_dir = Path(train_dir)
        self.valid_dir = Path(valid_dir) if valid_dir else None
        self.valid_percent = valid_percent

    def find_clips(self) -> tuple[FileList, FileList]:
        """Every audio file below the folders, by suffix."""
        return split_tree(self.train_dir, self.valid_dir, self.valid_percent, find_audio)
