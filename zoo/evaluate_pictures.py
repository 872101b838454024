"""How good an image codec is on pictures at given rates, through real token files, beside JPEG, WebP and AVIF."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import Progress

from zoo import registry
from zoo.codecs.base import Tokens
from zoo.codecs.depth import encode_at_rate
from zoo.codecs.errors import UserError
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import read_image, to_float, to_pixels
from zoo.container import TokenReader
from zoo.container_header import Entropy
from zoo.container_writer import write_picture
from zoo.picture_baselines import FORMATS, Coder, require_formats
from zoo.recipes import picture_metrics
from zoo.recipes.data.files import find_files
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES
from zoo.recipes.metrics import Score
from zoo.scoring import conditions, digest, summary, write_json

METRICS = {
    "psnr": picture_metrics.psnr,
    "ms_ssim": picture_metrics.ms_ssim,
    "contrast": picture_metrics.contrast,
}
USUAL_BPP = (0.17, 0.2, 0.25, 0.31, 0.4)


@dataclass(frozen=True)
class Trip:
    """What became of a picture: bits of its whole token file, metrics, seconds of work."""

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
    entropy: Entropy = "adaptive",
    baselines: bool = True,
    seed: int = 0,
    device: str = "cpu",
    json_file: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Tokenize and reconstruct pictures through real `.ztok` files and score what comes out.

    Args:
        model: What `zoo.load` takes, or a codec.
        data: A folder tree, a picture, or a list of them.
        bpps: Rates in bits per pixel, levels chosen cell by cell (default, for residual codecs: .17 to .4).
        codebooks: Numbers of codebooks, the same in every cell (default, for other codecs: all).
        beam: Partial codes to keep in the search for each cell.
        entropy: How token files are coded.
        baselines: Also score JPEG, WebP and AVIF, each picture at the bits that its token file took.
        seed: Of the bootstrap.
        device: Where the codec computes.
        json_file: Write the result here too.

    Returns:
        What `json_file` holds: codec, data, conditions, `rows` (one a rate) and `baselines`. Rates are those of whole
        files, header and all.

    Raises:
        UserError: No such model or data, or a format that this Pillow can't write.
    """
    codec = registry.load(model, device) if isinstance(model, str) else model
    if not isinstance(codec, ImageCodec):
        raise UserError(f"{model}: is a codec of {codec.info.media}; evaluate it on recordings")
    if not bpps and not codebooks:
        residual = codec.info.codebooks > 1
        bpps, codebooks = (USUAL_BPP, ()) if residual else ((), (codec.info.codebooks,))
    if baselines:
        require_formats()
    paths = find_pictures(data)
    pictures = [as_uint8(path) for path in paths]
    settings = [(f"{bpp:g} bpp", bpp, None) for bpp in bpps]
    settings += [(f"{count} codebook{'s' * (count > 1)}", None, count) for count in codebooks]
    coders = {kind: [Coder(picture, kind, METRICS) for picture in pictures] for kind in FORMATS} if baselines else {}
    rows, others = [], []
    with Progress(disable=not progress) as bar:
        task = bar.add_task("evaluate", total=len(settings) * len(pictures) * (1 + len(coders)))
        for label, bpp, count in settings:
            trips = []
            for picture in pictures:
                trips.append(round_trip(codec, picture, bpp, count, beam, entropy, device))
                bar.advance(task)
            bits = [trip.bits for trip in trips]
            scores = [trip.scores for trip in trips]
            name = codec.name or "codec"
            rows.append(_row(f"{name}, {label}", name, label, pictures, bits, scores, seed) | _speed(pictures, trips))
            for kind, ones in coders.items():
                scores = [coder.at_bits(bits) for coder, bits in zip(ones, bits, strict=True)]
                others.append(_row(f"{kind} at the bits of {label}", kind, label, pictures, bits, scores, seed))
                bar.advance(task, len(pictures))
    result = {
        "codec": {"name": codec.name, "weights": codec.weights} | codec.info.asdict()
        | {"codebook_sizes": list(codec.info.codebook_sizes)},
        "data": describe(paths, pictures, data),
        "conditions": conditions(1, device) | {"beam": beam, "entropy": entropy},
        "rows": rows,
        "baselines": others,
    }  # fmt: skip
    if json_file is not None:
        write_json(result, json_file)
    return result


def round_trip(
    codec: ImageCodec,
    picture: UInt8[np.ndarray, "height width 3"],
    bpp: float | None,
    codebooks: int | None,
    beam: int,
    entropy: Entropy,
    device: str,
) -> Trip:
    """Encode a picture, write a token file, read it back, decode, round to 8 bits and score."""
    media = torch.from_numpy(to_float(picture))
    began = time.perf_counter()
    batch = media[None].to(device)
    tokens = encode_at_rate(codec, batch, bpp=bpp, beam=beam) if bpp else codec.encode(batch, codebooks, beam=beam)
    encoded = time.perf_counter()
    with TemporaryDirectory() as folder:
        path = Path(folder, "picture.ztok")
        write_picture(path, tokens, codec.info, entropy)
        bits = 8 * path.stat().st_size
        with TokenReader(path) as reader:
            read: Tokens = reader.tokens()
    started = time.perf_counter()
    found = codec.decode(read)[0].cpu()
    decoded = time.perf_counter()
    found = torch.from_numpy(to_float(to_pixels(found.numpy())))
    return Trip(bits, {name: metric(media, found) for name, metric in METRICS.items()}, encoded - began,
                decoded - started)  # fmt: skip


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


def as_uint8(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in 8 bits: what classical codecs take, and so what every system is compared with."""
    return to_pixels(read_image(path))


def describe(paths: Sequence[Path], pictures: Sequence[np.ndarray], data: Any) -> dict[str, Any]:
    """Facts that pin down the data."""
    lines = "".join(f"{digest(path.read_bytes())}  {path.name}\n" for path in paths)
    return {
        "source": str(data) if isinstance(data, str | Path) else ", ".join(map(str, data)),
        "pictures": len(paths),
        "megapixels": round(sum(picture[..., 0].size for picture in pictures) / 1e6, 3),
        "sha256": digest(lines.encode()),
    }


def _row(
    system: str,
    family: str,
    setting: str,
    pictures: Sequence[np.ndarray],
    bits: Sequence[int],
    scores: Sequence[dict[str, Score]],
    seed: int,
) -> dict[str, Any]:
    rates = [one / picture[..., 0].size for one, picture in zip(bits, pictures, strict=True)]
    return {
        "system": system,
        "family": family,
        "setting": setting,
        "bpp": {"file": round(sum(rates) / len(rates), 4)},
        "metrics": {name: summary([found[name] for found in scores], seed) for name in METRICS},
    }


def _speed(pictures: Sequence[np.ndarray], trips: Sequence[Trip]) -> dict[str, Any]:
    pixels = sum(picture[..., 0].size for picture in pictures) / 1e6
    encode, decode = (sum(getattr(trip, f"{half}_seconds") for trip in trips) for half in ("encode", "decode"))
    return {"speed": {"encode": round(pixels / encode, 3), "decode": round(pixels / decode, 3), "unit": "megapixels/s"}}
