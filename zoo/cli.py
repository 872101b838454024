"""The command line. Exit codes: 0 success, 2 bad input or usage, 1 our own fault, 130 interrupted.

Heavy modules are imported inside the commands: `zoo --help` must not wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo import registry
from zoo.cli_bench import bench
from zoo.cli_generate import generate_command
from zoo.cli_info import info_command, list_command
from zoo.cli_options import Device, Json, ResultFile, Seed, check_entropy, complain, print_json
from zoo.cli_tokenize import reconstruct_command, tokenize_command
from zoo.codecs.errors import UserError

app = typer.Typer(
    name="zoo",
    help="Audio codecs, image tokenizers and token decoders: tokenize media files and reconstruct them, generate text, "
    "speech and pictures, train and measure models.\n\n"
    "Start with: [bold]zoo tokenize speech.wav -o speech.ztok[/] and [bold]zoo reconstruct speech.ztok -o again.wav[/]"
    "\n\nor [bold]zoo tokenize photo.jpg -o photo.ztok --bpp .25[/] and "
    "[bold]zoo reconstruct photo.ztok -o photo.png[/]"
    '\n\nor [bold]zoo generate conditioned.speech-16khz --text "good morning." --temperature 0.5 --guidance 2 -o '
    "morning.wav[/]",
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


app.command("list")(list_command)
app.command("info")(info_command)
app.command("tokenize")(tokenize_command)
app.command("reconstruct")(reconstruct_command)
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
            " or JanusVQVAE of transformers, a VQModel of diffusers, or a Llama, Mistral, Qwen 2, Qwen 3 or GPT-2 of"
            " transformers with its tokenizer.json."
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

    Example: [bold]zoo convert Qwen3-0.6B/ -o qwen[/], then [bold]zoo generate ./qwen --prompt "Once"[/]
    """
    import torch

    from zoo.convert import convert

    if half and int8:
        raise UserError("--half and --int8 are two ways to store matrices; choose one")
    facts = convert(source, output, torch.int8 if int8 else torch.float16 if half else torch.float32)
    if as_json:
        return print_json(facts)
    print(f"{source} -> {output}: sha256 {facts['sha256'][:12]}")


if __name__ == "__main__":
    sys.exit(main())
