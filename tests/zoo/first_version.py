"""Writes token files of version 1, which the program only reads."""

import struct
import zlib
from pathlib import Path

import torch

from zoo.codecs import packing
from zoo.container_header import TokenHeader
from zoo.container_v1 import CRC, END, FACTS, MAGIC, PREFIX, pack

__all__ = ["CRC", "FACTS", "forged_first_version", "write_first_version"]


def forged_first_version(
    packed: bytes, version: int = 1, flags: int = 0, frames: int = 1, length: int = 320, blocks: bytes = b""
) -> bytes:
    """A file with right check values whatever it says."""
    head = PREFIX.pack(MAGIC, version, flags, len(packed)) + packed
    seed = zlib.crc32(head)
    trailer = struct.pack("<QQQ", frames, length, length)
    return head + CRC.pack(seed) + blocks + trailer + CRC.pack(zlib.crc32(trailer, seed)) + END


def write_first_version(path: Path, codes: torch.Tensor, header: TokenHeader, claim: TokenHeader | None = None) -> Path:
    """A whole file; `claim`: a header that lies about what was written."""
    packed = pack(claim or header)
    seed = zlib.crc32(PREFIX.pack(MAGIC, 1, 0, len(packed)) + packed)
    blocks = b""
    for index, block in enumerate(codes.split(header.block_frames, dim=2)):
        payload = packing.encode(block.numpy()[:, :, None], header.codebook_sizes)
        blocks += payload + CRC.pack(zlib.crc32(payload, zlib.crc32(struct.pack("<Q", index), seed)))
    frames = codes.shape[2]
    path.write_bytes(forged_first_version(packed, 1, 0, frames, frames * header.hop, blocks))
    return path
