"""The picture of a photograph's reconstructions shows what it is given."""

import numpy as np
import pytest
from PIL import Image

from zoo.photo_picture import Column, draw_columns, mosaic


def test_the_mosaic_of_a_cell_has_its_codes_line_by_line_and_holes_where_there_are_none():
    codes = np.array([[[0, 3]], [[4, -1]], [[2, -1]]])  # three codebooks, two cells side by side
    expected = [[0, 1, 3 / 4, np.nan], [1, np.nan, np.nan, np.nan]]  # of 5, 5 and 3 codes; a mosaic of 2 x 2
    np.testing.assert_array_equal(mosaic(codes, [5, 5, 3]), expected)


def test_fewer_codes_than_the_codec_has_codebooks_leave_the_mosaic_as_it_is():
    codes = np.array([[[1, 0]]])
    assert mosaic(codes, [2] * 9).shape == (3, 6)
    assert np.isfinite(mosaic(codes, [2] * 9)).sum() == 2


@pytest.mark.parametrize("size", [(64, 64), (40, 100)])
def test_original_and_reconstructions_are_as_large_as_their_share_of_the_page(tmp_path, size):
    red, green, blue = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    plain = {colour: np.full((3, *size), np.array(colour)[:, None, None], np.float32) for colour in (red, green, blue)}
    cells = -(-size[0] // 16), -(-size[1] // 16)
    codes = np.arange(2 * cells[0] * cells[1]).reshape(2, *cells) % 4
    columns = [Column("title", "caption", plain[colour], codes) for colour in (green, blue)]
    draw_columns(plain[red], columns, [4, 4], 16, "a title", tmp_path / "photo.png")
    shown = np.asarray(Image.open(tmp_path / "photo.png").convert("RGB"))
    for colour in (red, green, blue):
        rows, across = np.nonzero((shown == np.array(colour) * 255).all(axis=2))
        assert (np.ptp(across) + 1) / (np.ptp(rows) + 1) == pytest.approx(size[1] / size[0], rel=0.02)
        assert np.ptp(across) > shown.shape[1] / 4
