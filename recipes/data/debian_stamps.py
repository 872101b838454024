"""Composites: cut-out objects of Tux Paint's stamps over photographs, so that few photographs show many things."""

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.recipes.data.debian_packages import debian_folder

STAMPS = ("tuxpaint-stamps-default", "/usr/share/tuxpaint/stamps")
SIZE = 512  # pixels a side of a composite
LEAST_STAMP = 150  # pixels of the shorter side
LEAST_COLOURS = 3000  # a drawing has fewer, whatever its size

STAMP_CREDITS = [
    {
        "source": "composite",
        "credit": "Stamps of Tux Paint by Bill Kendrick and many contributors, over the photographs named here",
        "license": "GPL-2, with the photographs' own licences",
        "package": "tuxpaint-stamps-default",
    },
]


def stamps(cache: Path) -> list[Path]:
    """Stamps with transparency that look like photographs: large, and of many colours."""
    found = []
    for path in sorted(debian_folder(*STAMPS, cache).rglob("*.png")):
        with Image.open(path) as picture:
            if picture.mode == "RGBA" and min(picture.size) >= LEAST_STAMP:
                opaque = np.asarray(picture)[np.asarray(picture)[..., 3] > 250][:, :3]
                if len(np.unique(opaque, axis=0)) >= LEAST_COLOURS:
                    found.append(path)
    return found


def composite(number: int, backgrounds: list[Path], objects: list[Path]) -> Image.Image:
    """Composite number `number`, always the same one: a part of a background under one to four objects."""
    chance = np.random.default_rng([20, number])
    with Image.open(backgrounds[chance.integers(len(backgrounds))]) as photograph:
        side = int(min(photograph.size) * chance.uniform(0.6, 1.0))
        left, top = (int(chance.integers(extent - side + 1)) for extent in photograph.size)
        box = (left, top, left + side, top + side)
        scene = photograph.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    for _ in range(chance.integers(1, 5)):
        with Image.open(objects[chance.integers(len(objects))]) as picture:
            thing = picture.convert("RGBA")
        scale = chance.uniform(0.3, 0.8) * SIZE / max(thing.size)
        # Pixels are weighted by opacity while they are resized, or hidden colours would bleed over the edges.
        thing = thing.convert("RGBa").resize(
            tuple(max(1, round(extent * min(1.0, scale))) for extent in thing.size), Image.Resampling.LANCZOS
        )
        thing = thing.convert("RGBA")
        if chance.random() < 0.5:
            thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place = tuple(int(chance.integers(-extent // 4, SIZE - 3 * extent // 4)) for extent in thing.size)
        scene.paste(thing, place, thing)
    return scene
