"""Picture files to token files and back, in bounded memory whatever their size; called by `zoo.pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.codecs.base import Tokens
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import Pixels, image_writer, read_pixels
from zoo.codecs.image.rate import encode_to_bits, encode_to_quality, psnr_of
from zoo.codecs.image.tiling import Progress, decode_tiled, encode_tiled
from zoo.container import TokenFileError, TokenReader
from zoo.container_header import Entropy
from zoo.container_writer import pack_picture, write_picture


def tokenize_picture(
    source: str | Path,
    target: str | Path,
    codec: ImageCodec,
    codebooks: int | None = None,
    bpp: float | None = None,
    quality: float | None = None,
    beam: int = 1,
    entropy: Entropy = "adaptive",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See `zoo.tokenize`; returns facts about the token file."""
    AtomicFile(target).discard()  # a place that cannot be written is refused before the work
    pixels = read_pixels(source)
    try:
        tokens = encode(codec, pixels, codebooks, bpp, quality, beam, entropy, progress)
    except ValueError as error:
        raise UserError(f"{printable(source)}: {error}") from error
    write_picture(target, tokens, codec.info, entropy, codec.code_model)
    with TokenReader(target) as reader:
        facts = reader.facts()
    if quality is not None:
        facts["psnr"] = psnr_of(decode_tiled(codec, tokens), pixels)
    return facts


def encode(
    codec: ImageCodec,
    pixels: Pixels,
    codebooks: int | None,
    bpp: float | None,
    quality: float | None,
    beam: int,
    entropy: Entropy,
    progress: Progress | None,
) -> Tokens:
    """Tokens at the number of codebooks, the bits per pixel of the token file, or the quality."""
    if bpp is not None and quality is not None:
        raise ValueError("give either bits per pixel or a quality, not both")
    for name, value in (("bits per pixel", bpp), ("a quality in dB", quality)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0, got {value}")
    if quality is not None:
        return encode_to_quality(codec, pixels, quality, codebooks, beam, progress=progress)
    if bpp is None:
        return encode_tiled(codec, pixels, codebooks, beam, progress=progress)
    bits, measure = bpp * pixels.shape[0] * pixels.shape[1], file_bits(codec, entropy)
    return encode_to_bits(codec, pixels, bits, measure, codebooks, beam, progress=progress)


def file_bits(codec: ImageCodec, entropy: Entropy) -> Callable[[Tokens], float]:
    """How many bits the token file of a picture has, header and all, without writing it."""
    return lambda tokens: 8.0 * len(pack_picture(tokens, codec.info, entropy, codec.code_model)[1])


def reconstruct_picture(
    reader: TokenReader,
    target: str | Path,
    codec: ImageCodec,
    codebooks: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See `zoo.reconstruct`; returns facts about what was written."""
    header, stored = reader.header, len(reader.header.codebook_sizes)
    if header.rows != 1:
        raise UserError(f"{printable(reader.path)}: holds {header.rows} pictures; a picture file holds one")
    with image_writer(target) as write:
        tokens = reader.tokens()
        if codebooks is not None:
            tokens = tokens.first(codebooks)
        write(decode_tiled(codec, tokens, progress=progress))
    return {
        "codec": codec.name,
        "codebooks": codebooks or stored,
        "width": header.width,
        "height": header.height,
    }


def check_picture_codec(reader: TokenReader, codec: ImageCodec) -> None:
    """Raise unless a codec of these facts can have made the file."""
    header, info = reader.header, codec.info
    made = (header.tile or header.hop, header.tile_codes, header.codebook_sizes)
    if made != (info.tile or info.hop, info.tile_codes, info.codebook_sizes[: len(header.codebook_sizes)]):
        raise TokenFileError(
            reader.path, f"was made by another codec, {header.codec!r}", "name the codec that made it with --model"
        )
