"""What entropy coding saves on a codec's codes, stage by stage, and how fast it is.

python -m zoo.bench entropy MODEL DATA --json out.json
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from rich.table import Table

from zoo.bench import deliver, head
from zoo.codecs.audio.io import read_audio
from zoo.codecs.base import Codec, CodecInfo, Tokens
from zoo.codecs.entropy import TOTAL, Digits, Grid, Predictor, walk
from zoo.codecs.errors import UserError
from zoo.codecs.image.io import read_image
from zoo.container import TokenReader
from zoo.container_header import ENTROPY, TokenHeader
from zoo.container_writer import TokenWriter, write_picture
from zoo.pipeline import codec_of, coding
from zoo.scoring import codebook_counts, conditions

BLOCK_FRAMES = TokenHeader.block_frames


def bench_entropy(
    model: str | Codec,
    data: str | Path,
    output: str | Path | None = None,
    device: str = "cpu",
    codebooks: Sequence[int] | None = None,
    clips: int | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Measure what each codebook's codes take, and files as a whole, coded in every way; print tables.

    Args:
        model: What `zoo.load` takes, or a codec.
        data: Folder tree of recordings or pictures, or one of them; or of the codec's token files, whose codes (and
            depths) are coded anew.
        output: Write the result here too, as JSON.
        device: Where the codec computes.
        codebooks: Numbers of codebooks to measure (default: the usual ones and all; of token files: all).
        clips: Use so many files (default: all).
        as_json: Print JSON instead.

    Raises:
        UserError: Unknown model, no media there, or numbers of codebooks that there are not.
    """
    codec = codec_of(model, device)
    media, rule = media_of(Path(data), codec.info.media, clips)
    network = {"encode": Clock(), "decode": Clock()}
    with network["encode"]:
        tokens = [encoded(codec, path) for path in media]
    with network["decode"]:
        for some in tokens:
            codec.decode(some)
    amount = sum(size_of(some, codec.info) for some in tokens)
    counts = codebook_counts(codec.info, codebooks)
    if any(some.codes.shape[1] < counts[-1] or some.depth is not None for some in tokens):
        counts = [tokens[0].codes.shape[1]]
    result = {
        **head(conditions(1, device)),
        "what": "bits: of each code that there is, by codebook, and of the depth of a cell; order 0: counts of the"
        " codebook alone; order 1: with those of neighbours and of the coarser code; trained: from the model of codes"
        " that ships with the codec, with all counts. The state starts anew in each block, as in files. files: all of"
        " them, headers included; CPU seconds of one thread, which the codec itself takes besides (codec_seconds: with"
        " all codebooks, and of reading the media)",
        "model": codec.name,
        "data": {"source": str(data), "rule": rule, "files": len(media)},
        "seconds_or_pixels": amount,
        "codec_seconds": {task: clock.seconds for task, clock in network.items()},
        "code_model_bytes": 0 if codec.code_model is None else len(codec.code_model.pack()),
        "rates": [rate(codec, [first(some, count) for some in tokens], amount) for count in counts],
    }
    return deliver(result, [table(measured) for measured in result["rates"]], output, as_json, 120)


def media_of(data: Path, kind: str, count: int | None) -> tuple[list[Path], str]:
    """Files of a folder tree, or the one file, and the rule by which they were chosen."""
    paths = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    if kind == "audio" and not any(path.suffix == ".ztok" for path in paths):
        from zoo.scoring import select

        clips, rule = select(data, count)
        return [clip.path for clip in clips], rule
    if not paths:
        raise UserError(f"{data}: holds no pictures")
    return paths[:count], "all files" if count is None else f"the first {count} by name"


def encoded(codec: Codec, path: Path) -> Tokens:
    """Tokens of a recording (mixed to the codec's channels) or of a picture, or those of a token file."""
    if path.suffix == ".ztok":
        with TokenReader(path, codec.code_model) as reader:
            return reader.tokens()
    if codec.info.media == "image":
        return codec.encode(torch.from_numpy(read_image(path))[None].to(codec.device))
    samples = torch.from_numpy(read_audio(path, codec.info.sample_rate, mono=True)[0])
    return codec.encode(samples.expand(codec.info.channels, -1)[None].to(codec.device))


def first(tokens: Tokens, codebooks: int) -> Tokens:
    """The codes of the first codebooks."""
    return replace(tokens, codes=tokens.codes[:, :codebooks])


def rate(codec: Codec, tokens: list[Tokens], amount: float) -> dict[str, Any]:
    """What one number of codebooks takes."""
    ways = [way for way in ENTROPY if way != "trained" or codec.code_model is not None]
    with TemporaryDirectory() as folder:
        files = {way: measure_files(tokens, codec, way, Path(folder, "a.ztok")) for way in ways}
    for file in files.values():
        if codec.info.media == "image":
            file["bpp"] = file["bytes"] * 8 / amount
            continue
        file["kbps"] = file["bytes"] * 8 / amount / 1000
        for task in ("encode", "decode"):
            file[f"{task}_times_real_time"] = amount / file[f"{task}_seconds"]
    return {"codebooks": tokens[0].codes.shape[1], "bits": stages(tokens, codec), "files": files}


def size_of(tokens: Tokens, info: CodecInfo) -> float:
    """Seconds of a recording, pixels of a picture."""
    return int(tokens.lengths[0].prod()) / (info.sample_rate or 1)


def grids_of(tokens: Tokens, info: CodecInfo) -> list[Grid]:
    """The blocks that a file codes apart."""
    codes = tokens.codes.cpu().numpy()
    depth = None if tokens.depth is None else tokens.depth.cpu().numpy()
    if info.media == "image":
        grid = (-1, info.tile_codes) if info.tile else codes.shape[2:]
        return [(codes.reshape(*codes.shape[:2], *grid), None if depth is None else depth.reshape(len(codes), *grid))]
    parts = [slice(at, at + BLOCK_FRAMES) for at in range(0, codes.shape[2], BLOCK_FRAMES)]
    return [(codes[:, :, None, part], None if depth is None else depth[:, None, part]) for part in parts]


class Meter:
    """In place of a coder: adds up the bits that the depths and the codes of each column would take.

    Attributes:
        bits, count: Of the depths, then of each column.
    """

    def __init__(self, digits: Digits) -> None:
        self._digits = digits
        self.bits, self.count = [0.0] * (digits.columns + 1), [0] * (digits.columns + 1)

    def measure(self, grid: Grid, predictor: Predictor | None, related: bool) -> None:
        """Add what a grid takes."""
        codes, depth = grid
        used = np.full_like(codes[:, 0], codes.shape[1]) if depth is None else depth
        alphabets = [1 if depth is None else len(self._digits.sizes) + 1, *self._digits.alphabets]
        self._order = iter(
            at for n in used.ravel() for at in range(1 + self._digits.ends[n]) if alphabets[at] > 1
        )  # fmt: skip
        walk(self, self._digits.split(codes), depth, self._digits, predictor, related)

    def code(self, symbol: int, share: Int[np.ndarray, "code"]) -> int:
        column = next(self._order)
        self.bits[column] += log2(TOTAL / (int(share[symbol]) + 1))
        self.count[column] += 1
        return symbol


def stages(tokens: list[Tokens], codec: Codec) -> list[dict[str, float]]:
    """Bits of a code of each codebook in every way, and how many codes there are for a cell; first those of a depth, if
    there are any.
    """
    sizes = codec.info.codebook_sizes[: tokens[0].codes.shape[1]]
    digits = Digits(sizes)
    ways = {"order 0": (False, None), "order 1": (True, None)}
    if codec.code_model is not None:
        ways["trained"] = (True, codec.code_model)
    blocks = [grid for some in tokens for grid in grids_of(some, codec.info)]
    cells = sum(codes[:, 0].size for codes, _ in blocks)
    meters = {}
    for way, (contexts, model) in ways.items():
        meters[way] = Meter(digits)
        for grid in blocks:
            meters[way].measure(grid, None if model is None else model.predictor(), contexts)
    rows = [row_of(f"{book + 1}", slice(1 + a, 1 + b), log2(size), meters, cells)
            for book, (size, a, b) in enumerate(zip(sizes, digits.ends, digits.ends[1:], strict=False))]  # fmt: skip
    if tokens[0].depth is not None:
        rows.insert(0, row_of("depth", slice(1), log2(len(sizes) + 1), meters, cells))
    return rows


def row_of(name: str, columns: slice, raw: float, meters: dict[str, Meter], cells: int) -> dict[str, Any]:
    """One codebook (or the depth), from what was measured of its columns."""
    count = max(next(iter(meters.values())).count[columns], default=0)
    row = {"of": name, "codes_per_cell": count / cells, "raw": raw}
    return row | {way: sum(meter.bits[columns]) / max(count, 1) for way, meter in meters.items()}


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
        tokens.codec, tokens.weights, info.sample_rate, info.hop, info.channels,
        info.codebook_sizes[: tokens.codes.shape[1]], 1, info.channels, False, info.sample_rate,
        None if tokens.scales is None else tuple(tokens.scales.tolist()), depth=tokens.depth is not None, **chosen,
    )  # fmt: skip
    with TokenWriter(path, header, codec.code_model) as writer:
        writer.write(tokens.codes, tokens.depth)
        writer.finish(length, length)


def table(rate: dict[str, Any]) -> Table:
    """Bits of each codebook, then of the files."""
    ways = [way for way in rate["bits"][0] if way not in ("of", "codes_per_cell")]
    shown = Table("codebook", "codes a cell", *ways)
    for row in rate["bits"]:
        shown.add_row(row["of"], f"{row['codes_per_cell']:.3f}", *(f"{row[way]:.3f}" for way in ways))
    sums = {way: sum(row[way] * row["codes_per_cell"] for row in rate["bits"]) for way in ways}
    shown.add_row("a cell", "", *(f"{sums[way]:.2f}" for way in ways))
    shown.add_row("saved", "", *(f"{1 - sums[way] / sums['raw']:.1%}" for way in ways))
    for way, file in rate["files"].items():
        size = f"{file['kbps']:.3f} kbps" if "kbps" in file else f"{file['bpp']:.4f} bpp"
        speed = f"{file['encode_seconds']:.2f} s, {file['decode_seconds']:.2f} s"
        shown.add_row(f"files, {way}", "", size, f"{file['bytes']} bytes", speed)
    return shown
