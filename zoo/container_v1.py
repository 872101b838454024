"""Token files of version 1, audio only, which are read and no longer written.

Layout, all numbers little-endian:

    prefix    8 bytes magic, u16 version, u16 flags (0), u16 bytes of header
    header    media (1), mixed, rates, hop, channel and row counts, block size, whether there are gains, runs of
              codebooks; each run's count and size; gains; name and digest
    u32       CRC-32 of prefix and header
    blocks    each: packed codes of `block_frames` frames (the last block: of what is left), then u32 CRC-32
    trailer   u64 frames, u64 length, u64 original length, u32 CRC-32, 8 bytes end mark
"""

from __future__ import annotations

import struct
import zlib
from itertools import groupby
from typing import BinaryIO

from zoo.codecs import packing
from zoo.container_header import TokenHeader

MAGIC = b"\x89ZTOK\r\n\x1a"
END = b"ztok.end"
AUDIO = 1
PREFIX = struct.Struct("<8sHHH")
FACTS = struct.Struct("<BBIIIHHHHBB")
TRAILER = struct.Struct("<QQQI8s")
CRC = struct.Struct("<I")


def open_file(file: BinaryIO, file_size: int) -> tuple[TokenHeader, int, int, int, int, list[int], int]:
    """Header, check value, frames, length, original length, bytes of codes of each block, and where they begin.

    Raises:
        ValueError: The file is damaged; the message goes on from its name.
    """
    file.seek(0)
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size or prefix[: len(MAGIC)] != MAGIC:
        raise ValueError("is not a token file, or its first bytes are damaged")
    _, version, flags, size = PREFIX.unpack(prefix)
    if version != 1 or flags:
        raise ValueError(f"says that it is of version {version} with flags {flags}, which no file like it has")
    packed = file.read(size + CRC.size)
    seed = zlib.crc32(prefix + packed[:size])
    if packed[size:] != CRC.pack(seed):
        raise ValueError("its header is damaged")
    try:
        header = unpack(packed[:size])
    except (ValueError, struct.error) as error:
        raise ValueError(f"its header makes no sense: {error}") from error
    start = file.tell()
    file.seek(max(start, file_size - TRAILER.size))
    trailer = file.read(TRAILER.size)
    if len(trailer) < TRAILER.size or trailer[-len(END) :] != END:
        raise ValueError("is truncated or was never finished: its end mark is missing")
    frames, length, original_length, crc, _ = TRAILER.unpack(trailer)
    if crc != zlib.crc32(trailer[:-12], seed):
        raise ValueError("its trailer is damaged")
    full, rest = divmod(frames, header.block_frames)
    blocks = [packing.size(n * header.rows, header.codebook_sizes) for n in (header.block_frames, rest)]
    right = start + full * (blocks[0] + CRC.size) + (rest > 0) * (blocks[1] + CRC.size) + TRAILER.size
    if right != file_size:
        raise ValueError(f"is {file_size} bytes long, {right} are right for its frames")
    return header, seed, frames, length, original_length, [blocks[0]] * full + [blocks[1]] * (rest > 0), start


def pack(header: TokenHeader) -> bytes:
    """The one form that a header has."""
    name, weights = header.codec.encode(), bytes.fromhex(header.weights)
    runs = [(len(list(group)), size) for size, group in groupby(header.codebook_sizes)]
    return b"".join(
        [
            FACTS.pack(
                AUDIO, header.mixed, header.sample_rate, header.original_rate, header.hop, header.codec_channels,
                header.channels, header.rows, header.block_frames, header.scales is not None, len(runs),
            ),
            *(struct.pack("<HI", *run) for run in runs),
            struct.pack(f"<{len(header.scales or ())}f", *(header.scales or ())),
            bytes([len(name)]), name, bytes([len(weights)]), weights,
        ]
    )  # fmt: skip


def unpack(data: bytes) -> TokenHeader:
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
    header = TokenHeader(
        texts[0].decode("ascii"), texts[1].hex(), rate, hop, codec_channels, tuple(sizes), rows, channels,
        bool(mixed), original, scales, block,
    )  # fmt: skip
    if pack(header) != data:
        raise ValueError("its header is not in the one allowed form")
    return header
