"""A Lightning data module for any folder tree of audio files."""

import hashlib
from pathlib import Path
from typing import Any

from zoo.codecs.errors import UserError
from zoo.recipes.data.clips import find_audio
from zoo.recipes.data.corpus import AudioCorpus, ClipList


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

    def find_clips(self) -> tuple[ClipList, ClipList]:
        """Every audio file below the folders, by suffix."""
        found = find_audio(self.train_dir)
        if self.valid_dir:
            return _below(self.train_dir, found), _below(self.valid_dir, find_audio(self.valid_dir))
        apart = {path for path in found if held_out(path.relative_to(self.train_dir).as_posix(), self.valid_percent)}
        if not apart or len(apart) == len(found):
            raise UserError(
                f"{self.train_dir}: {self.valid_percent} % of {len(found)} files set {len(apart)} apart for validation;"
                " change valid_percent or give a valid_dir"
            )
        train = [path for path in found if path not in apart]
        return _below(self.train_dir, train), _below(self.train_dir, sorted(apart))


def held_out(name: str, percent: float) -> bool:
    """Whether a file belongs to validation, a fixed function of its path below the corpus (`"june/digits/7.flac"`)."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10_000 < 100 * percent


def _below(root: Path, paths: list[Path]) -> ClipList:
    """The clips with the first folder on the way from `root` to each; `"."` for files in `root` itself."""
    parts = (path.relative_to(root).parts for path in paths)
    return ClipList(root, paths, [part[0] if len(part) > 1 else "." for part in parts])
