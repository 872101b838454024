"""A Lightning data module for pictures in tar shards, as WebDataset lays them out."""

import glob
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError
from zoo.codecs.image.io import Pixels, decode_pixels
from zoo.recipes.data.files import held_out
from zoo.recipes.data.picture_corpus import PictureCorpus
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES, PictureList


class PictureShards(PictureCorpus):
    """Random crops of every picture in a set of tar files; see `PictureCorpus` for batches.

    The shards are indexed once, at the start (only headers are read), and members are then read from their places in
    the files: any picture can be drawn at any time, so that the stream of crops resumes exactly. What in a shard is no
    picture (labels, captions) is passed over.

    Args:
        train_shards: Pattern of paths of uncompressed tar files, such as `imagenet/train-*.tar`.
        valid_shards: Pattern of those to validate on; None to set apart pictures of the training shards.
        valid_percent: Percentage set apart where there are no `valid_shards`, by `SHARD/MEMBER`; see `held_out`.
        corpus: The arguments of `PictureCorpus`; `crops.shares` speaks of shards by their names without `.tar`.
    """

    def __init__(
        self, train_shards: str, valid_shards: str | None = None, valid_percent: float = 1.0, **corpus: Any
    ) -> None:
        super().__init__(**corpus)
        self.train_shards, self.valid_shards, self.valid_percent = train_shards, valid_shards, valid_percent

    def find_pictures(self) -> tuple[PictureList, PictureList]:
        """Every picture in the shards, by suffix."""
        train = Members.of(self.train_shards)
        if self.valid_shards:
            return train.pictures(), Members.of(self.valid_shards).pictures()
        apart = np.array([held_out(name, self.valid_percent) for name in train.names])
        if not apart.any() or apart.all():
            raise UserError(
                f"{self.train_shards}: {self.valid_percent} % of {len(apart)} pictures set {int(apart.sum())} apart for"
                " validation; change valid_percent or give valid_shards"
            )
        return train.only(~apart).pictures(), train.only(apart).pictures()


@dataclass(frozen=True)
class Members:
    """Pictures inside tar files, by number.

    Attributes:
        shards: The tar files.
        names: `SHARD/MEMBER` of each picture.
        places: Of each picture its shard's number, the first byte of its data there, and how many there are.
    """

    shards: list[Path]
    names: list[str]
    places: Int64[ndarray, "picture 3"]

    @classmethod
    def of(cls, pattern: str) -> "Members":
        """All pictures in the shards of a pattern, in order."""
        shards = sorted(Path(path) for path in glob.glob(pattern))
        if not shards:
            raise UserError(f"{pattern}: no shard matches; give the pattern of existing tar files")
        names, places = [], []
        for number, shard in enumerate(shards):
            try:
                with tarfile.open(shard, "r:") as tar:
                    for entry in tar:
                        if entry.isfile() and Path(entry.name).suffix.lower() in PICTURE_SUFFIXES:
                            names.append(f"{shard.stem}/{entry.name}")
                            places.append((number, entry.offset_data, entry.size))
                        tar.members = []  # type: ignore[attr-defined]  # which would grow with every picture
            except (tarfile.TarError, OSError) as error:
                raise UserError(
                    f"{shard}: not an uncompressed tar file, or damaged ({error}); fetch it again"
                ) from None
        if not names:
            raise UserError(f"{pattern}: no shard holds a picture ({', '.join(sorted(PICTURE_SUFFIXES))})")
        return cls(shards, names, np.array(places, np.int64))

    def only(self, chosen: ndarray) -> "Members":
        """Those for which `chosen` is true."""
        return Members(self.shards, [self.names[k] for k in np.flatnonzero(chosen)], self.places[chosen])

    def pictures(self) -> PictureList:
        """As a corpus takes them."""
        return PictureList(self.names, [name.partition("/")[0] for name in self.names], self.read)

    def read(self, number: int) -> Pixels:
        """Pixels of picture `number`."""
        shard, start, size = (int(value) for value in self.places[number])
        try:
            with open(self.shards[shard], "rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise MediaError(self.shards[shard], f"cannot be read any more ({error})", "restore it") from error
        return decode_pixels(data, self.shards[shard] / self.names[number].partition("/")[2])
