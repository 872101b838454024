"""Blocks of codes as bytes, and what ties them to the token file that they are part of; see `zoo.container`."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import Int

from zoo.codecs import entropy, packing
from zoo.codecs.context import ContextModel
from zoo.container_header import Header, TokenHeader

CRC = struct.Struct("<I")


class BlockCoder:
    """Codes of a block to bytes and back, the shorter way of those that the header allows."""

    def __init__(self, header: Header, context: ContextModel | None = None) -> None:
        self._header, self._context = header, None
        if context is not None and header.entropy == "trained":
            self.use(context)

    def use(self, context: ContextModel) -> None:
        """Raises ValueError for another model of codes than the header names."""
        header = self._header
        sizes = context.sizes[: len(header.codebook_sizes)]
        if not context.digest.startswith(header.context) or sizes != header.codebook_sizes:
            raise ValueError(f"the header names the model of codes {header.context!r}, got {context.digest[:8]}")
        self._context = context

    def encode(
        self, codes: Int[np.ndarray, "row codebook height width"], depth: Int[np.ndarray, "row height width"]
    ) -> tuple[bool, bytes]:
        """Whether the bytes are entropy coded, and the bytes. Raises ValueError for codes outside their codebooks."""
        sizes, depth = self._header.codebook_sizes, depth if self._header.depth else None
        packed = packing.encode(codes, sizes, depth)
        if self._header.entropy == "none":
            return False, packed
        coded = entropy.encode(codes, sizes, depth, self._predictor())
        return (True, coded) if len(coded) < len(packed) else (False, packed)

    def decode(
        self, data: bytes, shape: tuple[int, int, int], coded: bool
    ) -> Int[np.ndarray, "row codebook height width"]:
        """Codes, -1 behind the depth. Raises ValueError for bytes that `encode` cannot have given."""
        sizes, depth = self._header.codebook_sizes, self._header.depth
        if coded and self._header.entropy == "none":
            raise ValueError("it is entropy coded in a file that is not")
        if coded:
            return entropy.decode(data, shape, sizes, depth, self._predictor())[0]
        return packing.decode(data, shape, sizes, depth)[0]

    def _predictor(self) -> entropy.Predictor | None:
        if self._header.entropy != "trained":
            return None
        if self._context is None:
            raise ValueError(f"entropy coding of this kind needs the trained model {self._header.context!r} of codes")
        return self._context.predictor()


def lengths_fit(header: TokenHeader, frames: int, length: int, original_length: int) -> bool:
    """Whether the lengths at both rates and the frame count agree, up to the rounding of a resampler."""
    expected = original_length * header.sample_rate / header.original_rate
    return original_length > 0 and abs(length - expected) <= 2 and frames == -(-length // header.hop) > 0


def block_crc(seed: int, index: int, data: bytes) -> int:
    """Check value of a block, tied to its file and place."""
    return zlib.crc32(data, zlib.crc32(struct.pack("<Q", index), seed))
