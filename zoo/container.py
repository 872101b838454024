"""The `.ztok` token file: codes of audio or pictures and the facts that turn them back into media, every byte checked.
This module reads it, `zoo.container_writer` writes it.

Layout of version 2; numbers are those of `zoo.container_header`, check values 4 bytes, little-endian:

    audio     header, check value
              blocks: twice the bytes of codes, plus 1 if they are entropy coded; the codes; check value
              0 in place of a block; frames, length, original length; check value
    picture   header, codes to the end, check value of the whole file

Codes are packed without gaps (`zoo.codecs.packing`) or entropy coded (`zoo.codecs.entropy`), whichever is smaller for
the block. Each block of `block_frames` frames (the last: of what is left) is coded by itself, so that reading can start
at any of them; and as lengths stand at the end, a file can be written while the media still comes in. The check value
of a block starts from the header's and from the block's number, so that blocks that were changed, swapped, repeated,
dropped or taken from another file are found.

What surrounds the codes of a picture takes 21 bytes if its codec ships with this program, that of a recording about 40
and 6 for each block. Files of version 1 (`zoo.container_v1`) are read and no longer written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zoo import checkpoints, container_v1
from zoo.codecs.audio.io import check_readable
from zoo.codecs.base import Tokens
from zoo.codecs.context import FILE as CONTEXT_FILE
from zoo.codecs.context import ContextModel
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.container_blocks import CRC, BlockCoder, block_crc, lengths_fit
from zoo.container_header import LONGEST, MAGIC, VERSION, Cursor, Unknown, unpack

LARGEST_TRAILER = 1 + 3 * 9 + CRC.size


class TokenFileError(UserError):
    """A token file that cannot be read; the message names the file, the cause and the remedy."""

    def __init__(self, path: str | Path, cause: str, remedy: str = "make or copy it again") -> None:
        super().__init__(f"{printable(path)}: {cause}; {remedy}")


@dataclass(frozen=True)
class Block:
    """Where a block of codes lies: its first byte (codes and check value follow what stands before them), the bytes
    before its codes, the bytes of codes, and whether they are entropy coded.
    """

    at: int
    head: int
    size: int
    coded: bool


class TokenReader:
    """Read a token file; use it in a `with` statement. Opening checks all but the blocks, reading checks those.

    Attributes:
        path: Where it is.
        header: What the file says before its codes.
        frames: Frames of codes (pictures: cells).
        length: Samples at the codec's rate (pictures: pixels).
        original_length: Samples that the original had at its own rate (pictures: pixels).
        context: The trained model of codes; None: that of the bundled codec that the file names. A file of another
            codec that was written with such a model needs it before codes are read.
    """

    def __init__(self, path: str | Path, context: ContextModel | None = None) -> None:
        """Raises TokenFileError if the file is missing, no token file, of a newer version or damaged."""
        self.path, self.context = Path(path), context
        self._blocks: list[Block] = []
        check_readable(path)
        self._file = open(path, "rb")
        try:
            self._size = self.path.stat().st_size
            self._open()
        except BaseException:
            self._file.close()
            raise

    def read(self, start: int = 0, stop: int | None = None) -> Int[Tensor, "row codebook frame"]:
        """Codes of frames `start` to `stop` of a recording; -1 behind the depth of a frame.

        Raises:
            TokenFileError: A block is damaged, or its trained model of codes is missing.
        """
        stop = self.frames if stop is None else stop
        if not 0 <= start <= stop <= self.frames:
            raise ValueError(f"frames {start} to {stop} do not lie in 0..{self.frames}")
        header = self.header
        if header.media != "audio":
            raise ValueError("frames are those of audio; read the codes of a picture with `tokens`")
        first, last = start // header.block_frames, -(-stop // header.block_frames)
        blocks = [self._block(i) for i in range(first, last)] if stop > start else []
        grid = np.concatenate(blocks, 3) if blocks else np.empty((header.rows, len(header.codebook_sizes), 1, 0), int)
        at = start - first * header.block_frames
        return torch.from_numpy(np.ascontiguousarray(grid[:, :, 0, at : at + stop - start]))

    def blocks(
        self, frames: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Int[Tensor, "row codebook frame"]]:
        """Codes of frames `start` to `stop`, `frames` at a time; each block is decoded once."""
        stop = self.frames if stop is None else stop
        size = getattr(self.header, "block_frames", 1)
        waiting, at = self.read(start, start), start
        while at < stop or waiting.shape[2]:
            while waiting.shape[2] < frames and at < stop:
                end = min(stop, (at // size + 1) * size)
                waiting, at = torch.cat([waiting, self.read(at, end)], 2), end
            yield waiting[..., :frames].clone()
            waiting = waiting[..., frames:]

    def grid(self) -> Int[np.ndarray, "row codebook height width"]:
        """All codes, audio with a height of 1, tiles one below the other."""
        return self._block(0) if self.header.media == "image" else self.read().numpy()[:, :, None]

    def tokens(self) -> Tokens:
        """All that the file holds, as the codec's `encode` gave it.

        Raises:
            TokenFileError: As `read`.
        """
        header = self.header
        codes = torch.from_numpy(self.grid())
        if header.media == "audio":
            codes, lengths = codes[:, :, 0], torch.full((header.rows,), self.length)
            scales = None if header.scales is None else torch.tensor(header.scales)
        else:
            codes = codes.flatten(2) if header.tile else codes
            lengths, scales = torch.tensor([[header.height, header.width]] * header.rows), None
        depth = (codes >= 0).sum(1) if header.depth else None
        return Tokens(codes, lengths, scales, header.codec, header.weights, depth)

    @property
    def seconds(self) -> float:
        """Length of the original recording."""
        return self.original_length / self.header.original_rate

    @property
    def kbps(self) -> float:
        """Kilobits of file, all of it, a second of audio."""
        return self._size * 8 / self.seconds / 1000

    @property
    def bpp(self) -> float:
        """Bits of file, all of it, for each pixel of its pictures."""
        return self._size * 8 / self.length / self.header.rows

    @property
    def code_bytes(self) -> int:
        """Bytes of the file that are codes and depths."""
        return sum(block.size for block in self._blocks)

    def facts(self) -> dict[str, Any]:
        """All that is known about the file without reading its codes."""
        header = self.header
        facts = asdict(header) | {"media": header.media, "codebooks": len(header.codebook_sizes), "bytes": self._size}
        if header.media == "image":
            return facts | {"bpp": self.bpp}
        return facts | {
            "frames": self.frames,
            "length": self.length,
            "original_length": self.original_length,
            "seconds": self.seconds,
            "kbps": self.kbps,
        }

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TokenReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        start = self._file.read(len(MAGIC) + 1)
        if container_v1.MAGIC.startswith(start[: len(MAGIC)]) and len(start) > len(MAGIC):
            return self._open_first_version()
        if start[: len(MAGIC)] != MAGIC:
            raise TokenFileError(self.path, "is not a token file", "give a file that `zoo tokenize` wrote")
        if start[len(MAGIC) :] != bytes([VERSION]):
            raise TokenFileError(
                self.path, f"is of version {start[len(MAGIC):].hex()}, this program reads versions 1 and {VERSION}",
                "update the program, or copy the file again if it may be damaged",
            )  # fmt: skip
        data = start + self._file.read(LONGEST)
        try:
            self.header, self._start = unpack(data)
        except Unknown as error:
            raise TokenFileError(
                self.path, str(error), "use a version of this program that has it, or copy it again if it is damaged"
            ) from None
        except (ValueError, struct.error) as error:
            raise TokenFileError(self.path, f"its header is damaged or makes no sense: {error}") from error
        self._seed = zlib.crc32(data[: self._start])
        self._coder = BlockCoder(self.header)
        if self.header.media == "image":
            self._open_picture()
        else:
            if data[self._start :][: CRC.size] != CRC.pack(self._seed):
                raise TokenFileError(self.path, "its header is damaged")
            self._open_audio()

    def _open_picture(self) -> None:
        self._file.seek(0)
        if checksum(self._file, self._size - CRC.size) != self._file.read():
            raise TokenFileError(self.path, "is damaged: its check value is wrong")
        height, width = self.header.grid
        self.frames, self.length = height * width, self.header.height * self.header.width
        self.original_length = self.length
        size = self._size - CRC.size - self._start
        self._blocks = [Block(self._start, 0, size, self.header.entropy != "none")]

    def _open_audio(self) -> None:
        """Go from block to block by their sizes up to the trailer."""
        at = self._start + CRC.size
        while True:
            self._file.seek(at)
            cursor = Cursor(self._file.read(LARGEST_TRAILER))
            try:
                size, coded = divmod(cursor.number(), 2)
                if not size:
                    if coded:
                        raise ValueError
                    self.frames, self.length, self.original_length = (cursor.number() for _ in range(3))
                    break
            except ValueError:
                raise TokenFileError(self.path, "is truncated, damaged or was never finished") from None
            self._blocks.append(Block(at, cursor.at, size, bool(coded)))
            at += cursor.at + size + CRC.size
            if at > self._size:
                raise TokenFileError(self.path, "is truncated or damaged")
        self._file.seek(at)
        trailer = self._file.read(cursor.at)
        blocks = -(-self.frames // self.header.block_frames)
        if self._file.read() != CRC.pack(block_crc(self._seed, len(self._blocks), trailer)):
            raise TokenFileError(self.path, "its trailer is damaged")
        if blocks != len(self._blocks):
            raise TokenFileError(self.path, f"has {len(self._blocks)} blocks, {blocks} are right for its frames")
        if not lengths_fit(self.header, self.frames, self.length, self.original_length):
            raise TokenFileError(self.path, "its lengths contradict each other")

    def _open_first_version(self) -> None:
        try:
            first = container_v1.open_file(self._file, self._size)
        except ValueError as error:
            raise TokenFileError(self.path, str(error)) from error
        self.header, self._seed, self.frames, self.length, self.original_length, sizes, at = first
        if not lengths_fit(self.header, self.frames, self.length, self.original_length):
            raise TokenFileError(self.path, "its lengths contradict each other")
        self._coder = BlockCoder(self.header)
        for size in sizes:
            self._blocks.append(Block(at, 0, size, False))
            at += size + CRC.size

    def _block(self, index: int) -> Int[np.ndarray, "row codebook height width"]:
        header, block = self.header, self._blocks[index]
        self._file.seek(block.at)
        data = self._file.read(block.head + block.size)
        place = "codes" if header.media == "image" else f"block {index} (frame {index * header.block_frames} on)"
        if header.media == "image":
            shape = (header.rows, *header.grid)
        else:
            if self._file.read(CRC.size) != CRC.pack(block_crc(self._seed, index, data)):
                raise TokenFileError(self.path, f"its {place} is damaged")
            frames = min(header.block_frames, self.frames - index * header.block_frames)
            shape = (header.rows, 1, frames)
        context = self._context() if block.coded and header.entropy == "trained" else None
        try:
            if context is not None:
                self._coder.use(context)
            return self._coder.decode(data[block.head :], shape, block.coded)
        except ValueError as error:
            raise TokenFileError(self.path, f"its {place} cannot be: {error}") from error

    def _context(self) -> ContextModel:
        """The trained model of codes that the header names."""
        header = self.header
        if self.context is None and header.codec in checkpoints.names():
            path = checkpoints.folder(header.codec) / CONTEXT_FILE
            self.context = ContextModel.read(path) if path.exists() else None
        if self.context is None or not self.context.digest.startswith(header.context):
            has = "there is none" if self.context is None else f"given was {self.context.digest[:8]}"
            raise TokenFileError(
                self.path, f"its codes need the trained model {header.context} of {header.codec!r}, {has}",
                "name the codec that made the file with --model, with its entropy.safetensors beside it",
            )  # fmt: skip
        return self.context


def is_token_file(path: str | Path) -> bool:
    """Whether a file begins as token files do."""
    check_readable(path)
    with open(path, "rb") as file:
        start = file.read(len(container_v1.MAGIC))
    return start[: len(MAGIC)] == MAGIC or start == container_v1.MAGIC


def measured_kbps(path: str | Path) -> float:
    """Kilobits a second that a token file really takes, with its header and checks."""
    with TokenReader(path) as reader:
        return reader.kbps


def checksum(file: Any, size: int) -> bytes:
    """CRC-32 of the next bytes of a file."""
    crc = 0
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        crc, size = zlib.crc32(data, crc), size - len(data)
    return CRC.pack(crc)
