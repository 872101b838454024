"""A text corpus as shards of plain bytes with an index, and a Lightning data module of it: 256 tokens and one special.

A corpus is a folder of `SPLIT-00000.bytes` ... and `index.tsv`, whose lines say of each document its split, shard,
first byte there, number of bytes, and name. A text needs no tokenizer and no Parquet: its bytes are its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset

from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.recipes.data.stream import BatchStream, ResumableDataModule
from zoo.vocabulary import Vocabulary

END = 256  # the token behind each document
CARD = 257
INDEX = "index.tsv"
COLUMNS = "split\tshard\tstart\tbytes\tname"
SHARD_BYTES = 16_000_000


def write_corpus(folder: Path, documents: Iterable[tuple[str, str, bytes]]) -> None:
    """Write documents, each a split, a name and its bytes, in their order, in place of a corpus that is there.

    Raises:
        ValueError: A name or split that a line of the index cannot hold.
    """
    shards: dict[str, list[bytearray]] = {}
    lines = [COLUMNS]
    for split, name, data in documents:
        if not (split + name).isprintable():
            raise ValueError(f"a split and a name must be one printable line, got {split!r} and {name!r}")
        parts = shards.setdefault(split, [bytearray()])
        if parts[-1] and len(parts[-1]) + len(data) > SHARD_BYTES:
            parts.append(bytearray())
        lines.append(f"{split}\t{len(parts) - 1}\t{len(parts[-1])}\t{len(data)}\t{name}")
        parts[-1] += data
    for old in (folder / INDEX, *folder.glob("*-*.bytes")):
        old.unlink(missing_ok=True)
    for split, parts in shards.items():
        for number, part in enumerate(parts):
            with AtomicFile(shard_path(folder, split, number)) as file:
                file.write(part)
    with AtomicFile(folder / INDEX) as file:
        file.write(("\n".join(lines) + "\n").encode())


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"{split}-{number:05}.bytes"


class ByteCorpus:
    """One split of a corpus as one run of tokens: the bytes of each document and then `END`. Shards are memory-mapped.

    Attributes:
        names: Of the documents.

    Args:
        folder: What `write_corpus` wrote.
        split: Such as "train".

    Raises:
        UserError: There is no such corpus or split, or its shards are not those of its index.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        folder = Path(folder)
        try:
            lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{printable(folder)}: holds no text corpus ({error});"
                " make one with: python -m zoo.recipes.data.python_text --out FOLDER"
            ) from error
        rows = [line.split("\t") for line in lines[1:]]
        if lines[:1] != [COLUMNS] or any(len(row) != 5 for row in rows):
            raise UserError(f"{printable(folder / INDEX)}: is no index of a text corpus, or damaged; make it again")
        rows = [row for row in rows if row[0] == split]
        if not rows:
            raise UserError(f"{printable(folder)}: has no split {split!r}; see the first column of {INDEX}")
        self.names = [row[4] for row in rows]
        places = np.array([row[1:4] for row in rows], np.int64)
        self._shards = [self._map(shard_path(folder, split, k), places) for k in range(int(places[:, 0].max()) + 1)]
        self._places = places
        self._ends = np.cumsum(places[:, 2] + 1)  # in tokens

    def __len__(self) -> int:
        """Tokens, the `END`s among them."""
        return int(self._ends[-1])

    @property
    def size(self) -> int:
        """Bytes of text."""
        return len(self) - len(self.names)

    def document(self, number: int) -> bytes:
        """A whole document."""
        shard, start, size = self._places[number]
        return self._shards[shard][start : start + size].tobytes()

    def tokens(self, start: int, count: int) -> Int64[ndarray, "count"]:
        """Tokens from one place on; behind the last comes the first again."""
        found = np.empty(count, np.int64)
        done, place = 0, start % len(self)
        while done < count:
            number = int(np.searchsorted(self._ends, place, side="right"))
            shard, first, size = (int(value) for value in self._places[number])
            skip = place - (int(self._ends[number]) - size - 1)
            part = self._shards[shard][first + skip : first + size][: count - done]
            found[done : done + len(part)] = part
            done, place = done + len(part), place + len(part)
            if done < count:
                found[done] = END
                done, place = done + 1, (place + 1) % len(self)
        return found

    @staticmethod
    def _map(path: Path, places: Int64[ndarray, "document 3"]) -> ndarray:
        number = int(path.stem.rpartition("-")[2])
        expected = int(places[places[:, 0] == number, 2].sum())
        if not path.is_file() or path.stat().st_size != expected:
            raise UserError(f"{printable(path)}: missing, or not of {expected} bytes as {INDEX} says; make it again")
        return np.memmap(path, np.uint8, "r") if expected else np.empty(0, np.uint8)


class ByteText(ResumableDataModule):
    """Windows of a text corpus: `{"codes": int64 [batch, 1, length], "lengths": int64 [batch]}`.

    Codes are bytes, and `END` (256) behind each document. In each round over the corpus the windows lie side by side,
    from a place that differs from round to round, in shuffled order: every byte comes once in a round. Batch i is a
    pure function of the corpus, the settings and i.

    Args:
        folder: Of the corpus.
        length: Tokens in a window.
        batch_size: Windows in a batch, on each device.
        valid_windows: Windows to validate on, spread over the split "valid".
        seed: Of the order.
        epoch_batches, workers: See `ResumableDataModule`.
    """

    def __init__(
        self,
        folder: str = "data/text",
        length: int = 1024,
        batch_size: int = 8,
        valid_windows: int = 64,
        seed: int = 0,
        epoch_batches: int = 500,
        workers: int = 0,
    ) -> None:
        super().__init__(epoch_batches, workers)
        self.folder, self.length, self.batch_size = folder, length, batch_size
        self.valid_windows, self.seed = valid_windows, seed
        self.codebook_sizes = (CARD,)
        self.vocabulary = Vocabulary()
        self._train: Windows | None = None
        self._valid: Windows | None = None

    def setup(self, stage: str) -> None:
        """Read the index.

        Raises:
            UserError: No corpus there, or one shorter than a window.
        """
        if self._valid is None:
            self._train = Windows(ByteCorpus(self.folder, "train"), self.length, self.batch_size, self.seed)
            self._valid = Windows(ByteCorpus(self.folder, "valid"), self.length, self.batch_size, self.seed)

    def train_stream(self, rank: int, ranks: int) -> BatchStream:
        """See `ResumableDataModule.train_stream`."""
        assert self._train is not None, "setup comes first"
        return BatchStream(self._train.batch, self.epoch_batches, rank, ranks)

    def val_dataloader(self) -> DataLoader:
        """The same windows each time."""
        assert self._valid is not None, "setup comes first"
        return DataLoader(SpreadWindows(self._valid, self.valid_windows), batch_size=self.batch_size)


class Windows:
    """Windows of a corpus by number.

    Raises:
        UserError: The corpus is shorter than one window.
    """

    def __init__(self, corpus: ByteCorpus, length: int, batch_size: int, seed: int) -> None:
        if len(corpus) < length:
            raise UserError(
                f"the corpus has {len(corpus)} tokens, less than a window of {length}; choose a shorter one"
            )
        self.corpus, self.length, self.batch_size = corpus, length, batch_size
        self._seed = seed
        self._latest: tuple[int, int, ndarray] = (-1, 0, np.empty(0, np.int64))

    def __len__(self) -> int:
        """Windows in a round; the last one runs on into the beginning."""
        return -(-len(self.corpus) // self.length)

    def batch(self, number: int) -> dict[str, Any]:
        """Batch `number` of the endless stream."""
        windows = np.stack([self.window(number * self.batch_size + k) for k in range(self.batch_size)])
        return {
            "codes": torch.from_numpy(windows)[:, None],
            "lengths": torch.full((self.batch_size,), self.length),
        }

    def window(self, number: int) -> Int64[ndarray, "length"]:
        """Window `number` of the endless stream of rounds."""
        number_of_round, place = divmod(number, len(self))
        if self._latest[0] != number_of_round:
            draw = np.random.default_rng((self._seed, number_of_round))
            self._latest = (number_of_round, int(draw.integers(len(self.corpus))), draw.permutation(len(self)))
        _, start, order = self._latest
        return self.corpus.tokens(start + int(order[place]) * self.length, self.length)


class SpreadWindows(Dataset):
    """At most so many windows of a corpus, at equal distances."""

    def __init__(self, windows: Windows, most: int) -> None:
        self.windows = windows
        count = min(most, len(windows.corpus) // windows.length)
        self.starts = np.linspace(0, len(windows.corpus) - windows.length, count).astype(int)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        length = self.windows.length
        codes = self.windows.corpus.tokens(int(self.starts[number]), length)
        return {"codes": torch.from_numpy(codes)[None], "lengths": torch.tensor(length)}
