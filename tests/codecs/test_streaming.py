"""Work in chunks gives what one long chunk gives, each unit once, and as early as its context allows."""

import random

import pytest
import torch

from zoo.codecs.streaming import Window, advance

UNIT, PAST, FUTURE = 4, 3, 2


def sums(window: torch.Tensor) -> torch.Tensor:
    """Two outputs for each unit of inputs: the sum of all inputs of the units that it may see, and that negated."""
    short = -window.shape[-1] % UNIT
    units = torch.nn.functional.pad(window, (0, short)).unflatten(-1, (-1, UNIT)).sum(-1)
    seen = torch.nn.functional.pad(units, (PAST, FUTURE)).unfold(-1, PAST + 1 + FUTURE, 1).sum(-1)
    return torch.stack([seen, -seen], dim=-1).flatten(-2)


def stream(signal: torch.Tensor, sizes: list[int]) -> tuple[list[torch.Tensor | None], Window]:
    """What each chunk of these sizes gives out, and the last state; nothing but an empty chunk ends the stream."""
    window, given, at = Window(), [], 0
    for size in sizes:
        out, window = advance(window, signal[..., at : at + size], UNIT, PAST, FUTURE, False, sums)
        given.append(out)
        at += size
    out, window = advance(window, signal[..., at:], UNIT, PAST, FUTURE, True, sums)
    return [*given, out], window


@pytest.mark.parametrize("length", [1, 4, 39, 40, 41, 200])
@pytest.mark.parametrize("seed", range(5))
def test_each_unit_is_given_out_once_and_in_order_for_any_chunks(length, seed):
    draw = random.Random(seed)
    signal = torch.arange(1, 2 * length + 1).view(2, length)  # integers: sums are exact in any order
    sizes = []
    while sum(sizes) < length:
        sizes.append(min(draw.choice([0, 1, 3, 4, 5, 17]), length - sum(sizes)))
    parts, _ = stream(signal, sizes)
    assert torch.equal(torch.cat([part for part in parts if part is not None], dim=-1), sums(signal))


def test_a_unit_is_given_out_as_soon_as_the_units_that_it_looks_ahead_to_are_there():
    parts, _ = stream(torch.ones(1, 20), [1] * 20)
    # With sample 12, units 0 to 2 are whole: unit 0 and the two behind it. From then on a unit every 4 samples.
    assert [i + 1 for i, part in enumerate(parts[:-1]) if part is not None] == [12, 16, 20]
    assert parts[-1].shape[-1] == 2 * FUTURE  # two outputs for each unit that waited in vain for later input


def test_the_state_of_an_endless_stream_stays_bounded():
    window = Window()
    for _ in range(50):
        _, window = advance(window, torch.ones(1, 7), UNIT, PAST, FUTURE, False, sums)
        assert window.buffer.shape[-1] < (PAST + FUTURE + 1) * UNIT + 7


def test_a_state_is_not_changed_by_its_use_and_may_be_used_twice():
    signal = torch.arange(40).view(1, 40)
    _, window = advance(Window(), signal[:, :25], UNIT, PAST, FUTURE, False, sums)
    before = window.buffer.clone()
    first, _ = advance(window, signal[:, 25:], UNIT, PAST, FUTURE, True, sums)
    again, _ = advance(window, signal[:, 25:], UNIT, PAST, FUTURE, True, sums)
    assert torch.equal(first, again) and torch.equal(window.buffer, before)


def test_a_stream_that_ends_before_it_began_gives_nothing():
    out, _ = advance(Window(), torch.ones(1, 0), UNIT, PAST, FUTURE, True, sums)
    assert out is None


def test_gains_travel_along_with_the_state():
    scales = torch.tensor([2.0])
    _, window = advance(Window(scales), torch.ones(1, 33), UNIT, PAST, FUTURE, False, sums)
    assert window.scales is scales
