"""Pictures of shapes: fixed by seed, split and number, shapes that one can tell apart, and a command that goes on."""

import colorsys
import json

import numpy as np
import pytest
from PIL import Image

from zoo.codecs.errors import UserError
from zoo.pipeline_files import read_texts
from zoo.recipes.data import rendered_shapes
from zoo.recipes.data.rendered_shapes import (
    HUES,
    SHAPES,
    SPLITS,
    Look,
    build,
    caption,
    main,
    picture,
    scene,
    shape_of,
)

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
        hues = rendered_shapes._hues(np.random.default_rng(seed), look)
        vivid, near, far = rendered_shapes._colours(*hues, look)
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


def test_captions_name_the_shape_and_mostly_the_colours_that_are_on_the_picture():
    """At the shape's centre is its colour, in the upper corners that of the ground; light and shadow move both."""
    hues = np.array([colorsys.hsv_to_rgb(k / 8, 0.75, 0.9) for k in range(8)]) * 255
    flat, told = Look(light=0.0, shadow=0.0, drift=0.0), []
    for number in range(1, 600, 10):  # balls
        words, drawn = caption(0, "train", number, flat).split(), picture(0, "train", number, flat).astype(float)
        assert "ball" in words and words[0] in ("a", "an")
        ground = words[words.index("on") + 1] if "on" in words else None
        told.append((words[1] != "ball", ground is not None))
        if words[1] != "ball":
            assert words[1] == HUES[np.abs(hues - drawn[48, 48]).sum(1).argmin()]
        if ground is not None:
            tint = drawn[0, 0] - drawn[0, 0].min()
            assert ground == HUES[np.abs((hues - hues.min(1, keepdims=True)) / 172 - tint / tint.max()).sum(1).argmin()]
    assert 0.5 < np.mean(told) < 0.85 and len(set(told)) == 4


def test_the_words_of_other_numbers_of_hues_are_the_nearest():
    few = Look(hues=4)
    said = {(scene(0, "train", k, few).hue, caption(0, "train", k, few).split()[1]) for k in range(1, 400, 10)}
    assert {word for _, word in said} <= {"red", "lime", "cyan", "purple", "ball"}


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


def test_each_picture_of_a_split_has_its_caption_beside_it(tmp_path):
    build(tmp_path, COUNTS, 3, SMALL)
    for split, count in COUNTS.items():
        texts = read_texts(tmp_path / split / "texts.tsv")
        files = {path.relative_to(tmp_path / split).as_posix() for path in (tmp_path / split).rglob("*.png")}
        assert texts.keys() == files and len(texts) == count
        assert texts[f"ball/{1:05}.png"] == caption(3, split, 1, SMALL)


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
