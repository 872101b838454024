"""The demo's photograph: at three rates to token files and back, with scores and a picture of what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from PIL import Image

import zoo
from zoo.codecs.errors import UserError
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import Pixels, image_writer, read_image, read_pixels, to_float, to_pixels
from zoo.container import TokenReader
from zoo.demo_report import Report, reasons, shown
from zoo.photographs import photographs
from zoo.recipes.metrics import Score
from zoo.recipes.picture_metrics import ms_ssim, psnr

RATES = (0.17, 0.25, 0.4)  # bits per pixel
LONGEST_SIDE = 1024  # of what the picture can show
COLUMNS = ("asked bpp", "bytes", "measured bpp", "PSNR", "MS-SSIM", "codes a cell", "tokenize", "reconstruct")


@dataclass(frozen=True)
class Outcome:
    """What one rate made of the photograph.

    Attributes:
        codes: Those of each cell, -1 behind the last one in use.
        media: The reconstruction.
        size: Bytes of the token file.
        bpp: Rate of that file, header and check included.
        psnr, ms_ssim: Scores against the original.
        tokenize_seconds, reconstruct_seconds: Wall time from file to file.
    """

    codes: Int[np.ndarray, "codebook down across"]
    media: Float32[np.ndarray, "3 height width"]
    size: int
    bpp: float
    psnr: Score
    ms_ssim: Score
    tokenize_seconds: float
    reconstruct_seconds: float

    @property
    def depth(self) -> Int[np.ndarray, "down across"]:
        """How many codes each cell has."""
        return (self.codes >= 0).sum(axis=0)


def run(photograph: Path | None, codec: ImageCodec, folder: Path) -> Report:
    """Tokenize a photograph (None: the astronaut); everything but the table is written to `folder`.

    Raises:
        UserError: The photograph cannot be read, or the codec has no codes to leave out cell by cell.
    """
    original = folder / "original.png"
    pixels = bundled() if photograph is None else read_pixels(photograph)
    folder.mkdir(parents=True, exist_ok=True)
    with image_writer(original) as write:
        write(fitting(pixels))
    measure(original, codec, RATES[-1], folder)  # not counted: the first pass warms up
    outcomes = [measure(original, codec, rate, folder) for rate in RATES]
    draw(read_image(original), codec, outcomes, folder / "photo.png")
    places = [
        ("look at", f"{folder}/photo.png"),
        ("pictures", f"{folder}/original.png and {folder}/*-bpp.png"),
        ("tokens in", f"{folder}/*-bpp.ztok"),
    ]
    return Report("One photograph, three rates", COLUMNS, rows_of(original, outcomes), notes_on(outcomes), places)


def bundled() -> Pixels:
    """The photograph that the demo takes by itself: 512 x 512 pixels, in the public domain (NASA), in scikit-image."""
    return photographs()["astronaut"]


def fitting(pixels: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in 8 bits a colour, scaled down if it is longer than `LONGEST_SIDE`."""
    image = Image.fromarray(to_pixels(to_float(pixels)))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def measure(original: Path, codec: ImageCodec, rate: float, folder: Path) -> Outcome:
    """Tokenize and reconstruct `original` at that many bits per pixel and score the result."""
    tokens = folder / f"{rate:.2f}-bpp.ztok"
    picture = tokens.with_suffix(".png")
    begin = time.perf_counter()
    facts = zoo.tokenize(original, tokens, model=codec, bpp=rate)
    middle = time.perf_counter()
    zoo.reconstruct(tokens, picture, model=codec)
    end = time.perf_counter()

    media = read_image(picture)
    with TokenReader(tokens, codec.code_model) as reader:
        codes = reader.grid()[0]
    pair = [torch.from_numpy(some) for some in (read_image(original), media)]
    return Outcome(
        codes, media, facts["bytes"], facts["bpp"], psnr(*pair), ms_ssim(*pair), middle - begin, end - middle
    )


def rows_of(original: Path, outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """Cells of the table, the original's row first."""
    size = original.stat().st_size
    pixels = outcomes[0].media[0].size
    rows: list[tuple[str, ...]] = [("original", f"{size:,}", f"{size * 8 / pixels:.2f}", "", "", "", "", "")]
    for rate, outcome in zip(RATES, outcomes, strict=True):
        rows.append((
            f"{rate:g}", f"{outcome.size:,}", f"{outcome.bpp:.3f}", shown(outcome.psnr, 2), shown(outcome.ms_ssim, 3),
            f"{outcome.depth.mean():.1f}", f"{outcome.tokenize_seconds:.2f} s", f"{outcome.reconstruct_seconds:.2f} s",
        ))  # fmt: skip
    return rows


def notes_on(outcomes: list[Outcome]) -> list[str]:
    """What the table's columns mean, and why a score is missing."""
    return [
        "Bytes and measured bits per pixel (bpp) are of the whole token file; what was asked for is an upper bound.",
        "PSNR in dB, over all three colours. MS-SSIM is at most 1. The original is a PNG, which loses nothing.",
        *reasons([score for outcome in outcomes for score in (outcome.psnr, outcome.ms_ssim)]),
    ]


def draw(
    reference: Float32[np.ndarray, "3 height width"], codec: ImageCodec, outcomes: list[Outcome], path: Path
) -> None:
    """Write the picture: a column for the original and for each rate."""
    try:
        from zoo.photo_picture import Column, draw_columns
    except ModuleNotFoundError as error:
        raise UserError(f"package {error.name} is missing: pip install 'media-token-zoo[demo]'") from error
    columns = [
        Column(
            f"{outcome.bpp:.3f} bits per pixel",
            f"PSNR {shown(outcome.psnr, 2)} dB, MS-SSIM {shown(outcome.ms_ssim, 3)}, {outcome.size:,} bytes",
            outcome.media,
            outcome.codes,
        )
        for outcome in outcomes
    ]
    draw_columns(
        reference,
        columns,
        codec.info.codebook_sizes,
        codec.info.hop,
        f"One photograph, three rates: {codec.name}",
        path,
    )
