"""Pictures of any size through an image codec, in memory that grows by little more than their pixels.

A picture that is larger than one tile is coded tile by tile. A tile is seen with a margin of its neighbours, whose
codes are then thrown away: where the margin covers all that the network looks at, codes are those of the whole picture.
Reconstructed tiles are seen with the same margin, and its inner part fades from one tile into the next, so that
networks that look farther (attention, norms over the whole picture) leave no edge there.

How a picture is cut depends on its size alone. Tokenizers of fixed size see each of their own tiles by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from zoo.codecs.base import Search, Tokens
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import Pixels, to_float, to_pixels

CORE, MARGIN, BLEND = 384, 96, 32  # pixels; seen at once: up to 576 a side, for which VQGAN takes 2 GB

Progress = Callable[[float, float | None], None]
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut, in cells. Tokenizers of fixed size see their own tiles, whatever is asked for.

    Attributes:
        core: Largest part of a picture's side that a tile stands for.
        margin: What is seen on each side of it, as far as the picture goes.
        blend: Inner part of the margin, over which reconstructions fade into each other.
    """

    core: int
    margin: int = 0
    blend: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.blend <= self.margin and 1 <= self.core and 4 * self.blend <= self.core):
            raise ValueError(f"tiles need 0 <= blend <= margin, and a core of 1 and 4 blends at least, got {self}")

    @classmethod
    def of(cls, codec: ImageCodec) -> Tiling:
        """What suits a codec: it sees at most about 576 pixels a side."""
        blend = -(-BLEND // codec.info.hop)
        return cls(max(4 * blend, CORE // codec.info.hop), -(-MARGIN // codec.info.hop), blend)

    def spans(self, cells: int) -> list[Span]:
        """An axis of so many cells, cut evenly; in one piece if that is not larger than what a tile sees anyway."""
        count = 1 if cells <= self.core + 2 * self.margin else -(-cells // self.core)
        ends = [cells * index // count for index in range(count + 1)]
        return [
            Span(
                start, stop, max(0, start - self.margin), min(cells, stop + self.margin),
                self.blend if start else 0, self.blend if stop < cells else 0,
            )
            for start, stop in zip(ends, ends[1:], strict=False)
        ]  # fmt: skip


@dataclass(frozen=True)
class Span:
    """What a tile does along one axis, in cells.

    Attributes:
        start, stop: It stands for these.
        first, last: It sees these.
        fade_in, fade_out: Cells on either side of start and of stop over which it fades.
    """

    start: int
    stop: int
    first: int
    last: int
    fade_in: int
    fade_out: int

    @property
    def core(self) -> slice:
        """The cells that it stands for, among those that it sees."""
        return slice(self.start - self.first, self.stop - self.first)

    def pixels(self, unit: int, size: int) -> slice:
        """The pixels that it sees of a picture of that size; its last cell may be partial."""
        return slice(self.first * unit, min(self.last * unit, size))

    def shown(self, unit: int, size: int, origin: int = 0) -> slice:
        """The pixels to which it contributes, counted from `origin`."""
        stop = min((self.stop + self.fade_out) * unit, size)
        return slice((self.start - self.fade_in) * unit - origin, stop - origin)

    def weights(self, unit: int, size: int) -> Float[ndarray, "pixel"]:
        """How much it contributes to each of these; with its neighbours' 1 in all."""
        shown = self.shown(unit, size)
        at = np.arange(shown.start, shown.stop) + 0.5
        weights = np.ones(len(at), np.float32)
        if self.fade_in:
            weights = np.minimum(weights, (at - shown.start) / (2 * self.fade_in * unit))
        if self.fade_out:
            weights = np.minimum(weights, ((self.stop + self.fade_out) * unit - at) / (2 * self.fade_out * unit))
        return weights.clip(0, 1).astype(np.float32)


def encode_tiled(
    codec: ImageCodec,
    pixels: Pixels,
    codebooks: int | None = None,
    beam: int = 1,
    search: Search | None = None,
    tiling: Tiling | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """Tokens of one picture; what `codec.encode` gives if it is no larger than a tile.

    Args:
        codec: Any image codec.
        pixels: `[height, width, 3]`, as `read_pixels` gives them.
        codebooks, beam, search: See `Codec.encode`; a search may look at nothing but each latent by itself.
        tiling: How to cut (default: `Tiling.of`).
        progress: Called with the tiles done and the tiles in all.

    Raises:
        ValueError: As `ImageCodec.encode`.
    """
    codec.check_codebooks(codebooks)
    search = search or codec.beam_search(codebooks, beam)
    parts = visit(codec, pixels, lambda z: codec.codes_of(z, z, codebooks, search), tiling, progress)
    return assemble(codec, pixels.shape[:2], codebooks, parts)


def assemble(
    codec: ImageCodec, size: tuple[int, ...], codebooks: int | None, parts: Iterable[tuple[Place, Tensor]]
) -> Tokens:
    """Tokens of a picture of that height and width out of the codes of its tiles, each with where they lie."""
    codes = torch.full((1, codebooks or codec.info.codebooks, *codec.grid(*size)), -1)
    for place, found in parts:
        codes[place] = found.cpu()
    return Tokens(codes, torch.tensor([size]), None, codec.name, codec.weights)


@torch.no_grad()
def visit(
    codec: ImageCodec,
    pixels: Pixels,
    look: Callable[[Float[Tensor, "1 dim *grid"]], Tensor],
    tiling: Tiling | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Place, Tensor]]:
    """Each tile's place among the codes, with what `look` finds in the latents that it stands for.

    What `look` gives must have the axes of codes, but for the number of codebooks.
    """
    info, size = codec.info, pixels.shape[:2]
    unit = info.tile or info.hop
    rows, columns = axes(codec, size, tiling)
    for index, (down, across) in enumerate(product(rows, columns)):
        picture = to_float(pixels[down.pixels(unit, size[0]), across.pixels(unit, size[1])])
        media = torch.from_numpy(picture)[None].to(next(codec.parameters()))
        core = (...,) if info.tile else (..., down.core, across.core)
        found = codec.encode_rows(media, None, lambda z, _, core=core: look(z[core]))
        yield place(codec, index, down, across), found
        if progress is not None:
            progress(index + 1, len(rows) * len(columns))


@torch.no_grad()
def decode_tiled(
    codec: ImageCodec, tokens: Tokens, tiling: Tiling | None = None, progress: Progress | None = None
) -> UInt8[ndarray, "height width 3"]:
    """The picture of one row of tokens; what `codec.decode` gives if it is no larger than a tile.

    Arguments are those of `encode_tiled`; how the picture was cut to encode it does not matter.

    Raises:
        ValueError: More than one row, or as `ImageCodec.decode`.
    """
    if tokens.lengths.shape != (1, 2):
        raise ValueError(f"expected tokens of one picture, got sizes {tokens.lengths.tolist()}")
    size = tuple(tokens.lengths[0].tolist())
    if tokens.codes.shape[2:] != codec.grid(*size):
        raise ValueError(f"a picture of {size} pixels has codes of shape {codec.grid(*size)}, got {tokens.codes.shape}")
    unit = codec.info.tile or codec.info.hop
    rows, columns = axes(codec, size, tiling)
    pixels = np.empty((*size, 3), np.uint8)
    fading: Any = 0.0  # the end of the strip before, which the next one begins with
    for row, down in enumerate(rows):
        shown = down.shown(unit, size[0])
        strip = np.zeros((3, shown.stop - shown.start, size[1]), np.float32)
        for column, across in enumerate(columns):
            tile = decode_tile(codec, tokens, row * len(columns) + column, down, across)
            strip[:, :, across.shown(unit, size[1])] += tile
            if progress is not None:
                progress(row * len(columns) + column + 1, len(rows) * len(columns))
        strip[:, : 2 * down.fade_in * unit] += fading
        whole = strip.shape[1] - 2 * down.fade_out * unit
        pixels[shown.start : shown.start + whole] = to_pixels(strip[:, :whole])
        fading = strip[:, whole:]
    return pixels


def decode_tile(
    codec: ImageCodec, tokens: Tokens, index: int, down: Span, across: Span
) -> Float[ndarray, "3 height width"]:
    """What a tile contributes to the pixels where it shows."""
    height, width = tokens.lengths[0].tolist()
    unit = codec.info.tile or codec.info.hop
    codes = tokens.codes[place(codec, index, down, across, seen=True)].to(codec.device)
    rows, columns = down.pixels(unit, height), across.pixels(unit, width)
    lengths = torch.tensor([[rows.stop - rows.start, columns.stop - columns.start]])
    media = codec.decode(replace(tokens, codes=codes, lengths=lengths, depth=None))[0].cpu().numpy()
    show = down.shown(unit, height), across.shown(unit, width)
    crop = (
        slice(part.start - seen.start, part.stop - seen.start) for part, seen in zip(show, (rows, columns), strict=True)
    )
    return media[:, *crop] * down.weights(unit, height)[:, None] * across.weights(unit, width)


def axes(codec: ImageCodec, size: tuple[int, int], tiling: Tiling | None) -> tuple[list[Span], list[Span]]:
    """How the rows and the columns of a picture's cells are cut."""
    unit = codec.info.tile or codec.info.hop
    tiling = Tiling(1) if codec.info.tile else tiling or Tiling.of(codec)
    return tiling.spans(-(-size[0] // unit)), tiling.spans(-(-size[1] // unit))


def place(codec: ImageCodec, index: int, down: Span, across: Span, seen: bool = False) -> Place:
    """Where the codes of a tile lie that it stands for, or sees."""
    if codec.info.tile:
        return ..., slice(index * codec.info.tile_codes, (index + 1) * codec.info.tile_codes)
    if seen:
        return ..., slice(down.first, down.last), slice(across.first, across.last)
    return ..., slice(down.start, down.stop), slice(across.start, across.stop)
