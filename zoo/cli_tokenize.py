"""`zoo tokenize` and `zoo reconstruct`: their options, and how they go over several files.

Heavy modules are imported inside the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo import registry
from zoo.cli_info import summary, token_set_facts
from zoo.cli_options import (
    PICTURE_STARTER,
    STARTER,
    Codebooks,
    Device,
    Json,
    Model,
    Output,
    check_entropy,
    complain,
    print_json,
    progress_bar,
)
from zoo.codecs.errors import UserError

if TYPE_CHECKING:
    from zoo.pipeline import Progress


def tokenize_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Audio files of any format, rate, length and channel count; pictures of any; or one folder of them."
        ),
    ],
    output: Output,
    model: Model = None,
    codebooks: Codebooks = None,
    kbps: Annotated[
        float | None, typer.Option(help="Audio, instead of --codebooks: as many as fit this bitrate.")
    ] = None,
    vary: Annotated[
        bool, typer.Option("--vary", help="Audio: reach --kbps by more codes for frames where they pay more.")
    ] = False,
    mix: Annotated[bool, typer.Option("--mix", help="Audio: average the channels into one stream.")] = False,
    bpp: Annotated[
        float | None,
        typer.Option(
            help="Pictures: bits per pixel of the whole file, at most. Flat parts get fewer codes than busy ones."
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="Pictures, instead of --bpp: as few codes as reach this PSNR in dB (28 is fair, 35 good)."),
    ] = None,
    beam: Annotated[
        int, typer.Option(min=1, help="Search for better codes this widely: 8 is some ten times as slow as 1.")
    ] = 1,
    entropy: Annotated[
        str | None, typer.Option(help="How codes are coded: none, adaptive or trained; default: the best there is.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Folder: file of lines PATH<TAB>TEXT; default: NAME.txt beside NAME.wav where it exists."),
    ] = None,
    shard: Annotated[int | None, typer.Option(min=1, help="Folder: most files in a shard; default: 512.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Folder: threads that read files ahead; default: 2.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Turn audio files and pictures into token files (.ztok), a folder of them into a token set, Parquet shards to
    train decoders on. A file of the output's name is replaced; a set that was interrupted is completed.

    Example: [bold]zoo tokenize in.wav -o out.ztok --codebooks 4[/]

    Example: [bold]zoo tokenize *.flac -o tokens/ --kbps 2[/]

    Example: [bold]zoo tokenize photo.jpg -o photo.ztok --bpp .25 --beam 8[/]

    Example: [bold]zoo tokenize recordings/ --out tokens --model spectral.speech-16khz --codebooks 4[/]
    """
    from zoo.pipeline import refuse, tokenize

    if any(path.is_dir() for path in files):
        if len(files) > 1:
            raise UserError("a folder becomes a token set of its own; give one folder, and nothing else")
        refuse("token sets", entropy=entropy, mix=mix or None)
        options = dict(
            codebooks=codebooks, kbps=kbps, vary=vary, bpp=bpp, quality=quality, beam=beam, texts=texts,
            shard_files=shard or 512, workers=workers or 2, device=device,
        )  # fmt: skip
        return tokenize_set(files[0], output, model or starter_for(files[0]), options, as_json)
    refuse("single files", texts=texts, shard=shard, workers=workers)
    check_entropy(entropy)
    load = cache(lambda name: registry.load_codec(name, device))
    if model is not None:
        load(model)  # what is wrong with it is said once, not for each file

    def run(source: Path, target: Path, progress: Progress | None) -> dict[str, Any]:
        return tokenize(
            source, target, load(model or starter_for(source)), codebooks, kbps, "mix" if mix else "each",
            progress=progress, entropy=entropy, beam=beam, vary=vary, bpp=bpp, quality=quality,
        )  # fmt: skip

    return for_each(files, output, ".ztok", as_json, run)


def reconstruct_command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Token files, or one token set; audio files and pictures are tokenized first."),
    ],
    output: Output,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Default: the model that the token file names.")
    ] = None,
    codebooks: Codebooks = None,
    start: Annotated[float | None, typer.Option(help="Audio: begin at this second.")] = None,
    stop: Annotated[float | None, typer.Option(help="Audio: end at this second.")] = None,
    rate: Annotated[int | None, typer.Option(help="Audio: sample rate to write; default: the original's.")] = None,
    channels: Annotated[int | None, typer.Option(help="Audio: channels to write; default: the original's.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Token set: the row to reconstruct, counted from 0.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Turn token files back into audio or pictures. The output's ending chooses the format; several files become .wav
    and .png.

    Example: [bold]zoo reconstruct in.ztok -o out.wav[/]

    Example: [bold]zoo reconstruct photo.ztok -o photo.png[/]

    Example: [bold]zoo reconstruct speech.mp3 -o hear-it.wav --codebooks 2[/]

    Example: [bold]zoo reconstruct tokens/ --row 7 -o seven.wav[/]
    """
    from zoo.pipeline import reconstruct, refuse
    from zoo.token_set_manifest import is_token_set

    if len(files) == 1 and is_token_set(files[0]):
        from zoo.pipeline_folder import reconstruct_row

        if row is None:
            raise UserError(f"{files[0]}: is a token set; say which of its rows: --row 0")
        refuse("token sets", codebooks=codebooks, start=start, stop=stop, rate=rate, channels=channels)
        facts = reconstruct_row(files[0], row, output, model, device)
        if as_json:
            print_json({"source": str(files[0]), "row": row, "target": str(output)} | facts)
        else:
            print(f"{files[0]}, row {row} -> {output}: {summary(facts)}")
        return 0
    refuse("token files and media", row=row)
    load = cache(lambda name: registry.load_codec(name, device))

    def run(source: Path, target: Path, progress: Progress | None) -> dict[str, Any]:
        codec = load(model or model_of(source))
        return reconstruct(source, target, codec, codebooks, start, stop, rate, channels, progress=progress)

    return for_each(files, output, ending_of, as_json, run)


def tokenize_set(folder: Path, output: Path, model: str, options: dict[str, Any], as_json: bool) -> int:
    """Turn a folder into a token set, and say what became of it; files that give no tokens don't make it fail."""
    from zoo.pipeline_folder import tokenize_folder

    with progress_bar(str(folder), as_json) as progress:
        manifest = tokenize_folder(folder, output, model, **options, progress=progress)
    if manifest.failed:
        first = manifest.failed[0]
        complain(
            f"{len(manifest.failed)} of {manifest.files} files gave no tokens, the others are done; `zoo info {output}`"
            f" lists them; the first, {first.path}: {first.reason}"
        )
    facts = token_set_facts(str(output), brief=not as_json)
    if as_json:
        print_json(facts)
    else:
        print(f"{folder} -> {output}: {facts['items']} items, {facts['amount']}, {facts['shards']}")
    return 0


def for_each(
    files: list[Path], output: Path, ending: str | Callable[[Path], str], as_json: bool,
    run: Callable[[Path, Path, Progress | None], dict[str, Any]],
) -> int:  # fmt: skip
    """Run over all files, go on where one fails, and return the exit code."""
    results, failures = [], 0
    for source, target in pair_up(files, output, ending):
        try:
            with progress_bar(str(source), as_json) as progress:
                facts = run(source, target, progress)
        except UserError as error:
            failures += 1
            complain(str(error))
            results.append({"source": str(source), "error": str(error)})
            continue
        results.append({"source": str(source), "target": str(target)} | facts)
        if not as_json:
            print(f"{source} -> {target}: {summary(facts)}")
    if as_json:
        print_json(results)
    if failures and len(files) > 1:
        complain(f"{failures} of {len(files)} files failed, see above; the others are done")
    return 2 if failures else 0


def pair_up(files: list[Path], output: Path, ending: str | Callable[[Path], str]) -> list[tuple[Path, Path]]:
    """Each input with the file to write for it."""
    if len(files) == 1 and not output.is_dir() and not str(output).endswith("/"):
        return [(files[0], output)]
    targets: dict[Path, Path] = {}
    for source in files:
        target = output / (source.stem + (ending if isinstance(ending, str) else ending(source)))
        if target in targets:
            raise UserError(f"{targets[target]} and {source} would both become {target}; give them other outputs")
        targets[target] = source
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}; several inputs need a directory to write to") from None
    return [(source, target) for target, source in targets.items()]


def starter_for(source: Path) -> str:
    """The bundled model that codes what a media file holds, or most files of a folder."""
    from zoo.codecs.image.io import is_picture
    from zoo.recipes.data.clips import AUDIO_SUFFIXES
    from zoo.recipes.data.picture_store import PICTURE_SUFFIXES

    if source.is_dir():
        suffixes = [path.suffix.lower() for path in source.rglob("*")]
        sounds, pictures = (sum(suffix in known for suffix in suffixes) for known in (AUDIO_SUFFIXES, PICTURE_SUFFIXES))
        return PICTURE_STARTER if pictures > sounds else STARTER
    return PICTURE_STARTER if is_picture(source) else STARTER


def model_of(source: Path) -> str:
    """The model that a token file names; a starter for any other file."""
    from zoo.container import TokenReader, is_token_file
    from zoo.pipeline import bundled

    if source.suffix.lower() != ".ztok" and not is_token_file(source):
        return starter_for(source)
    with TokenReader(source) as reader:
        return bundled(reader)


def ending_of(source: Path) -> str:
    """The kind of file that a token file's or media file's contents are written to, if nothing else is asked for."""
    from zoo.codecs.image.io import is_picture
    from zoo.container import TokenReader, is_token_file

    try:
        if not is_token_file(source):
            return ".png" if is_picture(source) else ".wav"
        with TokenReader(source) as reader:
            return ".png" if reader.header.media == "image" else ".wav"
    except UserError:  # said when its turn comes
        return ".wav"
