"""Draws a photograph beside its reconstructions: the pictures, their tokens, the codes of each cell, the errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from zoo.picture import FAINT, INK

INCHES, DPI = 4.3, 120  # of each picture: 512 pixels a side are shown as they are
EMPTY = "#14161a"  # where a cell has no code
BRIGHTEST = 99.5  # percentile of errors that has the brightest colour
HEADINGS = (
    (
        "tokens",
        "Each cell is a mosaic of its codes, coarse to fine, line by\nline; dark where it has no more of them."
        " The colour is the\nindex in the codebook, from the first (0) to the last (1).",
    ),
    ("codes a cell", "How many codes each cell of {hop} x {hop} pixels has:\nbusy parts more than flat ones."),
    ("error", "Mean difference of the three colours\nfrom the original, of 255."),
)


@dataclass(frozen=True)
class Column:
    """One reconstruction.

    Attributes:
        title: Large text under it.
        caption: Small text under the title.
        media: Its colours, in [0, 1].
        codes: The tokens that it was reconstructed from, -1 behind the last one of a cell.
    """

    title: str
    caption: str
    media: Float32[np.ndarray, "3 height width"]
    codes: Int[np.ndarray, "codebook down across"]


def draw_columns(
    original: Float32[np.ndarray, "3 height width"],
    columns: Sequence[Column],
    codebook_sizes: Sequence[int],
    hop: int,
    title: str,
    path: Path,
) -> None:
    """Write a PNG with the original and its legends on the left; all columns share the scales of codes and errors."""
    _, height, width = original.shape
    scale = INCHES / max(height, width)
    size = (len(columns) + 1) * (width * scale + 0.15), 4 * (height * scale + 0.15) + 1.1
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout=layout)
    figure.suptitle(title, fontsize=16, fontweight="bold", color=INK)
    grid = figure.subplots(4, len(columns) + 1, squeeze=False)
    draw(grid[0, 0], original.transpose(1, 2, 0), (height, width))
    label(grid[0, 0], "original", f"{width} x {height} pixels")
    errors = [255 * np.abs(column.media - original).mean(axis=0) for column in columns]
    largest = max(1.0, *(float(np.percentile(error, BRIGHTEST)) for error in errors))
    tokens = colormaps["turbo"].with_extremes(bad=EMPTY)
    for axes, column, error in zip(grid.T[1:], columns, errors, strict=True):
        draw(axes[0], column.media.transpose(1, 2, 0), (height, width))
        label(axes[0], column.title, column.caption)
        cells = hop * np.array(column.codes.shape[1:])
        depth = (column.codes >= 0).sum(axis=0)
        maps = [
            draw(axes[1], mosaic(column.codes, codebook_sizes), cells, 1, tokens),
            draw(axes[2], depth, cells, len(codebook_sizes), colormaps["viridis"]),
            draw(axes[3], error, (height, width), largest, colormaps["magma"]),
        ]
        for some in axes[1:3]:
            some.set(xlim=(0, width), ylim=(height, 0))  # the last cells may reach beyond the picture
    for axes, shown, (heading, text) in zip(grid[1:, 0], maps, HEADINGS, strict=True):
        legend(figure, axes, shown, heading, text.format(hop=hop))
    figure.savefig(path)


def mosaic(
    codes: Int[np.ndarray, "codebook down across"], codebook_sizes: Sequence[int]
) -> Float[np.ndarray, "row column"]:
    """Each cell as a square of its codes: index in the codebook from 0 to 1, NaN where there is none."""
    count, down, across = codes.shape
    side = math.isqrt(len(codebook_sizes) - 1) + 1
    places = np.full((side * side, down, across), np.nan)
    share = codes / np.maximum(1, np.array(codebook_sizes[:count]) - 1)[:, None, None]
    places[:count] = np.where(codes >= 0, share, np.nan)
    return places.reshape(side, side, down, across).transpose(2, 0, 3, 1).reshape(side * down, side * across)


def draw(
    axes: Axes, values: np.ndarray, size: Sequence[int], largest: float | None = None, colours: Colormap | None = None
) -> AxesImage:
    """Values as an image that stands for so many rows and columns of pixels."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    height, width = size
    return axes.imshow(values, colours, vmin=0, vmax=largest, extent=(0, width, height, 0))


def label(axes: Axes, title: str, caption: str) -> None:
    """Title and caption under a picture."""
    axes.text(
        0.5, -0.02, title, fontsize=15, fontweight="bold", color=INK, ha="center", va="top", transform=axes.transAxes
    )
    axes.set_xlabel(caption, fontsize=11, color=INK, labelpad=26)


def legend(figure: Figure, axes: Axes, shown: AxesImage, heading: str, text: str) -> None:
    """What a line of maps shows, and its scale."""
    axes.axis("off")
    axes.text(0, 0.78, heading, fontsize=15, fontweight="bold", color=INK, va="top", transform=axes.transAxes)
    axes.text(0, 0.68, text, fontsize=11, color=INK, va="top", linespacing=1.5, transform=axes.transAxes)
    bar = figure.colorbar(shown, cax=axes.inset_axes((0, 0.38, 0.9, 0.05)), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelsize=9, length=2)
    bar.ax.xaxis.set_major_locator(MaxNLocator(6))
