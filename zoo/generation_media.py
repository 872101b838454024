"""Media from decoders of a codec's tokens: the codec is found, lengths and grids are chosen, codes are turned back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo import registry
from zoo.codecs.audio.io import read_audio
from zoo.codecs.base import Codec, Tokens
from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.codecs.image.io import is_picture, read_image
from zoo.codecs.image.tiling import Progress
from zoo.container import TokenReader, is_token_file
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.layouts import NextScale
from zoo.decoders.parallel import ParallelDecoder
from zoo.generation_codes import Sampling, draw_codes, known_steps, most_frames, steps_of
from zoo.generation_request import Request
from zoo.generation_result import Generated
from zoo.generation_speech import PAUSE_SECONDS, Piece, Room, pieces_of, timed
from zoo.pipeline import check_codec, check_media, refuse
from zoo.token_facts import TokenFacts

PIECE = 1 << 32  # piece p of sample c has the noise of row c + p * PIECE


def codec_for(facts: TokenFacts, name: str | Path | None, device: str | torch.device) -> Codec:
    """The codec that turns a decoder's codes into media: the bundled one that made them, or the one of that name.

    Raises:
        UserError: It is not at hand, or another one than the decoder learned from.
    """
    remedy = "give the directory of the codec that made its tokens: --codec"
    if name is None:
        name = facts.codec
        if not name:
            raise UserError(f"the decoder's tokens are not known to be of any codec; {remedy}")
        if name not in registry.list_models():
            raise UserError(f"the decoder makes tokens of {name!r}, which does not ship with this program; {remedy}")
    codec = registry.load_codec(name, device)
    if facts.weights and codec.weights != facts.weights:
        raise UserError(
            f"the decoder makes tokens of {facts.codec!r} with weights {facts.weights[:12]}, {name} has weights"
            f" {codec.weights[:12]}; {remedy}"
        )
    sizes, known = facts.layout.sizes, codec.info.codebook_sizes
    if sizes != known[: len(sizes)]:
        raise UserError(f"the decoder's codebooks have {sizes} codes, those of {name} have {known}; {remedy}")
    return codec


def codes_of(path: str | Path, codec: Codec, facts: TokenFacts) -> Int[Tensor, "Q *grid"]:
    """The codes of a token file, recording or picture, in as many codebooks as the decoder has.

    Raises:
        UserError: The file is damaged, of another codec, or has fewer codebooks.
    """
    books = len(facts.layout.sizes)
    if is_token_file(path):
        with TokenReader(path, codec.code_model) as reader:
            check_codec(reader, codec)
            codes = reader.tokens().codes
    else:
        check_media(path, codec)
        if is_picture(path):
            media = torch.from_numpy(read_image(path))
        else:
            samples, _ = read_audio(path, codec.info.sample_rate, mono=True)
            media = torch.from_numpy(samples).expand(codec.info.channels, -1)
        codes = codec.encode(media[None].to(codec.device), books).codes.cpu()
    if len(codes) > 1 or codes.shape[1] < books:
        raise UserError(
            f"{printable(path)}: holds {len(codes)} streams of {codes.shape[1]} codebooks; this decoder takes one, of"
            f" {books}"
        )
    return codes[0, :books]


@dataclass(frozen=True)
class Picture:
    """Of what size a picture is to be.

    Attributes:
        shape: Of the decoder's grid.
        size: Height and width in pixels.
    """

    shape: tuple[int, ...]
    size: tuple[int, int]


def picture_of(facts: TokenFacts, codec: Codec, size: tuple[int, int] | None) -> Picture:
    """A picture of that height and width, or of the size that the decoder learned from.

    Raises:
        UserError: A size that the codec or the decoder cannot have, or none where one is needed.
    """
    info = codec.info
    if info.tile:
        if size not in (None, (info.tile, info.tile)):
            raise UserError(f"this decoder draws pictures of {info.tile} x {info.tile} pixels; leave the size out")
        return Picture((info.tile_codes,), (info.tile, info.tile))
    if isinstance(facts.layout, NextScale):
        raise UserError(f"the decoder draws scales, which {codec.name!r} does not have; give a codec that does")
    if size is None:
        if not facts.grid:
            raise UserError("the decoder learned from pictures of many sizes; say how large: --size")
        height, width = facts.grid
        return Picture(facts.grid, (height * info.hop, width * info.hop))
    if min(size) < 1:
        raise UserError(f"a picture of {size[0]} x {size[1]} pixels cannot be; ask for 1 or more")
    height, width = (-(-side // info.hop) for side in size)
    return Picture((height, width), size)


def check_room(decoder: TokenModel, picture: Picture, hop: int) -> None:
    """Raise for a picture of more steps than a decoder has learned to go; those that fill in are not bound to them."""
    facts, context = decoder.tokens, decoder.info.context
    steps = steps_of(facts.layout, picture.shape) if decoder.info.causal else 0
    if steps > context:
        height, width = picture.size
        learned = f"; it learned from {facts.grid[1] * hop} x {facts.grid[0] * hop}" if facts.grid else ""
        raise UserError(
            f"a picture of {width} x {height} pixels takes {steps} steps, and this decoder was made for {context}"
            f"{learned}: give a smaller --size"
        )


def show(
    decoder: TokenModel, request: Request, sampling: Sampling, codec: Codec, progress: Progress | None
) -> Generated:
    """Draw codes and decode them.

    Raises:
        UserError: What is asked for is larger or longer than the decoder can make.
    """
    facts, count = decoder.tokens, request.count
    prompt = None if request.prompt is None else codes_of(request.prompt, codec, facts)
    reference = None
    if request.reference is not None:
        reference = codes_of(request.reference, codec, facts)[:, : facts.reference or None]
    picture = picture_of(facts, codec, request.size) if codec.info.media == "image" else None
    if picture is not None:
        check_room(decoder, picture, codec.info.hop)
        shapes, texts, durations = [picture.shape], [" ".join((request.text or "").split())], [None]
    else:
        pieces = pieces_for(decoder, request, codec, prompt)
        before = 0 if prompt is None else prompt.shape[1]
        shapes = [(before + piece.frames,) for piece in pieces]
        texts, durations = [piece.text for piece in pieces], [piece.durations for piece in pieces]
    ids = [sample + number * PIECE for sample in range(count) for number in range(len(shapes))]
    cond = request.conditions(decoder, len(ids), texts * count, durations * count, reference)
    drawn = draw_codes(decoder, facts.layout, shapes * count, ids, cond, sampling, prompt, progress=progress)
    codes, cut = drawn.codes, 0
    asked_so = request.steps is not None or request.seconds is not None
    if request.text is not None and facts.layout.end and not asked_so and durations == [None] * len(shapes):
        cut = sum(each.shape[1:] == shape for each, shape in zip(codes, shapes * count, strict=True))
    if picture is None:
        codes = [joined_codes(codes[at : at + len(shapes)], codec) for at in range(0, len(codes), len(shapes))]
    tokens = tuple(as_tokens(each, codec, facts, picture and picture.size) for each in codes)
    media = tuple(as_media(each, codec) for each in tokens)
    known = 0 if prompt is None else count * int((prompt >= 0).sum())
    came = sum(int((each >= 0).sum()) for each in drawn.codes) - known
    rate = codec.info.sample_rate
    return Generated(codec.info.media, tuple(drawn.results), came, media=media, rate=rate, tokens=tokens, cut=cut)


def pieces_for(decoder: TokenModel, request: Request, codec: Codec, prompt: Int[Tensor, "Q T"] | None) -> list[Piece]:
    """How what is asked of an audio decoder is parted, and how long each piece is.

    Raises:
        UserError: There is no room for it, or nobody knows how long it takes.
    """
    facts, context, kinds = decoder.tokens, decoder.info.context, decoder.info.conditioning
    layout, before = facts.layout, 0 if prompt is None else prompt.shape[1]
    most = longest = most_frames(layout, context)
    if before < most and request.steps is not None:
        longest = min(most, most_frames(layout, known_steps(layout, (most,), prompt) + request.steps))
    rate = codec.info.frame_rate
    if before >= most:
        fits = math.floor((most - 1) / rate * 100) / 100
        raise UserError(
            f"the prompt lasts {before / rate:.3g} s, and this decoder goes on with {fits:g} s or less; shorten it"
        )
    if longest <= before:
        raise UserError(f"{request.steps} steps make no whole frame more; ask for more steps")
    room = Room(rate, most - before, layout.end or facts.unrolled and layout.absent)
    one_pass = bare(decoder) if isinstance(bare(decoder), ParallelDecoder) else None
    if request.text is None:
        free = (request.steps is not None or one_pass is not None) and request.seconds is None
        pieces = [Piece("", room.most if free else room.frames(request.seconds))]
    elif one_pass is not None:
        pieces = pieces_of(request.text, room, one_pass.config.upsampling, None)
    elif "durations" in kinds:
        pieces = timed_pieces(decoder, request, room)
    else:
        pace = pace_of(facts, request)
        if pace is None or room.ends:
            refuse("decoders that speak as fast as they like", speed=request.speed)
        pieces = pieces_of(request.text, room, pace, request.seconds)
    if before and len(pieces) > 1:
        raise UserError("behind a prompt the text must be said in one go; shorten one of them, or leave the prompt out")
    return [replace(piece, frames=min(piece.frames, longest - before)) for piece in pieces]


def timed_pieces(decoder: TokenModel, request: Request, room: Room) -> list[Piece]:
    """What a decoder that knows how long each byte takes is to say, faster or slower if that is asked for."""

    def frames(texts: Sequence[str]) -> list[Float[Tensor, "byte"]]:
        cond = request.conditions(decoder, len(texts), texts)
        return [row[row > 0].cpu() for row in decoder.durations(cond)]

    text = request.text or ""
    whole = frames([text])[0] if text.strip() else torch.ones(1)
    slower = 1 / (request.speed or 1) if request.seconds is None else request.seconds * room.rate / float(whole.sum())
    pieces = pieces_of(text, room, slower * float(whole.mean()), None)
    return timed(pieces, [slower * each for each in frames([piece.text for piece in pieces])], room, request.seconds)


def pace_of(facts: TokenFacts, request: Request) -> float | None:
    """Frames for a byte of text, as the speaker, or the mean one, takes them."""
    if not facts.paces:
        return None
    mean = sum(facts.paces) / len(facts.paces) if request.label is None else facts.paces[request.label]
    return mean / (request.speed or 1)


def joined_codes(parts: list[Int[Tensor, "Q T"]], codec: Codec) -> Int[Tensor, "Q T"]:
    """Pieces behind one another, with the codes of a short silence between them; that alone if all are empty."""
    line = [part for part in parts if part.shape[1]]
    if len(line) == 1:
        return line[0]
    silence = torch.zeros(1, codec.info.channels, max(1, round(PAUSE_SECONDS * codec.info.sample_rate)))
    pause = codec.encode(silence.to(codec.device), len(parts[0])).codes[0].cpu()
    return torch.cat([code for part in line for code in (part, pause)][:-1] or [pause], 1)


def as_tokens(
    codes: Int[Tensor, "Q *grid"], codec: Codec, facts: TokenFacts, size: tuple[int, int] | None = None
) -> Tokens:
    """One recording, or one picture of that size, for `Codec.decode`."""
    length = [codes.shape[1] * codec.info.hop] if size is None else [list(size)]
    depth = (codes >= 0).sum(0)[None] if facts.layout.absent else None
    return Tokens(codes[None], torch.tensor(length), None, codec.name, codec.weights, depth)


def as_media(tokens: Tokens, codec: Codec) -> Float[Tensor, "channel *axes"]:
    """What the codec makes of them, on the CPU."""
    place = codec.device
    depth = None if tokens.depth is None else tokens.depth.to(place)
    there = Tokens(tokens.codes.to(place), tokens.lengths, None, tokens.codec, tokens.weights, depth)
    return codec.decode(there)[0].float().cpu()
