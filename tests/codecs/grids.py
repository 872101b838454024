"""Grids of codes for the tests of what stores them."""

import numpy as np
from hypothesis import strategies as st


def random_grid(shape: tuple[int, int, int, int], sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Codes `[row, codebook, height, width]`, all equally likely."""
    return np.random.default_rng(seed).integers(0, np.array(sizes)[:, None, None], shape)


def related_grid(shape: tuple[int, int, int, int], size: int, seed: int = 0) -> np.ndarray:
    """Codes that mostly are a fixed function of the one to their left, and half of the time of the coarser one."""
    draw = np.random.default_rng(seed)
    follows, refines = draw.permutation(size), draw.permutation(size)
    codes = draw.integers(0, size, shape)
    for x in range(1, shape[3]):
        kept = draw.random(shape[0:1] + shape[2:3]) < 0.8
        codes[:, 0, :, x] = np.where(kept, follows[codes[:, 0, :, x - 1]], codes[:, 0, :, x])
    for level in range(1, shape[1]):
        kept = draw.random(shape[0:1] + shape[2:]) < 0.5
        codes[:, level] = np.where(kept, refines[codes[:, level - 1]], codes[:, level])
    return codes


@st.composite
def grids(draw, least: int = 1) -> tuple[np.ndarray, tuple[int, ...]]:
    """A small grid of any alphabets of at least `least` codes, and its alphabets."""
    some = st.one_of(st.integers(least, 20), st.integers(least, 3000), st.integers(least, 1 << 24))
    sizes = tuple(draw(st.lists(some, min_size=1, max_size=5)))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    codes = random_grid((shape[0], len(sizes), *shape[1:]), sizes, draw(st.integers(0, 1000)))
    if draw(st.booleans()):  # few of the codes, over and over
        codes %= 3
        codes = np.minimum(codes, np.array(sizes)[:, None, None] - 1)
    return codes, sizes


def depths(codes: np.ndarray, codebooks: int) -> st.SearchStrategy:
    """No depth, or some for each cell."""
    shape = (codes.shape[0], *codes.shape[2:])
    return st.none() | st.integers(0, 1000).map(
        lambda seed: np.random.default_rng(seed).integers(0, codebooks + 1, shape)
    )


def used(codes: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """The codes with -1 behind the depth."""
    if depth is None:
        return codes
    return np.where(np.arange(codes.shape[1])[:, None, None] < depth[:, None], codes, -1)
