"""Draw every layout: which step each code of a small grid stands in.

python -m zoo.decoders.layouts_picture --out docs/layouts.png
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from zoo.decoders.layouts import (
    CoarseFirst,
    Delay,
    Flat,
    FrameDepth,
    Grouped,
    Layout,
    NextScale,
    Parallel,
    Raster,
    StackDelay,
)

INK, FAINT = "#22252b", "#8a909c"
SIZES, FRAMES = (8, 8, 8), (9,)
SCALES = ((1, 1), (2, 2), (3, 3), (4, 4))
EXAMPLES: Sequence[tuple[str, Layout, tuple[int, ...]]] = (
    ("parallel, text or 1-D tokens", Parallel(SIZES[:1]), FRAMES),
    ("parallel", Parallel(SIZES), FRAMES),
    ("delay", Delay(SIZES), FRAMES),
    ("stack-and-delay", StackDelay(SIZES), FRAMES),
    ("flat", Flat(SIZES), FRAMES),
    ("frame + depth, delayed by 1", FrameDepth(SIZES, delays=(0, 1, 1)), FRAMES),
    ("grouped, 3 frames a step", Grouped(SIZES, group=3), FRAMES),
    ("coarse-first", CoarseFirst(SIZES), FRAMES),
    ("next-scale", NextScale((8,), scales=SCALES), (sum(height * width for height, width in SCALES),)),
    ("raster", Raster((8,)), (4, 4)),
    ("raster, with row ends", Raster((8,), row_end=True), (4, 4)),
    ("raster, with row and grid ends", Raster((8,), row_end=True, grid_end=True), (4, 4)),
)
PALETTE = 128  # colours in the file: as good to the eye, a third of the bytes


@dataclass(frozen=True)
class Drawing:
    """A layout as a table of boxes, row by row; -1 where there is none.

    Attributes:
        steps: The step that a code, or a structure token, stands in.
        passes: The forward pass that it is decoded in.
        structure: Whether it is a structure token.
        axes: What rows and columns are.
    """

    steps: Int[np.ndarray, "row column"]
    passes: Int[np.ndarray, "row column"]
    structure: Bool[np.ndarray, "row column"]
    axes: tuple[str, str]


def drawing(layout: Layout, shape: tuple[int, ...]) -> Drawing:
    """Codebooks over frames, or over tokens if there is one; for pictures, rows over columns, scales side by side."""
    if isinstance(layout, Raster):
        return by_position(layout, shape, layout.positions(shape).numpy())
    if isinstance(layout, NextScale):
        scale, row, column = layout.positions(shape).T.numpy()
        widths = [width + 1 for _, width in layout.scales]
        left = np.cumsum([0, *widths])[scale]
        return by_position(layout, shape, np.stack([row, left + column], 1))
    found = (layout.places(shape) // len(layout.slots)).numpy()
    axes = ("codebook", "frame") if len(found) > 1 else ("", "token")
    return Drawing(found, layout.block_ids(shape).numpy()[found], np.zeros_like(found, bool), axes)


def by_position(layout: Layout, shape: tuple[int, ...], boxes: Int[np.ndarray, "step 2"]) -> Drawing:
    """Each step in a box of its own, of the given row and column."""
    box = tuple(boxes.T)
    steps, passes = np.full((2, *boxes.max(0) + 1), -1)
    structure = np.zeros(steps.shape, bool)
    steps[box], passes[box] = np.arange(len(boxes)), layout.block_ids(shape).numpy()
    structure[box] = layout.coords(shape)[:, 0].numpy() < 0
    return Drawing(steps, passes, structure, ("row", "column"))


def draw(path: Path) -> None:
    """Write the picture of all examples as a PNG."""
    figure = Figure(figsize=(13, 9.2), dpi=100, facecolor="white", layout="constrained")
    figure.suptitle(
        "Which step each code stands in; boxes of one colour come out of one forward pass, grey ones are fixed",
        fontsize=14,
        color=INK,
    )
    grid = figure.subplots(4, 3)
    for axes, (name, layout, shape) in zip(grid.flat, EXAMPLES, strict=True):
        shown = drawing(layout, shape)
        counts = f"{layout.steps(shape)} steps, {layout.rounds(shape)} passes"
        draw_layout(axes, shown, f"{name}: {counts}", layout.ranks)
    figure.savefig(path, format="png")
    Image.open(path).convert("RGB").quantize(PALETTE).save(path, format="png", optimize=True)


def draw_layout(axes: Axes, shown: Drawing, title: str, ranks: tuple[int, ...]) -> None:
    """One table of boxes; where the codes of a step come one after the other, letters say in which order."""
    passes = np.ma.masked_less(shown.passes, 0)
    colours = ListedColormap(colormaps["YlGnBu"](np.linspace(0.1, 0.65, 256)))
    axes.pcolormesh(np.ma.masked_where(shown.structure, passes), cmap=colours, edgecolors="white", linewidth=2)
    fixed = np.ma.masked_where(~shown.structure, passes)
    axes.pcolormesh(fixed, cmap=ListedColormap(["#d8dbe0"]), edgecolors="white", linewidth=2)
    for (row, column), step in np.ndenumerate(shown.steps):
        if step >= 0:
            letter = "abcdefgh"[ranks[row]] if max(ranks) else ""
            axes.text(column + 0.5, row + 0.5, f"{step}{letter}", ha="center", va="center", fontsize=10, color=INK)
    axes.set_title(title, fontsize=11, color=INK)
    axes.set(aspect="equal", ylim=(len(passes), 0), xticks=[], yticks=[])
    axes.set_ylabel(shown.axes[0], fontsize=9, color=FAINT)
    axes.set_xlabel(shown.axes[1], fontsize=9, color=FAINT)
    axes.spines[:].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the layouts into a file."""
    parser = ArgumentParser(prog="python -m zoo.decoders.layouts_picture", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    draw(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()
