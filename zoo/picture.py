"""Draws recordings side by side: waveform, spectrogram and the tokens that they were reconstructed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image

INK, FAINT = "#22252b", "#8a909c"
COLOURS = ("#4a5568", "#d1495b", "#e08e2b", "#2a9d8f")  # waveforms, one for each row
WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.008
FLOOR_DB = -75
PALETTE = 160  # colours in the file: as good to the eye, a third of the bytes


@dataclass(frozen=True)
class Row:
    """One recording.

    Attributes:
        title: Large text at its left.
        caption: Small text under the title.
        media: Its samples.
        codes: The tokens that it was reconstructed from; None for an original.
    """

    title: str
    caption: str
    media: Float32[np.ndarray, "time"]
    codes: Int[np.ndarray, "codebook frame"] | None = None


def draw_rows(rows: Sequence[Row], rate: int, codebook_sizes: Sequence[int], title: str, path: Path) -> None:
    """Write a PNG with one line for each row; all share time, loudness and code scales."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.07)
    figure = Figure(figsize=(15, 0.9 + 2.05 * len(rows)), dpi=100, facecolor="white", layout=layout)
    figure.suptitle(title, fontsize=16, fontweight="bold", color=INK)
    grid = figure.subplots(len(rows), 4, squeeze=False, width_ratios=(0.55, 2, 2.2, 2.2))
    peak = max(float(np.abs(row.media).max()) for row in rows) or 1.0
    loudest = max(float(decibels(row.media, rate).max()) for row in rows)
    codebooks = max(len(row.codes) for row in rows if row.codes is not None)
    seconds = len(rows[0].media) / rate
    for i, (row, (label, wave, spectrum, tokens)) in enumerate(zip(rows, grid, strict=True)):
        draw_label(label, row, COLOURS[i % len(COLOURS)])
        draw_wave(wave, row, rate, peak, COLOURS[i % len(COLOURS)])
        draw_spectrum(spectrum, row, rate, loudest)
        draw_tokens(tokens, row, codebook_sizes, codebooks, seconds)
        for axes in (wave, spectrum, tokens):
            axes.set_xlim(0, seconds)
            axes.tick_params(colors=FAINT, labelsize=8, labelbottom=i == len(rows) - 1, length=2)
            axes.spines[:].set_visible(False)
    for axes, heading in zip(grid[0, 1:], ("waveform", "spectrogram, kHz", "tokens, one line a codebook"), strict=True):
        axes.set_title(heading, fontsize=11, color=INK)
    for axes in grid[-1, 1:]:
        axes.set_xlabel("seconds", fontsize=9, color=FAINT)
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(PALETTE).save(path, optimize=True)


def draw_label(axes: Axes, row: Row, colour: str) -> None:
    """Title and caption."""
    axes.axis("off")
    axes.text(0, 0.98, row.title, fontsize=15, fontweight="bold", color=colour, va="top", transform=axes.transAxes)
    axes.text(0, 0.74, row.caption, fontsize=10, color=INK, va="top", linespacing=1.5, transform=axes.transAxes)


def draw_wave(axes: Axes, row: Row, rate: int, peak: float, colour: str) -> None:
    """The envelope of the samples: lowest and highest of each thousandth of the recording."""
    step = max(1, len(row.media) // 1000)
    blocks = row.media[: len(row.media) // step * step].reshape(-1, step)
    time = (np.arange(len(blocks)) + 0.5) * step / rate
    axes.fill_between(time, blocks.min(axis=1), blocks.max(axis=1), color=colour, linewidth=0.4)
    axes.set_ylim(-peak, peak)
    axes.set_yticks([])


def draw_spectrum(axes: Axes, row: Row, rate: int, loudest: float) -> None:
    """Level of each frequency over time."""
    extent = (0, len(row.media) / rate, 0, rate / 2000)
    level = decibels(row.media, rate) - loudest
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.imshow(level, cmap="magma", vmin=FLOOR_DB, vmax=0, origin="lower", aspect="auto", extent=extent)


def decibels(media: Float32[np.ndarray, "time"], rate: int) -> Float32[np.ndarray, "frequency frame"]:
    """Level of each frequency over time in dB."""
    size, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    window = torch.hann_window(size)
    padded = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(media)), (size // 2, size // 2))
    spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
    return (20 * spectrum.abs().clamp(min=1e-6).log10()).numpy()


def draw_tokens(axes: Axes, row: Row, codebook_sizes: Sequence[int], codebooks: int, seconds: float) -> None:
    """One cell for each code, coarse codebook on top; the colour is its index in the codebook."""
    if row.codes is None:
        axes.text(0.5, 0.5, "no tokens: the original", color=FAINT, ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    count = len(row.codes)
    index = row.codes / np.array(codebook_sizes[:count])[:, None]
    axes.imshow(index, cmap="turbo", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
                extent=(0, seconds, count + 0.5, 0.5))  # fmt: skip
    axes.hlines(np.arange(count - 1) + 1.5, 0, seconds, color="white", linewidth=1)
    axes.set_ylim(codebooks + 0.5, 0.5)
    axes.set_yticks([1, count] if count > 1 else [1])
