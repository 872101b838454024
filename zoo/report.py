"""Model cards out of evaluations: a Markdown table and a plot of quality over bitrate.

python -m zoo.report metrics-seen.json metrics-unseen.json baselines.json --plot rates.png
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = {"pesq_wb": "PESQ-wb", "stoi": "STOI"}
DIGITS = {"pesq_wb": 2, "stoi": 3}


def compare_table(files: Sequence[str | Path]) -> str:
    """Markdown: a line for each system, its real kbps, PESQ-wb and STOI on each data set, and the conditions below.

    Args:
        files: What `zoo evaluate -o` or `python -m zoo.baselines --json` wrote; the same clips are one data set.
    """
    sets = _by_data(files)
    names = list(dict.fromkeys(row["system"] for _, rows, _ in sets for row in rows))
    heads = [f"{_title(data)}: kbps | PESQ-wb | STOI" for data, _, _ in sets]
    lines = ["| system | " + " | ".join(heads) + " |", "|---|" + "---:|---:|---:|" * len(sets)]
    for name in names:
        cells = []
        for _, rows, _ in sets:
            row = next((row for row in rows if row["system"] == name), None)
            cells += [""] * 3 if row is None else [_kbps(row), *(_mean(row, metric) for metric in PANELS)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = [f"{_title(data)}: {data['clips']} clips, {data['seconds']:.0f} s ({data['rule']})." for data, _, _ in sets]
    ran = {
        f"`{facts['command']}`, {facts['hardware']['cpu']}, {facts['hardware']['cores']} cores,"
        f" torch {facts['versions']['torch']}, pesq {facts['versions']['pesq']}, pystoi {facts['versions']['pystoi']},"
        f" {facts['date'][:10]}": None
        for _, _, many in sets
        for facts in many
    }
    notes.append(
        "kbps: codes alone (Opus: packets without the Ogg container), measured. Delays removed before scoring."
    )
    return "\n".join([*lines, "", *notes, "", "Measured by:", "", *(f"- {line}" for line in ran), ""])


def plot(files: Sequence[str | Path], path: str | Path) -> None:
    """Draw PESQ-wb and STOI over real kbps, with 95 % intervals, one row of panels a data set."""
    from matplotlib.figure import Figure

    sets = _by_data(files)
    figure = Figure(figsize=(9, 3.2 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), len(PANELS), squeeze=False)
    families = list(dict.fromkeys(row["family"] for _, rows, _ in sets for row in rows))
    for line, (data, rows, _) in zip(panels, sets, strict=True):
        for axes, (metric, label) in zip(line, PANELS.items(), strict=True):
            for index, family in enumerate(families):
                _draw(axes, f"C{index}", family, metric, [row for row in rows if row["family"] == family])
            axes.set(title=_title(data), xlabel="kbps (measured)", ylabel=label)
            axes.grid(alpha=0.3)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=75)


def _draw(axes: Any, color: str, family: str, metric: str, rows: Sequence[dict[str, Any]]) -> None:
    """A curve with intervals; systems that have no bitrate are a dashed level."""
    rows = [row for row in rows if row["metrics"][metric]["mean"] is not None]
    if not rows:
        return
    found = [row["metrics"][metric] for row in rows]
    if rows[0]["kbps"] is None:
        axes.axhline(found[0]["mean"], ls="--", color=color, label=family)
        return
    means = [one["mean"] for one in found]
    errors = [[one["mean"] - one["low"] for one in found], [one["high"] - one["mean"] for one in found]]
    rates = [row["kbps"]["payload"] for row in rows]
    axes.errorbar(rates, means, errors, marker="o", ms=4, capsize=2, color=color, label=family)


def _by_data(files: Sequence[str | Path]) -> list[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Facts about the data, rows and conditions of each data set; the same clips are the same set."""
    sets: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for file in files:
        content = json.loads(Path(file).read_text())
        for result in content if isinstance(content, list) else [content]:
            data, rows, facts = sets.setdefault(result["data"]["sha256"], (result["data"], [], []))
            known = {row["system"] for row in rows}
            rows += [row for row in result.get("rows", []) + result["baselines"] if row["system"] not in known]
            facts.append(result["conditions"])
    return list(sets.values())


def _title(data: dict[str, Any]) -> str:
    return Path(data["source"]).name


def _kbps(row: dict[str, Any]) -> str:
    return "" if row["kbps"] is None else f"{row['kbps']['payload']:.2f}"


def _mean(row: dict[str, Any], metric: str) -> str:
    mean = row["metrics"][metric]["mean"]
    return "none" if mean is None else f"{mean:.{DIGITS[metric]}f}"


def main() -> None:
    """Print a model card's table and, if asked, draw its plot."""
    parser = ArgumentParser(prog="python -m zoo.report", description=main.__doc__)
    parser.add_argument("files", nargs="+", help="JSON files of evaluations")
    parser.add_argument("--plot", help="PNG to write")
    given = parser.parse_args()
    print(compare_table(given.files))
    if given.plot:
        plot(given.files, given.plot)


if __name__ == "__main__":
    main()
