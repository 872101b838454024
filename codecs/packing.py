"""Code grids as bits without gaps: each code takes the fewest whole bits that its codebook needs.

Most significant bit first, cell by cell (of cells in the same place, row by row), codebook by codebook; depths, where
there are any, all stand before the codes. The last byte ends in zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from numpy import ndarray

CELLS = 1 << 14  # taken at once, for each bit takes 8 bytes on the way


def encode(
    codes: Int[ndarray, "row codebook height width"],
    sizes: tuple[int, ...],
    depth: Int[ndarray, "row height width"] | None = None,
) -> bytes:
    """Bytes of the codes; see `entropy.encode`. Raises ValueError for codes outside their codebooks."""
    cells, used = check(codes, sizes, depth)
    column, shift, _ = places(sizes)
    parts = []
    if depth is not None:
        shifts = np.arange(len(sizes).bit_length())[::-1]
        parts.append((depth.transpose(1, 2, 0).reshape(-1, 1) >> shifts & 1).astype(np.uint8).ravel())
    for some in portions(len(cells)):
        bits = (cells[some][:, column] >> shift & 1).astype(np.uint8)
        parts.append(bits.ravel() if depth is None else bits[used[some][:, column]])
    return np.packbits(np.concatenate(parts)).tobytes()


def decode(
    data: bytes, shape: tuple[int, int, int], sizes: tuple[int, ...], has_depth: bool = False
) -> tuple[Int[ndarray, "row codebook height width"], Int[ndarray, "row height width"] | None]:
    """Codes and depth; see `entropy.decode`. Raises ValueError for bytes that `encode` cannot have given."""
    rows, height, width = shape
    count = rows * height * width
    column, shift, starts = places(sizes)
    least = count * (len(sizes).bit_length() if has_depth else len(column))
    if len(data) < -(-least // 8):
        raise ValueError(f"{len(data)} bytes are too few for its {count} cells")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    cells, at, depth = np.empty((count, len(sizes)), np.int64), 0, None
    if has_depth:
        at = least
        depth = bits[:at].reshape(count, -1) @ (1 << np.arange(len(sizes).bit_length())[::-1])
        if (depth > len(sizes)).any():
            raise ValueError("it holds depths beyond its codebooks")
        least += int(np.concatenate([[0], np.cumsum(np.bincount(column))])[depth].sum())
    if len(data) != -(-least // 8):
        raise ValueError(f"it has {len(data)} bytes of codes, {-(-least // 8)} are right")
    for some in portions(count):
        size = len(range(*some.indices(count)))
        if depth is None:
            taken = bits[at : at + size * len(column)].reshape(size, -1)
        else:
            used = depth[some, None] > column
            taken = np.zeros(used.shape, np.uint8)
            taken[used] = bits[at : at + int(used.sum())]
        at += taken.size if depth is None else int(used.sum())
        cells[some] = np.add.reduceat(taken.astype(np.int64) << shift, starts, axis=1)
    if (cells >= np.array(sizes)).any():
        raise ValueError("it holds codes that its codebooks do not have")
    if depth is not None:
        cells[depth[:, None] <= np.arange(len(sizes))] = -1
        depth = np.ascontiguousarray(depth.reshape(height, width, rows).transpose(2, 0, 1))
    return np.ascontiguousarray(cells.reshape(height, width, rows, -1).transpose(2, 3, 0, 1)), depth


def size(cells: int, sizes: tuple[int, ...]) -> int:
    """Bytes of so many cells without depth."""
    return -(-cells * sum((size - 1).bit_length() for size in sizes) // 8)


def check(
    codes: Int[ndarray, "row codebook height width"], sizes: tuple[int, ...], depth: ndarray | None
) -> tuple[Int[ndarray, "cell codebook"], ndarray]:
    """The codes cell by cell and which of them are in use. Raises ValueError for what no token file can hold."""
    if depth is not None and ((depth < 0) | (depth > len(sizes))).any():
        raise ValueError(f"the depth of a cell must lie in 0..{len(sizes)}")
    used = np.arange(len(sizes))[:, None, None] < (len(sizes) if depth is None else depth[:, None])
    used = np.broadcast_to(used, codes.shape)
    if (used & ((codes < 0) | (codes >= np.array(sizes)[:, None, None]))).any():
        raise ValueError("a token file holds codes of 0 and above and below the size of their codebook only")
    flat = (array.transpose(2, 3, 0, 1).reshape(-1, len(sizes)) for array in (codes, used))
    return next(flat), next(flat)


def places(sizes: tuple[int, ...]) -> tuple[ndarray, ndarray, ndarray]:
    """Of each bit of a cell its codebook and its place in the code; of each codebook its first bit."""
    widths = np.array([(size - 1).bit_length() for size in sizes])
    starts = np.cumsum(widths) - widths
    column = np.repeat(np.arange(len(sizes)), widths)
    return column, widths[column] - 1 - (np.arange(widths.sum()) - starts[column]), starts


def portions(cells: int) -> Iterator[slice]:
    """Slices of at most `CELLS` cells that together are so many."""
    for start in range(0, cells, CELLS):
        yield slice(start, start + CELLS)
