"""The gain of a recording: of its speech alone, in proportion to its level, however it is cut."""

import math

import pytest
import torch

from zoo.codecs.layers.loudness import LevelMeter, LoudnessMeter

RATE, LEVEL = 1000, 0.1


def speech(seconds: float = 3.0, rows: int = 2, amplitude: float = 0.2) -> torch.Tensor:
    """Noise that swells and fades within 12 dB, `[row, 1, time]`."""
    time = torch.arange(round(seconds * RATE)) / RATE
    source = torch.Generator().manual_seed(0)
    return torch.randn(rows, 1, len(time), generator=source) * amplitude * (1 + 0.6 * torch.sin(5 * time))


def gain(*pieces: torch.Tensor) -> torch.Tensor:
    meter = LoudnessMeter(RATE, LEVEL)
    for piece in pieces:
        meter.update(piece)
    return meter.scale()


@pytest.mark.parametrize("size", [1, 7, 100, 101, 999])
def test_the_gain_does_not_depend_on_how_a_recording_is_cut(size):
    sound = speech(1.25)
    pieces = [sound[..., :0], *sound.split(size, dim=2)]
    torch.testing.assert_close(gain(*pieces), gain(sound), rtol=1e-6, atol=0)


def test_a_steady_tone_measures_as_its_root_mean_square():
    tone = 0.3 * torch.sin(2 * math.pi * 50 * torch.arange(2 * RATE) / RATE)[None, None]
    torch.testing.assert_close(gain(tone), torch.tensor([0.3 / math.sqrt(2) / LEVEL]))


@pytest.mark.parametrize("decibels", [-30, -12.3, 6])
def test_the_gain_follows_the_level(decibels):
    factor = 10 ** (decibels / 20)
    torch.testing.assert_close(gain(factor * speech()), factor * gain(speech()), rtol=1e-5, atol=0)


# Digital silence counts not at all. Noise 26 dB under the speech lowers the mean that the second gate is relative to,
# by 5.6 dB where 8 of 11 s are noise: soft speech between both gates then counts, but the noise does not. Counted in,
# it would lower the gain by 47 %.
@pytest.mark.parametrize(("pause", "change"), [(0.0, 1e-5), (0.01, 0.05)])
def test_pauses_do_not_count(pause, change):
    sound = speech()
    quiet = speech(4.0, amplitude=pause)
    torch.testing.assert_close(gain(torch.cat([quiet, sound, quiet], dim=2)), gain(sound), rtol=change, atol=0)


@pytest.mark.parametrize("level", [0.0, 1e-7])  # zeros, and noise at -140 dB
def test_silence_has_gain_one(level):
    assert gain(speech(amplitude=level)).tolist() == [1.0, 1.0]


def test_each_row_has_its_own_gain():
    sound = speech()
    sound[1] *= 0.5
    assert gain(sound)[1] == pytest.approx(float(gain(sound[1:])), rel=1e-6)
    assert gain(sound)[0] == pytest.approx(float(gain(sound[:1])), rel=1e-6)


def test_less_than_a_block_is_measured_as_it_is():
    sound = torch.full((1, 1, 3), 0.05)
    assert float(gain(sound)) == pytest.approx(0.5)
    assert float(gain(sound[..., :1], sound[..., 1:])) == pytest.approx(0.5)


def test_channels_are_measured_together():
    sound = torch.stack([torch.full((200,), 0.1), torch.zeros(200)])[None]
    assert float(gain(sound)) == pytest.approx(math.sqrt(0.5))


def test_a_meter_that_measured_nothing_says_so():
    with pytest.raises(ValueError, match="call update first"):
        LoudnessMeter(RATE, LEVEL).scale()


def test_the_plain_meter_gives_the_root_mean_square_of_the_channels_mean_for_any_pieces():
    sound = torch.stack([speech()[:1, 0], 0.5 * speech()[:1, 0]], dim=1)
    whole, pieces = LevelMeter(), LevelMeter()
    whole.update(sound)
    for piece in sound.split(77, dim=2):
        pieces.update(piece)
    assert float(whole.scale()) == pytest.approx(float(sound.mean(dim=1).square().mean().sqrt()), rel=1e-5)
    assert float(pieces.scale()) == pytest.approx(float(whole.scale()), rel=1e-6)
