"""Training a model of codes finds what there is to know about them, and the command makes a file of it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_container import HEADER

from zoo.codecs import entropy
from zoo.codecs.context import ContextModel
from zoo.container import TokenReader
from zoo.container_writer import TokenWriter
from zoo.entropy_training import Bilinear, samples, train


def chain(length: int, seed: int, height: int = 1) -> np.ndarray:
    """Two codebooks of 24: the first goes on by 5 nine times of ten, the second is a fixed function of the first."""
    draw = np.random.default_rng(seed)
    codes = np.zeros((1, 2, height, length), np.int64)
    for x in range(length):
        jump = draw.random((1, height)) < 0.1
        after = codes[:, 0, :, x - 1] + 5
        codes[:, 0, :, x] = np.where(jump, draw.integers(0, 24, (1, height)), after) % 24
    codes[:, 1] = codes[:, 0] * 7 % 24
    return codes


@pytest.fixture(scope="module")
def model() -> ContextModel:
    return train((24, 24), [(chain(400, seed), None) for seed in range(8)], dim=6, steps=400, batch=128)


def test_a_trained_model_saves_what_counts_need_long_to_learn(model: ContextModel) -> None:
    codes = chain(60, 99)
    adaptive, trained = (entropy.encode(codes, (24, 24), None, start) for start in (None, model.predictor()))
    assert len(trained) < 0.5 * len(adaptive)
    read, _ = entropy.decode(trained, (1, 1, 60), (24, 24), False, model.predictor())
    np.testing.assert_array_equal(read, codes)


def test_rounding_costs_next_to_nothing() -> None:
    torch.manual_seed(0)
    grid, depth = chain(30, 5, height=10), np.random.default_rng(0).integers(0, 3, (1, 10, 30))
    cells, near = samples([(np.where(np.arange(2)[:, None, None] < depth[:, None], grid, -1), depth)])
    counts = [np.bincount(values[values >= 0], minlength=n) for values, n in zip(cells.T, (3, 24, 24), strict=True)]
    floating = Bilinear((24, 24), counts, dim=6)
    torch.nn.init.normal_(floating.mixing, std=0.3)
    cells = np.concatenate([cells[:-1, None], cells[near]], 1)
    with torch.no_grad():
        exact = floating(torch.from_numpy(cells).long()).numpy()
    prediction, found = floating.rounded().predictor(), np.zeros_like(exact)
    for at, (target, *known) in enumerate(cells.tolist()):
        prediction.enter(known)
        for column, value in enumerate(target[: 1 + target[0]]):
            weights = prediction.weights(column)
            found[at, column] = np.log2(weights.sum() / weights[value])
            prediction.follow(column, value)
    # Vectors of 8 bits and biases in 1/8 bit: on average a hundredth of a bit, a code at most a third.
    assert np.abs(found.mean() - exact.mean()) < 0.02
    assert np.abs(found - exact).max() < 0.4


def test_training_repeats_and_leaves_the_caller_s_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (train((24, 24), [(chain(50, 0), None)], dim=2, steps=5, batch=8, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert first.digest == second.digest
    assert train((24, 24), [(chain(50, 0), None)], dim=2, steps=5, batch=8, seed=2).digest != first.digest


class Witness:
    """A predictor that knows nothing and writes down what it is shown."""

    def __init__(self) -> None:
        self.shown: list[list[list[int]]] = []

    def enter(self, neighbours: list[list[int]]) -> None:
        self.shown.append([list(cell) for cell in neighbours])

    def weights(self, column: int) -> np.ndarray:
        return np.ones(1 << 10, np.int64)

    def follow(self, column: int, code: int) -> None:
        pass


@pytest.mark.parametrize("height", [1, 4])
@pytest.mark.parametrize("has_depth", [False, True])
def test_neighbours_are_those_that_the_coder_shows(height: int, has_depth: bool) -> None:
    codes, witness = chain(6, 0, height), Witness()
    depth = np.arange(6 * height).reshape(1, height, 6) % 3 if has_depth else None
    if has_depth:
        codes[0, np.arange(2)[:, None, None] >= depth[0]] = -1
    entropy.encode(codes, (24, 24), depth, witness)
    cells, near = samples([(codes, depth)])
    assert cells[near].tolist() == witness.shown


def test_neighbours_of_pictures_lie_on_all_sides_that_are_known() -> None:
    near = samples([(np.zeros((1, 1, 3, 3), int), None)])[1]
    assert near[4].tolist() == [3, 1, 2, 0] and near[5].tolist() == [4, 2, -1, 1] and near[0].tolist() == [-1] * 4
    assert samples([(np.zeros((1, 1, 1, 6), int), None)])[1][5].tolist() == [4, 3, 2, 1]  # audio: in time


def test_without_codes_there_is_one_error() -> None:
    with pytest.raises(ValueError, match="no codes"):
        train((24,), [])


def test_the_command_makes_a_model_of_token_files(tmp_path: Path) -> None:
    header = replace(HEADER, codebook_sizes=(24, 24), rows=1, channels=1, scales=None)
    for seed in range(2):
        with TokenWriter(tmp_path / f"{seed}.ztok", header) as writer:
            writer.write(torch.from_numpy(chain(100, seed)[:, :, 0]))
            writer.finish(32000, 32000)
    out = tmp_path / "entropy.safetensors"
    command = [sys.executable, "-m", "zoo.entropy_training", tmp_path, "-o", out, "--steps", "20", "--dim", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    model = ContextModel.read(out)
    assert model.sizes == (24, 24) and model.digest[:12] in ran.stdout and "2 files" in ran.stdout
    trained = replace(header, entropy="trained", context=model.digest[:8])
    with TokenWriter(tmp_path / "c.ztok", trained, model) as writer:
        writer.write(torch.from_numpy(chain(100, 7)[:, :, 0]))
        writer.finish(32000, 32000)
    with TokenReader(tmp_path / "c.ztok", model) as reader:
        assert torch.equal(reader.read(), torch.from_numpy(chain(100, 7)[:, :, 0]))
