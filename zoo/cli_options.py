"""What the commands of the command line share: options that mean the same everywhere, progress bars, JSON, errors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.codecs.errors import UserError

if TYPE_CHECKING:
    from zoo.pipeline import Progress

STARTER = "spectral.speech-16khz"
PICTURE_STARTER = "variable.photos"
BAR_AFTER_SECONDS = 2.0

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Bundled name (see `zoo list`), directory or hf-hub:user/repo@revision. Default: {STARTER} for audio,"
        f" {PICTURE_STARTER} for pictures.",
    ),
]
Codebooks = Annotated[
    int | None, typer.Option("--codebooks", "-n", min=1, help="Use the first N codebooks only: a lower bitrate.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn at random.")]
DecoderWeights = Annotated[
    str,
    typer.Option(
        help="Matrices of the decoder, on a CPU: float16 and bfloat16 are read twice as fast, int8 faster still,"
        " with drafts and several at once above all; all round a little."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text; no progress bars.")]
ResultFile = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the result to.")]
Output = Annotated[
    Path, typer.Option("--output", "--out", "-o", help="File to write; for several inputs, the directory.")
]


@contextmanager
def progress_bar(label: str, quiet: bool) -> Iterator[Progress | None]:
    """A callback that draws a bar on stderr once the work has lasted a while; None if nobody is there to see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    begin = time.monotonic()
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, visible=False)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, visible=time.monotonic() - begin > BAR_AFTER_SECONDS
        )


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def check_entropy(way: str | None) -> None:
    """Raise unless this is a way to code codes, or none was asked for."""
    from zoo.container_header import ENTROPY

    if way not in (None, *ENTROPY):
        raise UserError(f"entropy coding {way!r} is unknown; choose {', '.join(ENTROPY)}")


def complain(message: str) -> int:
    """Print one line on stderr; the exit code of bad input."""
    print("zoo: " + " ".join(message.split()), file=sys.stderr)
    return 2
