"""The demo's recording: at three bitrates to token files and back, with scores and a picture of what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

import zoo
from zoo.codecs.audio.io import AudioWriter, open_audio, read_audio
from zoo.codecs.base import AudioCodec
from zoo.codecs.errors import UserError
from zoo.container import TokenReader
from zoo.demo_report import Report, reasons, shown
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


def run(recording: Path, codec: AudioCodec, folder: Path) -> Report:
    """Tokenize the first seconds of a recording; everything but the table is written to `folder`."""
    original = folder / "original.wav"
    copy_start(recording, original)
    rate = codec.info.sample_rate
    reference = read_audio(original, rate, mono=True)[0][0]
    measure(original, reference, codec, codec.info.codebooks, folder)  # not counted: the first pass warms up
    outcomes = [measure(original, reference, codec, codebooks, folder) for codebooks in three_rates(codec)]
    draw(reference, rate, codec, outcomes, folder / "demo.png")
    places = [
        ("look at", f"{folder}/demo.png"),
        ("listen to", f"{folder}/original.wav and {folder}/*-codebooks.wav"),
        ("tokens in", f"{folder}/*-codebooks.ztok"),
    ]
    rows = rows_of(original, len(reference) / rate, outcomes)
    return Report("One recording, three bitrates", COLUMNS, rows, notes_on(outcomes), places)


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


def notes_on(outcomes: list[Outcome]) -> list[str]:
    """What the table's columns mean, and why a score is missing."""
    return [
        "Bytes and measured kbps are of the whole token file. PESQ is wide-band, at most 4.64; STOI is at most 1.",
        "Real-time factor: seconds of audio that are tokenized and reconstructed, file to file, in a second.",
        *reasons([score for outcome in outcomes for score in (outcome.pesq, outcome.stoi)]),
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
