"""Token files as they are written: of recordings block by block, of pictures at once; see `zoo.container`."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.base import CodecInfo, Tokens
from zoo.codecs.context import ContextModel
from zoo.codecs.files import AtomicFile
from zoo.container_blocks import CRC, BlockCoder, block_crc, lengths_fit
from zoo.container_header import Entropy, Header, PictureHeader, TokenHeader, number, pack


class TokenWriter:
    """Write a recording's token file block by block; it appears under its name when `with` ends well, and otherwise
    not at all.
    """

    def __init__(self, path: str | Path, header: TokenHeader, context: ContextModel | None = None) -> None:
        """`context`: the trained model of codes that the header names. Raises ValueError for another, or without."""
        self.header = header
        self.frames = 0
        self._coder = BlockCoder(header, context)
        self._codes = np.empty((header.rows, len(header.codebook_sizes), 0), np.int64)
        self._depth = np.empty((header.rows, 0), np.int64)
        self._blocks = 0
        self._lengths: tuple[int, int] | None = None
        head = pack(header)
        self._seed = zlib.crc32(head)
        self._atomic = AtomicFile(path)
        self._guarded(head + CRC.pack(self._seed))

    def write(self, codes: Int[Tensor, "row codebook frame"], depth: Int[Tensor, "row frame"] | None = None) -> None:
        """Append frames; `depth` if, and only if, the header announces it.

        Raises:
            ValueError: Wrong shape, or codes outside their codebooks.
        """
        header, grid = self.header, codes.cpu().numpy()
        if grid.ndim != 3 or grid.shape[:2] != (header.rows, len(header.codebook_sizes)):
            raise ValueError(
                f"expected codes of shape [{header.rows}, {len(header.codebook_sizes)}, frame], got {list(grid.shape)}"
            )
        self._depth = np.concatenate([self._depth, depths(header, depth, (header.rows, grid.shape[2]))], 1)
        self.frames += grid.shape[2]
        self._codes = np.concatenate([self._codes, grid], 2)
        while self._codes.shape[2] >= header.block_frames:
            self._flush(header.block_frames)

    def finish(self, length: int, original_length: int) -> None:
        """State, after the last frame, how many samples there were at the codec's and at the original rate."""
        if self._codes.size:
            self._flush(self._codes.shape[2])
        if not lengths_fit(self.header, self.frames, length, original_length):
            raise ValueError(
                f"{self.frames} frames cannot stand for {length} samples that were {original_length} originally"
            )
        self._lengths = (length, original_length)
        self._checked(b"".join(map(number, (0, self.frames, length, original_length))))

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None and self._lengths is None:
            error = ValueError("a token file needs `finish` before it is closed")
            self._atomic.discard()
            raise error
        self._atomic.__exit__(kind, error, None)

    def _flush(self, frames: int) -> None:
        coded, payload = self._coder.encode(self._codes[:, :, None, :frames], self._depth[:, None, :frames])
        self._codes, self._depth = self._codes[..., frames:], self._depth[..., frames:]
        self._checked(number(len(payload) * 2 + coded) + payload)
        self._blocks += 1

    def _checked(self, data: bytes) -> None:
        put(self._atomic, data + CRC.pack(block_crc(self._seed, self._blocks, data)))

    def _guarded(self, data: bytes) -> None:
        """Write before `with` has begun."""
        try:
            put(self._atomic, data)
        except OSError as error:
            self._atomic.__exit__(type(error), error, None)


def write_picture(
    path: str | Path,
    tokens: Tokens,
    info: CodecInfo,
    entropy: Entropy = "adaptive",
    context: ContextModel | None = None,
) -> PictureHeader:
    """Write the token file of a picture (or of several of one size); it appears under its name whole or not at all.

    Args:
        path: The file.
        tokens, info, entropy, context: See `pack_picture`.

    Returns:
        What the file says before its codes.

    Raises:
        ValueError: As `pack_picture`.
        UserError: The file cannot be written.
    """
    header, data = pack_picture(tokens, info, entropy, context)
    with AtomicFile(path) as file:
        put(file, data)
    return header


def pack_picture(
    tokens: Tokens, info: CodecInfo, entropy: Entropy = "adaptive", context: ContextModel | None = None
) -> tuple[PictureHeader, bytes]:
    """What the token file of a picture (or of several of one size) says before its codes, and all of the file.

    Args:
        tokens: What the codec's `encode` gave; codes behind `tokens.depth` are not stored.
        info: The codec's.
        entropy: How codes are coded; packed all the same where that is smaller.
        context: The trained model of codes that `entropy="trained"` takes.

    Raises:
        ValueError: Codes outside their codebooks or of another shape than the picture's size asks for.
    """
    codes = tokens.codes.cpu().numpy()
    if (tokens.lengths != tokens.lengths[:1]).any():
        raise ValueError(f"pictures of one file have one size, got {tokens.lengths.tolist()}")
    height, width = tokens.lengths[0].tolist()
    header = PictureHeader(
        tokens.codec, tokens.weights, info.codebook_sizes[: codes.shape[1]], height, width,
        0 if info.tile else info.hop, info.tile, info.tile_codes, len(codes), entropy=entropy,
        context=context.digest[:8] if entropy == "trained" and context is not None else "",
        depth=tokens.depth is not None,
    )  # fmt: skip
    flat = (header.grid[0] * header.grid[1],)
    if codes.shape[2:] != (flat if info.tile else header.grid):
        raise ValueError(f"a picture of {height} x {width} has codes of shape {header.grid}, got {codes.shape[2:]}")
    depth = depths(header, tokens.depth, (len(codes), *codes.shape[2:]))
    coded, payload = BlockCoder(header, context).encode(
        codes.reshape(*codes.shape[:2], *header.grid), depth.reshape(-1, *header.grid)
    )
    if not coded:
        header = PictureHeader(**asdict(header) | {"entropy": "none", "context": ""})
    data = pack(header) + payload
    return header, data + CRC.pack(zlib.crc32(data))


def depths(header: Header, depth: Tensor | None, shape: tuple[int, ...]) -> Int[np.ndarray, "row *grid"]:
    """The depth of each cell, zeros where the header announces none. Raises ValueError if they contradict it."""
    if (depth is not None) != header.depth or (depth is not None and tuple(depth.shape) != shape):
        wanted = f"a depth of shape {list(shape)}" if header.depth else "no depth"
        raise ValueError(f"expected {wanted}, got {'none' if depth is None else list(depth.shape)}")
    return np.zeros(shape, np.int64) if depth is None else depth.cpu().numpy()


def put(file: AtomicFile, data: bytes) -> None:
    """Write all of the data, however much of it the system takes at a time."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += file.file.write(view[done:])
