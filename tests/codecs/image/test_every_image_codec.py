"""What holds for every image codec: each registered one as a small random one, and each bundled checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_image_codecs import TINY, pictures, tiny
from ties import assert_same_codes, close
from torch import Tensor

import zoo
from zoo import checkpoint
from zoo.codecs.image.base import ImageCodec
from zoo.registry import ARCHITECTURES, architecture_class

CASES = [(name, variant) for name, variants in TINY.items() for variant in variants]
CASES += [(name, "") for name in zoo.list_models() if name.partition(".")[0] in TINY]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(filter(None, case)))
def codec(request) -> ImageCodec:
    name, variant = request.param
    return tiny(name, variant) if variant else zoo.load(name)


@pytest.fixture(scope="module")
def unit(codec) -> int:
    """Pixels a side of the smallest picture that is not padded."""
    return codec.info.tile or codec.info.hop


@pytest.fixture(scope="module")
def media(codec) -> Tensor:
    """Three pictures of 7 x 10 cells (2 x 3 tiles), of which the last row and column are partial."""
    info = codec.info
    down, across = (2, 3) if info.tile else (7, 10)
    side = info.tile or info.hop
    return pictures(3, down * side - 1, across * side - 2)


def test_every_architecture_is_tested():
    assert set(TINY) == {name for name in ARCHITECTURES if issubclass(architecture_class(name), ImageCodec)}


def test_the_codes_of_these_tests_are_varied(codec, media):
    # 210 cells that all got one code would pass most of what follows.
    codes = codec.encode(media).codes
    varied = [min(8, size // 2 + 1) for size in codec.info.codebook_sizes]
    assert all(len(codes[:, level].unique()) >= least for level, least in enumerate(varied))


def test_the_pixels_of_these_tests_are_varied(codec, media):
    # An output that hardly depends on the input would pass all that follows, too.
    found = codec.decode(codec.encode(media))
    other = codec.decode(codec.encode(media.flip(3)))
    spread = found.flatten(1).std(dim=1).mean()
    assert (found - other).square().mean().sqrt() > 0.3 * spread > 0.005


def test_a_single_wrong_code_is_told_from_a_tie(codec, media):
    codes = codec.encode(media).codes
    for level, size in enumerate(codec.info.codebook_sizes):
        wrong = codes.clone()
        cells = wrong[1, level].view(-1)
        cells[30] = (cells[30] + 1) % size
        with pytest.raises(AssertionError, match=f"row 1 cell 30 level {level}: no tie"):
            assert_same_codes(codec, media, wrong, codes)


def test_codes_do_not_depend_on_the_batch(codec, media):
    together = codec.encode(media)
    for row in range(len(media)):
        alone = codec.encode(media[row : row + 1])
        assert_same_codes(codec, media[row : row + 1], together.codes[row : row + 1], alone.codes)


def test_codes_and_pixels_do_not_depend_on_padding(codec, media, unit):
    lengths = torch.tensor([[*media.shape[2:]], [unit, unit + 1], [unit + 2, 1]])
    padded = media.clone()
    for row, (height, width) in enumerate(lengths.tolist()):
        padded[row, :, height:] = padded[row, :, :, width:] = float("nan")  # what lies behind is never looked at
    tokens = codec.encode(padded, lengths=lengths)
    decoded = codec.decode(tokens)
    for row, (height, width) in enumerate(lengths.tolist()):
        own = media[row : row + 1, :, :height, :width]
        grid = codec.grid(height, width)
        codes = tokens.codes[(slice(row, row + 1), slice(None), *(slice(n) for n in grid))]
        assert_same_codes(codec, own, codes, codec.encode(own).codes)
        assert (tokens.codes[row] >= 0).sum() == codes.numel()
        alone = replace(tokens, codes=codes, lengths=lengths[row : row + 1])
        close(decoded[row : row + 1, :, :height, :width], codec.decode(alone))
        assert (decoded[row, :, height:] == 0).all() and (decoded[row, :, :, width:] == 0).all()


def test_codes_are_the_same_in_train_mode_and_encoding_learns_nothing(codec, media):
    training = copy.deepcopy(codec).train()
    assert_same_codes(codec, media, training.encode(media).codes, codec.encode(media).codes)
    before = codec.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.state_dict().items())


def test_codes_do_not_depend_on_the_number_of_threads(codec, media):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(media)
        torch.set_num_threads(3)
        assert_same_codes(codec, media, one.codes, codec.encode(media).codes)
    finally:
        torch.set_num_threads(threads)


def test_the_first_codebooks_are_a_prefix(codec, media):
    tokens = codec.encode(media)
    for n in range(1, codec.info.codebooks + 1):
        fewer = codec.encode(media, codebooks=n)
        assert fewer.codes.shape[1] == n
        assert_same_codes(codec, media, fewer.codes, tokens.codes[:, :n])
        close(codec.decode(fewer), codec.decode(tokens.first(n)))


def test_more_codebooks_change_the_reconstruction(codec, media):
    tokens = codec.encode(media)
    rates = [codec.decode(tokens.first(n)) for n in range(1, codec.info.codebooks + 1)]
    assert all(not torch.allclose(a, b) for a, b in zip(rates, rates[1:], strict=False))


def test_a_picture_of_any_size_comes_back_with_its_size_from_the_stated_grid(codec, unit):
    for height, width in ((1, 1), (unit, unit), (unit + 1, 2 * unit - 1), (1, 2 * unit + 1), (3 * unit, 2)):
        tokens = codec.encode(pictures(1, height, width))
        assert tokens.codes.shape == (1, codec.info.codebooks, *codec.grid(height, width))
        media = codec.decode(tokens)
        assert media.shape == (1, 3, height, width)
        assert 0 <= media.min() <= media.max() <= 1


def test_plain_pictures_stay_finite(codec, unit):
    for value in (0, 0.5, 1):
        media = codec.decode(codec.encode(torch.full((1, 3, unit, 2 * unit), float(value))))
        assert media.isfinite().all()


def test_the_stated_bits_are_those_of_the_codes_of_a_picture(codec, unit):
    info = codec.info
    tokens = codec.encode(pictures(1, 3 * unit, 2 * unit))
    for n in range(1, info.codebooks + 1):
        bits = sum(
            tokens.codes[:, level].numel() * (size - 1).bit_length()
            for level, size in enumerate(info.codebook_sizes[:n])
        )
        assert bits / (3 * unit * 2 * unit) == pytest.approx(info.bpp(n), rel=1e-9)


def test_the_stated_facts_are_true(codec, media):
    info = codec.info
    assert (info.media, info.sample_rate, info.channels) == ("image", 0, 3)
    assert info.parameters == sum(p.numel() for p in codec.parameters() if p.requires_grad)
    assert info.codebook_sizes == tuple(codec.quantizer.codebook_sizes)
    assert info.tile % info.hop == 0 and bool(info.tile) == bool(info.tile_codes)
    codes = codec.encode(media).codes
    assert all(codes[:, level].max() < size for level, size in enumerate(info.codebook_sizes))


def test_a_saved_codec_comes_back_with_the_same_codes_and_pixels(codec, media, tmp_path):
    checkpoint.save(codec, tmp_path)
    again = checkpoint.load_directory(tmp_path)
    assert again.config == codec.config
    tokens = codec.encode(media)
    assert_same_codes(codec, media, again.encode(media).codes, tokens.codes)
    close(again.decode(replace(tokens, weights="")), codec.decode(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(codec, unit, dtype):
    media = pictures(2, 4 * unit, 3 * unit) if not codec.info.tile else pictures(2, unit, unit)
    half = copy.deepcopy(codec).to(dtype)
    with torch.no_grad():
        wanted = codec(media, quantize=False).media
        found = half(media.to(dtype), quantize=False).media.float()
        assert half(media.to(dtype)).media.isfinite().all()
    tokens = half.encode(media.to(dtype))
    assert half.decode(tokens).isfinite().all()
    # bfloat16 has 8 bits of mantissa: an error of 2^-9 per operation, which some tens of layers add up
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_gradients_reach_every_parameter(codec, unit):
    media = pictures(2, 4 * unit, 3 * unit) if not codec.info.tile else pictures(2, unit, unit)
    training = copy.deepcopy(codec).train().requires_grad_()
    output = training(media)
    (output.media.square().mean() + output.loss).backward()
    idle = [name for name, p in training.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_training_and_encoding_see_the_same_pictures(codec, unit):
    """`forward` of whole pictures in eval mode is `decode(encode)`, but for the clamp to [0, 1]."""
    media = pictures(2, 4 * unit, 3 * unit) if not codec.info.tile else pictures(2, unit, unit)
    with torch.no_grad():
        close(codec(media).media.clamp(0, 1), codec.decode(codec.encode(media)))


def test_rows_may_use_different_numbers_of_codebooks(codec, unit):
    side = unit if codec.info.tile else 4 * unit
    media, numbers = pictures(3, side, side), [1, (1 + codec.info.codebooks) // 2, codec.info.codebooks]
    with torch.no_grad():
        mixed = codec(media, codebooks=torch.tensor(numbers)).media
        for row, n in enumerate(numbers):
            close(mixed[row : row + 1], codec(media[row : row + 1], codebooks=n).media)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda codec: codec.encode(torch.zeros(3, 16, 16)), "expected pictures of shape"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 16, 16)), "expected pictures of shape"),
        (lambda codec: codec.encode(torch.full((1, 3, 16, 16), float("nan"))), "NaN or infinite"),
        (lambda codec: codec.encode(torch.zeros(1, 3, 16, 16), codebooks=0), "codebooks must lie in 1.."),
        (
            lambda codec: codec.encode(torch.zeros(1, 3, 8, 8), lengths=torch.tensor([[9, 8]])),
            "lengths must be 1 pairs",
        ),
        (
            lambda codec: codec.encode(torch.zeros(1, 3, 8, 8), lengths=torch.tensor([[0, 8]])),
            "lengths must be 1 pairs",
        ),
    ],
    ids=["no batch", "grey", "nan", "no codebooks", "longer than it is", "empty"],
)
def test_wrong_input_is_named(codec, call, message):
    with pytest.raises(ValueError, match=message):
        call(codec)


def test_damaged_tokens_are_named(codec, media):
    tokens = codec.encode(media)
    with pytest.raises(ValueError, match=r"codes must lie in -1\.\."):
        codec.decode(replace(tokens, codes=tokens.codes + max(codec.info.codebook_sizes)))
    with pytest.raises(ValueError, match="has codes of shape"):
        codec.decode(replace(tokens, codes=tokens.codes[..., :-1]))
    with pytest.raises(ValueError, match="expected codes of"):
        codec.decode(replace(tokens, codes=tokens.codes[0]))
