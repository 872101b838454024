"""What the base of all audio codecs promises to a caller: clear refusals, lengths, and rates that are computed."""

from dataclasses import replace

import pytest
import torch
from small_codecs import noise, tiny

from zoo.codecs.base import AudioCodec, CodecInfo


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    return tiny("spectral", "plain")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_samples_that_are_no_numbers_are_refused(codec, bad):
    media = noise(2, 1, 100)
    media[1, 0, 50] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec.encode(media)
    assert codec.encode(media, lengths=torch.tensor([100, 50])).codes.shape[0] == 2  # the bad one lies behind the end


@pytest.mark.parametrize("shape", [(100,), (1, 100), (1, 2, 100), (1, 1, 1, 100)])
def test_audio_of_another_shape_is_refused_with_the_one_expected(codec, shape):
    with pytest.raises(ValueError, match=r"expected audio of shape \[batch, 1, time\], got \["):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("codebooks", [0, -1, 4])
def test_codebooks_that_the_codec_lacks_are_refused(codec, codebooks):
    with pytest.raises(ValueError, match=rf"1\.\.3, got {codebooks}"):
        codec.encode(noise(1, 1, 100), codebooks)


@pytest.mark.parametrize("lengths", [[0, 5], [5, 101], [5], [-1, 5]])
def test_lengths_that_do_not_fit_the_audio_are_refused(codec, lengths):
    with pytest.raises(ValueError, match=r"2 numbers in 1\.\.100"):
        codec.encode(noise(2, 1, 100), lengths=torch.tensor(lengths))


def test_empty_audio_is_refused(codec):
    with pytest.raises(ValueError, match="lengths"):
        codec.encode(torch.zeros(1, 1, 0))


def test_codes_of_another_codec_are_refused(codec):
    tokens = codec.encode(noise(1, 1, 100))
    with pytest.raises(ValueError, match="tokens of another codec"):
        codec.decode(replace(tokens, codes=tokens.codes + 32))
    with pytest.raises(ValueError, match="tokens of another codec"):
        codec.decode(replace(tokens, codes=tokens.codes - 34))
    with pytest.raises(ValueError, match=r"shape \[batch, 1\.\.3, time\]"):
        codec.decode(replace(tokens, codes=tokens.codes.repeat(1, 2, 1)))


def test_tokens_with_fewer_frames_than_their_length_needs_are_refused(codec):
    tokens = codec.encode(noise(1, 1, 100))
    with pytest.raises(ValueError, match="7 frames hold 112 samples at most, lengths say 113"):
        codec.decode(replace(tokens, lengths=torch.tensor([113])))


def test_tokens_of_other_weights_are_refused_and_those_of_unknown_weights_are_not(codec):
    tokens = replace(codec.encode(noise(1, 1, 100)), weights="ab" * 32)
    codec.weights = "cd" * 32
    try:
        with pytest.raises(ValueError, match="weights abababababab, this codec has cdcdcdcdcdcd"):
            codec.decode(tokens)
        assert codec.decode(replace(tokens, weights="")).shape == (1, 1, 100)
    finally:
        codec.weights = ""


def test_rates_are_computed_from_codebooks_and_hop():
    info = CodecInfo("audio", 16000, 1, 320, (1024, 1024, 600), True, 0, 1)
    assert (info.codebooks, info.frame_rate) == (3, 50)
    assert [info.bits(n) for n in (1, 2, 3)] == [10, 20, 30]  # 600 codes need whole 10 bits
    assert info.kbps() == pytest.approx(1.5) and info.kbps(1) == pytest.approx(0.5)
    assert replace(info, media="image", hop=16).bpp() == pytest.approx(30 / 256)
    assert {"kbps", "frame_rate", "codebooks"} <= info.asdict().keys()
