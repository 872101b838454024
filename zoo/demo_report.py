"""What a part of the demo found out: a table with notes, as text and as Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from zoo.recipes.metrics import Score


@dataclass(frozen=True)
class Report:
    """One part of the demo.

    Attributes:
        title: What was done.
        columns, rows: The table.
        notes: What its columns mean.
        places: What can be done with which of the files, as pairs.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    places: list[tuple[str, str]]

    def markdown(self) -> str:
        """Title, table and notes as Markdown."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        return f"## {self.title}\n\n{table}" + "".join(f"\n{note}\n" for note in self.notes)

    def show(self) -> None:
        """Print the table and where everything lies."""
        table = Table(title=self.title, box=SIMPLE_HEAD, padding=(0, 0))
        for column in self.columns:
            table.add_column(column, justify="right", min_width=max(map(len, column.split())))
        for row in self.rows:
            table.add_row(*row)
        console = Console(highlight=False)
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim")
        print("")
        for purpose, place in self.places:
            print(f"{purpose:<10} {place}")


def shown(score: Score, digits: int) -> str:
    """The score, or a dash if there is none."""
    return "-" if math.isnan(score.value) else f"{score.value:.{digits}f}"


def reasons(scores: list[Score]) -> list[str]:
    """A note for each reason why a score is missing."""
    return [f"No score: {reason}" for reason in sorted({score.reason for score in scores if score.reason})]
