"""A Lightning data module for any folder tree of pictures, ImageNet's among them."""

from pathlib import Path
from typing import Any

from zoo.recipes.data.files import find_files, split_tree
from zoo.recipes.data.picture_corpus import PictureCorpus
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES, PictureList


class PictureFolder(PictureCorpus):
    """Random crops of every picture below a folder; see `PictureCorpus` for batches.

    Without `valid_dir`, pictures of `train_dir` are set apart by their path; see `held_out` for the rule.

    Args:
        train_dir: Folder tree of pictures. Its first level of folders (classes) is what `crops.shares` speaks of.
        valid_dir: Folder tree to validate on; None to set apart files of `train_dir`.
        valid_percent: Percentage of files set apart where there is no `valid_dir`.
        corpus: The arguments of `PictureCorpus`.
    """

    def __init__(self, train_dir: str, valid_dir: str | None = None, valid_percent: float = 5.0, **corpus: Any) -> None:
        super().__init__(**corpus)
        self.train_dir = Path(train_dir)
        self.valid_dir = Path(valid_dir) if valid_dir else None
        self.valid_percent = valid_percent

    def find_pictures(self) -> tuple[PictureList, PictureList]:
        """Every picture below the folders, by suffix."""
        train, valid = split_tree(self.train_dir, self.valid_dir, self.valid_percent, find_pictures)
        return PictureList.of_files(train), PictureList.of_files(valid)


def find_pictures(folder: Path) -> list[Path]:
    """Every picture file below a folder; see `find_files`."""
    return find_files(folder, PICTURE_SUFFIXES, "picture")
