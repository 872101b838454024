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
    return train((24, 24), [chain(400, seed) for seed in range(8)], dim=6, steps=400, batch=128)


def test_a_trained_model_saves_what_counts_need_long_to_learn(model: ContextModel) -> None:
    codes = chain(60, 99)
    adaptive, trained = (entropy.encode(codes, (24, 24), None, start) for start in (None, model.predictor()))
    assert len(trained) < 0.5 * len(adaptive)
    read, _ = entropy.decode(trained, (1, 1, 60), (24, 24), False, model.predictor())
    np.testing.assert_array_equal(read, codes)


def test_rounding_costs_next_to_nothing() -> None:
    torch.manual_seed(0)
    grid = chain(300, 5)
    counts = [np.bincount(grid[:, at].ravel(), minlength=24) for at in range(2)]
    floating = Bilinear((24, 24), counts, dim=6)
    torch.nn.init.normal_(floating.mixing, std=0.3)
    cells = samples(grid)
    with torch.no_grad():
        exact = floating(torch.from_numpy(cells)).numpy()
    prediction, found = floating.rounded().predictor(), []
    for target, *near in cells.tolist():
        prediction.enter(*(cell if cell[0] >= 0 else None for cell in near))
        bits = []
        for column, code in enumerate(target):
            weights = prediction.weights(column)
            bits.append(np.log2(weights.sum() / weights[code]))
            prediction.follow(column, code)
        found.append(bits)
    # Vectors of 8 bits and biases in 1/8 bit: on average a hundredth of a bit, a code at most a third.
    assert np.abs(np.mean(found) - exact.mean()) < 0.02
    assert np.abs(np.array(found) - exact).max() < 0.4


def test_training_repeats_and_leaves_the_caller_s_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (train((24, 24), [chain(50, 0)], dim=2, steps=5, batch=8, seed=1) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert first.digest == second.digest
    assert train((24, 24), [chain(50, 0)], dim=2, steps=5, batch=8, seed=2).digest != first.digest


def test_neighbours_are_those_that_the_coder_gives() -> None:
    sound, picture = np.arange(6).reshape(1, 1, 1, 6), np.arange(6).reshape(1, 1, 2, 3)
    assert samples(sound)[:, :, 0].tolist() == [[0, -1, -1], [1, 0, -1], [2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 4, 3]]
    assert samples(picture)[:, :, 0].tolist() == [[0, -1, -1], [1, 0, -1], [2, 1, -1], [3, -1, 0], [4, 3, 1], [5, 4, 2]]


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
