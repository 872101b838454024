"""Entropy-coded codes come back from the same bytes on every machine, and take fewer where there is something to
learn.
"""

import hashlib
from fractions import Fraction

import constriction
import numpy as np
import pytest
from grids import depths, grids, random_grid, related_grid, used
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.codecs import entropy, packing
from zoo.codecs.entropy import TOTAL, Digits, Reader, Writer


def shape_of(codes: np.ndarray) -> tuple[int, int, int]:
    return codes.shape[0], *codes.shape[2:]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_grid_comes_back(data) -> None:
    codes, sizes = data.draw(grids())
    depth = data.draw(depths(codes, len(sizes)))
    coded = entropy.encode(codes, sizes, depth)
    read, read_depth = entropy.decode(coded, shape_of(codes), sizes, depth is not None)
    np.testing.assert_array_equal(read, used(codes, depth))
    assert depth is None or np.array_equal(read_depth, depth)
    assert entropy.encode(read, sizes, depth) == coded  # what lies behind the depth does not matter


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200), st.data())
def test_any_bytes_give_codes_of_the_codebooks_or_one_error(data: bytes, draw) -> None:
    codes, sizes = draw.draw(grids())
    has_depth = draw.draw(st.booleans())
    try:
        read, depth = entropy.decode(data, shape_of(codes), sizes, has_depth)
    except ValueError:
        return
    assert read.shape == codes.shape and (read < np.array(sizes)[:, None, None]).all()
    assert (read >= 0).all() or has_depth and ((read >= 0).sum(1) == depth).all()


class IntegerCoder:
    """The range coder from its definition: whole numbers without an end, so that nothing is ever carried or rounded."""

    def __init__(self) -> None:
        self.low, self.range, self.words = 0, (1 << 64) - 1, 0

    def code(self, symbol: int, probabilities: list[int]) -> None:
        scale = self.range >> 24
        self.low += scale * sum(probabilities[:symbol])
        self.range = scale * probabilities[symbol]
        if self.range < 1 << 32:
            self.low, self.range, self.words = self.low << 32, self.range << 32, self.words + 1


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 1024), st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([1, 3, 8, 20]))
def test_probabilities_are_the_integers_that_were_meant(alphabet: int, seed: int, count: int, skew: int) -> None:
    # Were a single probability rounded, `low` or `range` would differ from those of the coder of whole numbers.
    draw = np.random.default_rng(seed)
    writer, ours = Writer(), IntegerCoder()
    tables, symbols = [], draw.integers(0, alphabet, count).tolist()
    for symbol in symbols:
        weights = (draw.random(alphabet) ** skew * (1 << 30)).astype(np.int64)
        weights[symbol] += 1
        tables.append(entropy.shares(weights, int(weights.sum())))
        assert tables[-1].min() >= 0 and int(tables[-1].sum()) == TOTAL - alphabet
        writer.code(symbol, tables[-1])
        ours.code(symbol, [int(share) + 1 for share in tables[-1]])
    words, (lower, span) = writer._coder.pos()
    assert (words, lower, span) == (ours.words, ours.low & (1 << 64) - 1, ours.range)
    data = writer.bytes()
    named = int.from_bytes(data, "big") << 8 * (8 + 4 * words - len(data)) if data else 0
    assert ours.low <= named < ours.low + ours.range
    reader = Reader(data)
    assert [reader.code(0, table) for table in tables] == symbols


def test_the_last_bytes_are_as_few_as_can_be() -> None:
    # A number with fewer bytes than the writer's would lie outside of what names these symbols.
    for seed in range(300):
        draw, writer, ours = np.random.default_rng(seed), Writer(), IntegerCoder()
        for _ in range(draw.integers(1, 12)):
            weights = draw.integers(0, 1 << 20, 5)
            share, symbol = entropy.shares(weights, int(weights.sum())), int(draw.integers(0, 5))
            writer.code(symbol, share)
            ours.code(symbol, [int(s) + 1 for s in share])
        size = len(writer.bytes())
        step = 1 << 8 * (8 + 4 * ours.words - size + 1)
        assert size == 0 or -(-ours.low // step) * step >= ours.low + ours.range


def test_carries_over_many_words_are_resolved() -> None:
    # The middle third again and again keeps the interval around 2^63, so that words wait for a carry.
    for last in (0, 1, 2):
        share = np.array([(TOTAL - 1) // 3 - 1, TOTAL - 2 * ((TOTAL - 1) // 3) - 1, (TOTAL - 1) // 3 - 1])
        writer, symbols = Writer(), [1] * 400 + [last] * 3
        for symbol in symbols:
            writer.code(symbol, share)
        reader = Reader(writer.bytes())
        assert [reader.code(0, share) for _ in symbols] == symbols


def test_files_of_other_machines_stay_readable() -> None:
    # The digest was written once; any change of models, tables, library or arithmetic shows here first. Such a change
    # needs a new version of the file's format.
    codes = np.cumsum(np.arange(2 * 3 * 6 * 40).reshape(2, 3, 6, 40) ** 2 % 97, axis=3) % 41
    depth = (codes[:, 0] + codes[:, 1]) % 4
    data = entropy.encode(codes, (41, 1 << 12, 1000), depth)
    assert hashlib.sha256(data).hexdigest() == GOLDEN


GOLDEN = "f133775609242701dd88ecc1feb55125e12144f46abd8e36a2287ff4c405f340"


def test_the_logarithms_are_exact() -> None:
    for value in range(1, 5000):
        leading = value >> max(0, value.bit_length() - 7) << max(0, 7 - value.bit_length())
        exact = Fraction(leading, 64) ** 64  # 2^(fraction of 64 * log2)
        steps = entropy.log2(value) - 64 * value.bit_length()
        assert Fraction(2) ** steps <= exact < Fraction(2) ** (steps + 1)


def test_what_repeats_takes_little() -> None:
    still = np.full((1, 4, 1, 1000), 7)
    assert len(entropy.encode(still, (1024,) * 4)) < 0.03 * packing.size(1000, (1024,) * 4)
    assert len(entropy.encode(still[..., :64], (1024,) * 4)) < 0.25 * packing.size(64, (1024,) * 4)


@pytest.mark.parametrize("shape", [(1, 3, 1, 600), (1, 3, 24, 25)])
def test_neighbours_and_coarser_codes_pay(shape) -> None:
    # 32 equally frequent codes: nothing can be saved without contexts.
    codes = related_grid(shape, 32)
    alone = len(entropy.encode(np.random.default_rng(0).permuted(codes, axis=3), (32,) * 3))
    assert len(entropy.encode(codes, (32,) * 3)) < 0.85 * alone


def test_cells_above_pay() -> None:
    rows = np.random.default_rng(0).integers(0, 16, (1, 1, 1, 40))
    codes = np.repeat(rows, 20, axis=2)
    assert len(entropy.encode(codes, (16,))) < 0.35 * packing.size(800, (16,))


def test_a_map_of_depths_pays() -> None:
    y, x = np.mgrid[:32, :32]
    depth = ((y // 8 + x // 8) % 5)[None]
    codes = random_grid((1, 4, 32, 32), (256,) * 4)
    packed, coded = (way.encode(codes, (256,) * 4, depth) for way in (packing, entropy))
    of_codes = int(depth.sum())
    assert len(packed) - of_codes == 32 * 32 * 3 // 8  # 3 bits each for 0..4
    assert len(coded) - of_codes < 0.5 * (len(packed) - of_codes)


def test_noise_takes_hardly_more_than_packed() -> None:
    codes = random_grid((1, 8, 1, 300), (1024,) * 8)
    assert len(entropy.encode(codes, (1024,) * 8)) < 1.01 * packing.size(300, (1024,) * 8)


def test_wide_codebooks_are_coded_in_digits() -> None:
    digits = Digits((1, 2, 1024, 1025, 64000, 1 << 24))
    assert digits.alphabets == [1, 2, 1024, 17, 64, 250, 256, 256, 256, 256]
    assert digits.ends == [0, 1, 2, 3, 5, 7, 10]
    codes = random_grid((2, 6, 3, 4), digits.sizes)
    np.testing.assert_array_equal(digits.join(digits.split(codes)), codes)
    with pytest.raises(ValueError, match="do not have"):
        Digits((1025,)).join(np.array([16, 1])[None, :, None, None])


def test_what_does_not_fit_is_refused() -> None:
    codes = random_grid((1, 2, 3, 3), (10, 10))
    for bad, depth in ((codes + 5, None), (codes - 1, None), (codes, np.full((1, 3, 3), 3))):
        with pytest.raises(ValueError):
            entropy.encode(bad, (10, 10), depth)
    with pytest.raises(ValueError, match="too few"):
        entropy.decode(bytes(1000), (1, 1 << 40, 1 << 20), (10, 10))


def test_contexts_that_are_learned_have_a_bound(monkeypatch) -> None:
    monkeypatch.setattr(entropy, "ROWS", 3)
    codes = related_grid((1, 2, 1, 60), 16)
    data = entropy.encode(codes, (16, 16))
    np.testing.assert_array_equal(entropy.decode(data, (1, 1, 60), (16, 16))[0], codes)


def test_the_library_is_driven_as_it_is_documented() -> None:
    # Three symbols of probability 1/4, 1/2 and 1/4: less 1 each, as the library adds one to every symbol.
    share = np.array([TOTAL // 4 - 1, TOTAL // 2 - 1, TOTAL // 4 - 1])
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(1, entropy.exact(share))
    # One of 2^24 parts of the first range, 2^64 - 1, is 2^40 - 1.
    assert encoder.pos() == (0, ((1 << 62) - (1 << 22), (1 << 63) - (1 << 23)))
