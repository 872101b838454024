"""Tiles give the codes and pixels of the whole picture where the network sees no farther than the margin, and where it
does, no seams; in memory that the picture's size hardly changes.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_image_codecs import tiny
from toy_image_codec import REACH, ToyImageCodec, patches, toy

from zoo.codecs.base import Tokens
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import to_float, to_pixels
from zoo.codecs.image.tiling import Tiling, decode_tiled, encode_tiled

SIZE = 197, 230  # pixels: the last cells are partial


@pytest.fixture(scope="module")
def codec() -> ToyImageCodec:
    """Rounds so finely that sums of another order make no other code."""
    return toy().double()


@pytest.fixture(scope="module")
def far() -> ToyImageCodec:
    """Looks at the whole picture at once."""
    return toy(norm=True)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return to_pixels(patches(1, *SIZE, seed=99)[0].numpy())


def whole(codec: ImageCodec, pixels: np.ndarray) -> tuple[Tokens, np.ndarray]:
    """What the codec makes of the picture in one piece."""
    media = torch.from_numpy(to_float(pixels))[None].to(next(codec.parameters()).dtype)
    tokens = codec.encode(media)
    return tokens, to_pixels(codec.decode(tokens)[0].numpy())


@pytest.mark.parametrize("tiling", [Tiling(9, REACH), Tiling(16, REACH + 4, 4), Tiling(1, REACH), Tiling(24, 12, 6)])
def test_with_margin_enough_tiles_give_the_codes_and_pixels_of_the_whole(tiling, codec, pixels) -> None:
    tokens, picture = whole(codec, pixels)
    found = encode_tiled(codec, pixels, tiling=tiling)
    assert torch.equal(found.codes, tokens.codes) and torch.equal(found.lengths, tokens.lengths)
    difference = np.abs(decode_tiled(codec, tokens, tiling).astype(int) - picture)
    # Fading adds two parts of a value, and a sum at the middle between two steps of 256 may round to either.
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_with_less_margin_they_do_not(codec, pixels) -> None:
    tokens, picture = whole(codec, pixels)
    tiling = Tiling(9, REACH - 1)
    assert not torch.equal(encode_tiled(codec, pixels, tiling=tiling).codes, tokens.codes)
    assert np.abs(decode_tiled(codec, tokens, tiling).astype(int) - picture).max() > 5


@pytest.mark.parametrize("name", ["codec", "far"])
def test_a_picture_no_larger_than_a_tile_is_coded_as_by_the_codec_itself(name, request) -> None:
    codec = request.getfixturevalue(name)
    pixels = to_pixels(patches(1, 570, 31)[0].numpy())
    tokens, picture = whole(codec, pixels)
    found = encode_tiled(codec, pixels)
    assert torch.equal(found.codes, tokens.codes)
    assert np.array_equal(decode_tiled(codec, found), picture)


@pytest.mark.parametrize("seed", [7, 8])
def test_no_seams_are_seen_where_the_network_looks_farther_than_the_margin(seed, far) -> None:
    pixels = to_pixels(patches(1, 480, 480, seed=seed)[0].numpy())
    tokens, picture = whole(far, pixels)

    def borders(tiling: Tiling) -> list[int]:
        return [4 * span.start for span in tiling.spans(120)[1:]]

    def error(tiling: Tiling) -> float:
        """Squared error within two pixels of borders of tiles over that elsewhere, as parts of the whole picture's."""
        found = decode_tiled(far, encode_tiled(far, pixels, tiling=tiling), tiling)
        near = np.isin(np.arange(480), [end + i for end in borders(tiling) for i in (-2, -1, 0, 1)])
        near = near[:, None] | near
        tiled, untiled = ((media / 255.0 - pixels / 255.0) ** 2 for media in (found, picture))
        return tiled[near].mean() / untiled[near].mean() / (tiled[~near].mean() / untiled[~near].mean())

    def step(tiling: Tiling) -> float:
        """How much what tiles change in a reconstruction changes at borders of tiles, over that at other cells."""
        change = decode_tiled(far, tokens, tiling).astype(float) - picture
        steps = np.abs(np.diff(change, axis=1)).mean(axis=(0, 2))[3::4]
        at = np.array(borders(tiling)) // 4 - 1
        return steps[at].mean() / np.delete(steps, at).mean()

    assert error(Tiling(24, 6, 4)) < 1.01 and error(Tiling(24)) > 1.15
    assert step(Tiling(24, 6, 4)) < 1.01 and step(Tiling(24, 6)) > 1.5 and step(Tiling(24)) > 5


def test_a_tokenizer_of_fixed_size_takes_its_own_tiles(pixels) -> None:
    codec = tiny("titok", "pixels")
    tokens, picture = whole(codec, pixels[:70, :50])
    found = encode_tiled(codec, pixels[:70, :50])
    assert (found.codes == tokens.codes).float().mean() > 0.98  # the rest may be ties
    assert np.abs(decode_tiled(codec, tokens).astype(int) - picture).max() <= 1


def test_fewer_codebooks_and_a_beam_reach_every_tile(codec, pixels) -> None:
    tiling = Tiling(9, REACH)
    media = torch.from_numpy(to_float(pixels))[None].double()
    fewer = encode_tiled(codec, pixels, codebooks=2, tiling=tiling)
    assert torch.equal(fewer.codes, codec.encode(media, 2).codes)
    beam = encode_tiled(codec, pixels, beam=4, tiling=tiling)
    assert torch.equal(beam.codes, codec.encode(media, beam=4).codes)
    assert not torch.equal(beam.codes, codec.encode(media).codes)


def test_tokens_say_what_made_them(pixels) -> None:
    codec = ToyImageCodec().eval()
    codec.name, codec.weights = "toy.test", "ab" * 32
    tokens = encode_tiled(codec, pixels)
    assert (tokens.codec, tokens.weights, tokens.lengths.tolist()) == ("toy.test", "ab" * 32, [list(SIZE)])


def test_grey_of_sixteen_bits_is_not_rounded_to_eight() -> None:
    codec = ToyImageCodec().eval()
    seen = []
    codec.fine.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encode_tiled(codec, np.full((4, 4, 3), 12345, np.uint16))
    assert seen[0].unique().tolist() == pytest.approx([12345 / 65535 - 0.5], abs=1e-7)


def test_progress_counts_tiles(codec, pixels) -> None:
    reports: list[tuple[float, float | None]] = []
    tiling = Tiling(20, 1)  # 50 x 58 cells: 3 x 3 tiles
    tokens = encode_tiled(codec, pixels, tiling=tiling, progress=lambda *numbers: reports.append(numbers))
    assert reports == [(index, 9) for index in range(1, 10)]
    decode_tiled(codec, tokens, tiling, progress=lambda *numbers: reports.append(numbers))
    assert reports[9:] == reports[:9]


@pytest.mark.parametrize("cells", [1, 5, 44, 45, 100, 2049])
@pytest.mark.parametrize("tiling", [Tiling(32, 6, 2), Tiling(1), Tiling(8, 18, 2)])
def test_tiles_are_bounded_and_their_contributions_add_up_to_one(cells, tiling) -> None:
    unit, size = 4, 4 * cells - 3
    total, owned = np.zeros(size), []
    for span in tiling.spans(cells):
        assert span.last - span.first <= tiling.core + 2 * tiling.margin
        assert span.first <= span.start < span.stop <= span.last
        owned += range(span.start, span.stop)
        total[span.shown(unit, size)] += span.weights(unit, size)
    assert owned == list(range(cells))
    assert np.abs(total - 1).max() < 1e-6


@pytest.mark.parametrize("numbers", [(0,), (8, 1, 2), (8, -1), (8, 4, 3)])
def test_tiles_that_cannot_be_are_refused(numbers) -> None:
    with pytest.raises(ValueError, match="tiles need 0 <= blend <= margin"):
        Tiling(*numbers)


def test_what_the_codec_refuses_is_refused(codec, pixels) -> None:
    with pytest.raises(ValueError, match="codebooks must lie in 1..4, got 5"):
        encode_tiled(codec, pixels, codebooks=5)
    tokens = encode_tiled(codec, pixels)
    for wrong in (
        replace(tokens, codes=tokens.codes[..., :-1]),
        replace(tokens, codes=tokens.codes.repeat(2, 1, 1, 1), lengths=tokens.lengths.repeat(2, 1)),
        replace(tokens, codes=tokens.codes + 16),
    ):
        with pytest.raises(ValueError, match="has codes of shape|tokens of one picture|codes must lie in -1..15"):
            decode_tiled(codec, wrong)


@pytest.mark.slow
def test_a_picture_of_8192_pixels_a_side_takes_less_than_3_gigabytes(tmp_path) -> None:
    script = """
import sys
import numpy as np
from PIL import Image
from toy_image_codec import toy
from zoo.codecs.image.io import image_writer, read_pixels
from zoo.codecs.image.tiling import decode_tiled, encode_tiled
folder, codec = sys.argv[1], toy()
Image.effect_noise((8192, 8192), 60).convert("RGB").save(folder + "/a.png", compress_level=1)
tokens = encode_tiled(codec, read_pixels(folder + "/a.png"))
with image_writer(folder + "/b.png") as write:
    write(decode_tiled(codec, tokens))
assert Image.open(folder + "/b.png").size == (8192, 8192)
# Not getrusage: its peak starts from that of the process which called this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) * 1024 < 3e9
