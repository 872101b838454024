"""Codes for each frame by a Lagrangian: the best there is for its bits, at the rate asked for, whole or in chunks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import log2

import pytest
import torch
from small_codecs import TINY, noise, tiny
from torch import Tensor
from truncation import assert_depth_is_truncation

import zoo
from zoo.codecs.base import AudioCodec, Tokens
from zoo.codecs.depth import Curve, at_price, convex_hull, encode_at_rate, map_bits, price_of_stream, with_depth

CASES = [(name, variant) for name, variants in TINY.items() for variant in variants]
CASES += [(name, "") for name in zoo.list_models() if name.partition(".")[0] in TINY]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(filter(None, case)))
def codec(request) -> AudioCodec:
    name, variant = request.param
    return tiny(name, variant) if variant else zoo.load(name)


@pytest.fixture(scope="module")
def media(codec) -> Tensor:
    return noise(2, codec.info.channels, 60 * codec.info.hop + 3)


def middle_rate(codec: AudioCodec) -> float:
    """In kbps: that of half the codebooks, and of depths that cost as much as they can."""
    return codec.info.kbps(codec.info.codebooks // 2) + codec.info.frame_rate * log2(codec.info.codebooks + 1) / 1000


def spent(codec: AudioCodec, tokens: Tokens, row: int, samples: int) -> float:
    """Kilobits a second of a row's codes and of its map of depths."""
    used = tokens.depth[row][tokens.depth[row] > 0]
    bits = sum(codec.info.bits(n) for n in used.tolist())
    bits += map_bits(torch.bincount(used, minlength=codec.info.codebooks + 1))
    return bits / (samples / codec.info.sample_rate) / 1000


def latent_error(codec: AudioCodec, media: Tensor, tokens: Tokens) -> float:
    found = []
    codec.encode(media, search=lambda z, _: found.append(z) or codec.quantizer.encode(z))
    return float((found[0] - codec.quantizer.decode(tokens.codes)).square().sum())


def random_cells(cells: int, levels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Errors that mostly fall with the level, and the bits of levels of different size."""
    source = torch.Generator().manual_seed(seed)
    errors = (torch.rand(cells, levels + 1, generator=source) - 0.2).flip(1).cumsum(1).flip(1) + 5
    return errors, torch.tensor([0, 10, 17, 18, 30, 40, 43])[: levels + 1].expand(cells, -1)


@pytest.mark.parametrize("least", [0, 1])
def test_each_cell_has_the_depth_of_least_error_plus_price_times_bits(least):
    errors, bits = random_cells(500, 6)
    hull = convex_hull(errors, bits, least)
    for price in (1e-4, 0.003, 0.01, 0.03, 0.1, 1.0):
        cost = (errors.double() + price * bits)[:, least:]
        assert torch.equal(hull.depth(price), cost.argmin(dim=1) + least)


def test_of_equally_good_depths_the_deepest_is_taken():
    hull = convex_hull(torch.tensor([[9.0, 6.0, 4.0, 2.0, 2.0]]), torch.tensor([[0, 1, 2, 3, 4]]), 1)
    assert hull.depths.tolist() == [[1, 3, 3, 3]] and hull.prices[0, 1:].tolist() == [2, 0, 0]
    assert hull.depth(2.0).tolist() == [3] and hull.depth(2.001).tolist() == [1]


def test_no_other_choice_of_as_few_bits_has_a_lower_error():
    errors, bits = random_cells(5, 4, seed=1)
    curve, hull = Curve(4), convex_hull(errors, bits, 1)
    curve.add(hull)
    choices = torch.tensor(list(product(range(1, 5), repeat=5)))
    every_error = errors.gather(1, choices.T).sum(dim=0)
    every_bits = bits.gather(1, choices.T).sum(dim=0)
    prices = curve.prices().tolist()
    assert len(prices) > 5 and prices == sorted(prices, reverse=True)
    for price in prices:
        chosen = hull.depth(price)[:, None]
        affordable = every_bits <= bits.gather(1, chosen).sum()
        assert every_error[affordable].min() >= errors.gather(1, chosen).sum() - 1e-5


def test_the_bits_of_a_map_are_those_of_counting_as_one_goes():
    values = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0)).clamp(max=2)
    counts, bits = [0.5] * 5, 0.0
    for value in values.tolist():
        bits -= log2(counts[value] / sum(counts))
        counts[value] += 1
    assert map_bits(torch.bincount(values, minlength=5)) == pytest.approx(bits)


def test_the_price_of_a_rate_is_the_lowest_that_keeps_it():
    errors, bits = random_cells(200, 6)
    curve, hull = Curve(6), convex_hull(errors, bits, 1)
    for part in range(4):  # whatever the order and the portions
        curve.add(convex_hull(errors[part::4], bits[part::4], 1))

    def rate(price: float) -> float:
        chosen = hull.depth(price)
        return (float(bits.gather(1, chosen[:, None]).sum()) + map_bits(torch.bincount(chosen, minlength=7))) / 100

    prices = curve.prices().tolist()
    for wanted in (25.0, 30.0, 40.0, 60.0):
        price = curve.price_of_rate(wanted, 100, "kbps")
        assert rate(price) <= wanted < rate(prices[prices.index(price) + 1])
    assert curve.price_of_rate(1e9, 100, "kbps") == prices[-1]
    with pytest.raises(ValueError, match=r"a rate of 5 kbps is too low: .* ask for that or more"):
        curve.price_of_rate(5, 100, "kbps")


def test_tokens_with_depth_decode_as_cells_of_fewer_codes(codec, media):
    assert_depth_is_truncation(codec, media)


@pytest.mark.parametrize("beam", [1, 3])
def test_the_rate_is_kept_and_nearly_used_up(codec, media, beam):
    wanted = middle_rate(codec)
    tokens = encode_at_rate(codec, media, kbps=wanted, beam=beam)
    for row in range(2):
        # One more step of one frame would be at most all its codes.
        gap = codec.info.bits() / (media.shape[-1] / codec.info.sample_rate) / 1000
        assert wanted - 1.5 * gap <= spent(codec, tokens, row, media.shape[-1]) <= wanted
    assert len(tokens.depth.unique()) > 1
    assert torch.equal(tokens.depth, (tokens.codes >= 0).sum(dim=1))
    assert codec.decode(tokens).shape == media.shape


def test_depths_beat_one_number_of_codebooks_everywhere_and_a_beam_beats_that(codec, media):
    half = max(1, codec.info.codebooks // 2)
    everywhere = codec.encode(media, half)
    rate = codec.info.kbps(half) + 2 * codec.info.frame_rate / 1000  # two bits a frame for the map
    chosen = encode_at_rate(codec, media, kbps=rate)
    assert latent_error(codec, media, chosen) < latent_error(codec, media, everywhere)
    searched = encode_at_rate(codec, media, kbps=rate, beam=8)
    assert latent_error(codec, media, searched) < latent_error(codec, media, chosen)


def test_each_row_has_its_own_price_and_padding_costs_nothing(codec, media):
    wanted, lengths = middle_rate(codec), torch.tensor([media.shape[-1], 31 * codec.info.hop + 1])
    media = torch.cat([media[:1], media[1:] * torch.linspace(0.1, 1, media.shape[-1])])
    tokens = encode_at_rate(codec, media, kbps=wanted, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        frames = -(-length // codec.info.hop)
        alone = encode_at_rate(codec, media[row : row + 1, :, :length], kbps=wanted)
        same = (alone.depth[0] == tokens.depth[row, :frames]).float().mean()
        assert same > 0.95  # up to the rounding of latents, which moves the price between two frames' prices
        assert (tokens.depth[row, frames:] == 0).all() and (tokens.codes[row, :, frames:] == -1).all()
    assert codec.decode(tokens).isfinite().all()


@pytest.mark.parametrize("beam", [1, 4])
def test_chunks_at_one_price_give_the_codes_of_the_whole(codec, media, beam):
    scales = codec.scale_of(media)
    prices = [
        price_of_stream(codec, media.split(size, dim=-1), 2 * middle_rate(codec), scales, beam=beam)
        for size in (media.shape[-1], 5 * codec.info.hop + 1)
    ]
    assert prices[0] == pytest.approx(prices[1], rel=1e-3)
    search = at_price(codec, prices[0], beam=beam)
    whole = with_depth(codec.encode(media, scales=scales, search=search))
    state, parts = codec.init_encoder(scales), []
    for chunk in [*media.split(7 * codec.info.hop + 2, dim=-1), media[..., :0]]:
        codes, state = codec.encode_chunk(chunk, state, final=not chunk.shape[-1], search=search)
        parts.append(codes)
    parts = torch.cat(parts, dim=-1)
    assert (parts != whole.codes).any(dim=1).float().mean() < 0.03  # ties
    total = sum(spent(codec, whole, row, media.shape[-1]) for row in range(2))
    assert total == pytest.approx(2 * middle_rate(codec), rel=0.05)


def test_chunks_may_be_searched_with_a_beam(codec, media):
    whole = codec.encode(media, beam=4)
    state, parts = codec.init_encoder(whole.scales), []
    for chunk in [*media.split(7 * codec.info.hop + 2, dim=-1), media[..., :0]]:
        codes, state = codec.encode_chunk(chunk, state, final=not chunk.shape[-1], beam=4)
        parts.append(codes)
    assert (torch.cat(parts, dim=-1) != whole.codes).any(dim=1).float().mean() < 0.03  # ties
    assert latent_error(codec, media, whole) < latent_error(codec, media, codec.encode(media))


@pytest.fixture(scope="module")
def small() -> AudioCodec:
    return tiny("spectral", "plain")


def test_frames_may_have_no_code_at_all_if_that_is_allowed(small):
    media = noise(1, 1, 60 * small.info.hop)
    tokens = encode_at_rate(small, media, kbps=0.6 * small.info.kbps(1), least=0)
    assert tokens.depth.unique().tolist()[:2] == [0, 1]
    assert small.decode(tokens).isfinite().all()
    assert (encode_at_rate(small, media, kbps=2 * small.info.kbps(1)).depth >= 1).all()


def test_no_more_codebooks_are_used_than_allowed(small):
    tokens = encode_at_rate(small, noise(1, 1, 480), kbps=99, codebooks=2, beam=2)
    assert tokens.codes.shape[1] == 2 and tokens.depth.max() == 2


def test_bits_may_be_those_of_an_entropy_coder(small):
    media = noise(1, 1, 60 * small.info.hop)
    plain = encode_at_rate(small, media, kbps=1.5 * small.info.kbps(1))
    # Codes at a fifth of their bits: at that rate all are affordable.
    cheap = encode_at_rate(small, media, kbps=1.5 * small.info.kbps(1), bits=lambda codes: (codes >= 0).sum(dim=1))
    assert cheap.depth.sum() > 1.5 * plain.depth.sum()


def test_the_first_codebooks_of_tokens_with_depth_have_a_depth_too(small):
    tokens = encode_at_rate(small, noise(1, 1, 480), kbps=middle_rate(small))
    first = tokens.first(2)
    assert torch.equal(first.depth, tokens.depth.clamp(max=2)) and first.depth.max() == 2
    assert torch.equal(small.decode(first), small.decode(replace(first, depth=None)))


def test_a_depth_that_contradicts_the_codes_is_refused(small):
    tokens = encode_at_rate(small, noise(1, 1, 480), kbps=middle_rate(small))
    with pytest.raises(ValueError, match="depth must count the codes of each cell"):
        small.decode(replace(tokens, depth=tokens.depth + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "audio needs a rate in kbps and no other, got bpp=None, kbps=None"),
        (dict(bpp=1.0), "audio needs a rate in kbps and no other, got bpp=1.0"),
        (dict(bpp=1.0, kbps=1.0), "no other, got bpp=1.0, kbps=1.0"),
        (dict(kbps=0.001), "a rate of 0.001 kbps is too low"),
        (dict(kbps=9.0, least=2), "least must be 0 or 1"),
        (dict(kbps=9.0, beam=0), "beam must be 1"),
        (dict(kbps=9.0, codebooks=4), r"1\.\.3, got 4"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value) or "no rate",
)
def test_rates_that_cannot_be_are_refused(small, options, message):
    with pytest.raises(ValueError, match=message):
        encode_at_rate(small, noise(1, 1, 480), **options)


def test_a_recording_without_samples_has_no_price(small):
    with pytest.raises(ValueError, match="without samples"):
        price_of_stream(small, [], 1.0)


def test_a_codec_without_a_quantizer_is_refused(small):
    class Plain(type(small)):
        """Has the network and lacks the quantizer."""

    plain = Plain(small.config)
    del plain.quantizer
    plain_info = small.info
    Plain.info = property(lambda self: plain_info)
    with pytest.raises(ValueError, match="Plain has no residual quantizer: use beam=1"):
        plain.encode(noise(1, 1, 480), beam=2)
    with pytest.raises(ValueError, match="Plain has no residual quantizer"):
        encode_at_rate(plain, noise(1, 1, 480), kbps=3.0)
