"""The photograph's part of the demo: what it writes is what it says."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_image_codecs import TINY, pictures, tiny

import zoo
from zoo import demo_image
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_image, write_image
from zoo.container import TokenReader


@pytest.fixture(scope="module")
def codec():
    """24 codebooks of 32 codes, fitted on pictures: cells of .02 to .47 bits per pixel."""
    torch.manual_seed(0)
    codec = zoo.create("variable", **TINY["variable"]["plain"] | dict(codebooks=24, codebook_size=32)).train()
    for seed in range(3):
        codec(pictures(4, 256, 256, seed))
    return codec.eval()


def cells_of(report):
    return [[cell.replace(",", "") for cell in row] for row in report.rows]


def test_the_table_is_what_the_files_say(codec, tmp_path):
    write_image(tmp_path / "mine.png", pictures(1, 200, 250)[0].clamp(0, 1).numpy())
    folder = tmp_path / "new" / "demo"
    original, *rows = cells_of(demo_image.run(tmp_path / "mine.png", codec, folder))
    assert int(original[1]) == (folder / "original.png").stat().st_size
    assert [row[0] for row in rows] == ["0.17", "0.25", "0.4"]
    wanted, noise = read_image(tmp_path / "mine.png"), []
    for (asked, size, bpp, psnr, ms_ssim, codes, *_), name in zip(rows, ("0.17", "0.25", "0.40"), strict=True):
        tokens = folder / f"{name}-bpp.ztok"
        assert int(size) == tokens.stat().st_size
        assert 0.9 * float(asked) < float(bpp) <= float(asked)
        assert float(bpp) == pytest.approx(8 * int(size) / (200 * 250), abs=5e-4)
        noise.append(np.square(read_image(tokens.with_suffix(".png")) - wanted).mean())
        assert float(psnr) == pytest.approx(-10 * np.log10(noise[-1]), abs=0.006)
        assert 0 < float(ms_ssim) < 1
        with TokenReader(tokens) as reader:
            assert float(codes) == pytest.approx(float(reader.tokens().depth.float().mean()), abs=0.051)
    assert noise[0] > noise[1] > noise[2]
    width, height = Image.open(folder / "photo.png").size
    assert width > 1500 and height > 1500


def test_by_itself_it_takes_a_photograph_that_only_judges():
    assert demo_image.bundled().shape == (512, 512, 3)


def test_a_large_photograph_of_16_bits_is_brought_to_the_size_that_can_be_shown():
    grey = np.broadcast_to(np.linspace(0, 65535, 3000, dtype=np.uint16)[None, :, None], (1500, 3000, 3))
    shown = demo_image.fitting(grey)
    assert (shown.shape, shown.dtype) == ((512, 1024, 3), np.uint8)
    assert shown[0, 0, 0] == 0 and shown[0, -1, 0] == 255


def test_a_codec_whose_cells_have_one_code_each_is_refused(tmp_path):
    write_image(tmp_path / "mine.png", pictures(1, 32, 32)[0].clamp(0, 1).numpy())
    with pytest.raises(UserError, match="no residual quantizer"):
        demo_image.run(tmp_path / "mine.png", tiny("vqgan", "learned"), tmp_path / "demo")
    assert not (tmp_path / "demo" / "photo.png").exists()


def test_a_missing_photograph_leaves_no_folder(codec, tmp_path):
    with pytest.raises(UserError, match="no.png"):
        demo_image.run(tmp_path / "no.png", codec, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
