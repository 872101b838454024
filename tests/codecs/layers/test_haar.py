"""Haar wavelets."""

import pytest
import torch

from zoo.codecs.layers.haar import haar, inverse_haar


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_the_inverse_gives_back_every_bit_of_8_bit_pictures(steps):
    picture = torch.randint(-256, 256, (2, 3, 16, 24), generator=torch.Generator().manual_seed(0)) / 256
    bands = haar(picture, steps)
    assert bands.shape == (2, 3 * 4**steps, 16 >> steps, 24 >> steps)
    assert torch.equal(inverse_haar(bands, steps), picture)  # each step needs two more bits: they are there
    assert bands.abs().max() <= 1


def test_bands_can_be_anything():
    bands = torch.randn(2, 48, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(haar(inverse_haar(bands, 2), 2), bands)


def test_bands_are_mean_down_across_and_diagonal():
    picture = torch.tensor([[1.0, 2.0], [3.0, 8.0]]).view(1, 1, 2, 2)
    assert haar(picture, 1).flatten().tolist() == [14 / 4, -8 / 4, -6 / 4, 4 / 4]
