"""Random training crops of pictures: crop number i is a pure function of the seed, i and the readable files."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError
from zoo.codecs.image.io import to_float
from zoo.recipes.data.crops import MOST_FAILURES
from zoo.recipes.data.picture_store import PictureStore
from zoo.recipes.data.shares import Chooser, check_shares, probabilities

_MOST_REDRAWS = 8  # a flat place is left for another this often; then the richest so far is taken


@dataclass(frozen=True)
class PictureCropConfig:
    """How training crops are drawn.

    Attributes:
        size: Pixels a side.
        seed: Another seed is another stream.
        shares: Folder pattern -> share of all crops that come from matching folders, e.g. `{"composite": 0.3}`. The
            first pattern that matches a folder counts. The other folders divide what is left. Among the folders of one
            share, every picture is as likely as any other.
        zoom: Range of sizes at which pictures are seen: pixels of the crop for one pixel of the picture, every octave
            as likely as any other. Where the picture is too small for it, the largest square in it is cropped.
        flip: Share of the crops that are mirrored, left to right.
        detail: Crops with less are drawn again, a few times: mean difference of neighbouring pixels, of 0 to 1. Skies
            and blurred backgrounds are below .01, foliage is above .05.
    """

    size: int = 128
    seed: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    zoom: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.5
    detail: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"crops of {self.size} pixels; give a positive size")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise UserError(f"zoom {self.zoom}; give a range of positive factors, such as [0.5, 1.0]")
        check_shares(self.shares)


class PictureCropSource:
    """Draws square crops from a store of pictures."""

    def __init__(self, store: PictureStore, config: PictureCropConfig) -> None:
        self.store = store
        self.config = config
        chances = probabilities(store.readable.astype(float), store.folders, config.shares)
        self._chooser = Chooser(np.arange(len(store)), chances)

    def crop(self, index: int) -> Float32[ndarray, "3 height width"]:
        """Crop number `index` of the stream, in [0, 1]."""
        chance = np.random.default_rng([self.config.seed, index])
        best, most = None, -1.0
        for _ in range(_MOST_REDRAWS):
            candidate = self._cut(self._draw(chance), chance)
            detail = detail_of(candidate) if self.config.detail else 0.0
            if detail > most:
                best, most = candidate, detail
            if detail >= self.config.detail:
                break
        if chance.random() < self.config.flip:
            best = best[:, ::-1]
        return to_float(best)

    def _cut(
        self, pixels: UInt8[ndarray, "height width 3"], chance: np.random.Generator
    ) -> UInt8[ndarray, "size size 3"]:
        low, high = np.log(self.config.zoom)
        side = min(self.config.size / np.exp(chance.uniform(low, high)), *pixels.shape[:2])
        return cut(pixels, side, chance.random(2), self.config.size)

    def _draw(self, chance: np.random.Generator) -> UInt8[ndarray, "height width 3"]:
        for _ in range(MOST_FAILURES):
            try:
                return self.store.read(self._chooser.choose(chance))
            except MediaError as error:
                failure = error
        raise UserError(f"{MOST_FAILURES} pictures in a row could not be read; is the corpus still there? ({failure})")


def detail_of(pixels: UInt8[ndarray, "height width 3"]) -> float:
    """Mean difference of neighbouring pixels, of 0 to 1."""
    grey = pixels.mean(2, dtype=np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 510


def cut(
    pixels: UInt8[ndarray, "height width 3"], side: float, place: tuple[float, float] | ndarray, size: int
) -> UInt8[ndarray, "size size 3"]:
    """A square of `side` pixels brought to `size`; `place` says where, from 0 (top, left) to 1 (bottom, right).

    Without a change of size nothing is interpolated: the crop starts at a whole pixel.
    """
    spare = np.array(pixels.shape[:2]) - side
    if round(side) == size and abs(side - size) < 0.5:
        top, left = (int(np.round(extent * part)) for extent, part in zip(np.maximum(spare, 0), place, strict=True))
        if min(pixels.shape[0] - top, pixels.shape[1] - left) >= size:
            return pixels[top : top + size, left : left + size]
    top, left = spare * np.asarray(place)
    box = (float(left), float(top), float(left + side), float(top + side))
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS, box)
    return np.asarray(resized)
