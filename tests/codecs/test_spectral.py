"""The spectral codec hears a recording alike at any level."""

import pytest
import torch
from small_codecs import noise, tiny


@pytest.fixture(scope="module")
def codec():
    return tiny("spectral", "plain")


def speech(codec) -> torch.Tensor:
    """Two seconds of swelling noise with a pause of digital silence, one of faint noise, and a peak near full scale."""
    media = noise(1, 1, 2 * codec.info.sample_rate)
    media[..., 8000:12000] = 0
    media[..., 20000:24000] *= 0.01
    return media / media.abs().max()


@pytest.mark.parametrize("decibels", [-6.0206, -10, -20, -30])
def test_a_quieter_recording_has_the_same_codes_and_a_smaller_gain(codec, decibels):
    media, factor = speech(codec), 10 ** (decibels / 20)
    loud, quiet = codec.encode(media), codec.encode(factor * media)
    torch.testing.assert_close(quiet.scales, factor * loud.scales, rtol=1e-5, atol=0)
    # Rounding of the scaled samples may tip a true tie: one frame in a hundred would be far too many.
    assert (quiet.codes != loud.codes).any(1).float().mean() < 0.005
    same = codec.decode(quiet) - factor * codec.decode(loud)
    assert same.norm() < 0.05 * factor * media.norm()


def test_a_network_can_be_trained_without_its_quantizer_and_says_that_nothing_was_quantized(codec):
    with torch.no_grad():
        output = codec(noise(1, 1, 160), quantize=False)
    assert output.usage is None and output.loss == 0 and output.media.shape == (1, 1, 160)
