"""Keyed noise is random to look at, and depends on nothing but where it is used."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from zoo.decoders.sampling import Noise
from zoo.decoders.sampling.noise import SlidingGumbel

AXES = ("seed", "row", "step", "codebook", "token", "stream")
WORD = 2**64 - 1


def grid(rows: int, steps: int) -> torch.Tensor:
    return torch.arange(steps).expand(rows, -1)


def neighbours(axis: str, count: int) -> torch.Tensor:
    """float64 uniform numbers `[count, 512]`, whose places differ by 1 along the axis from one line to the next."""
    if axis in {"seed", "stream"}:
        noises = [Noise(number) if axis == "seed" else Noise(1, stream=(number,)) for number in range(count)]
        cells = [noise.gumbel(grid(4, 8), 4, 4).flatten() for noise in noises]
        gumbel = torch.stack(cells)
    else:
        sizes = [count if axis == name else 8 for name in AXES[1:5]]
        rows, steps, books, tokens = sizes
        gumbel = Noise(2).gumbel(grid(rows, steps), books, tokens).movedim(AXES.index(axis) - 1, 0).flatten(1)
    return (-(-gumbel.double()).exp()).exp()


def p_value(counts: torch.Tensor) -> float:
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((counts.numel() - 1) / 2), statistic / 2))


@pytest.mark.parametrize("axis", AXES)
def test_numbers_are_uniform_and_neighbours_independent_along_every_axis(axis):
    unit = neighbours(axis, 200)
    cell = (unit * 16).long().clamp(max=15)
    assert p_value(torch.bincount(cell.flatten(), minlength=16).double()) > 1e-4
    for apart in (1, 2, 7):
        pairs = (cell[:-apart] * 16 + cell[apart:]).flatten()
        assert p_value(torch.bincount(pairs, minlength=256).double()) > 1e-4
    assert abs(torch.corrcoef(torch.stack((unit[:-1].flatten(), unit[1:].flatten())))[0, 1]) < 5 / unit.numel() ** 0.5


def test_gumbel_numbers_have_the_gumbel_law_to_its_tails():
    gumbel = Noise(5).gumbel(grid(50, 50), 4, 100).double().flatten()
    below = (-(-gumbel).exp()).exp().sort().values
    steps = torch.arange(1, len(below) + 1) / len(below)
    assert (below - steps).abs().max() < 2 / len(below) ** 0.5  # Kolmogorov and Smirnov's bound at p = 7e-4
    assert gumbel.mean() == pytest.approx(0.5772, abs=5 * 1.2825 / len(gumbel) ** 0.5)
    assert (gumbel > 10).sum() == pytest.approx(
        len(gumbel) * math.exp(-10), abs=5 * (len(gumbel) * math.exp(-10)) ** 0.5
    )


def test_draws_have_the_law_they_are_drawn_from():
    logp = torch.tensor([0.5, 0.3, 0.15, 0.049, 0.001]).log()
    drawn = (logp + Noise(6).gumbel(grid(400, 500), 1, 5)).argmax(-1).flatten()
    counts, expected = torch.bincount(drawn, minlength=5), logp.exp() * 200_000
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor(2.0), statistic / 2) > 1e-4


def test_uniform_numbers_don_t_tell_of_gumbel_numbers_of_the_same_place():
    noise, steps = Noise(7), grid(300, 300)
    unit, gumbel = noise.uniform(steps, 1).flatten(), noise.gumbel(steps, 1, 1).double().flatten()
    assert 0 < unit.min() and unit.max() < 1
    assert abs(torch.corrcoef(torch.stack((unit, gumbel)))[0, 1]) < 5 / unit.numel() ** 0.5


def test_no_two_places_share_their_number():
    steps = torch.arange(0, 2000, 7).expand(64, -1)
    unit = torch.cat([Noise(seed).uniform(steps, 8).flatten() for seed in (0, 1, -1, 2**63, 2**40)])
    assert len(unit.unique()) == len(unit)


def test_numbers_are_those_of_plain_integer_arithmetic_on_any_device():
    """The hash, written once more with Python's unbounded integers."""

    def mix(word: int) -> int:
        word &= WORD
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
        return word ^ (word >> 31)

    golden, row_word, step_word, book_word = (
        0x9E3779B97F4A7C15,
        0x243F6A8885A308D3,
        0x13198A2E03707345,
        0xA4093822299F31D1,
    )
    seed, stream, rows, steps = -12345, (3, 9), (4, 2**33), (0, 7, 2**20)
    key = 0
    for name in (len(stream), seed, *stream):
        key = mix((key ^ mix(name)) + golden)
    noise, table = Noise(seed, rows, stream), torch.tensor([steps, steps])
    unit, gumbel = noise.uniform(table, 2), noise.gumbel(table, 2, 3)
    for (r, row), (s, step), book in itertools.product(enumerate(rows), enumerate(steps), range(2)):
        place = mix(row * row_word + step * step_word + book * book_word + key)
        assert unit[r, s, book].item() == ((mix(place) >> 12) + 0.5) / 2**52
        for token in range(3):
            u = ((mix(place + (token + 1) * golden) >> 12) + 0.5) / 2**52
            assert gumbel[r, s, book, token].item() == pytest.approx(-math.log(-math.log1p(-u)), rel=1e-7, abs=1e-7)


def test_a_place_has_its_number_whatever_is_asked_beside_it():
    noise = Noise(8)
    whole = noise.gumbel(grid(5, 9), 3, 17)
    assert torch.equal(noise.gumbel(grid(5, 9)[:, 4:6], 3, 17), whole[:, 4:6])
    assert torch.equal(noise.gumbel(grid(5, 9), 2, 11), whole[:, :, :2, :11])
    assert torch.equal(noise.gumbel(grid(5, 9).flip(1), 3, 17), whole.flip(1))
    assert torch.equal(Noise(8, rows=(3, 1)).gumbel(grid(2, 9), 3, 17), whole[[3, 1]])
    assert torch.equal(Noise(8, rows=(3,)).uniform(grid(1, 9), 3), noise.uniform(grid(5, 9), 3)[3:4])


def test_streams_are_named_in_order():
    steps = grid(1, 2)
    streams = [(), (0,), (1,), (0, 1), (1, 0), (0, 0, 1)]
    values = {float(Noise(0).derive(*names).uniform(steps, 1)[0, 1, 0]) for names in streams}
    assert len(values) == len(streams)
    assert Noise(0).derive(1).derive(2) == Noise(0).derive(1, 2)


def test_ids_are_asked_of_every_row():
    with pytest.raises(ValueError, match="noise for 2 rows, asked for 3"):
        Noise(0, rows=(1, 2)).uniform(grid(3, 1), 1)
    with pytest.raises(ValueError, match="noise for 0 rows, asked for 3"):
        Noise(0, rows=()).uniform(grid(3, 1), 1)
    assert Noise(0).uniform(grid(0, 1), 1).shape == Noise(0, rows=()).uniform(grid(0, 1), 1).shape == (0, 1, 1)


def test_codebooks_in_turn_have_the_noise_of_their_own_steps():
    """Step 2 is that of codebook 1 of three, if the first is step 1."""
    noise, steps = Noise(4).derive(7), torch.arange(8).expand(2, -1)
    books = (steps - 1) % 3
    for turned, whole in (
        (noise.in_turn(3, 1).uniform(steps, 1), noise.uniform(steps, 3)),
        (noise.in_turn(3, 1).gumbel(steps, 1, 5), noise.gumbel(steps, 3, 5)),
    ):
        index = books.view(*books.shape, *[1] * (whole.ndim - 2)).expand(-1, -1, 1, *whole.shape[3:])
        assert torch.equal(turned, whole.gather(2, index))


def test_a_window_that_slides_has_the_numbers_of_its_steps_however_each_row_moves():
    noise, other, gumbel = Noise(3), Noise(3).derive(1), SlidingGumbel()
    first, widths = torch.tensor([[4], [0], [9]]), (5, 5, 7, 3, 4, 6, 0, 2)
    moves = torch.tensor([[0, 1, 5, 2, 9, 0, 1, 0], [0, 0, 3, 4, 0, -2, 1, 0], [0, 1, 5, 2, 1, 0, 1, 0]])
    for number, width in enumerate(widths):
        first = first + moves[:, number : number + 1]
        steps = first + torch.arange(width)
        for each in (noise, Noise(3), other) if number == 3 else (noise,):
            assert torch.equal(gumbel(each, steps, 2, 7), each.gumbel(steps, 2, 7)), number


def test_a_window_makes_no_number_twice_and_few_calls(monkeypatch):
    asked, gumbel, made = [], SlidingGumbel(), Noise.gumbel
    monkeypatch.setattr(Noise, "gumbel", lambda noise, steps, *sizes: asked.append(steps) or made(noise, steps, *sizes))
    for first in (0, 1, 4, 5):
        gumbel(Noise(0), torch.arange(first, first + 6)[None], 1, 5)
    assert [len(steps[0]) for steps in asked] == [6, 7]
    assert torch.cat(asked, 1)[0].tolist() == list(range(13))
