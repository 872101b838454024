"""Pictures of shapes: fixed by seed, split and number, shapes that one can tell apart, and a command that goes on."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.codecs.errors import UserError
from zoo.recipes.data import rendered_shapes
from zoo.recipes.data.rendered_shapes import SHAPES, SPLITS, Look, build, main, picture, shape_of

SMALL = Look(size=32)
COUNTS = {"train": 12, "valid": 2, "test": 3}


def coverage(shape: str) -> np.ndarray:
    """An upright shape that fills its picture, 0 to 1."""
    return rendered_shapes._mask(SHAPES[shape], 0.5, np.array([0.5, 0.5]), 0.0, 64)


def test_a_picture_is_a_function_of_seed_split_and_number():
    first = picture(0, "train", 7, SMALL)
    np.testing.assert_array_equal(first, picture(0, "train", 7, SMALL))
    for other in ((1, "train", 7), (0, "test", 7), (0, "train", 17)):  # 17 is of the same shape
        assert np.abs(first - picture(*other, SMALL).astype(float)).mean() > 5


def test_every_shape_comes_equally_often_in_every_split():
    for count in SPLITS.values():
        drawn = [shape_of(number) for number in range(count)]
        assert {drawn.count(shape) for shape in SHAPES} == {count // len(SHAPES)}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fits_into_its_circle_but_for_the_lobes_of_the_heart(shape):
    points = np.concatenate([points for points, fills in SHAPES[shape] if fills])
    assert 0.8 < np.linalg.norm(points, axis=1).max() <= (1.11 if shape == "heart" else 1.001)
    assert 0.2 < coverage(shape).mean() < np.pi / 4


def test_no_two_shapes_are_nearly_the_same():
    covered = {shape: coverage(shape) for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            if one < other:
                common = np.minimum(covered[one], covered[other]).sum() / np.maximum(covered[one], covered[other]).sum()
                assert common < 0.85, (one, other)


def test_shapes_stand_out_by_their_colours_which_are_few():
    look, seen = Look(hues=5, contrast=0.5), set()
    for seed in range(200):
        vivid, near, far = rendered_shapes._colours(np.random.default_rng(seed), look)
        assert min(np.linalg.norm(vivid - near), np.linalg.norm(vivid - far)) >= 0.5
        seen.add((*vivid.ravel(), *near.ravel()))
    assert 10 < len(seen) <= 25


def test_a_shape_stays_within_its_picture_and_near_the_middle():
    corner = (0.5 + Look().drift + Look().extent[1] / 2, 0.5 - Look().drift - Look().extent[1] / 2)
    assert corner[0] <= 1 and corner[1] >= 0 and Look().drift > 0
    centres = set()
    for seed in range(30):
        vivid = picture(seed, "train", 1, Look(shadow=0.0, light=0.0)).astype(float)  # number 1 is a ball
        inside = np.abs(vivid - vivid[48, 48]).sum(2) < 40
        centre = np.argwhere(inside).mean(0) / 96
        assert np.abs(centre - 0.5).max() < Look().drift + 0.02
        centres.add(tuple(np.round(centre, 2)))
    assert len(centres) > 10


def test_edges_are_smooth():
    assert len(np.unique(coverage("triangle"))) > 10


def test_a_shape_is_brighter_towards_the_upper_left():
    flat = Look(size=64, tilt=0.0, extent=(0.9, 0.9), shadow=0.0)
    disc = np.mean([picture(0, "train", 1 + 10 * k, flat).mean(2) for k in range(8)], 0)  # number 1 is a ball
    assert disc[16:28, 16:28].mean() > disc[36:48, 36:48].mean() + 10


def test_building_goes_on_where_it_was_stopped(tmp_path):
    facts = build(tmp_path, COUNTS, 3, SMALL)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert len(files) == sum(COUNTS.values()) and facts["pictures"] == COUNTS
    lost, kept = tmp_path / "train" / "ball" / "00001.png", tmp_path / "train" / "ball" / "00011.png"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    build(tmp_path, COUNTS, 3, SMALL)
    assert lost.read_bytes() == files[lost]
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.asarray(Image.open(lost)), picture(3, "train", 1, SMALL))
    assert json.loads((tmp_path / "shapes.json").read_text())["look"]["size"] == 32


def test_pictures_of_another_seed_are_not_mixed_in(tmp_path):
    build(tmp_path, COUNTS, 0, SMALL)
    with pytest.raises(UserError, match="other settings"):
        build(tmp_path, COUNTS, 1, SMALL)


def test_the_command_writes_and_reports(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--train", "10", "--valid", "1", "--test", "1"]
    assert main(arguments) == 0
    assert "10 pictures of 10 shapes" in capsys.readouterr().out
    assert Image.open(tmp_path / "valid" / "arrow" / "00000.png").size == (96, 96)
    assert main([*arguments, "--seed", "5"]) == 2
    assert "name another" in capsys.readouterr().err
