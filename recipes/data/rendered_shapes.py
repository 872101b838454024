"""Labelled pictures of shapes for decoders told what to draw: `python -m zoo.recipes.data.rendered_shapes`.

    python -m zoo.recipes.data.rendered_shapes --out data/shapes

writes `OUT/{train,valid,test}/SHAPE/NNNNN.png`, `OUT/SPLIT/texts.tsv` (lines of path, tab, caption, such as "a red star
on blue") and `OUT/shapes.json` (what they are, and how many). One glance tells whether a picture shows what was asked
for, and there are so many that a small decoder cannot learn them by heart.
A shape lies, tilted, near the middle of a soft gradient; light from the upper left rounds its edges and casts a shadow.
Colours are few, so that most of what a decoder has to learn is shape.
Edges are sharp on purpose: few codes make them sharp again, but speckle those that are soft.
Run again, it continues where it was stopped and leaves finished pictures alone.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw
from rich.progress import track

from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.io import image_writer

SPLITS = {"train": 14_000, "valid": 400, "test": 1_000}
FACTS, TEXTS = "shapes.json", "texts.tsv"
HUES = ("red", "yellow", "lime", "green", "cyan", "blue", "purple", "pink")  # around the circle, evenly
BARE = 1 / 3  # share of captions that leave out a colour, that of the shape as that of the ground
FINER = 4  # edges are drawn this many times as large, and reduced
TURN = 2 * np.pi

Points = Float[ndarray, "point 2"]
Outline = list[tuple[Points, bool]]  # polygons one on the other: True fills, False cuts out again


@dataclass(frozen=True)
class Look:
    """What pictures may look like; lengths are shares of a picture's side, angles degrees.

    Attributes:
        size: Pixels a side.
        extent: Of the circle around a shape, from and to.
        drift: A shape's centre is at most so far from the picture's, across and down.
        tilt: A shape leans at most so far to either side.
        hues: How many a shape may have, and a background; the same for both.
        contrast: Least distance in RGB, each of which is 0 to 1, of a shape from both ends of the background.
        shadow: How much a shadow darkens, 0 to 1.
        light: How much slopes towards the light are brighter, and those away from it darker.
    """

    size: int = 96
    extent: tuple[float, float] = (0.6, 0.8)
    drift: float = 0.08
    tilt: float = 20.0
    hues: int = 8
    contrast: float = 0.4
    shadow: float = 0.35
    light: float = 0.35


@dataclass(frozen=True)
class Scene:
    """What a picture shows; lengths are shares of its side.

    Attributes:
        shape: Name in `SHAPES`.
        extent: Of the circle around the shape.
        centre: Of the shape, across and down.
        tilt: Of the shape, radians.
        hue, ground: Of the shape and of the background, below `Look.hues`.
    """

    shape: str
    extent: float
    centre: Float[ndarray, "2"]
    tilt: float
    hue: int
    ground: int


def scene(seed: int, split: str, number: int, look: Look = Look()) -> Scene:
    """What is on the picture with that number: `shape_of(number)`, and all else drawn by chance."""
    chance = np.random.default_rng([seed, list(SPLITS).index(split), number])
    extent = chance.uniform(*look.extent)
    centre = 0.5 + chance.uniform(-look.drift, look.drift, 2)
    tilt = np.radians(chance.uniform(-look.tilt, look.tilt))
    return Scene(shape_of(number), extent, centre, tilt, *_hues(chance, look))


def render(shown: Scene, look: Look) -> UInt8[ndarray, "size size 3"]:
    """A picture of it."""
    colour, near, far = _colours(shown.hue, shown.ground, look)
    mask = _mask(SHAPES[shown.shape], shown.extent / 2, shown.centre, shown.tilt, look.size)
    heights = _blurred(mask, 0.06 * shown.extent)
    slope = -sum(np.gradient(heights)) * look.size * 0.06 * shown.extent  # towards the light, at the upper left
    shade = 1 + look.light * (2 * slope + _ramp(look.size, 5 * TURN / 8))
    lit = np.where(shade <= 1, colour * shade, 1 - (1 - colour) * (2 - shade).clip(0))
    ground = near + (far - near) * (0.5 + 0.5 * _ramp(look.size, TURN / 4))  # from top to bottom
    shift = round(0.04 * look.size)
    shadow = np.roll(_blurred(mask, 0.035), (shift, shift), (0, 1))
    picture = mask * lit + (1 - mask) * ground * (1 - look.shadow * shadow)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


def picture(seed: int, split: str, number: int, look: Look = Look()) -> UInt8[ndarray, "size size 3"]:
    """Picture with that number, of `shape_of(number)`; the same arguments give the same picture."""
    return render(scene(seed, split, number, look), look)


def caption(seed: int, split: str, number: int, look: Look = Look()) -> str:
    """What that picture shows, in words: "a red star on blue"; some captions say less, as people do."""
    shown = scene(seed, split, number, look)
    chance = np.random.default_rng([seed, list(SPLITS).index(split), number, 1])  # not that of the picture
    hue, ground = (HUES[round(len(HUES) * each / look.hues) % len(HUES)] for each in (shown.hue, shown.ground))
    says_hue, says_ground = chance.random(2) >= BARE
    words = f"{hue} {shown.shape}" if says_hue else shown.shape
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}" + (f" on {ground}" if says_ground else "")


def shape_of(number: int) -> str:
    """The shape on a picture with that number: one after the other."""
    return list(SHAPES)[number % len(SHAPES)]


def build(out: Path, counts: dict[str, int], seed: int, look: Look = Look()) -> dict:
    """Write so many pictures of each split below `out` with their captions, and `out/shapes.json`; its contents.

    Raises:
        UserError: Another set was begun in the folder.
    """
    facts = {
        "seed": seed,
        "look": asdict(look),
        "shapes": list(SHAPES),
        "pictures": counts,
        "licence": "CC0-1.0; made by this program, of nothing else",
    }
    file = out / FACTS
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(facts)):
        raise UserError(f"{printable(out)}: holds pictures of other settings; delete the folder, or name another one")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts, indent=1) + "\n")
    for split, count in counts.items():
        for shape in SHAPES:
            (out / split / shape).mkdir(parents=True, exist_ok=True)
        for number in track(range(count), f"{split:>5}"):
            path = out / split / shape_of(number) / f"{number:05}.png"
            if not path.exists():
                with image_writer(path) as write:
                    write(picture(seed, split, number, look))
        lines = [f"{shape_of(k)}/{k:05}.png\t{caption(seed, split, k, look)}\n" for k in range(count)]
        (out / split / TEXTS).write_text("".join(lines))
    return facts


def _hues(chance: np.random.Generator, look: Look) -> tuple[int, int]:
    """Of a shape and of a background from which it stands out."""
    while True:
        hue, ground = chance.integers(look.hues, size=2).tolist()
        vivid, *ends = _colours(hue, ground, look)
        if min(np.linalg.norm(vivid - end) for end in ends) >= look.contrast:
            return hue, ground


def _colours(hue: int, ground: int, look: Look) -> tuple[ndarray, ndarray, ndarray]:
    """A vivid colour, and the muted ones between which the background lies; each `[3, 1, 1]`."""

    def colour(number: int, saturation: float, value: float) -> ndarray:
        return np.array(colorsys.hsv_to_rgb(number / look.hues, saturation, value))[:, None, None]

    return colour(hue, 0.75, 0.9), colour(ground, 0.3, 0.9), colour(ground, 0.45, 0.65)


def _mask(
    outline: Outline, radius: float, centre: Float[ndarray, "2"], tilt: float, size: int
) -> Float[ndarray, "size size"]:
    """How much of each pixel a shape covers, 0 to 1."""
    fine = size * FINER
    canvas = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    for points, fills in outline:
        places = (points @ turn * radius + centre) * fine
        draw.polygon([(x, y) for x, y in places.tolist()], fill=255 if fills else 0)
    return np.asarray(canvas.reduce(FINER), np.float64) / 255


def _blurred(mask: Float[ndarray, "size size"], deviation: float) -> Float[ndarray, "size size"]:
    """The mask behind a Gaussian, whose deviation is a share of the side."""
    places = np.arange(len(mask))
    kernel = np.exp(-0.5 * ((places[:, None] - places) / (deviation * len(mask))) ** 2)
    kernel /= np.sqrt(TURN) * deviation * len(mask)
    return kernel @ mask @ kernel.T


def _ramp(size: int, direction: float) -> Float[ndarray, "size size"]:
    """A plane that rises in a direction: -1 to 1 from one corner or side to the other."""
    places = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = np.cos(direction), np.sin(direction)
    return (down * places[:, None] + across * places) / (abs(down) + abs(across))


def _around(radii: Float[ndarray, "point"], first: float = -TURN / 4) -> Points:
    """Points at these distances from the centre, evenly around it; the first one is at the top."""
    angles = first + TURN * np.arange(len(radii)) / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _heart() -> Points:
    t = TURN * np.arange(96) / 96
    across = 16 * np.sin(t) ** 3
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([across, -up - 2.5], 1) / 16.5


def _mirrored(right: list[tuple[float, float]]) -> Points:
    """A polygon from its right half, top to bottom; y points down."""
    return np.array([*right, *((-x, y) for x, y in reversed(right))])


_DISC = _around(np.ones(96))

# Upright, y pointing down, in a circle with radius 1, over which only the lobes of the heart and the cut-outs reach.
SHAPES: dict[str, Outline] = {
    "arrow": [(_mirrored([(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95)]), True)],
    "ball": [(0.85 * _DISC, True)],
    "cross": [(_mirrored([(0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3), (0.3, 0.95)]), True)],
    "crescent": [(0.95 * _DISC, True), (0.8 * _DISC + [0.45, -0.1], False)],
    "flower": [(_around(0.78 + 0.22 * np.cos(6 * TURN * np.arange(192) / 192)), True), (0.25 * _DISC, False)],
    "heart": [(_heart(), True)],
    "ring": [(0.95 * _DISC, True), (0.5 * _DISC, False)],
    "square": [(_around(np.ones(4), -TURN / 8), True)],
    "star": [(_around(np.tile([1.0, 0.45], 5)), True)],
    "triangle": [(_around(np.ones(3)), True)],
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error where the user can mend something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/shapes"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of everything that chance decides")
    for split, count in SPLITS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"pictures; {count} by default")
    options = parser.parse_args(arguments)
    try:
        facts = build(options.out, {split: getattr(options, split) for split in SPLITS}, options.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for split, count in facts["pictures"].items():
        print(f"{split:>5}: {count:5} pictures of {len(facts['shapes'])} shapes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
