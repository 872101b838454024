"""Tokenize a recording at three bitrates, reconstruct it, and show the outcome: audio, a picture and a table.

`python -m zoo.demo` takes the bundled recording, `python -m zoo.demo FILE` the first 20 seconds of another one.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import zoo
from zoo.cli import STARTER
from zoo.codecs.audio.io import AudioWriter, open_audio, read_audio
from zoo.codecs.base import AudioCodec
from zoo.codecs.errors import UserError
from zoo.container import TokenReader
from zoo.recipes.metrics import Score, pesq_wb, stoi

RECORDING = files("zoo") / "assets" / "confbridge-pin.flac"
LONGEST_SECONDS = 20  # what the picture can show and PESQ can score
COLUMNS = ("codebooks", "bytes", "measured kbps", "PESQ", "STOI", "tokenize", "reconstruct", "real-time factor")


@dataclass(frozen=True)
class Outcome:
    """What one bitrate made of the recording.

    Attributes:
        codebooks: How many were used.
        codes: Codes of the first channel.
        media: The reconstruction at the codec's rate, averaged to one channel.
        size: Bytes of the token file.
        kbps: Bitrate of that file, header and checks included.
        pesq, stoi: Scores against the original.
        tokenize_seconds, reconstruct_seconds: Wall time from file to file.
        speed: Seconds of audio that are tokenized and reconstructed in a second.
    """

    codebooks: int
    codes: Int[np.ndarray, "codebook frame"]
    media: Float32[np.ndarray, "time"]
    size: int
    kbps: float
    pesq: Score
    stoi: Score
    tokenize_seconds: float
    reconstruct_seconds: float
    speed: float


@dataclass(frozen=True)
class Report:
    """All outcomes, lowest bitrate first, and the table's cells and notes."""

    outcomes: list[Outcome]
    rows: list[tuple[str, ...]]
    notes: list[str]

    def markdown(self) -> str:
        """The table and its notes as Markdown."""
        lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *self.rows]
        table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        return table + "".join(f"\n{note}\n" for note in self.notes)


def run(recording: Path, codec: AudioCodec, folder: Path) -> Report:
    """Write all that the demo shows to `folder`."""
    original = folder / "original.wav"
    copy_start(recording, original)
    rate = codec.info.sample_rate
    reference = read_audio(original, rate, mono=True)[0][0]
    measure(original, reference, codec, codec.info.codebooks, folder)  # not counted: the first pass warms up
    outcomes = [measure(original, reference, codec, codebooks, folder) for codebooks in three_rates(codec)]
    draw(reference, rate, codec, outcomes, folder / "demo.png")
    report = Report(outcomes, rows_of(original, len(reference) / rate, outcomes), notes_on(outcomes))
    (folder / "table.md").write_text(report.markdown())
    return report


def three_rates(codec: AudioCodec) -> list[int]:
    """An eighth, a half and all of the codec's codebooks."""
    count = codec.info.codebooks
    return sorted({max(1, count // 8), max(1, count // 2), count})


def copy_start(recording: Path, target: Path) -> None:
    """Write the first seconds of a recording as a WAV file, in a folder that is made if missing."""
    with open_audio(recording) as file:
        start = next(file.blocks(LONGEST_SECONDS * file.rate))
        target.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(target, file.rate, file.channels) as writer:
            writer.write(start)


def measure(
    original: Path, reference: Float32[np.ndarray, "time"], codec: AudioCodec, codebooks: int, folder: Path
) -> Outcome:
    """Tokenize and reconstruct `original` with `codebooks` codebooks and score the result."""
    tokens = folder / f"{codebooks}-codebooks.ztok"
    audio = tokens.with_suffix(".wav")
    begin = time.perf_counter()
    facts = zoo.tokenize(original, tokens, model=codec, codebooks=codebooks)
    middle = time.perf_counter()
    zoo.reconstruct(tokens, audio, model=codec)
    end = time.perf_counter()

    rate = codec.info.sample_rate
    media = read_audio(audio, rate, mono=True)[0][0]
    with TokenReader(tokens) as reader:
        codes = reader.read()[0].numpy()
    return Outcome(
        codebooks, codes, media, facts["bytes"], facts["kbps"], pesq_wb(reference, media, rate),
        stoi(reference, media, rate), middle - begin, end - middle, facts["seconds"] / (end - begin),
    )  # fmt: skip


def rows_of(original: Path, seconds: float, outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """Cells of the table, the original's row first."""
    size = original.stat().st_size
    rows: list[tuple[str, ...]] = [("original", f"{size:,}", f"{size * 8 / 1000 / seconds:.0f}", "", "", "", "", "")]
    for outcome in outcomes:
        rows.append((
            str(outcome.codebooks), f"{outcome.size:,}", f"{outcome.kbps:.2f}", shown(outcome.pesq, 2),
            shown(outcome.stoi, 3), f"{outcome.tokenize_seconds:.2f} s", f"{outcome.reconstruct_seconds:.2f} s",
            f"{outcome.speed:.0f}x",
        ))  # fmt: skip
    return rows


def shown(score: Score, digits: int) -> str:
    """The score, or a dash if there is none."""
    return "-" if math.isnan(score.value) else f"{score.value:.{digits}f}"


def notes_on(outcomes: list[Outcome]) -> list[str]:
    """What the table's columns mean, and why a score is missing."""
    reasons = {score.reason for outcome in outcomes for score in (outcome.pesq, outcome.stoi) if score.reason}
    return [
        "Bytes and measured kbps are of the whole token file. PESQ is wide-band, at most 4.64; STOI is at most 1.",
        "Real-time factor: seconds of audio that are tokenized and reconstructed, file to file, in a second.",
        *(f"No score: {reason}" for reason in sorted(reasons)),
    ]


def draw(
    reference: Float32[np.ndarray, "time"], rate: int, codec: AudioCodec, outcomes: list[Outcome], path: Path
) -> None:
    """Write the picture: a row for the original and for each bitrate."""
    try:
        from zoo.picture import Row, draw_rows
    except ModuleNotFoundError as error:
        raise UserError(f"package {error.name} is missing: pip install 'media-token-zoo[demo]'") from error
    rows = [Row("original", f"{rate / 1000:g} kHz\n{len(reference) / rate:.1f} s", reference)]
    for outcome in outcomes:
        scores = f"PESQ {shown(outcome.pesq, 2)}\nSTOI {shown(outcome.stoi, 3)}"
        count = f"{outcome.codebooks} codebook{'s' if outcome.codebooks > 1 else ''}"
        caption = f"{count}\n{outcome.size:,} bytes\n{scores}"
        rows.append(Row(f"{outcome.kbps:.1f} kbps", caption, outcome.media, outcome.codes))
    draw_rows(rows, rate, codec.info.codebook_sizes, f"One recording, three bitrates: {codec.name}", path)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and say where to look; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("recording", nargs="?", type=Path, help="audio file (default: the bundled one)")
    parser.add_argument("--model", default=STARTER, help="what zoo.load takes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        codec = zoo.load(options.model)
        with as_file(RECORDING) as bundled:
            report = run(options.recording or bundled, codec, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(report, options.out)
    return 0


def show(report: Report, folder: Path) -> None:
    """Print the table and where everything lies."""
    table = Table(title="One recording, three bitrates", box=SIMPLE_HEAD, padding=(0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for row in report.rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    for note in report.notes:
        console.print(note, style="dim")
    print(f"\nlook at    {folder}/demo.png")
    print(f"listen to  {folder}/original.wav and {folder}/*-codebooks.wav")
    print(f"tokens in  {folder}/*-codebooks.ztok")
    print(f"table in   {folder}/table.md")


if __name__ == "__main__":
    sys.exit(main())
