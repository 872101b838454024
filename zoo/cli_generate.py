"""`zoo generate`: its options, and what it prints. Heavy modules are imported inside the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo import registry
from zoo.cli_options import DecoderWeights, Device, Json, Seed, print_json, progress_bar
from zoo.codecs.errors import UserError


def generate_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Decoder: name, directory or hub address.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            "-o",
            help="File to write: text, audio, a picture, or tokens (.ztok). Text without it, or to -, is printed.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Go on with this: text, or a file of text, tokens, audio or a picture.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Sound like this: a token file or a recording; decoders that learned from such.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Say this: text, or a file that holds it.")] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Class or speaker, by name or number; see `zoo info NAME`.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="So many, in numbered files.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="At most so many steps; text: tokens.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Sound: as long as this, or less where it ends itself.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Pictures: WIDTHxHEIGHT in pixels; default: as the decoder learned them.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0: always the most probable; default: .8 for text, else 1, in one pass or unrolled 0."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the K most probable tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most probable tokens that hold this mass together.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens that have this share of the most probable one's probability.")
    ] = None,
    typical: Annotated[
        float | None,
        typer.Option(help="Draw from the tokens that surprise most nearly as much as expected and hold this mass."),
    ] = None,
    guidance: Annotated[float, typer.Option(help="How strongly to keep to class and text; 1: as learned.")] = 1.0,
    proposer: Annotated[
        str | None,
        typer.Option(
            help="Draft ahead. Copies: ngram, copyspec, suffix-automaton, input-copy:TEXT. Guesses: jacobi, of"
            " pictures jacobi:left and jacobi:above, lookahead, recycling, trigram. A smaller decoder of the same"
            " tokens: draft:MODEL, in trees opt-tree:MODEL and dyspec:MODEL, stopped by a trained head"
            " specdec:MODEL,head=FILE, drafted for itself staged:MODEL+ngram. Parts of the decoder: early-exit:LAYERS,"
            " swift, heads:NAME. Of others: copyspec+draft:MODEL where nothing matches, phrases+draft:MODEL,"
            " bandit+ngram+jacobi, exp3+ngram+jacobi. Settings come behind the name, in order or named: ngram:4,2,"
            " draft:MODEL,confident=0.3. Masked decoders: self."
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Which drafts stand: equal (default: the same tokens as without); of the same law rejection, block,"
            " coupled, gumbel and, for trees, recursive; typical:0.09,0.3, lenient:0.5 and top_k:2 let more stand."
        ),
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Longest draft in steps; default: 5.")] = None,
    passes: Annotated[
        str | None,
        typer.Option(help="Masked decoders: passes, 16, or of each codebook in turn, 16,8,4,2. Unrolled: 16."),
    ] = None,
    chooser: Annotated[
        str | None,
        typer.Option(
            help="Masked decoders: which places a pass fills: adaptive:MODEL, confidence, entropy, halton,"
            " learned:FILE, left-to-right, local-leap, margin, prophet, random, remask, rescored, rescored:MODEL, spans"
            " or threshold; settings come behind the name, as in threshold:0.8. Unrolled decoders: the share of codes"
            " that a pass changes, random:0.3 or uncertain:0.3; default: all."
        ),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Masked decoders: how many places a pass fills: arccos, cosine or linear.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Look at several candidates and keep one: beam:8 and diverse:8 follow the 8 most probable texts,"
            " best-of:8 draws 8 and takes the most probable, arithmetic:8 does so with 8 that are spread out"
            " (others for another --count),"
            " mbr:16 draws 16 and takes the one most like the others,"
            " superposed:3 writes 3 at the cost of one, roughly, told apart by n-grams of a file of text:"
            " superposed:3,ngrams=FILE,trust=0.5; contrastive:5 takes of 5 what is least like before."
            " More settings by name: beam:8,length_penalty=0.6."
        ),
    ] = None,
    processor: Annotated[
        list[str] | None,
        typer.Option(
            help="Look at what came before: mirostat:3 (bits), repetition:1.2, repetition-aware:0.1,10, no-repeat:3;"
            " of text regex:PATTERN, json:SCHEMA, lark:GRAMMAR, each a text or a file. Several, in order."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A weaker decoder, whose likings are taken off: MODEL or MODEL,weight=0.5,plausible=0.1."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Text: rest on this, read in front of the prompt: text, or a file that holds it."),
    ] = None,
    context_weight: Annotated[
        float | None, typer.Option(help="How much the context counts beyond being read; default: 0.5.")
    ] = None,
    zipar: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures drawn row by row: begin a row when the one above is N cells ahead; approximate."
        ),
    ] = None,
    wavefront: Annotated[
        int | None,
        typer.Option(
            min=1, help="Decoders of recurrent depth: N steps in flight, one loop on all in a pass; approximate."
        ),
    ] = None,
    phrase: Annotated[
        list[str] | None, typer.Option(help="Text: a beam search for what has this in it; may be given several times.")
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Speech: times the speaker's mean pace.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="Codec of its tokens (name, directory), if it does not ship with this program.")
    ] = None,
    weights: DecoderWeights = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make text, sound or pictures with a trained decoder. The same seed makes the same again.

    Example: [bold]zoo generate ./model --prompt "def area(" --steps 200[/]

    Example: [bold]zoo generate ./model --prompt "def area(" --search beam:8[/]

    Example: [bold]zoo generate ./model --text "Good morning." -o morning.wav[/]

    Example: [bold]zoo generate ./model --class circle --count 4 -o circle.png[/]
    """
    from zoo.generation_weights import packed

    decoder = packed(registry.load_decoder(name, device), weights)
    written = decoder.tokens.vocabulary is not None
    target = None if output is not None and str(output) == "-" else output
    if target is None and not written:
        raise UserError("say which file to write: -o FILE")
    printed = target is None and not as_json
    drawn = search is None and not phrase and wavefront is None
    show = print_part if printed and count == 1 and decoder.info.causal and drawn else None
    with progress_bar(name, as_json or show is not None) as progress:
        found = zoo.generate(
            decoder, target, prompt=prompt, reference=reference, text=text, label=label, steps=steps, seconds=seconds,
            size=None if size is None else size_of(size), count=count, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, typical=typical, guidance=guidance, proposer=proposer, rule=rule, window=window,
            passes=None if passes is None else whole_numbers(passes), schedule=schedule, chooser=chooser, search=search,
            phrases=phrase or (), processors=processor or (), against=against, context=context,
            context_weight=context_weight, zipar=zipar, wavefront=wavefront, speed=speed, seed=seed, codec=codec,
            device=device, progress=progress, stream=show,
        )  # fmt: skip
    facts = found.facts()
    files = [str(file) for file in found.files]
    if as_json:
        return print_json({"model": name, "files": files} | ({"text": found.text} if written else {}) | facts)
    if printed:
        print("" if show is not None else "\n\n".join(found.text))
    print(f"{name} -> {', '.join(files) or 'text'}: {speed_of(facts)}", file=sys.stderr if printed else sys.stdout)


def print_part(text: str) -> None:
    """Text on stdout, as it comes."""
    print(text, end="", flush=True)


def speed_of(facts: dict[str, Any]) -> str:
    """How fast and how exactly something was generated, in a line."""
    drafts, cut = facts["accepted_length"], facts["cut"]
    pieces = "a piece of text was" if cut == 1 else f"{cut} pieces of text were"
    return (
        f"{facts['tokens']} tokens, {facts['tokens_per_second']:.3g} a second, in {facts['passes']} passes"
        f"{'' if drafts is None else f', {drafts:.2f} drafted steps accepted in each'}; {facts['exactness']}"
        f"{f'; {pieces} cut off where the decoder had no more room: say less, or ask again (--seed)' if cut else ''}"
    )


def size_of(text: str) -> tuple[int, int]:
    """Height and width of "WIDTHxHEIGHT", or of a square's "SIDE"."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() for side in sides):
        raise UserError(f"{text!r} is no size; give WIDTHxHEIGHT in pixels, as in 256x192")
    return int(sides[-1]), int(sides[0])


def whole_numbers(text: str) -> list[int]:
    """Of "16,8,4"."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"{text!r} is no list of whole numbers; give some, as in 16,8,4")
    return [int(part) for part in parts]
