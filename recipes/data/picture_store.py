"""Pictures of a corpus as 8-bit pixels, read one by one or held in memory; bad files are skipped."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError
from zoo.codecs.image.io import Pixels, read_pixels
from zoo.recipes.data.files import BrokenFiles, FileList

PICTURE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .avif .gif .bmp .tif .tiff .ppm .jp2 .qoi".split())
MOST_THREADS = 8  # more only wait for the disk, and each holds a decoded picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureList:
    """Pictures by number.

    Attributes:
        names: Path of each below the corpus.
        folders: First folder on that path (the class, in ImageNet); "." where there is none.
        read: Pixels of picture number so and so; raises `MediaError`.
    """

    names: list[str]
    folders: list[str]
    read: Callable[[int], Pixels]

    @classmethod
    def of_files(cls, files: FileList) -> "PictureList":
        """Pictures that are files of their own."""
        names = [path.relative_to(files.root).as_posix() for path in files.paths]
        return cls(names, files.folders, _FileReader(files.paths))


class PictureStore:
    """Some pictures of a list, in 8 bits.

    A file that cannot be read is reported once, with the reason, and counted in `skipped`; this holds for files that
    break or vanish later too, and across the worker processes of a data loader.

    Args:
        pictures: The list.
        chosen: Numbers in the list.
        in_memory: Decode everything now; else nothing is looked at before it is read.
        prepare: What to do to each picture before it is kept.
    """

    def __init__(
        self,
        pictures: PictureList,
        chosen: Sequence[int],
        in_memory: bool,
        prepare: Callable[[UInt8[ndarray, "height width 3"]], UInt8[ndarray, "height width 3"]] | None = None,
    ) -> None:
        self.pictures = pictures
        self.chosen = np.asarray(chosen, np.int64)
        self.names = [pictures.names[k] for k in chosen]
        self.folders = [pictures.folders[k] for k in chosen]
        self._prepare = prepare
        self._broken = BrokenFiles(len(self.names))
        self._memory: list[ndarray | None] | None = None
        self.readable = np.ones(len(self.names), bool)
        if in_memory:
            with ThreadPoolExecutor(min(MOST_THREADS, cpu_count() or 1)) as pool:
                self._memory = list(pool.map(self._read_or_none, range(len(self.names))))
            self.readable = np.array([pixels is not None for pixels in self._memory])
            if not self.readable.any():
                raise UserError(f"none of {len(self.names)} pictures could be read, {self.names[0]} among them")
            if self.skipped:
                _log.warning("%d of %d pictures cannot be read and are skipped", self.skipped, len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def skipped(self) -> int:
        """Number of files that could not be read so far."""
        return len(self._broken)

    def read(self, place: int) -> UInt8[ndarray, "height width 3"]:
        """Pixels of picture number `place` of those chosen.

        Raises:
            MediaError: It cannot be read; it has been reported and counted.
        """
        kept = None if self._memory is None else self._memory[place]
        if kept is not None:
            return kept
        try:
            pixels = self.pictures.read(int(self.chosen[place]))
        except MediaError as error:
            self._broken.add(place, error, self.names[place])
            raise
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        return self._prepare(pixels) if self._prepare else np.ascontiguousarray(pixels)

    def _read_or_none(self, place: int) -> ndarray | None:
        try:
            return self.read(place)
        except MediaError:
            return None


@dataclass(frozen=True)
class _FileReader:
    """Reads files by number (a class, not a function in a function, so that worker processes can be given it)."""

    paths: list[Path]

    def __call__(self, number: int) -> Pixels:
        return read_pixels(self.paths[number])
