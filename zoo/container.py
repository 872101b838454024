"""The `.ztok` token file: bit-packed codes and the facts that turn them back into media, every byte checked.

Layout of version 1, all numbers little-endian:

    prefix    8 bytes magic, u16 version, u16 flags, u16 bytes of header
    header    what `TokenHeader` holds
    u32       CRC-32 of prefix and header
    blocks    each: packed codes of `block_frames` frames (the last block: of what is left), then u32 CRC-32
    trailer   u64 frames, u64 length, u64 original length, u32 CRC-32, 8 bytes end mark

Codes are packed without gaps, most significant bit first: for each frame, each row, each codebook, the fewest bits that
its size needs. So a block's place follows from the header and reading can start at any frame without an index; and as
lengths stand at the end, a file can be written while the media still comes in. The CRC of block i starts from the
header's CRC and from i, and the file's size must be exactly what frames and header say, so that blocks that were
changed, swapped, repeated, dropped or taken from another file are found. Overhead is about 140 bytes and 4 bytes a
block: 3 seconds at 4 kbps take 1500 bytes of codes and 141 others, a minute 30,000 and 185 (0.6 %).

Flags are 0 so far. Readers refuse any flag, version or kind of media that they do not know: image grids, entropy-coded
blocks and streams of another frame rate will each be announced by one.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.audio.io import check_readable
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable

MAGIC = b"\x89ZTOK\r\n\x1a"  # not text, and broken by transfers that translate line ends
END = b"ztok.end"
VERSION = 1
AUDIO = 1
PREFIX = struct.Struct("<8sHHH")
FACTS = struct.Struct("<BBIIIHHHHBB")
TRAILER = struct.Struct("<QQQI8s")
CRC = struct.Struct("<I")
LARGEST_CODEBOOK = 1 << 24
NAME = re.compile(r"[ -~]{0,255}")
DIGEST = re.compile(r"([0-9a-f]{2}){0,64}")


class TokenFileError(UserError):
    """A token file that cannot be read; the message names the file, the cause and the remedy."""

    def __init__(self, path: str | Path, cause: str, remedy: str = "make or copy it again") -> None:
        super().__init__(f"{printable(path)}: {cause}; {remedy}")


@dataclass(frozen=True)
class TokenHeader:
    """What a token file says before its codes.

    Attributes:
        codec: Name of the codec (`architecture.tag`), "" if it has none.
        weights: Hex digest of its weights, "" if unknown.
        sample_rate: Hz, of the codec.
        hop: Samples that one frame of codes stands for.
        codec_channels: Channels of each row of codes.
        codebook_sizes: Number of codes of each stored codebook.
        rows: Streams of codes side by side: original channels are coded `codec_channels` to a row.
        channels: Channels of the original.
        mixed: All original channels were averaged into the one row.
        original_rate: Hz, of the original.
        scales: Gain of each row; None if the codec has none.
        block_frames: Frames of each block.
    """

    codec: str
    weights: str
    sample_rate: int
    hop: int
    codec_channels: int
    codebook_sizes: tuple[int, ...]
    rows: int
    channels: int
    mixed: bool
    original_rate: int
    scales: tuple[float, ...] | None = None
    block_frames: int = 256

    def __post_init__(self) -> None:
        rows = 1 if self.mixed else -(-self.channels // max(1, self.codec_channels))
        # One look at every field, so that a forged header can ask for nothing absurd.
        for fine, what in (
            (NAME.fullmatch(self.codec), f"codec name {self.codec!r}"),
            (DIGEST.fullmatch(self.weights), f"weights digest {self.weights!r}"),
            (0 < self.sample_rate < 1 << 24, f"sample rate {self.sample_rate}"),
            (0 < self.original_rate < 1 << 24, f"original sample rate {self.original_rate}"),
            (0 < self.hop < 1 << 24, f"hop {self.hop}"),
            (0 < self.channels <= 1024, f"channel count {self.channels}"),
            (0 < self.codec_channels <= 1024, f"codec channel count {self.codec_channels}"),
            (self.rows == rows, f"row count {self.rows}, expected {rows},"),
            (0 < len(self.codebook_sizes) <= 1024, f"codebook count {len(self.codebook_sizes)}"),
            (all(2 <= size <= LARGEST_CODEBOOK for size in self.codebook_sizes), "codebook size"),
            (0 < self.block_frames < 1 << 16, f"block size {self.block_frames}"),
            (
                self.scales is None or (len(self.scales) == self.rows and all(map(math.isfinite, self.scales))),
                f"list of gains {self.scales}",
            ),
        ):
            if not fine:
                raise ValueError(f"a token file cannot have the {what}")

    @property
    def bits(self) -> int:
        """Bits of one frame, all rows together."""
        return self.rows * sum((size - 1).bit_length() for size in self.codebook_sizes)

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.codebook_sizes * self.rows)

    def pack(self) -> bytes:
        """The header as bytes."""
        name, weights = self.codec.encode(), bytes.fromhex(self.weights)
        runs = [(len(list(group)), size) for size, group in groupby(self.codebook_sizes)]
        return b"".join(
            [
                FACTS.pack(
                    AUDIO, self.mixed, self.sample_rate, self.original_rate, self.hop, self.codec_channels,
                    self.channels, self.rows, self.block_frames, self.scales is not None, len(runs),
                ),
                *(struct.pack("<HI", *run) for run in runs),
                struct.pack(f"<{len(self.scales or ())}f", *(self.scales or ())),
                bytes([len(name)]), name, bytes([len(weights)]), weights,
            ]
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> TokenHeader:
        """The header that `pack` turned into `data`. Raises ValueError or struct.error for anything else."""
        media, mixed, rate, original, hop, codec_channels, channels, rows, block, gains, runs = FACTS.unpack_from(data)
        if media != AUDIO:
            raise ValueError("it holds media that this version does not know")
        at, sizes = FACTS.size, []
        for _ in range(runs):
            count, size = struct.unpack_from("<HI", data, at)
            sizes += [size] * count
            at += 6
        scales = struct.unpack_from(f"<{rows}f", data, at) if gains else None
        at += 4 * rows if gains else 0
        texts = []
        for _ in range(2):
            (size,) = struct.unpack_from("<B", data, at)
            texts.append(data[at + 1 : at + 1 + size])
            at += 1 + size
        header = cls(
            texts[0].decode("ascii"), texts[1].hex(), rate, hop, codec_channels, tuple(sizes), rows, channels,
            bool(mixed), original, scales, block,
        )  # fmt: skip
        if header.pack() != data:
            raise ValueError("its header is not in the one allowed form")
        return header


class TokenWriter:
    """Write a token file block by block; it appears under its name when `with` ends well, and otherwise not at all."""

    def __init__(self, path: str | Path, header: TokenHeader) -> None:
        self.header = header
        self.frames = 0
        self._waiting = np.empty((0, header.packing.columns), np.int64)
        self._blocks = 0
        self._lengths: tuple[int, int] | None = None
        packed = header.pack()
        head = PREFIX.pack(MAGIC, VERSION, 0, len(packed)) + packed
        self._seed = zlib.crc32(head)
        self._atomic = AtomicFile(path)
        self._guarded(head + CRC.pack(self._seed))

    def write(self, codes: Int[Tensor, "row codebook frame"]) -> None:
        """Append frames.

        Raises:
            ValueError: Wrong shape, or codes outside their codebooks.
        """
        header, grid = self.header, codes.cpu().numpy()
        if grid.ndim != 3 or grid.shape[:2] != (header.rows, len(header.codebook_sizes)):
            raise ValueError(
                f"expected codes of shape [{header.rows}, {len(header.codebook_sizes)}, frame], got {list(grid.shape)}"
            )
        self.frames += grid.shape[2]
        self._waiting = np.concatenate(
            [self._waiting, grid.transpose(2, 0, 1).reshape(-1, self.header.packing.columns)]
        )
        while len(self._waiting) >= header.block_frames:
            self._flush(header.block_frames)

    def finish(self, length: int, original_length: int) -> None:
        """State, after the last frame, how many samples there were at the codec's and at the original rate."""
        if self._waiting.size:
            self._flush(len(self._waiting))
        if not lengths_fit(self.header, self.frames, length, original_length):
            raise ValueError(
                f"{self.frames} frames cannot stand for {length} samples that were {original_length} originally"
            )
        self._lengths = (length, original_length)
        trailer = TRAILER.pack(self.frames, length, original_length, 0, END)[:-12]
        self._put(trailer + CRC.pack(zlib.crc32(trailer, self._seed)) + END)

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None and self._lengths is None:
            error = ValueError("a token file needs `finish` before it is closed")
            self._atomic.discard()
            raise error
        self._atomic.__exit__(kind, error, None)

    def _flush(self, frames: int) -> None:
        payload = self.header.packing.pack(self._waiting[:frames])
        self._waiting = self._waiting[frames:]
        self._put(payload + CRC.pack(block_crc(self._seed, self._blocks, payload)))
        self._blocks += 1

    def _guarded(self, data: bytes) -> None:
        """Write before `with` has begun."""
        try:
            self._put(data)
        except OSError as error:
            self._atomic.__exit__(type(error), error, None)

    def _put(self, data: bytes) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            done += self._atomic.file.write(view[done:])


class TokenReader:
    """Read a token file; use it in a `with` statement. Opening checks all but the blocks, reading checks those.

    Attributes:
        path: Where it is.
        header: What the file says before its codes.
        frames: Frames of codes.
        length: Samples at the codec's rate.
        original_length: Samples that the original had at its own rate.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises TokenFileError if the file is missing, no token file, of a newer version or damaged."""
        self.path = Path(path)
        check_readable(path)
        self._file = open(path, "rb")
        try:
            self._size = self.path.stat().st_size
            self._read_head()
            self._read_trailer()
        except BaseException:
            self._file.close()
            raise

    def read(self, start: int = 0, stop: int | None = None) -> Int[Tensor, "row codebook frame"]:
        """Codes of frames `start` to `stop`.

        Raises:
            TokenFileError: A block is damaged.
        """
        stop = self.frames if stop is None else stop
        if not 0 <= start <= stop <= self.frames:
            raise ValueError(f"frames {start} to {stop} do not lie in 0..{self.frames}")
        header = self.header
        first, last = start // header.block_frames, -(-stop // header.block_frames)
        blocks = [self._block(i) for i in range(first, last)] if stop > start else []
        grid = np.concatenate(blocks) if blocks else np.empty((0, header.packing.columns), np.int64)
        grid = grid[start - first * header.block_frames :][: stop - start]
        return torch.from_numpy(np.ascontiguousarray(grid.T)).view(header.rows, len(header.codebook_sizes), -1)

    def blocks(
        self, frames: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Int[Tensor, "row codebook frame"]]:
        """Codes of frames `start` to `stop`, `frames` at a time."""
        stop = self.frames if stop is None else stop
        for at in range(start, stop, frames):
            yield self.read(at, min(at + frames, stop))

    @property
    def seconds(self) -> float:
        """Length of the original."""
        return self.original_length / self.header.original_rate

    @property
    def kbps(self) -> float:
        """Kilobits of file, all of it, a second."""
        return self._size * 8 / self.seconds / 1000

    def facts(self) -> dict[str, Any]:
        """All that is known about the file without reading its codes."""
        return asdict(self.header) | {
            "codebooks": len(self.header.codebook_sizes),
            "frames": self.frames,
            "length": self.length,
            "original_length": self.original_length,
            "seconds": self.seconds,
            "bytes": self._size,
            "kbps": self.kbps,
        }

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TokenReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_head(self) -> None:
        prefix = self._file.read(PREFIX.size)
        if prefix[: len(MAGIC)] != MAGIC:
            raise TokenFileError(self.path, "is not a token file", "give a file that `zoo tokenize` wrote")
        if len(prefix) < PREFIX.size:
            raise TokenFileError(self.path, f"is truncated ({self._size} bytes)")
        _, version, flags, size = PREFIX.unpack(prefix)
        if version != VERSION or flags:
            raise TokenFileError(
                self.path, f"is of version {version} with flags {flags}, this program reads version {VERSION} without",
                "update the program, or copy the file again if it may be damaged",
            )  # fmt: skip
        packed = self._file.read(size + CRC.size)
        self._seed = zlib.crc32(prefix + packed[:size])
        if packed[size:] != CRC.pack(self._seed):
            raise TokenFileError(self.path, "its header is damaged")
        try:
            self.header = TokenHeader.unpack(packed[:size])
        except (ValueError, struct.error) as error:
            raise TokenFileError(self.path, f"its header makes no sense: {error}") from error
        self._start = self._file.tell()

    def _read_trailer(self) -> None:
        self._file.seek(max(self._start, self._size - TRAILER.size))
        trailer = self._file.read(TRAILER.size)
        if len(trailer) < TRAILER.size or trailer[-len(END) :] != END:
            raise TokenFileError(self.path, "is truncated or was never finished: its end mark is missing")
        self.frames, self.length, self.original_length, crc, _ = TRAILER.unpack(trailer)
        if crc != zlib.crc32(trailer[:-12], self._seed):
            raise TokenFileError(self.path, "its trailer is damaged")
        header = self.header
        blocks = -(-self.frames // header.block_frames)
        full, rest = divmod(self.frames, header.block_frames)
        size = full * self._payload(header.block_frames) + self._payload(rest) + CRC.size * blocks
        if self._start + size + TRAILER.size != self._size:
            raise TokenFileError(
                self.path, f"is {self._size} bytes long, {self._start + size + TRAILER.size} are right for its frames"
            )
        if not lengths_fit(header, self.frames, self.length, self.original_length):
            raise TokenFileError(self.path, "its lengths contradict each other")

    def _payload(self, frames: int) -> int:
        return -(-frames * self.header.bits // 8)

    def _block(self, index: int) -> Int[np.ndarray, "frame column"]:
        header = self.header
        frames = min(header.block_frames, self.frames - index * header.block_frames)
        self._file.seek(self._start + index * (self._payload(header.block_frames) + CRC.size))
        size = self._payload(frames)
        data = self._file.read(size + CRC.size)
        if data[size:] != CRC.pack(block_crc(self._seed, index, data[:size])):
            raise TokenFileError(self.path, f"its block {index} (frame {index * header.block_frames} on) is damaged")
        grid = header.packing.unpack(data[:size], frames)
        if (grid >= np.tile(header.codebook_sizes, header.rows)).any():
            raise TokenFileError(self.path, f"its block {index} holds codes that its codebooks do not have")
        return grid


def is_token_file(path: str | Path) -> bool:
    """Whether a file begins as token files do."""
    check_readable(path)
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def measured_kbps(path: str | Path) -> float:
    """Kilobits a second that a token file really takes, with its header and checks."""
    with TokenReader(path) as reader:
        return reader.kbps


def lengths_fit(header: TokenHeader, frames: int, length: int, original_length: int) -> bool:
    """Whether the lengths at both rates and the frame count agree, up to the rounding of a resampler."""
    expected = original_length * header.sample_rate / header.original_rate
    return original_length > 0 and abs(length - expected) <= 2 and frames == -(-length // header.hop) > 0


def block_crc(seed: int, index: int, payload: bytes) -> int:
    """Check value of a block, tied to its file and place."""
    return zlib.crc32(payload, zlib.crc32(struct.pack("<Q", index), seed))


class Packing:
    """Bit packing of frames whose columns take a fixed number of bits each."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        widths = np.array([(size - 1).bit_length() for size in sizes])
        self.sizes, self.columns, self.bits = np.array(sizes), len(sizes), int(widths.sum())
        self._starts = np.cumsum(widths) - widths
        self._column = np.repeat(np.arange(len(sizes)), widths)
        self._shift = widths[self._column] - 1 - (np.arange(self.bits) - self._starts[self._column])

    def pack(self, grid: Int[np.ndarray, "frame column"]) -> bytes:
        """Bytes of the codes; the last one ends in zeros. Raises ValueError for codes outside their codebooks."""
        if ((grid < 0) | (grid >= self.sizes)).any():
            raise ValueError("a token file holds codes of 0 and above and below the size of their codebook only")
        return np.packbits((grid[:, self._column] >> self._shift & 1).astype(np.uint8)).tobytes()

    def unpack(self, data: bytes, frames: int) -> Int[np.ndarray, "frame column"]:
        """Codes of `frames` frames."""
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=frames * self.bits).reshape(frames, self.bits)
        return np.add.reduceat(bits.astype(np.int64) << self._shift, self._starts, axis=1)
