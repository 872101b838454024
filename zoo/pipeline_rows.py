"""Media files to rows of a token set: read ahead, coded in batches or alone; called by `zoo.pipeline_folder`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.codecs.audio.io import open_audio
from zoo.codecs.base import AudioCodec, Codec, Tokens
from zoo.codecs.depth import at_price, price_of_stream, with_depth
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.base import ImageCodec
from zoo.codecs.image.io import read_pixels, to_float
from zoo.codecs.image.tiling import axes
from zoo.pipeline import coding, refuse
from zoo.pipeline_audio import as_rows, choose_codebooks, chunk_seconds, encode_chunks, measure_scales
from zoo.pipeline_files import Media, decoded
from zoo.pipeline_image import encode
from zoo.recipes.data.clips import AUDIO_SUFFIXES
from zoo.recipes.data.picture_store import PICTURE_SUFFIXES
from zoo.token_set_manifest import Failure
from zoo.token_sets import Item

BATCH_SECONDS, BATCH_PIXELS = 60, 600_000  # coded at once on a CPU, in about 2 GB by the largest networks
ACCELERATOR = 8  # times as much, to keep one busy
Alone = Callable[[], Tokens]


@dataclass(frozen=True)
class Rate:
    """How many codes to spend; see `zoo.tokenize`."""

    codebooks: int | None
    kbps: float | None
    vary: bool
    bpp: float | None
    quality: float | None
    beam: int

    def settings(self) -> dict[str, Any]:
        """What was asked for, without what was not."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


class Recordings:
    """Reads and codes audio files.

    Attributes:
        codebooks: How many each row has.
        most: Samples that are coded at once.
    """

    suffixes, kind = AUDIO_SUFFIXES, "audio"

    def __init__(self, codec: AudioCodec, rate: Rate) -> None:
        refuse("audio", bpp=rate.bpp, quality=rate.quality)
        if rate.vary and rate.kbps is None:
            raise UserError("codes that vary from frame to frame need a bitrate to reach: give kbps as well")
        self.codec, self.rate = codec, rate
        self.codebooks = choose_codebooks(codec.info, 1, rate.codebooks, None if rate.vary else rate.kbps)
        self.most = scaled(codec, BATCH_SECONDS * codec.info.sample_rate)

    def read(self, path: Path) -> Tensor | Alone:
        """Samples `[channel, time]` at the codec's rate, or how to code a file that is not for a batch."""
        if self.rate.vary:
            return lambda: self.stream(path)
        parts, length = [], 0
        for block in self.blocks(path):
            parts.append(block[0])
            length += block.shape[-1]
            if length > self.most:
                return lambda: self.stream(path)
        return torch.cat(parts, 1)

    def blocks(self, path: Path) -> Iterator[Float[Tensor, "1 channel time"]]:
        """A file at the codec's rate and channels, piece by piece."""
        with open_audio(path) as file:
            step = max(1, int(file.rate * chunk_seconds(file.rate, file.channels)))
            info = self.codec.info
            yield from as_rows(file, step, info, 1, "each" if file.channels <= info.channels else "mix")

    def stream(self, path: Path) -> Tokens:
        """Tokens of a recording of any length, in constant memory."""
        codec, rate, search = self.codec, self.rate, self.codec.beam_search(self.codebooks, self.rate.beam)
        scales = measure_scales(codec, self.blocks(path))
        scales = None if scales is None else scales.to(codec.device)
        if rate.vary:
            media = (block.to(codec.device) for block in self.blocks(path))
            price = price_of_stream(codec, media, rate.kbps or 0, scales, self.codebooks, rate.beam)
            search = at_price(codec, price, self.codebooks, rate.beam)
        media = (block.to(codec.device) for block in self.blocks(path))
        chunks = list(encode_chunks(codec, media, scales, self.codebooks, search))
        codes, length = torch.cat([codes for _, codes in chunks], -1), sum(size for size, _ in chunks)
        tokens = Tokens(codes, torch.tensor([length]), scales, codec.name, codec.weights)
        return with_depth(tokens) if rate.vary else tokens

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Frames of a recording of so many samples."""
        return (-(-size[0] // self.codec.info.hop),)


class Pictures:
    """Reads and codes pictures.

    Attributes:
        codebooks: How many each row has.
        most: Pixels that are coded at once.
    """

    suffixes, kind = PICTURE_SUFFIXES, "picture"

    def __init__(self, codec: ImageCodec, rate: Rate) -> None:
        refuse("pictures", kbps=rate.kbps, vary=rate.vary or None)
        self.codec, self.rate = codec, rate
        self.codebooks = choose_codebooks(codec.info, 1, rate.codebooks, None)
        self.most = scaled(codec, BATCH_PIXELS)

    def read(self, path: Path) -> Tensor | Alone:
        """A picture `[3, height, width]` in [0, 1], or how to code one that is not for a batch."""
        pixels, rate = read_pixels(path), self.rate
        rows, columns = axes(self.codec, pixels.shape[:2], None)
        tiled = not self.codec.info.tile and len(rows) * len(columns) > 1
        if tiled or pixels.shape[0] * pixels.shape[1] > self.most or (rate.bpp, rate.quality) != (None, None):
            entropy: Any = coding(self.codec, None)["entropy"]  # of the file whose bits are counted
            return lambda: encode(
                self.codec, pixels, self.codebooks, rate.bpp, rate.quality, rate.beam, entropy, None
            )  # fmt: skip
        return torch.from_numpy(to_float(pixels))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Codes of each codebook for a picture of that height and width."""
        return self.codec.grid(*size)


def scaled(codec: Codec, amount: int) -> int:
    """How much media to code at once where the codec computes."""
    return amount * (1 if codec.device.type == "cpu" else ACCELERATOR)


def tokenize_files(media: Sequence[Media], coder: Recordings | Pictures, workers: int) -> Iterator[Item | Failure]:
    """A row for each file, or why there is none, in order; files are read ahead and coded in batches."""
    batch: list[tuple[Media, Tensor, str | None]] = []
    for file, found in read_ahead(media, coder, workers):
        together = isinstance(found, tuple) and isinstance(found[0], Tensor)
        if batch and not (together and fits([row[1] for row in batch], found[0], coder.most)):
            yield from code_batch(batch, coder)
            batch = []
        if together:
            batch.append((file, *found))
        elif isinstance(found, tuple):
            alone, text = found
            yield code_alone(file, alone, text, coder)
        else:
            yield Failure(file.name, found)
    if batch:
        yield from code_batch(batch, coder)


def fits(batch: Sequence[Tensor], media: Tensor, most: int) -> bool:
    """Whether a batch with one more of these media, padded to one size, is not too large to code at once."""
    largest = [max(axis) for axis in zip(*[row.shape[1:] for row in (*batch, media)], strict=True)]
    return (len(batch) + 1) * torch.Size(largest).numel() <= most


def code_batch(
    batch: Sequence[tuple[Media, Tensor, str | None]], coder: Recordings | Pictures
) -> Iterator[Item | Failure]:
    """Rows of media that are coded at once; where the codec refuses one of them, each is tried by itself."""
    codec = coder.codec
    sizes = torch.tensor([row.shape[1:] for _, row, _ in batch])
    padded = torch.zeros(len(batch), batch[0][1].shape[0], *sizes.amax(0).tolist())
    for target, (_, row, _) in zip(padded, batch, strict=True):
        target[(slice(None), *(slice(n) for n in row.shape[1:]))] = row
    lengths = sizes if codec.info.media == "image" else sizes[:, 0]
    try:
        tokens = codec.encode(padded.to(codec.device), coder.codebooks, lengths, beam=coder.rate.beam)
    except ValueError as error:
        if len(batch) == 1:
            yield Failure(batch[0][0].name, str(error))
        else:
            for one in batch:
                yield from code_batch([one], coder)
        return
    for k, (file, _, text) in enumerate(batch):
        row, scales = slice(k, k + 1), tokens.scales
        one = replace(
            tokens, codes=tokens.codes[row], lengths=lengths[row], scales=None if scales is None else scales[row]
        )
        yield Item.of(one, coder.grid(sizes[k].tolist()), path=file.name, label=file.label, text=text)


def code_alone(file: Media, alone: Alone, text: str | None, coder: Recordings | Pictures) -> Item | Failure:
    """The row of a file that is coded by itself, or why there is none: a rate out of its reach."""
    try:
        tokens = alone()
    except (UserError, ValueError) as error:
        return Failure(file.name, reason_of(file, error))
    grid = coder.grid(tokens.lengths[0].reshape(-1).tolist())
    return Item.of(tokens, grid, path=file.name, label=file.label, text=text)


def read_ahead(
    media: Iterable[Media], coder: Recordings | Pictures, workers: int
) -> Iterator[tuple[Media, tuple[Tensor | Alone, str | None] | str]]:
    """Each file's media and text, or why it cannot be read, in order; threads read a few files ahead."""

    def read(file: Media) -> tuple[Tensor | Alone, str | None] | str:
        try:
            text = decoded(file.text).strip() if isinstance(file.text, Path) else file.text
            return coder.read(file.path), text
        except UserError as error:
            return reason_of(file, error)

    files = iter(media)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[Media, Future]] = deque()
        while True:
            waiting.extend((file, pool.submit(read, file)) for file in islice(files, 2 * workers + 1 - len(waiting)))
            if not waiting:
                return
            file, future = waiting.popleft()
            yield file, future.result()


def reason_of(file: Media, error: Exception) -> str:
    """Why a file gave no row, without its place on this machine."""
    return str(error).removeprefix(f"{printable(file.path)}: ")
