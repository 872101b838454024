"""The command line. Exit codes: 0 success, 2 bad input or usage, 1 our own fault, 130 interrupted.

Heavy modules are imported inside the commands: `zoo --help` must not wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zoo
from zoo import registry
from zoo.cli_bench import bench
from zoo.cli_generate import generate_command
from zoo.cli_options import (
    PICTURE_STARTER,
    STARTER,
    Codebooks,
    Device,
    Json,
    Model,
    Output,
    ResultFile,
    Seed,
    print_json,
    progress_bar,
)
from zoo.codecs.errors import UserError

if TYPE_CHECKING:
    from zoo.pipeline import Progress

app = typer.Typer(
    name="zoo",
    help="Audio and image codecs: tokenize media files, reconstruct them, train and measure models.\n\n"
    "Start with: [bold]zoo tokenize speech.wav -o speech.ztok[/] and [bold]zoo reconstruct speech.ztok -o again.wav[/]"
    "\n\nor [bold]zoo tokenize photo.jpg -o photo.ztok --bpp .25[/] and "
    "[bold]zoo reconstruct photo.ztok -o photo.png[/]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; errors are one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return app(arguments, prog_name="zoo", standalone_mode=False) or 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return report(error)


def report(error: Exception) -> int:
    """Print what went wrong in one line and return the exit code."""
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, UserError):
        return complain(str(error))
    if hasattr(error, "format_message"):  # usage errors of typer, and of click under its older releases
        message = error.format_message()  # empty if the usage error was to give no command: then help was printed
        return complain(f"{message} See `zoo --help`.") if message else 2
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("zoo"):
        return complain(f"this needs the package {error.name}; run: pip install 'media-token-zoo[all]'")
    complain(f"internal error: {type(error).__name__}: {error} (--debug shows the traceback; please report it)")
    return 1


def complain(message: str) -> int:
    """Print one line on stderr; the exit code of bad input."""
    print("zoo: " + " ".join(message.split()), file=sys.stderr)
    return 2


def print_version(asked: bool) -> None:
    """Print the version and stop, if asked."""
    if asked:
        print(f"zoo {zoo.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Only declares what help shows: `main` itself takes `--debug`, and `--version` acts as it is read."""


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, in quotes.")] = "*", as_json: Json = False
) -> None:
    """List the bundled models.

    Example: [bold]zoo list "*16khz*"[/]
    """
    manifests = [zoo.info(name) for name in zoo.list_models(pattern)]
    if as_json:
        facts = [{"name": m.name, "description": m.description, "licence": m.licence} for m in manifests]
        return print_json(facts)
    for manifest in manifests:
        print(f"{manifest.name:<28} {manifest.description}")
    if not manifests:
        print(f"zoo: no bundled model matches {pattern!r}; `zoo list` shows all", file=sys.stderr)


@app.command("info")
def info_command(
    target: Annotated[str, typer.Argument(help="Model (name, directory, hub address), token file or token set.")],
    as_json: Json = False,
) -> None:
    """Say all that is known about a model, a token file or a token set.

    Example: [bold]zoo info spectral.speech-16khz[/]

    Example: [bold]zoo info speech.ztok --json[/]
    """
    from zoo.token_set_manifest import is_token_set

    if is_token_set(target):
        facts = token_set_facts(target, brief=not as_json)
    else:
        facts = token_file_facts(target) if Path(target).is_file() else model_facts(target)
    if as_json:
        return print_json(facts)
    for name, value in facts.items():
        print(f"{name:<18} {readable(value)}")


@app.command("tokenize")
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


@app.command("reconstruct")
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


app.command("generate")(generate_command)


@app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Bundled recipe or path of a YAML file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Train a model. Any value of the recipe can be replaced: --model.steps=100.

    Example: [bold]zoo train spectral.speech-16khz-smoke[/]
    """
    from zoo.recipes.cli import train

    overrides = context.args + ([] if seed is None else [f"--seed_everything={seed}"])
    folder = train(recipe, overrides, resume)
    if as_json:
        return print_json({"folder": str(folder)})
    print(f"trained: {folder}; make it a model with: zoo convert {folder}/last.ckpt -o DIR")


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Model: name, directory or hub address.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="What the model codes: audio file or picture, or folder of them.")
    ],
    output: ResultFile = None,
    card: Annotated[Path | None, typer.Option(help="Markdown file to write a model card's table to.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture (.png, .svg, .pdf) to draw quality over the measured rate to.")
    ] = None,
    codebooks: Annotated[
        list[int] | None, typer.Option("--codebooks", "-n", min=1, help="Measure this number; may be repeated.")
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="Measure classical codecs beside it: Opus and Codec2, or JPEG, WebP and AVIF at the bits of our files."
            " Default: for pictures only.",
        ),
    ] = None,
    bpp: Annotated[
        list[float] | None,
        typer.Option(help="Pictures: measure files of at most so many bits per pixel; may be repeated."),
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, help="Pictures: search for better codes this widely, as `zoo tokenize` does.")
    ] = None,
    entropy: Annotated[
        str | None, typer.Option(help="Pictures: how codes are coded: none, adaptive or trained; default: the best.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Audio: use so many recordings; default: all.")] = None,
    levels: Annotated[
        list[float] | None, typer.Option("--level", help="Audio: also at this gain in dB; may be repeated.")
    ] = None,
    judges: Annotated[
        bool, typer.Option("--judges", help="Audio: ask learnt listeners, too: DNSMOS, PLCMOS, an English recogniser.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Audio: worker processes of one thread each; default: 2.")
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a codec on recordings (PESQ, STOI, SI-SDR, mel distance) or pictures (PSNR, MS-SSIM, contrast distance),
    through real token files: their bits, header and all, and speed, too.

    Example: [bold]zoo evaluate spectral.speech-16khz recordings/ --codebooks 4 --baselines[/]

    Example: [bold]zoo evaluate variable.photos pictures/ --bpp .2 --bpp .3 --beam 8 --plot rates.png[/]
    """
    from zoo.codecs.files import AtomicFile
    from zoo.pipeline import refuse
    from zoo.report import check_plot, draw, terminal_table, write_card

    check_entropy(entropy)
    codec: Any = registry.load_codec(model, device)
    for path in (output, card):
        if path is not None:
            AtomicFile(path).discard()  # a place that cannot be written is refused before the work
    if plot is not None:
        check_plot(plot)
    bar = sys.stderr.isatty() and not as_json
    if codec.info.media == "image":
        from zoo.evaluate_pictures import evaluate_pictures

        refuse("pictures", clips=clips, level=levels, judges=judges or None, processes=processes)
        result = evaluate_pictures(
            codec, data, bpp or (), codebooks or (), beam or 1, entropy, baselines is not False, seed,
            json_file=output, progress=bar,
        )  # fmt: skip
    else:
        from zoo.evaluate import evaluate

        refuse("audio", bpp=bpp, beam=beam, entropy=entropy)
        result = evaluate(
            codec, data, codebooks, clips, seed, bool(baselines), levels or (), judges, device, processes or 2, output,
            progress=bar,
        )  # fmt: skip
    if card is not None:
        write_card([result], card)
    if plot is not None:
        draw([result], plot)
    if as_json:
        return print_json(result)
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(terminal_table(result))


@app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Training checkpoint (.ckpt); published tokenizer of LlamaGen or VAR (.pt, .pth); folder of an EnCodec"
            " or JanusVQVAE of transformers or a VQModel of diffusers."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store matrices as float16: half the size.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store matrices as whole numbers with a scale for each row: a quarter.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a directory that every --model takes.

    Example: [bold]zoo convert runs/mine/last.ckpt -o mine[/], then [bold]zoo info ./mine[/]

    Example: [bold]zoo convert vae_ch160v4096z32.pth -o var[/]
    """
    import torch

    from zoo.convert import convert

    if half and int8:
        raise UserError("--half and --int8 are two ways to store matrices; choose one")
    facts = convert(source, output, torch.int8 if int8 else torch.float16 if half else torch.float32)
    if as_json:
        return print_json(facts)
    print(f"{source} -> {output}: sha256 {facts['sha256'][:12]}")


def check_entropy(way: str | None) -> None:
    """Raise unless this is a way to code codes, or none was asked for."""
    from zoo.container_header import ENTROPY

    if way not in (None, *ENTROPY):
        raise UserError(f"entropy coding {way!r} is unknown; choose {', '.join(ENTROPY)}")


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


def token_file_facts(path: str) -> dict[str, Any]:
    """What the head of a token file says."""
    from zoo.container import TokenReader

    with TokenReader(path) as reader:
        return {"file": path} | reader.facts()


def token_set_facts(path: str, brief: bool) -> dict[str, Any]:
    """What the manifest of a token set says; `brief` as a person wants it."""
    from zoo.configs import to_json
    from zoo.token_set_manifest import read_manifest

    manifest = read_manifest(path)
    if not brief:
        return {"set": path} | to_json(manifest)
    audio = manifest.info.media == "audio"
    amount = f"{manifest.seconds:.1f} s of audio" if audio else f"{manifest.pixels / 1e6:.2f} megapixels"
    size = sum(shard.bytes for shard in manifest.shards)
    codes = f"{manifest.codes} codes of {len(manifest.codebook_sizes)} codebooks"
    failed = [f"{failure.path} ({failure.reason})" for failure in manifest.failed]
    return {
        "set": path,
        "complete": "yes" if manifest.complete else "no: give the same command again to go on",
        "codec": manifest.codec,
        "weights": manifest.weights,
        "settings": manifest.settings,
        "files": manifest.files,
        "items": manifest.items,
        "amount": f"{amount}, {codes}",
        "codebook_sizes": manifest.codebook_sizes,
        "texts": manifest.texts,
        "labels": f"{len(manifest.labels)}: {readable(manifest.labels[:8])}" if manifest.labels else "",
        "failed": f"{len(failed)}: {readable(failed[:8])}" if failed else 0,
        "shards": f"{len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}, {size} bytes",
        "software": manifest.software,
    }


def model_facts(name: str) -> dict[str, Any]:
    """What the model's manifest and the loaded model itself say."""
    from dataclasses import asdict

    from zoo.codecs.base import Codec

    codec = zoo.load(name)
    facts = asdict(zoo.info(name)) if name in zoo.list_models() else {"name": codec.name}
    info = codec.info
    if not isinstance(codec, Codec):
        tokens = codec.tokens.to_json()
        text = None if tokens.pop("vocabulary") is None else f"{codec.tokens.vocabulary.card} tokens"
        return facts | info.asdict() | tokens | {"text": text, "sha256": codec.weights}
    name, rate = ("bpp", info.bpp) if info.media == "image" else ("kbps", info.kbps)
    rates = {n: round(rate(n), 3) for n in range(1, info.codebooks + 1)}
    return facts | info.asdict() | {"sha256": codec.weights, f"{name}_by_codebooks": rates}


def summary(facts: dict[str, Any]) -> str:
    """The facts about a written file that people look for."""
    shown = {
        "kbps": "{:.3g} kbps", "bpp": "{:.3g} bits per pixel", "psnr": "PSNR {:.2f} dB", "codebooks": "{} codebooks",
        "seconds": "{:.2f} s", "width": "{} pixels wide", "height": "{} high", "bytes": "{} bytes",
    }  # fmt: skip
    return ", ".join(form.format(facts[name]) for name, form in shown.items() if name in facts)


def readable(value: Any) -> str:
    """A fact as a person would write it."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {readable(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value in ("", None) else str(value)


if __name__ == "__main__":
    sys.exit(main())
