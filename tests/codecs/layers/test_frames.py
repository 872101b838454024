"""Spectra are made and undone exactly, one a stride, and none reaches farther than stated."""

import pytest
import torch

from zoo.codecs.layers.frames import FrameTransform

SIZES = [(640, 160), (320, 160), (32, 8), (16, 2), (4, 2)]


def audio(time: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, time, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("window", "stride"), SIZES)
def test_audio_comes_back_wherever_all_windows_over_it_are_there(window, stride):
    transform, sound = FrameTransform(window, stride), audio(20 * window)
    back = transform.synthesise(transform.analyse(sound))
    assert back.shape == sound.shape
    edge = transform.reach * stride  # at the ends, windows that would lie outside are missing from the sum
    torch.testing.assert_close(back[:, edge:-edge], sound[:, edge:-edge], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "stride"), SIZES)
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_there_is_exactly_one_frame_a_stride(window, stride, frames):
    transform = FrameTransform(window, stride)
    spectrum = transform.analyse(audio(frames * stride))
    assert spectrum.shape == (2, frames, window // 2 + 1)
    assert transform.synthesise(spectrum).shape == (2, frames * stride)


def test_a_click_reaches_the_frames_within_the_stated_distance_and_no_other():
    transform = FrameTransform(64, 16)
    click = torch.zeros(1, 21 * 16)
    click[:, 10 * 16 : 11 * 16] = 1  # all of the stride of frame 10
    heard = transform.analyse(click).abs().sum(2)[0].nonzero().flatten()
    assert heard.tolist() == list(range(10 - transform.reach, 10 + transform.reach + 1))


def test_a_frame_is_centred_on_its_stride():
    transform = FrameTransform(64, 16)
    strength = []
    for at in (10 * 16 + 7, 10 * 16 + 8):  # both sides of the middle of stride 10
        click = torch.zeros(1, 21 * 16)
        click[:, at] = 1
        strength.append(transform.analyse(click).abs().square().sum(2)[0])
    assert all(int(energy.argmax()) == 10 for energy in strength)


def test_spectra_of_half_precision_audio_have_full_precision():
    transform = FrameTransform(32, 8)
    sound = audio(80).to(torch.bfloat16)
    torch.testing.assert_close(transform.analyse(sound), transform.analyse(sound.float()), rtol=0, atol=0)


@pytest.mark.parametrize(("window", "stride"), [(100, 30), (48, 16), (16, 16), (30, 5)])
def test_windows_that_do_not_overlap_to_a_constant_or_have_no_middle_are_refused(window, stride):
    with pytest.raises(ValueError, match=f"got stride {stride}, window {window}"):
        FrameTransform(window, stride)
