"""`zoo bench`: a command for each benchmark. Heavy modules are imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli_options import DecoderWeights, Device, Json, ResultFile, Seed
from zoo.codecs.errors import UserError

bench = typer.Typer(
    help="Measure speed side by side with other implementations, and what entropy coding saves.", no_args_is_help=True
)


@bench.command("codecs")
def bench_codecs_command(
    output: ResultFile = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure encoding and decoding beside other implementations with the same weights, clip and threads.

    Example: [bold]zoo bench codecs -o bench.json[/]
    """
    from zoo.bench import bench_codecs

    bench_codecs(output, device, seed, as_json)


@bench.command("quantizers")
def bench_quantizers_command(
    output: ResultFile = None, device: Device = "cpu", seed: Seed = 0, as_json: Json = False
) -> None:
    """Measure the residual quantizer beside vector-quantize-pytorch's with the same codebooks, latents and threads.

    Example: [bold]zoo bench quantizers -o bench.json[/]
    """
    from zoo.bench_quantizers import bench_quantizers

    bench_quantizers(output, device, seed, as_json)


@bench.command("entropy")
def bench_entropy_command(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Model: name, directory or hub address.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="What the model codes: a file, or folder of them.")],
    output: ResultFile = None,
    codebooks: Annotated[
        list[int] | None,
        typer.Option("--codebooks", "-n", min=1, help="Files of the first N codebooks; may be given several times."),
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Use so many files; default: all.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure what entropy coding makes of a model's codes: bits of each codebook, bytes of whole files, speed.

    Example: [bold]zoo bench entropy spectral.speech-16khz recordings/ -o bench.json[/]
    """
    from zoo.bench_entropy import bench_entropy

    bench_entropy(model, data, output, device, codebooks, clips, as_json)


@bench.command("decoders")
def bench_decoders_command(
    model: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Model (default: random weights of a small language model).")
    ] = None,
    output: ResultFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure how fast a language model generates on one core, beside transformers with the same weights.

    Example: [bold]zoo bench decoders autoregressive.text -o bench.json[/]
    """
    from zoo.bench_decoders import bench_decoders

    bench_decoders(model, output, seed, as_json)


@bench.command("assisted")
def bench_assisted_command(
    model: Annotated[str, typer.Argument(metavar="[NAME]", help="Decoder of text.")] = "autoregressive.text",
    draft: Annotated[str, typer.Option(metavar="NAME", help="What drafts for it.")] = "autoregressive.text-draft",
    output: ResultFile = None,
    items: Annotated[int, typer.Option(min=1, help="Texts to continue.")] = 4,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure what drafts bring on one core, beside transformers with the same weights, drafts and texts.

    Example: [bold]zoo bench assisted autoregressive.text --draft autoregressive.text-draft -o bench.json[/]
    """
    from zoo.bench_assisted import bench_assisted

    bench_assisted(model, draft, output, seed, as_json, items=items)


@bench.command("rounds")
def bench_rounds_command(output: ResultFile = None, seed: Seed = 0, as_json: Json = False) -> None:
    """Measure what a round of decoding costs beyond its forward passes, at the sizes of published decoders.

    Example: [bold]zoo bench rounds -o bench.json[/]
    """
    from zoo.bench_rounds import bench_rounds

    bench_rounds(output, seed, as_json)


@bench.command("sampling")
def bench_sampling_command(
    output: ResultFile = None,
    weights: DecoderWeights = "float32",
    items: Annotated[int, typer.Option(min=1, help="Texts to continue, sentences to say, pictures to draw.")] = 6,
    media: Annotated[
        list[str] | None, typer.Option("--medium", help="Only text, audio or image; may be given several times.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="Only methods with this word in their name; may be given several times."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture (.png, .svg, .pdf) to draw the result to.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="With --plot: draw this result (JSON), and measure nothing.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure what drafts bring: all methods in turn on the starters of text, speech and pictures, on one core.

    Example: [bold]zoo bench sampling --weights bfloat16 -o bench.json[/]

    Example: [bold]zoo bench sampling --medium image --method prophet --items 40[/]

    Example: [bold]zoo bench sampling --from bench.json --plot bench.png[/]
    """
    from zoo.bench_sampling_plot import check, draw, recorded
    from zoo.pipeline import refuse

    if plot is not None:
        check(plot)
    if source is None:
        from zoo.bench_sampling import bench_sampling

        result = bench_sampling(
            output, seed, as_json, media=media or (), methods=methods or (), weights=weights, items=items
        )
    elif plot is None:
        raise UserError(f"say where to draw {source}: --plot FILE.png")
    else:
        refuse("a result that is already there", output=output, medium=media or None, method=methods or None)
        result = recorded(source)
    if plot is not None:
        draw(result, plot)
