"""Audio files to token files and back, in constant memory whatever their length; called by `zoo.pipeline`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from numpy import ndarray
from torch import Tensor

from zoo.codecs.audio.io import AudioFile, AudioWriter, open_audio, resample
from zoo.codecs.base import AudioCodec, CodecInfo, Search
from zoo.codecs.depth import at_price, price_of_stream
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.tiling import Progress
from zoo.container import TokenFileError, TokenReader
from zoo.container_header import TokenHeader
from zoo.container_writer import TokenWriter

CHUNK_SECONDS = 5  # 10 take 160 MB more in the convolutional codec and are no faster
EDGE_SECONDS = 0.1  # a resampler's filter reaches less far than this at any rate above 4 kHz


def tokenize_recording(
    source: str | Path,
    target: str | Path,
    codec: AudioCodec,
    codebooks: int | None,
    kbps: float | None,
    channels: str,
    coded: dict[str, str],
    beam: int,
    vary: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """See `zoo.tokenize`; returns facts about the token file."""
    if vary and kbps is None:
        raise UserError("numbers of codes that vary from frame to frame need a bitrate to reach: give kbps as well")
    with open_audio(source) as file:
        info = codec.info
        rows = 1 if channels == "mix" else -(-file.channels // info.channels)
        codebooks = choose_codebooks(info, rows, codebooks, None if vary else kbps)
        step = max(1, int(file.rate * chunk_seconds(file.rate, file.channels)))
        scales = measure_scales(codec, as_rows(file, step, info, rows, channels))
        header = TokenHeader(
            codec.name, codec.weights, info.sample_rate, info.hop, info.channels, info.codebook_sizes[:codebooks], rows,
            file.channels, channels == "mix", file.rate, None if scales is None else tuple(scales.tolist()),
            **coded, depth=vary,
        )  # fmt: skip
        place, search = codec.device, codec.beam_search(codebooks, beam)
        scales = None if scales is None else scales.to(place)
        if vary:
            media = (block.to(place) for block in as_rows(file, step, info, rows, channels))
            price = price_of_stream(codec, media, kbps, scales, codebooks, beam)
            search = at_price(codec, price, codebooks, beam)
        with TokenWriter(target, header, codec.code_model) as writer:
            original = Counter(progress, file)
            length = 0
            media = (block.to(place) for block in as_rows(file, step, info, rows, channels, original))
            for size, codes in encode_chunks(codec, media, scales, codebooks, search):
                length += size
                writer.write(codes, (codes >= 0).sum(1) if vary else None)
            writer.finish(length, original.samples)
    with TokenReader(target) as reader:
        return reader.facts()


def encode_chunks(
    codec: AudioCodec,
    media: Iterable[Float[Tensor, "row channel time"]],
    scales: Float[Tensor, "row"] | None,
    codebooks: int,
    search: Search | None,
) -> Iterator[tuple[int, Int[Tensor, "row codebook frame"]]]:
    """Samples that came in and codes that went out, chunk by chunk."""
    state = codec.init_encoder(scales)
    for chunk in media:
        codes, state = codec.encode_chunk(chunk, state, codebooks, search=search)
        yield chunk.shape[-1], codes
    yield 0, codec.encode_chunk(chunk[..., :0], state, codebooks, final=True, search=search)[0]


def reconstruct_recording(
    reader: TokenReader,
    target: str | Path,
    codec: AudioCodec,
    codebooks: int | None,
    start: float | None,
    stop: float | None,
    rate: int | None,
    channels: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """See `zoo.reconstruct`; returns facts about what was written."""
    header, stored = reader.header, len(reader.header.codebook_sizes)
    rate = header.original_rate if rate is None else rate
    if rate < 1:
        raise UserError(f"a sample rate of {rate} Hz cannot be; ask for 1 Hz or more")
    coded = 1 if header.mixed else header.channels
    channels = coded if channels is None else channels
    if channels != coded and 1 not in (channels, coded):
        raise UserError(
            f"{printable(reader.path)}: holds {coded} channels, {channels} were asked for; ask for 1 or {coded}"
        )
    first, last = part_of(reader, start, stop, rate)
    done = 0
    with AudioWriter(target, rate, channels) as writer:
        for block in decoded(reader, codec, codebooks or stored, first, last, rate):
            writer.write(with_channels(block[:coded], channels))
            done += block.shape[1]
            if progress is not None:
                progress(done / rate, (last - first) / rate)
    return {
        "codec": codec.name,
        "codebooks": codebooks or stored,
        "rate": rate,
        "channels": channels,
        "samples": last - first,
        "seconds": (last - first) / rate,
    }


def check_audio_codec(reader: TokenReader, info: CodecInfo) -> None:
    """Raise unless a codec of these facts can have made the file."""
    header = reader.header
    made = (header.sample_rate, header.hop, header.codec_channels, header.codebook_sizes)
    sizes = info.codebook_sizes[: len(header.codebook_sizes)]
    if made != (info.sample_rate, info.hop, info.channels, sizes):
        raise TokenFileError(
            reader.path, f"was made by another codec, {header.codec!r}: {header.sample_rate} Hz, hop {header.hop},"
            f" codebooks {describe(header.codebook_sizes)}; given was one of {info.sample_rate} Hz, hop {info.hop},"
            f" codebooks {describe(info.codebook_sizes)}", "name the codec that made it with --model",
        )  # fmt: skip


def describe(sizes: tuple[int, ...]) -> str:
    """Codebook sizes in few characters: "8 x 1024" if all are equal."""
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else "/".join(map(str, sizes))


def choose_codebooks(info: CodecInfo, rows: int, codebooks: int | None, kbps: float | None) -> int:
    """How many codebooks to use for `rows` streams when that number, or a bitrate for all of them, is asked for."""
    if kbps is None:
        codebooks = info.codebooks if codebooks is None else codebooks
        if not 1 <= codebooks <= info.codebooks:
            raise UserError(
                f"the codec has {info.codebooks} codebooks, {codebooks} were asked for; ask for 1..{info.codebooks}"
            )
        return codebooks
    if codebooks is not None:
        raise UserError("give either a number of codebooks or a bitrate, not both")
    fitting = [n for n in range(1, info.codebooks + 1) if rows * info.kbps(n) <= kbps * (1 + 1e-9)]
    if not fitting:
        raise UserError(
            f"{kbps} kbps is too little: {rows} stream(s) of this codec take {rows * info.kbps(1):.3g} kbps at least;"
            " ask for more, or mix the channels into one"
        )
    return fitting[-1]


def chunk_seconds(rate: int, channels: int) -> float:
    """How much to hold in memory at once: less for many channels, and for rates beyond those of music."""
    return CHUNK_SECONDS / channels * min(1, 192000 / rate)


class Counter:
    """Counts the samples of a file as they pass and reports them."""

    def __init__(self, progress: Progress | None, file: AudioFile) -> None:
        self.samples, self._progress, self._rate = 0, progress, file.rate
        self._total = None if file.frames is None else file.frames / file.rate

    def __call__(self, blocks: Iterable[ndarray]) -> Iterator[ndarray]:
        for block in blocks:
            yield block
            self.samples += block.shape[1]
            if self._progress is not None:
                self._progress(self.samples / self._rate, self._total)


def as_rows(
    file: AudioFile, step: int, info: CodecInfo, rows: int, channels: str, counter: Counter | None = None
) -> Iterator[Float[Tensor, "row channel time"]]:
    """A file's samples at the codec's rate, its channels laid out in rows; a surplus place repeats the last channel."""
    blocks: Iterable[ndarray] = file.blocks(step)
    if counter is not None:
        blocks = counter(blocks)
    if channels == "mix":
        blocks = (block.mean(axis=0, keepdims=True) for block in blocks)
    given = 1 if channels == "mix" else file.channels
    places = np.minimum(np.arange(rows * info.channels), given - 1)
    some = False
    for block in resample(blocks, file.rate, info.sample_rate):
        some = True
        yield torch.from_numpy(block[places]).view(rows, info.channels, -1)
    if not some:  # a sample or so that rounds to none at the codec's rate
        yield torch.zeros(rows, info.channels, 1)


def measure_scales(
    codec: AudioCodec, media: Iterator[Float[Tensor, "row channel time"]]
) -> Float32[Tensor, "row"] | None:
    """Gains of the rows of a whole recording; None (and nothing is read) if the codec has none."""
    meter = codec.scale_meter()
    if meter is None:
        return None
    for block in media:
        meter.update(block)
    return meter.scale()


def part_of(reader: TokenReader, start: float | None, stop: float | None, rate: int) -> tuple[int, int]:
    """First sample and end, at `rate`, of the part between two times."""
    original = reader.header.original_rate
    whole = reader.original_length if rate == original else max(1, round(reader.original_length * rate / original))
    first = 0 if start is None else round(start * rate)
    last = whole if stop is None else min(whole, round(stop * rate))
    if not 0 <= first < last:
        until = reader.seconds if stop is None else stop
        raise UserError(
            f"{printable(reader.path)}: has no samples from {start or 0:g} s to {until:g} s;"
            f" it is {reader.seconds:g} s long"
        )
    return first, last


def decoded(
    reader: TokenReader, codec: AudioCodec, codebooks: int, first: int, last: int, rate: int
) -> Iterator[Float32[ndarray, "channel time"]]:
    """Samples `first` to `last` at `rate`, with all that codec and resampler need around them decoded too."""
    header = reader.header
    # Where the two rates' samples coincide: only there may a resampled part begin.
    unit = header.sample_rate // gcd(header.sample_rate, rate)
    edge = 0 if rate == header.sample_rate else int(EDGE_SECONDS * header.sample_rate)
    begin = max(0, first * header.sample_rate // rate - edge) // unit * unit
    end = min(reader.length, -(-last * header.sample_rate // rate) + edge)
    skip = first - begin * rate // header.sample_rate
    wanted = last - first
    samples = decode_samples(reader, codec, codebooks, begin, max(end, begin + 1))
    for block in resample(samples, header.sample_rate, rate):
        block, skip = block[:, skip:], max(0, skip - block.shape[1])
        block = block[:, :wanted]
        wanted -= block.shape[1]
        if block.shape[1]:
            yield block
    if wanted:  # the rounding of two resamplings
        yield np.zeros((header.rows * header.codec_channels, wanted), np.float32)


def decode_samples(
    reader: TokenReader, codec: AudioCodec, codebooks: int, begin: int, end: int
) -> Iterator[Float32[ndarray, "channel time"]]:
    """Samples `begin` to `end` at the codec's rate."""
    header, context = reader.header, codec.context
    hop, frames = header.hop, reader.frames
    # Codecs without a bound on their reach start at the beginning.
    start = 0 if context is None else max(0, begin // hop - context.decoder_past)
    stop = frames if context is None else min(frames, -(-end // hop) + context.decoder_future)
    place = codec.device
    scales = None if header.scales is None else torch.tensor(header.scales, device=place)
    seconds = chunk_seconds(header.original_rate, header.rows * header.codec_channels)
    step = max(1, int(header.sample_rate * seconds / hop))
    blocks = (codes[:, :codebooks].to(place) for codes in reader.blocks(step, start, stop))
    at = start * hop
    for media in decode_chunks(codec, blocks, codec.init_decoder(scales)):
        block = media.flatten(0, 1).float().cpu().numpy()
        part = block[:, max(0, begin - at) : max(0, end - at)]
        at += block.shape[1]
        if part.shape[1]:
            yield part


def decode_chunks(
    codec: AudioCodec, blocks: Iterator[Int[Tensor, "row codebook frame"]], state: Any
) -> Iterator[Float[Tensor, "row channel time"]]:
    """All media of a stream of codes, to its last sample."""
    for codes in blocks:
        media, state = codec.decode_chunk(codes, state)
        yield media
    yield codec.decode_chunk(codes[..., :0], state, final=True)[0]


def with_channels(block: Float32[ndarray, "channel time"], channels: int) -> Float32[ndarray, "channel time"]:
    """One channel repeated, many averaged into one, or as they are."""
    if channels == len(block):
        return block
    return np.repeat(block, channels, axis=0) if len(block) == 1 else block.mean(axis=0, keepdims=True)
