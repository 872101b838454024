"""Codes for each cell of a picture: at the bits per pixel or the quality asked for, decoded as cells of fewer codes."""

from __future__ import annotations

import pytest
import torch
from small_image_codecs import TINY, pictures, tiny
from torch import Tensor
from truncation import assert_depth_is_truncation, is_residual

from zoo.codecs.depth import encode_at_quality, encode_at_rate, map_bits
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.variable import VariableCodec, VariableConfig


@pytest.fixture(scope="module")
def variable() -> ImageCodec:
    """Its network adds nothing to the transform, so that pictures are as near as latents are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        codec = VariableCodec(VariableConfig(**TINY["variable"]["plain"])).train()
        for seed in range(3):
            codec(pictures(4, 128, 128, seed))
    return codec.eval()


@pytest.fixture(params=[(name, variant) for name, variants in TINY.items() for variant in variants], ids="-".join)
def codec(request) -> ImageCodec:
    return tiny(*request.param)


def spent(codec: ImageCodec, depth: Tensor) -> float:
    """Bits of the codes and of the map of depths."""
    used = depth[depth > 0]
    return sum(map(codec.info.bits, used.tolist())) + map_bits(torch.bincount(used, minlength=codec.info.codebooks + 1))


def mean_square(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).square().mean())


def test_residual_codecs_decode_depths_and_search_with_beams_and_others_say_why_not(codec):
    unit = codec.info.tile or codec.info.hop
    media = pictures(2, 3 * unit - 1, 4 * unit - 2)
    if is_residual(codec):
        assert_depth_is_truncation(codec, media)
        beam, greedy = (codec.encode(media, beam=width) for width in (8, 1))
        assert not torch.equal(beam.codes, greedy.codes)
    else:
        with pytest.raises(ValueError, match="is no residual quantizer: .* use beam=1"):
            codec.encode(media, beam=8)
        with pytest.raises(ValueError, match="is no residual quantizer"):
            encode_at_rate(codec, media, bpp=1.0)


def test_tokens_with_depth_decode_as_cells_of_fewer_codes(variable):
    assert_depth_is_truncation(variable, pictures(2, 75, 90))


@pytest.mark.parametrize("beam", [1, 4])
def test_bits_are_counted_for_the_pixels_of_each_picture(variable, beam):
    media, sizes = pictures(2, 150, 200), torch.tensor([[150, 200], [97, 131]])
    tokens = encode_at_rate(variable, media, bpp=0.1, lengths=sizes, beam=beam)
    for row, (height, width) in enumerate(sizes.tolist()):
        bpp = spent(variable, tokens.depth[row]) / (height * width)
        assert 0.1 - 1.5 * variable.info.bits() / (height * width) <= bpp <= 0.1
        assert len(tokens.depth[row].unique()) > 2
        alone = encode_at_rate(variable, media[row : row + 1, :, :height, :width], bpp=0.1, beam=beam)
        down, across = alone.depth.shape[1:]
        assert (alone.depth[0] == tokens.depth[row, :down, :across]).float().mean() > 0.95  # but for rounding
        assert (tokens.depth[row, down:] == 0).all() and (tokens.depth[row, :, across:] == 0).all()


def test_a_beam_and_depths_bring_pictures_nearer_at_the_same_rate(variable):
    media = pictures(1, 128, 128, seed=9)
    media[..., 64:] = 0.5 + 0.1 * (media[..., 64:] - 0.5)  # one half needs fewer codes
    bpp = variable.info.bpp(2)
    errors = [mean_square(variable.decode(variable.encode(media, 2)), media)]
    errors += [mean_square(variable.decode(encode_at_rate(variable, media, bpp, beam=beam)), media) for beam in (1, 8)]
    assert errors[0] > 1.02 * errors[1] and errors[1] > errors[2]


def test_a_quality_is_reached_at_the_lowest_price(variable):
    media, sizes = pictures(2, 64, 96), torch.tensor([[64, 96], [50, 70]])
    best = encode_at_quality(variable, media, psnr=99, lengths=sizes)
    worst = encode_at_rate(variable, media, bpp=0.06, lengths=sizes)

    def quality(tokens, row: int) -> float:
        height, width = sizes[row].tolist()
        found = variable.decode(tokens)[row, :, :height, :width]
        return -10 * torch.tensor(mean_square(found, media[row, :, :height, :width])).log10().item()

    for row in range(2):
        wanted = (quality(best, row) + quality(worst, row)) / 2
        tokens = encode_at_quality(variable, media, wanted, lengths=sizes)
        assert wanted <= quality(tokens, row) < wanted + 0.3  # a step of one cell of 24 takes it too far
        assert spent(variable, tokens.depth[row]) < spent(variable, best.depth[row])
