"""How good an image codec is on pictures at given rates, through real token files, beside JPEG, WebP and AVIF."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import Progress

from zoo.codecs.base import CodecInfo
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import read_image, to_float, to_pixels
from zoo.codecs.image.rate import Choices
from zoo.codecs.image.tiling import decode_tiled, encode_tiled
from zoo.container import TokenReader
from zoo.container_header import Entropy
from zoo.container_writer import write_picture
from zoo.picture_baselines import FORMATS, Coder, libraries, require_formats
from zoo.pipeline import codec_of, coding
from zoo.pipeline_image import file_bits
from zoo.recipes import picture_metrics
from zoo.recipes.data.files import find_files
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES
from zoo.recipes.metrics import Score
from zoo.scoring import codebook_counts, conditions, digest, summary, workers, write_json

METRICS = {
    "psnr": picture_metrics.psnr,
    "ms_ssim": picture_metrics.ms_ssim,
    "contrast": picture_metrics.contrast,
}
USUAL_BPP = (0.17, 0.2, 0.25, 0.31, 0.4)
PACKAGES = ("torchvision", "pillow", "torchmetrics")


@dataclass(frozen=True)
class Setting:
    """What is asked of the codec: bits per pixel of the file, or a number of codebooks in every cell."""

    label: str
    bpp: float | None = None
    codebooks: int | None = None


@dataclass(frozen=True)
class Trip:
    """What became of a picture: bits of its whole token file, metrics, seconds from pixels to file and back."""

    bits: int
    scores: dict[str, Score]
    encode_seconds: float
    decode_seconds: float


def evaluate_pictures(
    model: str | ImageCodec,
    data: str | Path | Sequence[str | Path],
    bpps: Sequence[float] = (),
    codebooks: Sequence[int] = (),
    beam: int = 1,
    entropy: Entropy | None = None,
    baselines: bool = True,
    seed: int = 0,
    device: str = "cpu",
    json_file: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Tokenize and reconstruct pictures through real `.ztok` files and score what comes out.

    Args:
        model: What `zoo.load` takes, or a codec.
        data: A folder tree, a picture, or a list of them; all are judged with 8 bits a channel.
        bpps: Bits per pixel of each file, all of it, at most; levels chosen cell by cell. For residual codecs.
        codebooks: Numbers of codebooks, the same in every cell. Without this and `bpps`: those of .17, .2, .25, .31
            and .4 bits per pixel that the codec has; if none, 1, 2, 3, 4, 6, 8, ... and all codebooks.
        beam: Partial codes to keep in the search for each cell.
        entropy: How token files are coded (default: as `zoo.tokenize` does).
        baselines: Also score JPEG, WebP and AVIF, each picture at the bits that its token file took.
        seed: Of the bootstrap.
        device: Where the codec computes, if `model` is a name.
        json_file: Write the result here too.

    Returns:
        What `json_file` holds: codec, data, conditions, `rows` (one a rate) and `baselines`. Rates are those of whole
        files, header and all.

    Raises:
        UserError: No such model or data, a rate that the codec or a picture cannot have, or a format that this Pillow
            can't write.
    """
    codec = codec_of(model, device)
    if not isinstance(codec, ImageCodec):
        raise UserError(f"{codec.name or type(codec).__name__} codes {codec.info.media}; evaluate it on recordings")
    settings = settings_of(codec.info, bpps, codebooks)
    entropy = coding(codec, entropy)["entropy"]
    if baselines:
        require_formats()
    if json_file is not None:
        AtomicFile(json_file).discard()  # a place that cannot be written is refused before the work
    paths = find_pictures(data)
    kinds = tuple(FORMATS) if baselines else ()
    sizes, trips, others = [], [], []
    with workers(1), Progress(disable=not progress) as bar:
        task = bar.add_task("evaluate", total=len(paths) * (1 + len(kinds)))
        for path in paths:
            picture = to_pixels(read_image(path))  # 8 bits are what classical codecs take
            sizes.append(picture.shape[:2])
            try:
                trips.append(list(round_trips(codec, picture, settings, beam, entropy)))
            except ValueError as error:
                raise UserError(f"{printable(path)}: {error}") from error
            bar.advance(task)
            others.append({})
            for kind in kinds:
                coder = Coder(picture, kind, METRICS)
                others[-1][kind] = [coder.at_bits(trip.bits) for trip in trips[-1]]
                bar.advance(task)
    rows, beside = [], []
    name = codec.name or "codec"
    for index, setting in enumerate(settings):
        ours = [found[index] for found in trips]
        bits, system = [trip.bits for trip in ours], f"{name}, {setting.label}"
        row = _row(system, name, setting, sizes, bits, [trip.scores for trip in ours], seed)
        rows.append(row | {"speed": _speed(sizes, ours)})
        for kind in kinds:
            scores = [found[kind][index] for found in others]
            beside.append(_row(f"{kind} at the bits of {system}", kind, setting, sizes, bits, scores, seed))
    result = {
        "codec": {"name": codec.name, "weights": codec.weights} | codec.info.asdict()
        | {"codebook_sizes": list(codec.info.codebook_sizes)},
        "data": describe(paths, sizes, data),
        "conditions": conditions(1, device, PACKAGES) | {"libraries": libraries(), "beam": beam, "entropy": entropy},
        "rows": rows,
        "baselines": beside,
    }  # fmt: skip
    if json_file is not None:
        write_json(result, json_file)
    return result


def settings_of(info: CodecInfo, bpps: Sequence[float], codebooks: Sequence[int]) -> list[Setting]:
    """What to measure; see `evaluate_pictures`."""
    wrong = [bpp for bpp in bpps if not 0 < bpp < math.inf]
    if wrong:
        raise UserError(f"bits per pixel must be above 0, got {wrong[0]:g}")
    if not bpps and not codebooks:
        bpps = [bpp for bpp in USUAL_BPP if info.codebooks > 1 and info.bpp(1) <= bpp <= info.bpp()]
    counts = codebook_counts(info, codebooks or None) if codebooks or not bpps else []
    return [Setting(f"{bpp:g} bpp", bpp=bpp) for bpp in sorted(set(bpps))] + [
        Setting(f"{count} codebook{'s' * (count > 1)}", codebooks=count) for count in counts
    ]


def round_trips(
    codec: ImageCodec,
    picture: UInt8[np.ndarray, "height width 3"],
    settings: Sequence[Setting],
    beam: int,
    entropy: Entropy,
) -> Iterator[Trip]:
    """At each setting: encode a picture, write a token file, read it back, decode to 8 bits and score.

    What cells may choose from is found once for all rates, and its time counted for each.
    """
    reference, bits = torch.from_numpy(to_float(picture)), file_bits(codec, entropy)
    began = time.perf_counter()
    choices = Choices(codec, picture, beam=beam) if any(setting.bpp for setting in settings) else None
    choosing = time.perf_counter() - began
    for setting in settings:
        began = time.perf_counter()
        if choices is not None and setting.bpp is not None:
            tokens = choices.within(setting.bpp * picture.shape[0] * picture.shape[1], bits)
            began -= choosing
        else:
            tokens = encode_tiled(codec, picture, setting.codebooks, beam)
        with TemporaryDirectory() as folder:
            path = Path(folder, "picture.ztok")
            write_picture(path, tokens, codec.info, entropy, codec.code_model)
            encoded = time.perf_counter()
            with TokenReader(path, codec.code_model) as reader:
                found = decode_tiled(codec, reader.tokens())
            decoded = time.perf_counter()
            size = 8 * path.stat().st_size
        media = torch.from_numpy(to_float(found))
        scores = {name: metric(reference, media) for name, metric in METRICS.items()}
        yield Trip(size, scores, encoded - began, decoded - encoded)


def find_pictures(data: str | Path | Sequence[str | Path]) -> list[Path]:
    """Pictures of a folder tree, a file or a list of them, sorted within each folder."""
    sources = [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UserError(f"{', '.join(missing)}: no such file or folder; give a folder of pictures, or pictures")
    return [
        path
        for source in sources
        for path in (find_files(source, PICTURE_SUFFIXES, "picture") if source.is_dir() else [source])
    ]


def describe(paths: Sequence[Path], sizes: Sequence[tuple[int, ...]], data: Any) -> dict[str, Any]:
    """Facts that pin down the data; `size` is width x height, if all are of one."""
    lines = "".join(f"{digest(path.read_bytes())}  {path.name}\n" for path in paths)
    return {
        "source": str(data) if isinstance(data, str | Path) else ", ".join(map(str, data)),
        "pictures": len(paths),
        "size": "{1} x {0}".format(*sizes[0]) if len(set(sizes)) == 1 else "various",
        "megapixels": round(sum(map(math.prod, sizes)) / 1e6, 3),
        "sha256": digest(lines.encode()),
    }


def _row(
    system: str,
    family: str,
    setting: Setting,
    sizes: Sequence[tuple[int, ...]],
    bits: Sequence[int],
    scores: Sequence[dict[str, Score]],
    seed: int,
) -> dict[str, Any]:
    rates = [one / math.prod(size) for one, size in zip(bits, sizes, strict=True)]
    return {
        "system": system,
        "family": family,
        "setting": setting.label,
        "bpp": {"file": round(sum(rates) / len(rates), 4)},
        "metrics": {name: summary([found[name] for found in scores], seed) for name in METRICS},
    }


def _speed(sizes: Sequence[tuple[int, ...]], trips: Sequence[Trip]) -> dict[str, Any]:
    pixels = sum(map(math.prod, sizes)) / 1e6
    encode, decode = (sum(getattr(trip, f"{half}_seconds") for trip in trips) for half in ("encode", "decode"))
    return {"encode": round(pixels / encode, 3), "decode": round(pixels / decode, 3), "unit": "megapixels/s"}
