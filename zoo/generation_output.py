"""What was generated, in files: text, audio, pictures, or the tokens of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from zoo.codecs.audio.io import FORMATS as AUDIO
from zoo.codecs.audio.io import AudioWriter
from zoo.codecs.base import Codec, Tokens
from zoo.codecs.errors import UserError
from zoo.codecs.files import AtomicFile, printable
from zoo.codecs.image.io import FORMATS as PICTURES
from zoo.codecs.image.io import write_image
from zoo.container_header import TokenHeader
from zoo.container_writer import TokenWriter, write_picture
from zoo.pipeline import coding

TOKEN_FILE = ".ztok"
KINDS = {"text": "text", "audio": "audio", "image": "pictures"}


def files_of(output: str | Path, medium: str, count: int) -> list[Path]:
    """The files to write: the output itself, or as many as asked for with numbers behind its name.

    Raises:
        UserError: A name whose ending is of another medium, or a place that cannot be written.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    known = {"text": (), "audio": (*AUDIO, TOKEN_FILE), "image": (*PICTURES, TOKEN_FILE)}[medium]
    other = {*AUDIO, *PICTURES, TOKEN_FILE} - set(known)
    if suffix in other or (known and suffix not in known):
        ending = ", ".join(known) or ".txt"
        raise UserError(f"{printable(output)}: this decoder makes {KINDS[medium]}; choose a name that ends in {ending}")
    files = [output]
    if count > 1:
        width = len(str(count))
        files = [output.with_stem(f"{output.stem}-{number:0{width}}") for number in range(1, count + 1)]
    for file in files:
        AtomicFile(file).discard()  # a place that cannot be written is refused before the work
    return files


def write_text(path: Path, text: str) -> None:
    """As UTF-8."""
    with AtomicFile(path) as file:
        file.write(text.encode())


def write_media(path: Path, media: Float[Tensor, "channel *axes"], tokens: Tokens, codec: Codec) -> None:
    """One recording or picture, or its tokens; the name's ending says which."""
    audio = codec.info.media == "audio"
    if path.suffix.lower() == TOKEN_FILE:
        (write_recording_tokens if audio else write_picture_tokens)(path, tokens, codec)
    elif audio:
        with AudioWriter(path, codec.info.sample_rate, codec.info.channels) as writer:
            writer.write(media.numpy())
    else:
        write_image(path, media.numpy())


def write_recording_tokens(path: Path, tokens: Tokens, codec: Codec) -> None:
    """A token file as `zoo tokenize` writes it, of a recording at the codec's own rate."""
    info, (samples,) = codec.info, tokens.lengths.tolist()
    header = TokenHeader(
        codec.name, codec.weights, info.sample_rate, info.hop, info.channels, sizes_of(tokens, codec), 1,
        info.channels, False, info.sample_rate, **coding(codec, None), depth=tokens.depth is not None,
    )  # fmt: skip
    with TokenWriter(path, header, codec.code_model) as writer:
        writer.write(tokens.codes, tokens.depth)
        writer.finish(samples, samples)


def write_picture_tokens(path: Path, tokens: Tokens, codec: Codec) -> None:
    """A token file as `zoo tokenize` writes it."""
    write_picture(path, tokens, codec.info, coding(codec, None)["entropy"], codec.code_model)


def sizes_of(tokens: Tokens, codec: Codec) -> tuple[int, ...]:
    """Of the codebooks that are used."""
    return codec.info.codebook_sizes[: tokens.codes.shape[1]]


def with_numbers(texts: Sequence[str]) -> str:
    """Several texts, a line with its number in front of each."""
    return "\n\n".join(f"--- {number}\n{text}" for number, text in enumerate(texts, 1))
