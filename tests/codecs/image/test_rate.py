"""Cells get as many codes as a number of bits, or a quality, allows; tiles make no difference to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_image_codecs import tiny
from toy_image_codec import REACH, ToyImageCodec, patches, toy

from zoo.codecs.base import Tokens
from zoo.codecs.depth import encode_at_quality, encode_at_rate
from zoo.codecs.image import rate
from zoo.codecs.image.io import to_float, to_pixels
from zoo.codecs.image.rate import encode_to_bits, encode_to_quality, psnr_of
from zoo.codecs.image.tiling import Tiling, decode_tiled, encode_tiled

TILING = Tiling(9, REACH)
HEIGHT, WIDTH = 101, 90


@pytest.fixture(scope="module")
def codec() -> ToyImageCodec:
    return toy().double()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Half of it is flat, so that its cells need few codes."""
    media = patches(1, HEIGHT, WIDTH, seed=5)[0]
    media[:, :, : WIDTH // 2] = 0.4
    return to_pixels(media.numpy())


@pytest.fixture(scope="module")
def media(pixels) -> torch.Tensor:
    return torch.from_numpy(to_float(pixels))[None].double()


def code_bits(tokens: Tokens) -> float:
    """4 bits a code, and 100 for what surrounds them."""
    return 100 + 4.0 * float(tokens.depth.sum())


@pytest.mark.parametrize("bits", [2800, 3800, 5000])
@pytest.mark.parametrize("beam", [1, 4])
def test_the_bits_asked_for_are_used_and_not_exceeded(bits, beam, codec, pixels) -> None:
    tokens = encode_to_bits(codec, pixels, bits, code_bits, beam=beam, tiling=TILING)
    assert 0.98 * bits <= code_bits(tokens) <= bits
    assert torch.equal(tokens.depth, (tokens.codes >= 0).sum(1)) and tokens.depth.min() >= 1
    flat, busy = tokens.depth[..., :10].float().mean(), tokens.depth[..., 12:].float().mean()
    assert busy > flat


def test_tiles_give_what_the_whole_picture_gives_at_the_same_rate(codec, pixels, media) -> None:
    wanted = encode_at_rate(codec, media, bpp=0.5)
    bits = code_bits(wanted)
    found = encode_to_bits(codec, pixels, bits, code_bits, tiling=TILING)
    assert code_bits(found) <= bits
    assert (found.codes == wanted.codes).float().mean() > 0.98  # a rate that lies up to a hundredth below


@pytest.mark.parametrize("kept", [0, 1 << 14])
def test_what_is_remembered_changes_nothing(kept, codec, pixels, monkeypatch) -> None:
    wanted = encode_to_bits(codec, pixels, 4000, code_bits, tiling=TILING)
    monkeypatch.setattr(rate, "KEPT", kept)
    found = encode_to_bits(codec, pixels, 4000, code_bits, tiling=TILING)
    assert torch.equal(found.codes, wanted.codes)


def test_more_bits_than_all_codes_take_give_all_codes_that_help(codec, pixels) -> None:
    found = encode_to_bits(codec, pixels, 1e6, code_bits)
    assert (
        psnr_of(decode_tiled(codec, found), pixels)
        > psnr_of(decode_tiled(codec, encode_tiled(codec, pixels, 3)), pixels) - 0.1
    )
    assert found.depth.max() == 4


def test_too_few_bits_are_refused_with_the_fewest(codec, pixels) -> None:
    cells = 26 * 23
    with pytest.raises(ValueError, match=f"takes {100 + 4 * cells}, which is 0.2741 bits per pixel; ask for that"):
        encode_to_bits(codec, pixels, 4 * cells, code_bits)
    exact = encode_to_bits(codec, pixels, 100 + 4 * cells, code_bits)
    assert (exact.depth == 1).all()


def test_a_quality_is_reached_with_few_bits(codec, pixels, media) -> None:
    most = encode_to_bits(codec, pixels, 1e6, code_bits)
    best = psnr_of(decode_tiled(codec, most), pixels)
    found = encode_to_quality(codec, pixels, best - 1.5, tiling=TILING)
    assert psnr_of(decode_tiled(codec, found), pixels) >= best - 1.5
    assert code_bits(found) < 0.8 * code_bits(most)
    wanted = encode_at_quality(codec, media, best - 1.5)
    assert code_bits(found) == pytest.approx(code_bits(wanted), rel=0.03)
    highest = encode_to_quality(codec, pixels, 99)
    assert psnr_of(decode_tiled(codec, highest), pixels) == pytest.approx(best, abs=0.1)


def test_no_more_codebooks_are_used_than_asked_for(codec, pixels) -> None:
    found = encode_to_bits(codec, pixels, 1e6, code_bits, codebooks=2)
    assert found.codes.shape[1] == 2 and found.depth.max() == 2


def test_codecs_without_levels_are_refused(pixels) -> None:
    for codec in (tiny("vqgan", "sphere"), tiny("titok", "pixels")):
        with pytest.raises(ValueError, match="no residual quantizer|no cells that could have different numbers"):
            encode_to_bits(codec, pixels, 1e5, code_bits)


def test_tokens_decode_as_any_others(codec, pixels) -> None:
    found = encode_to_bits(codec, pixels, 4000, code_bits)
    whole = to_pixels(codec.decode(found)[0].numpy())
    assert np.array_equal(decode_tiled(codec, found), whole)
    assert not np.array_equal(decode_tiled(codec, replace(found, codes=found.codes.clamp(min=0), depth=None)), whole)


def test_the_signal_to_noise_ratio_is_that_of_the_definition() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    error = np.square(a / 255 - b / 255).mean()
    assert psnr_of(a, b) == pytest.approx(-10 * np.log10(error))
    assert psnr_of(a, b.astype(np.uint16) * 257) == pytest.approx(-10 * np.log10(error))
    assert psnr_of(a, a) == float("inf")


def test_files_that_are_far_from_what_was_counted_still_take_the_bits_asked_for(codec, pixels) -> None:
    measured = []

    def squeezed(tokens: Tokens) -> float:
        """Coders that learn: the more codes there are, the fewer bits each takes."""
        measured.append(60 + 1.2 * float(tokens.depth.sum()) ** 0.9)
        return measured[-1]

    for bits in (500, 600, 800):
        measured.clear()
        assert 0.99 * bits <= squeezed(encode_to_bits(codec, pixels, bits, squeezed)) <= bits
        assert len(measured) <= 9


def test_a_rate_between_two_steps_of_the_file_takes_the_lower(codec, pixels) -> None:
    def stepped(tokens: Tokens) -> float:
        return 1000 * (1 + float(tokens.depth.sum()) // 1000)

    found = encode_to_bits(codec, pixels, 1999, stepped)
    assert stepped(found) == 1000 and float(found.depth.sum()) > 0.9 * 1000
