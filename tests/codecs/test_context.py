"""A trained model of codes predicts the same on every machine, and what it predicts makes files smaller."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from grids import grids, random_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.codecs import entropy
from zoo.codecs.context import PEAK, SOURCES, ContextModel, alphabets_of, powers
from zoo.codecs.errors import UserError


def any_model(sizes: tuple[int, ...], dim: int = 3, seed: int = 0, shift: int = 14) -> ContextModel:
    """A model whose numbers mean nothing, up to the largest that there can be."""
    draw, alphabets = np.random.default_rng(seed), alphabets_of(sizes)
    return ContextModel(
        sizes,
        [draw.integers(-128, 128, (n, dim)).astype(np.int8) for n in alphabets],
        [draw.integers(-128, 128, n).astype(np.int8) for n in alphabets],
        draw.integers(-32768, 32768, (len(alphabets), SOURCES, dim, dim)).astype(np.int16),
        shift,
    )


@settings(deadline=None, max_examples=40)
@given(grids(), st.integers(1, 64), st.integers(8, 31), st.integers(0, 99))
def test_any_grid_comes_back_with_any_model(grid, dim: int, shift: int, seed: int) -> None:
    codes, sizes = grid
    model = any_model(sizes, dim, seed, shift)
    data = entropy.encode(codes, sizes, None, model.predictor())
    shape = (codes.shape[0], *codes.shape[2:])
    np.testing.assert_array_equal(entropy.decode(data, shape, sizes, False, model.predictor())[0], codes)


def test_a_model_serves_the_first_of_its_codebooks() -> None:
    sizes = (300, 5, 70, 1025)
    codes = random_grid((1, 4, 3, 9), sizes)
    for books in (1, 2, 3, 4):
        data = entropy.encode(codes[:, :books], sizes[:books], None, any_model(sizes).predictor())
        read, _ = entropy.decode(data, (1, 3, 9), sizes[:books], False, any_model(sizes).predictor())
        np.testing.assert_array_equal(read, codes[:, :books])


def test_files_of_other_machines_stay_readable() -> None:
    # As in test_entropy: the digest was written once, and a change of it makes files unreadable.
    codes = np.cumsum(np.arange(2 * 3 * 6 * 20).reshape(2, 3, 6, 20) ** 2 % 97, axis=3) % 41
    depth = (codes[:, 0] + codes[:, 1]) % 4
    numbers = np.arange(-128, 128).astype(np.int8)
    model = ContextModel(
        (41, 64, 1000),
        [np.resize(numbers[::7], (n, 4)) for n in (4, 41, 64, 1000)],
        [np.resize(numbers[:40:3], n) for n in (4, 41, 64, 1000)],
        np.resize(np.arange(-900, 900, 37).astype(np.int16), (4, SOURCES, 4, 4)),
        13,
    )
    data = entropy.encode(codes, (41, 64, 1000), depth, model.predictor())
    assert hashlib.sha256(data).hexdigest() == GOLDEN
    assert model.digest[:16] == GOLDEN_MODEL


GOLDEN = "017e6c296a97c3d7ddc965009b3db6e36d9dee7386c00607466d2399bc066281"
GOLDEN_MODEL = "846f886268c8d050"


def test_the_powers_are_exact() -> None:
    table = powers()
    assert len(table) == 1025 and table[0] == PEAK
    for step, value in enumerate(table.tolist()):
        # value <= PEAK * 2^(-step / 64) < value + 1, in whole numbers.
        assert value**64 << step <= PEAK**64 < (value + 1) ** 64 << step


def test_a_prediction_has_weights_that_a_coder_can_add_up() -> None:
    model = any_model((1024, 1024), dim=64, shift=8)
    prediction = model.predictor()
    prediction.enter([[2, 0, 1023], [0, -1, -1], [-1, -1, -1], [-1, 3, 4]])
    for column in range(3):
        weights = prediction.weights(column)
        assert weights.min() > 0 and weights.max() == PEAK and int(weights.sum()) < 1 << 31
        prediction.follow(column, 2)


def test_models_come_back_from_bytes_and_files(tmp_path) -> None:
    model = any_model((300, 5000))
    (tmp_path / "a.safetensors").write_bytes(model.pack())
    for read in (ContextModel.unpack(model.pack()), ContextModel.read(tmp_path / "a.safetensors")):
        assert read.digest == model.digest and read.sizes == model.sizes
    assert any_model((300, 5000), seed=1).digest != model.digest
    assert any_model((300, 5000), shift=15).digest != model.digest


@dataclass(frozen=True)
class Damage:
    """What is wrong with a model's arguments."""

    sizes: tuple[int, ...] = (10, 20)
    dim: int = 3
    shift: int = 14
    dtype: type = np.int16


@pytest.mark.parametrize(
    "damage", [Damage(sizes=(10, 21)), Damage(dim=2), Damage(shift=7), Damage(shift=32), Damage(dtype=np.int32)]
)
def test_models_that_do_not_fit_together_are_refused(damage: Damage) -> None:
    good = any_model((10, 20))
    ContextModel(good.sizes, good.vectors, good.biases, good.mixing, good.shift)
    mixing = np.zeros((3, SOURCES, damage.dim, damage.dim), damage.dtype)
    with pytest.raises(ValueError, match="do not fit"):
        ContextModel(damage.sizes, good.vectors, good.biases, mixing, damage.shift)


def test_damaged_and_missing_files_are_one_error(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="No such file"):
        ContextModel.read(path)
    data = any_model((10, 20)).pack()
    changed = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]
    for bad in (b"", b"x" * 99, data[:-1], data[:50], changed):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="restore it"):
            ContextModel.read(path)


def test_a_neighbour_that_tells_the_next_code_makes_codes_cheap() -> None:
    # One vector a code, all at right angles, and a matrix that turns each into the next: code n is followed by n + 1.
    size = 8
    vectors = (np.eye(size) * 127).astype(np.int8)
    mixing = np.zeros((2, SOURCES, size, size), np.int16)
    mixing[1, 0] = np.eye(size)[:, (np.arange(size) + 1) % size] * 1200
    model = ContextModel((size,), [vectors[:2], vectors], [np.zeros(2, np.int8), np.zeros(size, np.int8)], mixing, 14)
    codes = (np.arange(64) % size)[None, None, None]
    assert len(entropy.encode(codes, (size,), None, model.predictor())) < 0.3 * 64 * 3 / 8
    # A model that is wrong is soon outvoted by the counts.
    backwards = len(entropy.encode(codes[..., ::-1], (size,), None, model.predictor()))
    assert 0.5 * 64 * 3 / 8 < backwards < 64 * 3 / 8


def test_counts_leave_a_good_prediction_alone_and_replace_one_that_does_not_fit() -> None:
    # Codes 0..7 are as likely as the biases say: 1, 2, ... 8 bits. Then the media become others: one code, on and on.
    size = 8
    biases = np.array([-8 * min(code, 7) for code in range(size)], np.int8)
    nothing = np.zeros((size, 2), np.int8)
    model = ContextModel(
        (size,), [nothing[:2], nothing], [np.zeros(2, np.int8), biases], np.zeros((2, SOURCES, 2, 2), np.int16), 14
    )
    shares = 0.5 ** np.minimum(np.arange(1, size + 1), size - 1)
    draw = np.random.default_rng(0)
    expected = draw.choice(size, 400, p=shares / shares.sum())[None, None, None]
    surprise = np.full((1, 1, 1, 400), size - 1)
    ideal = -np.log2(shares)[expected].sum() / 8
    assert len(entropy.encode(expected, (size,), None, model.predictor())) < 1.02 * ideal + 4
    assert len(entropy.encode(surprise, (size,), None, model.predictor())) < 0.1 * 400 * 7 / 8
