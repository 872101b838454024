"""The picture of the layouts shows where each code stands."""

from __future__ import annotations

from PIL import Image

from zoo.decoders.layouts import Delay, NextScale, Parallel, Raster
from zoo.decoders.layouts_picture import drawing, main


def test_boxes_are_codebooks_over_frames():
    shown = drawing(Delay((4, 4)), (3,))
    assert shown.steps.tolist() == [[0, 1, 2], [1, 2, 3]] and (shown.passes == shown.steps).all()
    assert not shown.structure.any()


def test_one_codebook_is_a_row_of_tokens_whose_picture_has_no_places():
    shown = drawing(Parallel((4,)), (3,))
    assert shown.steps.tolist() == [[0, 1, 2]] and shown.axes == ("", "token")


def test_pictures_keep_their_rows_and_show_structure_tokens():
    shown = drawing(Raster((4,)), (2, 2))
    assert shown.steps.tolist() == [[0, 1], [2, 3]] and not shown.structure.any()
    shown = drawing(Raster((4,), row_end=True, grid_end=True), (2, 1))
    assert shown.steps.tolist() == [[0, 1], [2, 3], [4, -1]]
    assert shown.structure.tolist() == [[False, True], [False, True], [True, False]]


def test_scales_stand_side_by_side():
    shown = drawing(NextScale((4,), scales=((1, 1), (2, 1))), (3,))
    assert shown.steps.tolist() == [[0, -1, 1], [-1, -1, 2]] and shown.passes.tolist() == [[0, -1, 1], [-1, -1, 1]]


def test_the_command_writes_a_png(tmp_path):
    main(["--out", str(tmp_path / "layouts.png")])
    with Image.open(tmp_path / "layouts.png") as picture:
        assert picture.format == "PNG" and picture.size == (1300, 920)
        assert len(picture.convert("RGB").getcolors()) > 50  # not an empty page
