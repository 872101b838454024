"""The corpus builder: fixed splits, no picture twice, composites that never change, and it continues where it was."""

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from zoo.recipes.data import debian_photographs, debian_pictures
from zoo.recipes.data.debian_photographs import Photograph, embedded, open_rgb, photographs
from zoo.recipes.data.debian_pictures import build, distinct, split_of, write_photograph
from zoo.recipes.data.debian_stamps import composite

GOLDEN_SPLITS = {"Kite": "train", "Path": "train", "Grey": "valid"}


def scene(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Smooth coloured clouds: alike at every size, unlike for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(name: str, image: Image.Image, **options) -> Photograph:
    return Photograph("plasma", name, partial(open_rgb_of, image), **options)


def open_rgb_of(image: Image.Image, longest: int) -> Image.Image:
    return open_rgb(io.BytesIO(file_of(image, "PNG")), longest)


def test_the_split_of_a_photograph_never_changes_and_a_sixteenth_is_held_out():
    assert {name: split_of("plasma", name) for name in GOLDEN_SPLITS} == GOLDEN_SPLITS
    names = [f"{k}" for k in range(3200)]
    assert [split_of("mate", name) for name in names].count("valid") == pytest.approx(200, abs=55)


def test_every_picture_inside_a_resource_is_found_and_chance_bytes_are_not():
    pictures = [file_of(scene(0), "PNG"), file_of(scene(1), "JPEG"), file_of(scene(2), "WEBP")]
    resource = b"qres" + b"".join(len(data).to_bytes(4, "big") + data for data in pictures)
    resource += b"\xff\xff\xff\xff" + b"RIFF0000WEBP"  # a length beyond the end
    assert embedded(resource) == pictures


def test_games_and_wallpapers_give_their_photographs_only(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_photographs, "GAMES", ("games", "/no/such/games"))
    folders = {"mate": "nature/*.jpg", "lomiri": "*_by_*.jpg", "plasma": "*/contents/images/*.jpg"}
    wallpapers = {name: (name, f"/no/such/{name}", pattern) for name, pattern in folders.items()}
    monkeypatch.setattr(debian_photographs, "WALLPAPERS", wallpapers)
    games = tmp_path / "games/no/such/games"
    games.mkdir(parents=True)
    data = file_of(scene(0), "WEBP")
    for activity in (*debian_photographs.ACTIVITIES, "hangman"):
        (games / f"{activity}.rcc").write_bytes(len(data).to_bytes(4, "big") + data if activity != "details" else b"")
    for name in ("mate/no/such/mate/nature/Dune.jpg", "mate/no/such/mate/desktop/Stripes.jpg",
                 "lomiri/no/such/lomiri/a_by_b.jpg", "lomiri/no/such/lomiri/umang_by_Abhishek_Mudgal.jpg",
                 "plasma/no/such/plasma/Kite/contents/images/640x400.jpg",
                 "plasma/no/such/plasma/Opal/contents/images/640x400.jpg"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(1).save(path)
    scene(1, 640, 480).save(tmp_path / "plasma/no/such/plasma/Kite/contents/images/1280x800.jpg")
    found = photographs(tmp_path)
    assert sum(picture.source == "gcompris" for picture in found) == len(debian_photographs.ACTIVITIES) - 1
    assert [picture.name for picture in found if picture.source != "gcompris"] == ["Dune", "a_by_b", "Kite"]
    assert found[-1].read(2000).size == (640, 480)


def test_of_two_copies_the_larger_is_kept_and_the_unreadable_is_named():
    def broken(longest):
        raise OSError("truncated")

    pictures = [photograph("small", scene(0)), photograph("large", scene(0, 640, 480)), photograph("other", scene(1)),
                photograph("icon", scene(2, 64, 48)), Photograph("mate", "bad", broken)]  # fmt: skip
    kept, refused = distinct(pictures)
    assert [picture.name for picture in kept] == ["large", "other"]
    assert refused == {
        "plasma/small": "the same picture as large",
        "plasma/icon": "64 x 48 pixels",
        "mate/bad": "unreadable: truncated",
    }


def test_pictures_are_shrunk_to_the_limit_and_never_enlarged():
    assert open_rgb_of(scene(0, 640, 320), 320).size == (320, 160)
    assert open_rgb_of(scene(0, 640, 320), 1000).size == (640, 320)


def test_a_detailed_training_picture_is_also_kept_at_twice_the_size_in_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_pictures, "LONGEST", 160)
    write_photograph(tmp_path, photograph("Kite", scene(0, 640, 480), detailed=True))
    write_photograph(tmp_path, photograph("Path", scene(0, 200, 150), detailed=True))
    files = sorted(path.name for path in tmp_path.rglob("*.jpg"))
    assert files == ["Kite-tile0.jpg", "Kite-tile1.jpg", "Kite-tile2.jpg", "Kite-tile3.jpg", "Kite.jpg", "Path.jpg"]
    last = np.asarray(Image.open(tmp_path / "train/plasma/Kite-tile3.jpg")).astype(int)
    assert last.shape == (120, 160, 3)
    assert np.abs(last - np.asarray(scene(0, 320, 240))[120:, 160:]).mean() < 4  # of 255: two ways of resizing


def test_composites_never_change_and_show_object_and_background(tmp_path):
    scene(0).save(tmp_path / "background.png")
    thing = Image.new("RGBA", (200, 200), (255, 0, 0, 0))
    thing.paste((0, 255, 0, 255), (50, 50, 150, 150))
    thing.save(tmp_path / "thing.png")
    make = partial(composite, backgrounds=[tmp_path / "background.png"], objects=[tmp_path / "thing.png"])
    first, again, other = (np.asarray(make(number)) for number in (0, 0, 1))
    assert first.shape == (512, 512, 3) and np.array_equal(first, again) and not np.array_equal(first, other)
    green = (first == (0, 255, 0)).all(2)
    assert 0.005 < green.mean() < 0.5
    assert not (first == (255, 0, 0)).all(2).any()  # what is transparent stays hidden


def test_a_corpus_is_built_once_described_and_left_alone_by_a_second_build(tmp_path, monkeypatch):
    scene(9).convert("RGBA").save(tmp_path / "thing.png")
    pictures = [photograph(name, scene(k)) for k, name in enumerate(GOLDEN_SPLITS)]
    monkeypatch.setattr(debian_pictures, "photographs", lambda cache: pictures)
    monkeypatch.setattr(debian_pictures, "stamps", lambda cache: [tmp_path / "thing.png"])
    out = tmp_path / "corpus"
    build(out, tmp_path, composites=3, processes=1)
    corpus = json.loads((out / "corpus.json").read_text())
    assert corpus["total"] == {"train": {"pictures": 5, "megapixels": 1.0}, "valid": {"pictures": 1, "megapixels": 0.1}}
    assert {entry["source"] for entry in corpus["credits"]} == {"plasma", "composite"}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    assert len(times) == 6
    build(out, tmp_path, composites=3, processes=1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")} == times
