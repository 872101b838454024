"""What entropy coding saves on a codec's codes, stage by stage, and how fast it is.

python -m zoo.bench entropy MODEL DATA --json out.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

from zoo import registry
from zoo.codecs.audio.io import read_audio
from zoo.codecs.base import Codec, CodecInfo, Tokens
from zoo.codecs.entropy import TOTAL, Digits, walk
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_image
from zoo.container import TokenReader
from zoo.container_header import ENTROPY, TokenHeader
from zoo.container_writer import TokenWriter, write_picture
from zoo.pipeline import coding
from zoo.scoring import conditions, write_json

BLOCK_FRAMES = TokenHeader.block_frames


def bench_entropy(
    model: str | Codec,
    data: str | Path,
    output: str | Path | None = None,
    device: str = "cpu",
    clips: int | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Measure what each codebook's codes take, and files as a whole, coded in every way; print a table.

    Args:
        model: What `zoo.load` takes, or a codec.
        data: Folder tree of recordings or pictures, or one of them.
        output: Write the result here too, as JSON.
        device: Where the codec computes.
        clips: Use the first so many files (default: all).
        as_json: Print JSON instead.

    Raises:
        UserError: Unknown model, or no media there.
    """
    codec = model if isinstance(model, Codec) else registry.load(model, device)
    media = media_of(Path(data), codec.info.media)[:clips]
    tokens = [encoded(codec, path) for path in media]
    amount = sum(size_of(some, codec.info) for some in tokens)
    ways = [way for way in ENTROPY if way != "trained" or codec.code_model is not None]
    with TemporaryDirectory() as folder:
        files = {way: measure_files(tokens, codec, way, Path(folder, "a.ztok")) for way in ways}
    for file in files.values():
        file["kbps" if codec.info.media == "audio" else "bpp"] = file["bytes"] * 8 / amount
        if codec.info.media == "audio":
            file["kbps"] /= 1000
            for task in ("encode", "decode"):
                file[f"{task}_times_real_time"] = amount / file[f"{task}_seconds"]
    facts = conditions(1, device)
    result = {
        "command": facts["command"],
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "date": facts["date"],
        "what": "bits: of each code, by codebook; order 0: counts of the codebook alone; order 1: with those of"
        " neighbours and of the coarser code; trained: from the model of codes that ships with the codec, with all"
        " counts. The state starts anew in each block, as in files. files: all of them, headers included; CPU seconds"
        " of one thread",
        "model": codec.name,
        "data": str(data),
        "media": len(media),
        "seconds_or_pixels": amount,
        "bits": stages(tokens, codec),
        "files": files,
    }
    if output is not None:
        write_json(result, output)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        Console(width=120).print(table(result))
    return result


def media_of(data: Path, kind: str) -> list[Path]:
    """Files of a folder tree, or the one file."""
    if kind == "audio":
        from zoo.scoring import select

        return [clip.path for clip in select(data)[0]]
    paths = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    if not paths:
        raise UserError(f"{data}: holds no pictures")
    return paths


def encoded(codec: Codec, path: Path) -> Tokens:
    """Tokens of a recording (mixed to the codec's channels) or of a picture."""
    if codec.info.media == "image":
        return codec.encode(torch.from_numpy(read_image(path))[None].to(codec.device))
    samples = torch.from_numpy(read_audio(path, codec.info.sample_rate, mono=True)[0])
    return codec.encode(samples.expand(codec.info.channels, -1)[None].to(codec.device))


def size_of(tokens: Tokens, info: CodecInfo) -> float:
    """Seconds of a recording, pixels of a picture."""
    return int(tokens.lengths[0].prod()) / (info.sample_rate or 1)


def grids_of(tokens: Tokens, info: CodecInfo) -> list[Int[np.ndarray, "row codebook height width"]]:
    """The blocks that a file codes apart."""
    codes = tokens.codes.cpu().numpy()
    if info.media == "audio":
        return [codes[:, :, None, at : at + BLOCK_FRAMES] for at in range(0, codes.shape[2], BLOCK_FRAMES)]
    return [codes.reshape(*codes.shape[:2], -1, info.tile_codes) if info.tile else codes]


class Meter:
    """In place of a coder: adds up the bits that the codes of each column would take.

    Attributes:
        bits: Of each column.
    """

    def __init__(self, columns: Sequence[int]) -> None:
        """`columns`: those that are coded, in their order in a cell."""
        self.bits, self._columns, self._calls = [0.0] * (max(columns) + 1), columns, 0

    def code(self, symbol: int, share: Int[np.ndarray, "code"]) -> int:
        column = self._columns[self._calls % len(self._columns)]
        self.bits[column] += log2(TOTAL / (int(share[symbol]) + 1))
        self._calls += 1
        return symbol


def stages(tokens: list[Tokens], codec: Codec) -> list[dict[str, float]]:
    """Bits of a code of each codebook, in every way."""
    sizes = codec.info.codebook_sizes[: tokens[0].codes.shape[1]]
    digits = Digits(sizes)
    coded = [at for at, alphabet in enumerate(digits.alphabets) if alphabet > 1]
    ways = {"order 0": (False, None), "order 1": (True, None)}
    if codec.code_model is not None:
        ways["trained"] = (True, codec.code_model)
    blocks = [grid for some in tokens for grid in grids_of(some, codec.info)]
    cells = sum(grid[:, 0].size for grid in blocks)
    rows = [{"raw": log2(size)} for size in sizes]
    for way, (contexts, model) in ways.items():
        meter = Meter(coded)
        for grid in blocks:
            predictor = None if model is None else model.predictor()
            walk(meter, digits.split(grid), None, digits, predictor, contexts)
        for book, row in enumerate(rows):
            row[way] = sum(meter.bits[digits.ends[book] : digits.ends[book + 1]]) / cells
    return rows


@dataclass
class Clock:
    """CPU seconds of this process."""

    seconds: float = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def measure_files(tokens: list[Tokens], codec: Codec, way: str, path: Path) -> dict[str, float]:
    """Bytes of all files, and seconds of writing and reading them."""
    encode, decode, size = Clock(), Clock(), 0
    for some in tokens:
        with encode:
            write(path, some, codec, way)
        size += path.stat().st_size
        with decode, TokenReader(path, codec.code_model) as reader:
            read = reader.tokens()
        if not torch.equal(read.codes, some.codes.cpu()):
            raise RuntimeError("a token file did not give back what was written")
    return {"bytes": size, "encode_seconds": encode.seconds, "decode_seconds": decode.seconds}


def write(path: Path, tokens: Tokens, codec: Codec, way: str) -> None:
    """One token file."""
    info, chosen = codec.info, coding(codec, way)
    if info.media == "image":
        write_picture(path, tokens, info, way, codec.code_model)
        return
    length = int(tokens.lengths[0])
    header = TokenHeader(
        tokens.codec, tokens.weights, info.sample_rate, info.hop, info.channels, info.codebook_sizes, 1, info.channels,
        False, info.sample_rate, None if tokens.scales is None else tuple(tokens.scales.tolist()), **chosen,
    )  # fmt: skip
    with TokenWriter(path, header, codec.code_model) as writer:
        writer.write(tokens.codes)
        writer.finish(length, length)


def table(result: dict[str, Any]) -> Table:
    """Bits of each codebook, then of the files."""
    ways = list(result["bits"][0])
    shown = Table("codebook", *ways)
    for book, row in enumerate(result["bits"]):
        shown.add_row(str(book + 1), *(f"{row[way]:.3f}" for way in ways))
    sums = {way: sum(row[way] for row in result["bits"]) for way in ways}
    shown.add_row("all", *(f"{sums[way]:.2f}" for way in ways))
    shown.add_row("saved", *(f"{1 - sums[way] / sums['raw']:.1%}" for way in ways))
    for way, file in result["files"].items():
        rate = f"{file['kbps']:.3f} kbps" if "kbps" in file else f"{file['bpp']:.4f} bpp"
        speed = f"{file['encode_seconds']:.2f} s, {file['decode_seconds']:.2f} s"
        shown.add_row(f"files, {way}", rate, f"{file['bytes']} bytes", speed)
    return shown
