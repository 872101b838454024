"""What evaluations say, as people read it: a table in the terminal, a model card's table, rate-distortion curves.

Recordings and pictures differ in their units and metrics alone (`Kind`).

    python -m zoo.report metrics-seen.json metrics-unseen.json baselines.json --plot rates.png
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = (".png", ".svg", ".pdf")
Result = dict[str, Any]
"""What `evaluate` or `evaluate_pictures` gave, or one entry of what `python -m zoo.baselines` wrote."""


@dataclass(frozen=True)
class Figures:
    """The heading of a column of figures, and their digits behind the point."""

    label: str
    digits: int


@dataclass(frozen=True)
class Kind:
    """How results on one kind of media are shown.

    Attributes:
        items: What is counted, in `data` and in words.
        amount: How much was measured, to be filled in from `data`.
        units: Of rates, and their name in rows.
        rates: Which rates a row has, as the terminal shows them; cards and plots are over the first.
        main: Metrics of cards and plots.
        more: Metrics for the terminal alone; those that a result lacks are left out.
        packages: Whose versions a card states.
        speed: As the terminal shows speeds, and what that means.
        paired: Systems were measured at the same rates, picture by picture. So cards list them by rate, and plots have
            points of all pictures only, without intervals: those are of what pictures, not systems, differ by.
        note: What a card says about its figures.
    """

    items: str
    amount: str
    units: str
    rates: dict[str, Figures]
    main: dict[str, Figures]
    more: dict[str, Figures]
    packages: tuple[str, ...]
    speed: tuple[Figures, str]
    paired: bool
    note: str

    @property
    def rate(self) -> str:
        """The rate that cards and plots are over."""
        return next(iter(self.rates))


AUDIO = Kind(
    items="clips",
    amount="{clips} clips, {seconds:.0f} s ({rule})",
    units="kbps",
    rates={"payload": Figures("kbps", 2), "file": Figures("file kbps", 2)},
    main={"pesq_wb": Figures("PESQ-wb", 2), "stoi": Figures("STOI", 3)},
    more={
        "si_sdr": Figures("SI-SDR dB", 1),
        "mel_distance": Figures("mel distance", 3),
        "dnsmos": Figures("dnsmos", 2),
        "plcmos": Figures("plcmos", 2),
        "word_errors": Figures("word errors", 3),
    },
    packages=("pesq", "pystoi"),
    speed=(Figures("x", 0), "times real time on one thread"),
    paired=False,
    note="kbps: codes alone (Opus: packets without the Ogg container), measured. Delays removed before scoring.",
)
PICTURES = Kind(
    items="pictures",
    amount="{pictures} pictures, {size} pixels, {megapixels:.2f} megapixels",
    units="bpp",
    rates={"file": Figures("bpp", 3)},
    main={
        "psnr": Figures("PSNR dB", 2),
        "ms_ssim": Figures("MS-SSIM", 4),
        "contrast": Figures("contrast distance", 4),
    },
    more={},
    packages=("pillow", "torchmetrics"),
    speed=(Figures("MP/s", 2), "megapixels a second on one thread"),
    paired=True,
    note="bpp: bits per pixel of whole files, header and all, measured. JPEG, WebP and AVIF: each picture at the bits"
    " that our file of it took, between the two nearest qualities; (n of m): it cannot make the others"
    " that small. Contrast distance: 0 is no difference.",
)


@dataclass
class DataSet:
    """All that was measured on the same media: facts about them, a row for each system, conditions of each result."""

    data: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    conditions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(self.data["source"]).name


def kind_of(result: Result) -> Kind:
    """Whether a result is about recordings or pictures."""
    return PICTURES if PICTURES.items in result["data"] else AUDIO


def read(files: Iterable[str | Path]) -> list[Result]:
    """Results out of what `zoo evaluate -o` or `python -m zoo.baselines --json` wrote."""
    contents = [json.loads(Path(file).read_text()) for file in files]
    return [result for content in contents for result in (content if isinstance(content, list) else [content])]


def terminal_table(result: Result) -> Table:
    """The rates (and baselines) of one result as a table to print."""
    kind, data = kind_of(result), result["data"]
    name = result["codec"]["name"] or "codec"
    view = Table(title=f"{name} on {data['source']}: {data[kind.items]} {kind.items}")
    rows = _ordered(kind, result["rows"] + result["baselines"])
    metrics = {name: metric for name, metric in (kind.main | kind.more).items() if name in rows[0]["metrics"]}
    speed, meaning = kind.speed
    columns = (*kind.rates.values(), *metrics.values())
    view.add_column("system")
    for label in (*(column.label for column in columns), f"encode {speed.label}", f"decode {speed.label}"):
        view.add_column(label, justify="right")
    for row in rows:
        rates, speeds = row[kind.units] or {}, row.get("speed") or {}
        view.add_row(
            row["system"],
            *(f"{rates[name]:.{shown.digits}f}" if name in rates else "" for name, shown in kind.rates.items()),
            *(_with_interval(row["metrics"][name], metric.digits) for name, metric in metrics.items()),
            *(f"{speeds[half]:.{speed.digits}f}" if half in speeds else "" for half in ("encode", "decode")),
        )
    view.caption = f"mean ± half of the 95 % interval; encode, decode: {meaning}"
    return view


def card_table(results: Sequence[Result]) -> str:
    """Markdown: a line for each system, its real rate and main metrics on each data set, and the conditions below.

    Args:
        results: Of one kind of media; those on the same media are one data set.

    Raises:
        UserError: Results on recordings and on pictures.
    """
    kind, sets = _by_data(results)
    names = list(dict.fromkeys(row["system"] for one in sets for row in one.rows))
    labels = [metric.label for metric in kind.main.values()]
    heads = [" | ".join([f"{one.name}: {kind.units}", *labels]) for one in sets]
    lines = ["| system | " + " | ".join(heads) + " |", "|---|" + "---:|" * (1 + len(labels)) * len(sets)]
    for name in names:
        cells = []
        for one in sets:
            row = next((row for row in one.rows if row["system"] == name), None)
            cells += [""] * (1 + len(labels)) if row is None else _cells(kind, row)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = [f"{one.name}: {kind.amount.format(**one.data)}." for one in sets]
    ran = dict.fromkeys(_conditions(kind, facts) for one in sets for facts in one.conditions)
    return "\n".join([*lines, "", *notes, kind.note, "", "Measured by:", "", *(f"- {line}" for line in ran), ""])


def check_plot(path: str | Path) -> None:
    """Raise UserError unless a plot can be written there, ModuleNotFoundError without the package that draws it."""
    import matplotlib  # noqa: F401

    if Path(path).suffix.lower() not in PLOTS:
        raise UserError(f"{path}: cannot draw a plot of that kind; name a file that ends in {', '.join(PLOTS)}")
    AtomicFile(path).discard()


def draw(results: Sequence[Result], path: str | Path) -> None:
    """Draw the main metrics over the real rate, a row of panels for each data set; the ending chooses the format.

    Where a format cannot make all pictures that small, it has no point: its mean would be that of easier ones.

    Raises:
        UserError: As `card_table` and `check_plot`.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    kind, sets = _by_data(results)
    figure = Figure(figsize=(4.5 * len(kind.main), 3.2 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), len(kind.main), squeeze=False)
    families = list(dict.fromkeys(row["family"] for one in sets for row in one.rows))
    for line, one in zip(panels, sets, strict=True):
        for axes, (name, metric) in zip(line, kind.main.items(), strict=True):
            rows = [row for row in one.rows if row["metrics"][name]["clips"]]
            if kind.paired:
                whole = max((row["metrics"][name]["clips"] for row in rows), default=0)
                rows = [row for row in rows if row["metrics"][name]["clips"] == whole]
            for index, family in enumerate(families):
                _draw(axes, f"C{index}", family, kind, name, [row for row in rows if row["family"] == family])
            title = f"{one.name}: {one.data[kind.items]} {kind.items}"
            axes.set(title=title, xlabel=f"{kind.units} (measured)", ylabel=metric.label)
            axes.grid(alpha=0.3)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize="small")
    save(figure, path, dpi=75)


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write a figure, whole or not at all; the ending, one of `PLOTS`, chooses the format."""
    with AtomicFile(path) as target:
        figure.savefig(target.file, dpi=dpi, format=Path(path).suffix[1:].lower())


def write_card(results: Sequence[Result], path: str | Path) -> None:
    """Write a model card's table as a Markdown file."""
    text = card_table(results)
    with AtomicFile(path) as target:
        target.write(text.encode())


def _by_data(results: Sequence[Result]) -> tuple[Kind, list[DataSet]]:
    """Their kind, and what was measured on each data set; the same media are the same set."""
    kinds = {kind_of(result).items for result in results}
    if len(kinds) != 1:
        raise UserError(f"results on {' and '.join(sorted(kinds)) or 'nothing'} cannot be compared; give one kind")
    sets: dict[str, DataSet] = {}
    for result in results:
        one = sets.setdefault(result["data"]["sha256"], DataSet(result["data"]))
        known = {row["system"] for row in one.rows}
        one.rows += [row for row in result.get("rows", []) + result["baselines"] if row["system"] not in known]
        one.conditions.append(result["conditions"])
    kind = kind_of(results[0])
    for one in sets.values():
        one.rows = _ordered(kind, one.rows)
    return kind, list(sets.values())


def _ordered(kind: Kind, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as tables list them; of equal rates the codec's comes first."""
    return sorted(rows, key=lambda row: row[kind.units][kind.rate]) if kind.paired else rows


def _cells(kind: Kind, row: dict[str, Any]) -> list[str]:
    """A row's rate and main metrics, with how many count where some have no score."""
    rates = row[kind.units]
    cells = ["" if rates is None else f"{rates[kind.rate]:.{kind.rates[kind.rate].digits}f}"]
    for name, metric in kind.main.items():
        found = row["metrics"][name]
        share = f" ({found['clips']} of {found['clips'] + found['missing']})" if found["missing"] else ""
        cells.append("none" if found["mean"] is None else f"{found['mean']:.{metric.digits}f}{share}")
    return cells


def _with_interval(found: dict[str, Any], digits: int) -> str:
    """A metric's mean, half its interval, and how many are missing in it."""
    if found["mean"] is None:
        return f"none of {found['missing']}"
    half = (found["high"] - found["low"]) / 2
    missing = f" ({found['missing']} missing)" if found["missing"] else ""
    return f"{found['mean']:.{digits}f} ± {half:.{digits}f}{missing}"


def _conditions(kind: Kind, facts: dict[str, Any]) -> str:
    versions = {name: facts["versions"][name] for name in ("torch", *kind.packages)} | facts.get("libraries", {})
    return ", ".join(
        [
            f"`{facts['command']}`",
            facts["hardware"]["cpu"],
            f"{facts['hardware']['cores']} cores",
            *(f"{name} {version}" for name, version in versions.items()),
            facts["date"][:10],
        ]
    )


def _draw(axes: Any, color: str, family: str, kind: Kind, metric: str, rows: Sequence[dict[str, Any]]) -> None:
    """A curve; systems that have no rate are a dashed level."""
    if not rows:
        return
    if rows[0][kind.units] is None:
        axes.axhline(rows[0]["metrics"][metric]["mean"], ls="--", color=color, label=family)
        return
    points = sorted(((row[kind.units][kind.rate], row["metrics"][metric]) for row in rows), key=lambda point: point[0])
    rates, means = [rate for rate, _ in points], [found["mean"] for _, found in points]
    errors = [[found["mean"] - found["low"], found["high"] - found["mean"]] for _, found in points]
    bars = None if kind.paired else list(zip(*errors, strict=True))
    axes.errorbar(rates, means, bars, marker="o", ms=4, capsize=2, color=color, label=family)


def main() -> None:
    """Print a model card's table and, if asked, draw its plot."""
    parser = ArgumentParser(prog="python -m zoo.report", description=main.__doc__)
    parser.add_argument("files", nargs="+", help="JSON files of evaluations")
    parser.add_argument("--plot", help="PNG, SVG or PDF to write")
    given = parser.parse_args()
    results = read(given.files)
    print(card_table(results))
    if given.plot:
        draw(results, given.plot)


if __name__ == "__main__":
    main()
