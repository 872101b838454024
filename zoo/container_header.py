"""What a token file says before its codes: facts about a recording or a picture, in few bytes.

Whole numbers are written 7 bits a byte, the lowest first, the highest bit set in all bytes but the last. After the
magic come the version (2), flags, the model, and the facts:

    magic     4 bytes, not text, and broken by transfers that translate line ends
    version   1 byte
    flags     1 byte, see `Flag`; bits 6 and 7: how codes are coded (packed, adaptive, trained)
    model     bundled: first 4 bytes of the SHA-256 of the digests of its weights and of its model of codes;
              else: length and name, length and digest of the weights, and if codes are coded with a trained model
              4 bytes of that one's digest
    sizes     runs of equal codebooks: how often, and whether another run follows; size: 1 + 2 log2, or double the size
    audio     rate, original rate, hop, codec channels, channels, frames a block, float32 gain of each row
    picture   height, width, then hop, or tile and its codes, and the number of pictures if it is not one

A picture by a bundled codec takes 17 bytes, and 4 for the check value at the end of its file.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from itertools import groupby
from typing import Any, ClassVar, Literal

from zoo import checkpoints, registry
from zoo.codecs.context import FILE as CONTEXT_FILE
from zoo.codecs.context import ContextModel

MAGIC = b"\x89ZT\n"
VERSION = 2
LARGEST_CODEBOOK = 1 << 24
NAME = re.compile(r"[ -~]{0,255}")
DIGEST = re.compile(r"([0-9a-f]{2}){0,64}")
CONTEXT = re.compile(r"[0-9a-f]{8}")
ENTROPY = ("none", "adaptive", "trained")
LONGEST = 1 << 20  # bytes of a header; a reader looks no further for its end

Entropy = Literal["none", "adaptive", "trained"]


class Flag(IntFlag):
    """Bits of a header's flags."""

    PICTURE = 1
    BUNDLED = 2
    DEPTH = 4
    MIXED = 8  # audio: all channels averaged into one row
    GAINS = 16  # audio
    TILES = 8  # pictures: codec of fixed size
    MANY = 16  # pictures: more than one


class Unknown(ValueError):
    """A header that asks for a model that does not ship with this program."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What headers of all media say.

    Attributes:
        entropy: "none" (packed), "adaptive" or "trained" (adaptive from the model of codes that ships with the codec).
            Blocks that would not get smaller are packed all the same.
        context: First 8 hex digits of the digest of the trained model of codes; "" without.
        depth: Cells or frames use different numbers of codebooks, and the file says how many.
    """

    entropy: Entropy = "none"
    context: str = ""
    depth: bool = False


@dataclass(frozen=True)
class TokenHeader(Coding):
    """What a token file of audio says before its codes.

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
    block_frames: int = 512

    media: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        rows = 1 if self.mixed else -(-self.channels // max(1, self.codec_channels))
        demand(
            *common(self),
            (0 < self.sample_rate < 1 << 24, f"sample rate {self.sample_rate}"),
            (0 < self.original_rate < 1 << 24, f"original sample rate {self.original_rate}"),
            (0 < self.hop < 1 << 24, f"hop {self.hop}"),
            (0 < self.channels <= 1024, f"channel count {self.channels}"),
            (0 < self.codec_channels <= 1024, f"codec channel count {self.codec_channels}"),
            (self.rows == rows, f"row count {self.rows}, expected {rows},"),
            (0 < self.block_frames < 1 << 16, f"block size {self.block_frames}"),
            (
                self.scales is None or (len(self.scales) == self.rows and all(map(math.isfinite, self.scales))),
                f"list of gains {self.scales}",
            ),
        )

    def facts(self) -> bytes:
        """What follows the sizes."""
        numbers = (
            self.sample_rate, self.original_rate, self.hop, self.codec_channels, self.channels, self.block_frames
        )  # fmt: skip
        return b"".join(map(number, numbers)) + struct.pack(f"<{len(self.scales or ())}f", *(self.scales or ()))

    @property
    def flags(self) -> Flag:
        return Flag(Flag.MIXED * self.mixed | Flag.GAINS * (self.scales is not None))


@dataclass(frozen=True)
class PictureHeader(Coding):
    """What a token file of a picture says before its codes.

    Attributes:
        codec, weights, codebook_sizes: As in `TokenHeader`.
        height, width: Pixels.
        hop: Pixels a side of a cell; 0 for tiles.
        tile, tile_codes: Pixels a side of a tile, and how many codes of each codebook stand for it; 0 for cells.
        rows: Pictures, all of one size.
    """

    codec: str
    weights: str
    codebook_sizes: tuple[int, ...]
    height: int
    width: int
    hop: int
    tile: int = 0
    tile_codes: int = 0
    rows: int = 1

    media: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        tiled = self.tile > 0
        demand(
            *common(self),
            (0 < self.height < 1 << 24 and 0 < self.width < 1 << 24, f"picture size {self.height} x {self.width}"),
            (0 <= self.tile < 1 << 24 and (0 < self.hop < 1 << 24) != tiled, f"hop {self.hop} with tile {self.tile}"),
            ((0 < self.tile_codes < 1 << 24) == tiled, f"number {self.tile_codes} of codes a tile"),
            (0 < self.rows < 1 << 24, f"number {self.rows} of pictures"),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the codes of one codebook; of tiles, one below the other, as a picture of codes."""
        if self.tile:
            return -(-self.height // self.tile) * -(-self.width // self.tile), self.tile_codes
        return -(-self.height // self.hop), -(-self.width // self.hop)

    def facts(self) -> bytes:
        """What follows the sizes."""
        unit = (self.tile, self.tile_codes) if self.tile else (self.hop,)
        return b"".join(map(number, (self.height, self.width, *unit, *[self.rows] * (self.rows != 1))))

    @property
    def flags(self) -> Flag:
        return Flag(Flag.PICTURE | Flag.TILES * bool(self.tile) | Flag.MANY * (self.rows != 1))


Header = TokenHeader | PictureHeader


def pack(header: Header) -> bytes:
    """The beginning of a file."""
    known = bundled(header.codec)
    coding = ENTROPY.index(header.entropy)
    flags = header.flags | Flag.DEPTH * header.depth
    if known is not None and (header.weights, header.context) in ((known[0], ""), known):
        flags |= Flag.BUNDLED
        model = identity(header.weights, header.context)
    else:
        name, weights = header.codec.encode(), bytes.fromhex(header.weights)
        model = bytes([len(name)]) + name + bytes([len(weights)]) + weights + bytes.fromhex(header.context)
    runs = [(len(list(group)), size) for size, group in groupby(header.codebook_sizes)]
    sizes = b"".join(
        number(count * 2 + (i + 1 < len(runs))) + number(size * 2 if size & size - 1 else size.bit_length() * 2 - 1)
        for i, (count, size) in enumerate(runs)
    )
    return MAGIC + bytes([VERSION, flags | coding << 6]) + model + sizes + header.facts()


def unpack(data: bytes) -> tuple[Header, int]:
    """The header that a file begins with, and its length in bytes.

    Args:
        data: The first `LONGEST` bytes of the file, or all; magic and version are right.

    Raises:
        Unknown: It needs a model that does not ship with this program.
        ValueError: It makes no sense.
    """
    cursor = Cursor(data, len(MAGIC) + 1)
    flags = cursor.byte()
    coding, flags = flags >> 6, Flag(flags & 63)
    if coding >= len(ENTROPY):
        raise ValueError("its codes are coded in a way that this version does not know")
    entropy, context = ENTROPY[coding], ""
    if Flag.BUNDLED in flags:
        name, weights, context = find(cursor.take(4), entropy == "trained")
    else:
        name = cursor.take(cursor.byte()).decode("ascii")
        weights = cursor.take(cursor.byte()).hex()
        context = cursor.take(4).hex() if entropy == "trained" else ""
    sizes, more = [], True
    while more:
        count, size = cursor.number(), cursor.number()
        more, count = bool(count & 1), count >> 1
        if len(sizes) + count > 1024 or size.bit_length() > 26 or (size & 1 and size > 49):
            raise ValueError("it has absurdly many or large codebooks")
        sizes += [1 << size // 2 if size & 1 else size // 2] * count
    coded = {"entropy": entropy, "context": context, "depth": Flag.DEPTH in flags}
    facts = picture_facts if Flag.PICTURE in flags else audio_facts
    header = facts(cursor, flags, name, weights, tuple(sizes), coded)
    if pack(header) != data[: cursor.at]:
        raise ValueError("its header is not in the one allowed form")
    return header, cursor.at


def audio_facts(
    cursor: Cursor, flags: Flag, name: str, weights: str, sizes: tuple[int, ...], coded: dict[str, Any]
) -> TokenHeader:
    """The header whose last part, which `TokenHeader.facts` wrote, begins at the cursor.

    Raises:
        ValueError: That part ends too soon, or what it says makes no sense.
    """
    rate, original, hop, codec_channels, channels, block = (cursor.number() for _ in range(6))
    mixed = Flag.MIXED in flags
    rows = 1 if mixed else -(-channels // max(1, codec_channels))
    scales = struct.unpack(f"<{rows}f", cursor.take(4 * rows)) if Flag.GAINS in flags else None
    return TokenHeader(
        name, weights, rate, hop, codec_channels, sizes, rows, channels, mixed, original, scales, block, **coded
    )


def picture_facts(
    cursor: Cursor, flags: Flag, name: str, weights: str, sizes: tuple[int, ...], coded: dict[str, Any]
) -> PictureHeader:
    """The header whose last part `PictureHeader.facts` wrote; otherwise as `audio_facts`."""
    height, width = cursor.number(), cursor.number()
    unit = (0, cursor.number(), cursor.number()) if Flag.TILES in flags else (cursor.number(), 0, 0)
    rows = cursor.number() if Flag.MANY in flags else 1
    return PictureHeader(name, weights, sizes, height, width, *unit, rows, **coded)


def number(value: int) -> bytes:
    """A whole number of at least 0 as bytes of 7 bits."""
    parts = [value & 127]
    while value := value >> 7:
        parts[-1] |= 128
        parts.append(value & 127)
    return bytes(parts)


class Cursor:
    """Reads bytes from front to back.

    Attributes:
        at: How many were read.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data, self.at = data, at

    def take(self, size: int) -> bytes:
        """Raises ValueError behind the end."""
        found = self._data[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("it ends too soon")
        self.at += size
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """Raises ValueError for more than 64 bits."""
        value, shift = 0, 0
        while (byte := self.byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 56:
                raise ValueError("it holds an absurd number")
        return value | byte << shift


def common(header: Header) -> tuple[tuple[bool, str], ...]:
    """What must hold for any header, each with what is wrong otherwise."""
    sizes = header.codebook_sizes
    return (
        (bool(NAME.fullmatch(header.codec)), f"codec name {header.codec!r}"),
        (bool(DIGEST.fullmatch(header.weights)), f"weights digest {header.weights!r}"),
        (0 < len(sizes) <= 1024, f"codebook count {len(sizes)}"),
        (all(2 <= size <= LARGEST_CODEBOOK for size in sizes), "codebook size"),
        (header.entropy in ENTROPY, f"entropy coding {header.entropy!r}"),
        (
            bool(CONTEXT.fullmatch(header.context) if header.entropy == "trained" else header.context == ""),
            f"digest {header.context!r} of a model of codes with entropy coding {header.entropy!r}",
        ),
    )


def demand(*conditions: tuple[bool, str]) -> None:
    """One look at every field, so that a forged header can ask for nothing absurd."""
    for fine, what in conditions:
        if not fine:
            raise ValueError(f"a token file cannot have the {what}")


@cache
def bundled(name: str) -> tuple[str, str] | None:
    """Digests of weights and of model of codes ("": none) of a model that ships with this program."""
    if name not in checkpoints.names():
        return None
    path = checkpoints.folder(name) / CONTEXT_FILE
    context = ContextModel.read(path).digest[:8] if path.exists() else ""
    return registry.info(name).sha256, context


def identity(weights: str, context: str) -> bytes:
    """Four bytes that stand for a bundled model."""
    return hashlib.sha256(bytes.fromhex(weights + context)).digest()[:4]


def find(wanted: bytes, trained: bool) -> tuple[str, str, str]:
    """Name and digests of the bundled model that four bytes stand for.

    Raises:
        Unknown: There is none.
    """
    for name in checkpoints.names():
        weights, context = bundled(name)
        context = context if trained else ""
        if (context or not trained) and identity(weights, context) == wanted:
            return name, weights, context
    kind = "codec or its trained model of codes" if trained else "codec"
    raise Unknown(f"needs the {kind} {wanted.hex()}, which does not ship with this program")
