"""The command line. Exit codes: 0 success, 2 bad input or usage, 1 our own fault, 130 interrupted.

Heavy modules are imported inside the commands: `zoo --help` must not wait for torch.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zoo
from zoo.codecs.errors import UserError

if TYPE_CHECKING:
    from zoo.codecs.base import Codec
    from zoo.pipeline import Progress

STARTER = "spectral.speech-16khz"
PICTURE_STARTER = "variable.photos"
BAR_AFTER_SECONDS = 2.0

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
bench = typer.Typer(help="Measure speed, side by side with other implementations.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Bundled name (see `zoo list`), directory or hf-hub:user/repo@revision. Default: {STARTER} for audio,"
        f" {PICTURE_STARTER} for pictures.",
    ),
]
Codebooks = Annotated[
    int | None, typer.Option("--codebooks", "-n", min=1, help="Use the first N codebooks only: a lower bitrate.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text; no progress bars.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write; for several inputs, the directory.")]


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
    target: Annotated[str, typer.Argument(help="Model (name, directory, hub address) or token file.")],
    as_json: Json = False,
) -> None:
    """Say all that is known about a model or a token file.

    Example: [bold]zoo info spectral.speech-16khz[/]

    Example: [bold]zoo info speech.ztok --json[/]
    """
    facts = token_file_facts(target) if Path(target).is_file() else model_facts(target)
    if as_json:
        return print_json(facts)
    for name, value in facts.items():
        print(f"{name:<18} {readable(value)}")


@app.command("tokenize")
def tokenize_command(
    files: Annotated[
        list[Path], typer.Argument(help="Audio files of any format, rate, length and channel count; pictures of any.")
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
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Turn audio files and pictures into token files (.ztok). A file of the output's name is replaced.

    Example: [bold]zoo tokenize in.wav -o out.ztok --codebooks 4[/]

    Example: [bold]zoo tokenize *.flac -o tokens/ --kbps 2[/]

    Example: [bold]zoo tokenize photo.jpg -o photo.ztok --bpp .25 --beam 8[/]
    """
    from zoo.container_header import ENTROPY
    from zoo.pipeline import tokenize

    if entropy not in (None, *ENTROPY):
        raise UserError(f"entropy coding {entropy!r} is unknown; choose {', '.join(ENTROPY)}")
    load = cache(lambda name: zoo.load(name, device))
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
    files: Annotated[list[Path], typer.Argument(help="Token files; audio files and pictures are tokenized first.")],
    output: Output,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Default: the model that the token file names.")
    ] = None,
    codebooks: Codebooks = None,
    start: Annotated[float | None, typer.Option(help="Audio: begin at this second.")] = None,
    stop: Annotated[float | None, typer.Option(help="Audio: end at this second.")] = None,
    rate: Annotated[int | None, typer.Option(help="Audio: sample rate to write; default: the original's.")] = None,
    channels: Annotated[int | None, typer.Option(help="Audio: channels to write; default: the original's.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Turn token files back into audio or pictures. The output's ending chooses the format; several files become .wav
    and .png.

    Example: [bold]zoo reconstruct in.ztok -o out.wav[/]

    Example: [bold]zoo reconstruct photo.ztok -o photo.png[/]

    Example: [bold]zoo reconstruct speech.mp3 -o hear-it.wav --codebooks 2[/]
    """
    from zoo.pipeline import reconstruct

    load = cache(lambda name: zoo.load(name, device))

    def run(source: Path, target: Path, progress: Progress | None) -> dict[str, Any]:
        codec = load(model or model_of(source))
        return reconstruct(source, target, codec, codebooks, start, stop, rate, channels, progress=progress)

    return for_each(files, output, ending_of, as_json, run)


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
    data: Annotated[Path, typer.Argument(help="Audio file, or folder of them.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the result to.")] = None,
    codebooks: Annotated[
        list[int] | None, typer.Option("--codebooks", "-n", min=1, help="Measure this number; may be repeated.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Use so many recordings; default: all.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Measure Opus and Codec2 beside it.")] = False,
    levels: Annotated[list[float] | None, typer.Option("--level", help="Also at this gain in dB; repeatable.")] = None,
    judges: Annotated[
        bool, typer.Option("--judges", help="Ask learnt listeners, too: DNSMOS, PLCMOS, an English recogniser.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes of one thread each.")] = 2,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a codec on recordings: real bitrate, PESQ, STOI, SI-SDR, mel distance, speed, codebook use.

    Example: [bold]zoo evaluate spectral.speech-16khz recordings/ --codebooks 4 --baselines[/]
    """
    from zoo.evaluate import evaluate, table

    bar = sys.stderr.isatty() and not as_json
    codec = zoo.load(model, device)
    result = evaluate(
        codec, data, codebooks, clips, seed, baselines, levels or (), judges, device, processes, output, progress=bar
    )
    if as_json:
        return print_json(result)
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table(result))


@bench.command("codecs")
def bench_codecs_command(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the result to.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure encoding and decoding beside other implementations with the same weights, clip and threads.

    Example: [bold]zoo bench codecs -o bench.json[/]
    """
    from zoo.bench import bench_codecs

    bench_codecs(output, device, seed, as_json)


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="Training checkpoint (.ckpt), or folder of a transformers EnCodec.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store matrices as float16: half the size.")] = False,
    as_json: Json = False,
) -> None:
    """Make a directory that every --model takes.

    Example: [bold]zoo convert runs/mine/last.ckpt -o mine[/], then [bold]zoo info ./mine[/]
    """
    import torch

    from zoo.convert import convert

    facts = convert(source, output, torch.float16 if half else torch.float32)
    if as_json:
        return print_json(facts)
    print(f"{source} -> {output}: sha256 {facts['sha256'][:12]}")


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


@contextmanager
def progress_bar(label: str, quiet: bool) -> Iterator[Progress | None]:
    """A callback that draws a bar on stderr once the work has lasted a while; None if nobody is there to see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    begin = time.monotonic()
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, visible=False)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, visible=time.monotonic() - begin > BAR_AFTER_SECONDS
        )


def starter_for(source: Path) -> str:
    """The bundled model that codes what a media file holds."""
    from zoo.codecs.image.io import is_picture

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


def model_facts(name: str) -> dict[str, Any]:
    """What the model's manifest and the loaded model itself say."""
    from dataclasses import asdict

    codec: Codec = zoo.load(name)
    facts = asdict(zoo.info(name)) if name in zoo.list_models() else {"name": codec.name}
    info = codec.info
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


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
