"""Draws what `zoo bench sampling` measured: what drafts save in passes, and what of it is left in time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zoo.codecs.errors import UserError
from zoo.configs import read_json
from zoo.report import check_plot, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#22252b", "#8a909c", "#fafbfc"
KINDS = {
    "identical": ("the same output", "o", "#2a9d8f"),
    "distribution": ("the same law", "s", "#e08e2b"),
    "approximate": ("another law", "^", "#d1495b"),
    "another process": ("filled in otherwise", "D", "#5b7db1"),
}
"""What each kind of method is called, its marker and its colour."""
COLUMNS = 3
LABELLED = 3  # methods of a panel that are named
APART = 0.08  # distance of two names, as a share of the panel's height
PALETTE = 128  # colours in the file: as good to the eye, a quarter of the bytes


def check(path: str | Path) -> None:
    """Raise UserError unless a plot can be written there, and matplotlib is there to draw it."""
    try:
        check_plot(path)
    except ModuleNotFoundError as error:
        raise UserError(
            f"plots need {error.name}, which is not installed; pip install 'media-token-zoo[bench]'"
        ) from None


def recorded(file: Path) -> dict[str, Any]:
    """What `zoo bench sampling -o FILE` wrote.

    Raises:
        UserError: The file is not that.
    """
    result = read_json(file) if file.is_file() else None
    rows = result.get("rows") if isinstance(result, dict) else None
    whole = isinstance(rows, list) and rows and all(isinstance(row, dict) and row.get("methods") for row in rows)
    if not isinstance(result, dict) or not whole:
        raise UserError(f"{file}: is no result of this benchmark; zoo bench sampling -o {file} makes one")
    return result


def draw(result: dict[str, Any], path: str | Path) -> None:
    """Write the picture of a result of `bench_sampling`; the ending chooses the format.

    Raises:
        UserError: As `check`.
    """
    check(path)
    save(figure_of(result), path, dpi=100)
    if Path(path).suffix.lower() == ".png":
        picture = Image.open(path).convert("RGB").quantize(PALETTE, Image.Quantize.FASTOCTREE)
        picture.save(path, optimize=True)


def figure_of(result: dict[str, Any]) -> Figure:
    """A panel for each decoder and temperature: times as fast over steps a pass, a point for each method.

    Bars reach from the least to the largest of the requests. A hollow mark is what the method would bring if nothing
    but forward passes took time, where that is known.
    """
    from matplotlib.figure import Figure

    rows = result["rows"]
    lines = -(-(len(rows) + 1) // COLUMNS)  # one place is for the legend
    figure = Figure(figsize=(3.55 * COLUMNS, 3.1 * lines), facecolor=PAPER, layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for axes, row in zip(panels, rows, strict=False):
        _draw_panel(axes, row)
    for axes in panels[len(rows) :]:
        axes.axis("off")
    _explain(panels[len(rows)], result)
    return figure


def _draw_panel(axes: Axes, row: dict[str, Any]) -> None:
    """All methods of a decoder; the y axis doubles at equal distances, so that twice is as far from one as half."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    methods = row["methods"]
    axes.axhline(1, color=FAINT, linewidth=0.9, zorder=1)
    for kind, (_, marker, colour) in KINDS.items():
        some = [method for method in methods if kind_of(method) == kind]
        if not some:
            continue
        steps = [method["steps_a_pass"] for method in some]
        middle, least, largest = np.array([method["ratio"]["wall"] for method in some]).T
        axes.errorbar(
            steps, middle, (middle - least, largest - middle), fmt=marker, color=colour, markersize=5.5,
            ecolor=colour + "55", elinewidth=2.5, label=kind, zorder=3,
        )  # fmt: skip
        known = [
            (method["steps_a_pass"], method["ratio"]["wall"][0], method["expected"])
            for method in some
            if "expected" in method
        ]
        if known:
            steps, found, hoped = zip(*known, strict=True)
            axes.plot(steps, hoped, marker, mfc=PAPER, mec=colour, mew=1, ms=5, zorder=2, label="expected")
            axes.vlines(steps, found, hoped, color=INK, linewidth=0.6, zorder=1.5)
    axes.set_yscale("log", base=2)
    low, high = min(axes.get_ylim()[0], 0.7), max(axes.get_ylim()[1], 1.1)
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - APART * (LABELLED + 0.5))))
    axes.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
    guidance = "" if row["guidance"] == 1 else f", guidance {row['guidance']:g}"
    axes.set_title(f"{row['decoder']}\ntemperature {row['temperature']:g}{guidance}", fontsize=10, color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=2)
    axes.grid(color=FAINT, alpha=0.18)
    axes.spines[:].set_color("#d5d8de")
    _name_best(axes, methods)


def kind_of(method: dict[str, Any]) -> str:
    """Its exactness, which speaks of its own process; unless that is none that could give what the first method does.

    Results from before `another_process` was told call such methods approximate.
    """
    return "another process" if method.get("another_process") else method["exactness"]


def _name_best(axes: Axes, methods: list[dict[str, Any]]) -> None:
    """Names of the fastest methods in the room above all points, each with a line to its own; lines hardly cross."""
    best = sorted(methods[1:], key=lambda method: -method["ratio"]["wall"][0])[:LABELLED]
    line = dict(arrowstyle="-", color=FAINT, linewidth=0.7, shrinkA=0, shrinkB=3, relpos=(1, 0.5))
    for index, method in enumerate(sorted(best, key=lambda method: -method["steps_a_pass"])):
        point = (method["steps_a_pass"], method["ratio"]["wall"][0])
        axes.annotate(
            short(method["method"]), point, (0.03, 0.95 - APART * index), textcoords="axes fraction", va="center",
            fontsize=8.5, color=INK, arrowprops=line,
            zorder=4,
        )  # fmt: skip


def short(name: str) -> str:
    """A method without names of models and settings, as in "draft, window 3", but with its kind: "jacobi:last"."""
    return re.sub(r":[^,+]*[.=][^,+]*", "", name)


def _explain(axes: Axes, result: dict[str, Any]) -> None:
    """The legend, and under which conditions was measured."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=label)
        for label, marker, colour in KINDS.values()
    ]
    hollow = Line2D([], [], marker="o", mfc=PAPER, mec=FAINT, linestyle="", label="if only passes took time")
    axes.legend(handles=[*handles, hollow], loc="upper left", frameon=False, fontsize=10, labelcolor=INK)
    said = (
        "across: steps a pass of the decoder\nup: times as fast as one step at a time,\n"
        f"median, least and largest of {result['items']} requests\n"
        "the same: but for rounding\n\n"
        f"one thread of {result['hardware']['cpu']},\nmatrices in {result['weights']}, {result['date'][:10]}"
    )
    axes.text(0.02, 0.52, said, transform=axes.transAxes, fontsize=9, color=INK, va="top", linespacing=1.4)
