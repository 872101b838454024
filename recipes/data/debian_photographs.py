"""The photographs among the pictures of four Debian packages: children's learning games and desktop wallpapers."""

import functools
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoo.recipes.data.debian_packages import debian_folder

LONGEST = 1024  # pixels a side of what is stored
LEAST_SIDE = 200


@dataclass(frozen=True)
class Photograph:
    """One photograph: `read` gives it in RGB, at most `longest` pixels wide and high."""

    source: str
    name: str
    read: Callable[[int], Image.Image]
    detailed: bool = False  # of such quality that it is worth keeping at full size too


GAMES = ("gcompris-qt-data", "/usr/share/gcompris-qt/rcc")
# The activities of GCompris whose pictures are photographs (among the others: jigsaws, diagrams and drawings).
ACTIVITIES = (
    "categorization",
    "clickgame",
    "details",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
# Compressed hard, to .1 byte a pixel: shrunk below the size at which that shows. Smaller ones stay as they are.
LONGEST_OF_GAMES = 768

# Of the wallpapers, those that are photographs: names of folders (plasma) or files, the rest is computer graphics.
WALLPAPERS = {
    "mate": ("mate-backgrounds", "/usr/share/backgrounds/mate", "nature/*.jpg"),
    "lomiri": ("lomiri-wallpapers-16.04", "/usr/share/backgrounds", "*_by_*.jpg"),
    "plasma": ("plasma-workspace-wallpapers", "/usr/share/wallpapers", "*/contents/images/*.jpg"),
}
PLASMA_PHOTOGRAPHS = (
    "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path Volna summer_1am"
).split()
GRAPHICS = ("analogpattern_by_Peter_Nerlich", "umang_by_Abhishek_Mudgal")

PHOTOGRAPH_CREDITS = [
    {
        "source": "gcompris",
        "credit": "GCompris by Bruno Coudoin, Timothée Giet, Johnny Jazeix and others (KDE); photographs by many, all"
        " named in the package's copyright file",
        "license": "GPL-3+, CC-BY, CC-BY-SA, CC0 and public domain, by picture",
        "package": "gcompris-qt-data",
    },
    {
        "source": "mate",
        "credit": "MATE backgrounds; photographs by Charles Barbin, Lennart Poettering, Marco Cogoni, Hylke Bons,"
        " Jens Ansorg, Timothy Schellhase, Lapo Calamandrei and others",
        "license": "GPL-2+",
        "package": "mate-backgrounds",
    },
    {
        "source": "lomiri",
        "credit": "Lomiri wallpapers (UBports); the photographer's name is part of each file's name",
        "license": "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0, by picture",
        "package": "lomiri-wallpapers-16.04",
    },
    {
        "source": "plasma",
        "credit": "Plasma wallpapers, KDE Visual Design Group and contributors",
        "license": "GPL-2+",
        "package": "plasma-workspace-wallpapers",
    },
]

_STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)


def photographs(cache: Path) -> list[Photograph]:
    """Every photograph of the four packages."""
    return [*_of_games(cache), *_of_wallpapers(cache)]


def embedded(resource: bytes) -> list[bytes]:
    """The picture files inside a compiled Qt resource: each follows its length, four bytes with the highest first."""
    found = []
    for match in _STARTS.finditer(resource):
        start = match.start()
        length = int.from_bytes(resource[max(0, start - 4) : start], "big")
        if 0 < length <= len(resource) - start:
            found.append(resource[start : start + length])
    return found


def open_rgb(file: io.BytesIO | Path, longest: int) -> Image.Image:
    """A picture in RGB, shrunk where it is larger than `longest`; never enlarged."""
    with Image.open(file) as picture:
        rgb = picture.convert("RGB")
    scale = longest / max(rgb.size)
    if scale >= 1:
        return rgb
    return rgb.resize(tuple(max(1, round(side * scale)) for side in rgb.size), Image.Resampling.LANCZOS)


def _of_games(cache: Path) -> list[Photograph]:
    resources = debian_folder(*GAMES, cache)
    found = []
    for activity in ACTIVITIES:
        for data in embedded((resources / f"{activity}.rcc").read_bytes()):
            name = f"{activity}-{hashlib.sha256(data).hexdigest()[:10]}"
            found.append(Photograph("gcompris", name, functools.partial(_read_game, data)))
    return found


def _read_game(data: bytes, longest: int) -> Image.Image:
    return open_rgb(io.BytesIO(data), min(longest, LONGEST_OF_GAMES))


def _of_wallpapers(cache: Path) -> list[Photograph]:
    found = []
    for source, (package, folder, pattern) in WALLPAPERS.items():
        root = debian_folder(package, folder, cache)
        largest: dict[str, Path] = {}  # a wallpaper comes in several sizes, most of them links
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).parts[0] if source == "plasma" else path.stem
            chosen = name in PLASMA_PHOTOGRAPHS if source == "plasma" else name not in GRAPHICS
            if chosen and not path.is_symlink():
                bytes_so_far = largest[name].stat().st_size if name in largest else 0
                largest[name] = path if path.stat().st_size > bytes_so_far else largest[name]
        read = ((name, functools.partial(open_rgb, path)) for name, path in sorted(largest.items()))
        found += [Photograph(source, name, opened, detailed=True) for name, opened in read]
    return found
