"""Media files to token files and back: audio through `pipeline_audio`, pictures through `pipeline_image`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

from zoo import registry
from zoo.codecs.audio.io import open_audio
from zoo.codecs.base import Codec
from zoo.codecs.errors import UserError
from zoo.codecs.files import MediaError, printable
from zoo.codecs.image.io import is_picture
from zoo.codecs.image.tiling import Progress
from zoo.container import TokenFileError, TokenReader, is_token_file
from zoo.container_header import Entropy
from zoo.pipeline_audio import check_audio_codec, reconstruct_recording, tokenize_recording
from zoo.pipeline_image import check_picture_codec, reconstruct_picture, tokenize_picture


def tokenize(
    source: str | Path,
    target: str | Path,
    model: str | Codec,
    codebooks: int | None = None,
    kbps: float | None = None,
    channels: Literal["each", "mix"] = "each",
    device: str = "cpu",
    progress: Progress | None = None,
    entropy: Entropy | None = None,
    beam: int = 1,
    vary: bool = False,
    bpp: float | None = None,
    quality: float | None = None,
) -> dict[str, Any]:
    """Tokenize an audio file of any format, rate, length and channel count, or a picture of any format and size.

    Args:
        source: The file; its content must be what the codec codes.
        target: The token file (`.ztok`) to write.
        model: What `zoo.load` takes, or a codec.
        codebooks: Use the first so many codebooks (default: all); with `bpp`, `quality` or `vary` no more than these.
        kbps: Audio, in place of `codebooks`: as many codebooks as fit into that bitrate, all channels together.
        channels: Audio: "each" codes every channel, so that as many come out as went in; "mix" averages them into one
            stream, at the bitrate of one.
        device: Where the codec computes, if `model` is a name.
        progress: Called with what is done and what there is in all (None if the file does not say): seconds of audio,
            tiles of a picture.
        entropy: How codes are coded: "none" packs them; "adaptive" learns them as they come; "trained" starts from the
            model of codes that ships with the codec. Default: "trained" if there is such a model, else "adaptive".
        beam: Width of the search for the codes of residual codecs: 1 is quickest, 16 comes nearer to the media and
            takes some tens of times as long.
        vary: Audio: reach `kbps` by a number of codes of its own for each frame (residual codecs).
        bpp: Pictures: bits per pixel of the token file, all of it, at most; codes go where they pay most (residual
            codecs).
        quality: Pictures, in place of `bpp`: peak signal-to-noise ratio in dB to reach with as few codes as possible.

    Returns:
        Facts about the token file (`TokenReader.facts`).

    Raises:
        UserError: Bad source, target that cannot be written, unknown model, media of another kind than the codec's, or
            rate out of the codec's range.
    """
    check_apart(source, target)
    codec = codec_of(model, device)
    check_media(source, codec)
    if beam < 1:
        raise UserError(f"a beam of {beam} cannot be; ask for 1 or more")
    coded = coding(codec, entropy)
    if codec.info.media == "image":
        refuse("pictures", kbps=kbps, vary=vary or None, mix=channels == "mix" or None)
        return tokenize_picture(source, target, codec, codebooks, bpp, quality, beam, coded["entropy"], progress)
    refuse("audio", bpp=bpp, quality=quality)
    try:
        return tokenize_recording(source, target, codec, codebooks, kbps, channels, coded, beam, vary, progress)
    except ValueError as error:
        raise UserError(f"{printable(source)}: {error}") from error


def reconstruct(
    source: str | Path,
    target: str | Path,
    model: str | Codec | None = None,
    codebooks: int | None = None,
    start: float | None = None,
    stop: float | None = None,
    rate: int | None = None,
    channels: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reconstruct a media file from a token file, or tokenize and reconstruct a media file in one go.

    Args:
        source: Token file, audio file or picture; the content decides.
        target: Audio file or picture to write; its ending chooses the format.
        model: What `zoo.load` takes, or a codec; needed for media and for tokens of a codec that is not bundled.
        codebooks: Use the first so many codebooks (default: all that the file holds).
        start, stop: Audio: seconds; only this part is reconstructed.
        rate: Audio: sample rate to write (default: the original's, and then exactly as many samples as the original).
        channels: Audio: channels to write (default: as many as were coded: the original's, or one if they were mixed).
        device: Where the codec computes, if `model` is a name.
        progress: Called with what is done and what there is in all: seconds of audio, tiles of a picture.

    Returns:
        Facts about what was written.

    Raises:
        UserError: Damaged source, tokens of another codec or other weights, or a target that cannot be written.
    """
    check_apart(source, target)
    if not is_token_file(source):
        if model is None:
            if Path(source).suffix.lower() == ".ztok":
                raise TokenFileError(source, "is not a token file or its first bytes are damaged")
            raise UserError(f"{printable(source)}: is not a token file; to tokenize it, name a model as well")
        codec = codec_of(model, device)
        with tempfile.TemporaryDirectory() as folder:
            tokens = Path(folder, "tokens.ztok")
            tokenize(source, tokens, codec, codebooks, progress=progress)
            return reconstruct(tokens, target, codec, None, start, stop, rate, channels)
    with TokenReader(source) as reader:
        header = reader.header
        codec = codec_of(model if model is not None else bundled(reader), device)
        check_codec(reader, codec)
        reader.context = codec.code_model
        stored = len(header.codebook_sizes)
        if codebooks is not None and not 1 <= codebooks <= stored:
            raise UserError(
                f"{printable(source)}: holds {stored} codebooks, {codebooks} were asked for; ask for 1..{stored}"
            )
        if header.media == "image":
            refuse("pictures", start=start, stop=stop, rate=rate, channels=channels)
            return reconstruct_picture(reader, target, codec, codebooks, progress)
        return reconstruct_recording(reader, target, codec, codebooks, start, stop, rate, channels, progress)


def coding(codec: Codec, entropy: Entropy | None) -> dict[str, str]:
    """What a header says about how a codec's codes are coded.

    Raises:
        UserError: The codec has no trained model of codes.
    """
    if entropy is None:
        entropy = "adaptive" if codec.code_model is None else "trained"
    if entropy != "trained":
        return {"entropy": entropy}
    if codec.code_model is None:
        raise UserError(f"{codec.name!r} has no trained model of its codes; use adaptive entropy coding, or train one")
    return {"entropy": entropy, "context": codec.code_model.digest[:8]}


def codec_of(model: str | Codec, device: str) -> Codec:
    """The codec itself, loaded if `model` is a name."""
    return model if isinstance(model, Codec) else registry.load_codec(model, device)


def check_media(source: str | Path, codec: Codec) -> None:
    """Raise if a file holds the kind of media that the codec does not code."""
    picture = is_picture(source)
    if codec.info.media == "audio" and picture:
        found, codes = "a picture", "audio"
    elif codec.info.media == "image" and not picture and is_recording(source):
        found, codes = "a recording", "pictures"
    else:
        return
    raise UserError(f"{printable(source)}: is {found}, but {codec.name!r} codes {codes}; name another codec: --model")


def is_recording(path: str | Path) -> bool:
    """Whether a file can be opened as audio."""
    try:
        open_audio(path).close()
    except MediaError:
        return False
    return True


def refuse(media: str, **options: Any) -> None:
    """Raise for options that mean nothing for a kind of media."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{name} means nothing for {media}; leave it out")


def bundled(reader: TokenReader) -> str:
    """Name of the codec that a token file asks for; only bundled ones are loaded on a file's word."""
    name = reader.header.codec
    if name in registry.list_models():
        return name
    raise TokenFileError(
        reader.path, f"was made by codec {name!r}, which does not ship with this program", "name it with --model"
    )


def check_codec(reader: TokenReader, codec: Codec) -> None:
    """Raise unless a codec of these facts and weights can have made the file."""
    header, info, weights = reader.header, codec.info, codec.weights
    if header.media != info.media:
        kinds = {"audio": "a recording", "image": "a picture"}
        raise TokenFileError(
            reader.path, f"holds tokens of {kinds[header.media]}, but {codec.name!r} codes {kinds[info.media]}",
            "name the codec that made it with --model",
        )  # fmt: skip
    if header.weights and weights and header.weights != weights:
        raise TokenFileError(
            reader.path, f"was made by {header.codec!r} with weights {header.weights[:12]}, loaded are {weights[:12]}",
            "load the weights that made it with --model",
        )  # fmt: skip
    if header.media == "image":
        return check_picture_codec(reader, codec)
    check_audio_codec(reader, info)


def check_apart(source: str | Path, target: str | Path) -> None:
    """Raise if writing the target would destroy the source."""
    if Path(target).exists() and Path(source).exists() and Path(target).samefile(source):
        raise UserError(f"{printable(target)}: is the source itself; write to another name")
