"""Packed codes come back, in the fewest whole bits."""

import numpy as np
import pytest
from grids import depths, grids, random_grid, used
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.codecs import packing


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_grid_comes_back(data) -> None:
    codes, sizes = data.draw(grids(least=2))
    depth = data.draw(depths(codes, len(sizes)))
    packed = packing.encode(codes, sizes, depth)
    shape = (codes.shape[0], *codes.shape[2:])
    read, read_depth = packing.decode(packed, shape, sizes, depth is not None)
    np.testing.assert_array_equal(read, used(codes, depth))
    assert depth is None or np.array_equal(read_depth, depth)
    assert depth is not None or len(packed) == packing.size(codes[:, 0].size, sizes)


def test_many_cells_come_back_whatever_the_portions(monkeypatch) -> None:
    codes = random_grid((2, 3, 5, 40), (1000, 2, 77))
    depth = np.random.default_rng(1).integers(0, 4, (2, 5, 40))
    whole = packing.encode(codes, (1000, 2, 77), depth)
    monkeypatch.setattr(packing, "CELLS", 7)
    assert packing.encode(codes, (1000, 2, 77), depth) == whole
    read, read_depth = packing.decode(whole, (2, 5, 40), (1000, 2, 77), True)
    np.testing.assert_array_equal(read, used(codes, depth))
    np.testing.assert_array_equal(read_depth, depth)


def test_what_does_not_fit_is_refused() -> None:
    codes = random_grid((1, 2, 3, 3), (10, 10))
    deep = np.full((1, 3, 3), 3)
    for bad, depth in ((codes + 5, None), (codes - 1, None), (codes, deep), (codes, -deep)):
        with pytest.raises(ValueError):
            packing.encode(bad, (10, 10), depth)
    packed = packing.encode(codes, (10, 10))
    for data in (packed[:-1], packed + b"\0", b"", bytes([255] * len(packed))):
        with pytest.raises(ValueError):
            packing.decode(data, (1, 3, 3), (10, 10))
    with pytest.raises(ValueError, match="beyond its codebooks"):
        packing.decode(bytes([255] * 100), (1, 3, 3), (10, 10), True)
    with pytest.raises(ValueError, match="too few"):
        packing.decode(bytes(100), (1, 1 << 40, 1 << 20), (10, 10), True)
