"""Text, sound and pictures from trained decoders, at one call: `zoo.generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.codecs.image.tiling import Progress
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.choosers import Chooser
from zoo.decoders.sampling.processors import Processor
from zoo.decoders.sampling.proposers import Proposer
from zoo.decoders.sampling.rules import Rule
from zoo.decoders.sampling.search import Named
from zoo.generation_choice import Made
from zoo.generation_media import codec_for, show
from zoo.generation_output import files_of, write_media, write_text
from zoo.generation_request import request_for, sampling_for
from zoo.generation_result import Generated
from zoo.generation_text import write_on
from zoo.pipeline import refuse


def generate(
    model: str | Path | TokenModel,
    output: str | Path | None = None,
    *,
    prompt: str | Path | None = None,
    reference: str | Path | None = None,
    text: str | Path | None = None,
    label: str | int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    size: tuple[int, int] | None = None,
    count: int = 1,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical: float | None = None,
    guidance: float = 1.0,
    proposer: str | Proposer | None = None,
    rule: str | Rule | None = None,
    window: int | None = None,
    passes: int | Sequence[int] | None = None,
    schedule: str | None = None,
    chooser: str | Chooser | Made | None = None,
    search: str | Named | None = None,
    phrases: Sequence[str] = (),
    processors: Sequence[str | Processor] = (),
    against: str | TokenModel | None = None,
    context: str | Path | None = None,
    context_weight: float | None = None,
    zipar: int | None = None,
    wavefront: int | None = None,
    speed: float | None = None,
    seed: int = 0,
    codec: str | Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    stream: Callable[[str], None] | None = None,
) -> Generated:
    """Draw text, sound or pictures from a trained decoder.

    The same seed gives the same, whatever `count` is and, under the rule "equal", whatever drafts. Of decoders of two
    stages, law, drafts, search and processors are those of the first; the second takes the most probable codes.

    Args:
        model: What `zoo.load` takes, or a decoder that it gave.
        output: File to write; its ending chooses the format, `.ztok` the tokens. Where `count` is above 1, numbers are
            put behind its name. Default: nothing is written.
        prompt: What to go on with: text, or a file that holds it; of decoders of media, a token file or media.
        reference: Decoders that learned from references: a token file or recording to sound like, such as one of the
            voice that is wanted; as much of its beginning as they learned from.
        text: What to say, or a file that holds it. Long texts are said in pieces, cut behind sentences.
        label: Class or speaker, by name or number. Default: none, and of speakers the first if there is no reference.
        steps: Most steps to add. Default: of text 256, of sound as many as there is room for.
        seconds: Sound: how long, all pieces of a text and their pauses together; decoders that decide upon their end
            may end sooner. Default: as long as `text` takes.
        size: Pictures: height and width in pixels. Default: as the decoder learned them.
        count: How many.
        temperature, top_k, top_p, min_p, typical: See `zoo.decoders.sampling.Law`; the default temperature is .8 for
            text, else 1, and 0 of decoders of one pass and unrolled ones.
        guidance: Scale of classifier-free guidance, above 0; 1: none.
        proposer: Of drafts: one of `zoo.generation_drafts.PROPOSERS` with its settings, as in "ngram:4",
            "draft:MODEL,confident=0.3" for a smaller decoder of the same tokens, "bandit+ngram+jacobi", of pictures
            "jacobi:left" or "jacobi:above", which guess the code of the cell before, or a proposer. Of masked
            decoders: "self", which drafts `window` passes ahead; default: 3.
        rule, window: What stands of a draft, by name, and its most slots. Default: "equal" and 5.
        passes: Masked decoders: forward passes, for all codebooks together or for each in turn. Default: 16; where the
            decoder learned codebook by codebook, half as many for each finer one. Unrolled decoders: how often all
            codebooks are restored; default: 16.
        schedule: Masked decoders: how many places each pass fills, a name in `schedules.SCHEDULES`; default: that by
            which the decoder learned, or if nobody noted it "cosine", of text "linear".
        chooser: Masked decoders: which places, as `zoo.generation_choice.CHOOSERS` writes it, such as "threshold:0.8",
            or a chooser, or what makes it for rows of some conditions. Default: the most confident ones, of pictures
            with noise; in spans if the decoder learned to fill these in. Unrolled decoders: which share of the codes a
            pass changes, "random:0.3" or the least certain ones, "uncertain:0.3"; default: all.
        search: In place of drawing step by step: a name in `search.NAMES` with the number of its candidates and more of
            its settings, as in "beam:8" or "beam:8,length_penalty=0.6", or what `search.find` gives. Those that do not
            draw look for probable texts at temperature 1.
        processors: What bends the law by what came before, in order, as `zoo.generation_drafts` writes it:
            "mirostat:3", "repetition:1.2", "repetition-aware", "no-repeat:3", "regex:PATTERN", "json:SCHEMA" or a
            processor.
        against: A weaker decoder of the same tokens, whose likings are taken off (contrastive decoding): "MODEL",
            "MODEL,weight=0.5,plausible=0.1" or a decoder.
        context: Text from causal decoders: what it is to rest on, or a file that holds it. It is read in front of the
            prompt, and what the decoder would write without it is taken off (context-aware decoding, Shi et al., arXiv
            2305.14739).
        context_weight: How much the context counts beyond being read, above 0; default: 0.5.
        zipar: Pictures drawn row by row: begin a row when the one above is so many cells ahead; approximate.
        wavefront: Decoders of recurrent depth: so many steps in flight, one loop on all in a pass; approximate.
        phrases: Of text: what must stand in it; "beam:8" unless `search` is another beam search.
        speed: Speech: times the mean pace of the speaker.
        seed: Of all that is drawn.
        codec: Name or directory of the codec, if it does not ship with this program.
        device: Where to compute.
        progress: Called with samples done, in fractions, and their number.
        stream: Called with text as it comes, the prompt first; needs a causal decoder and a `count` of 1.

    Raises:
        UserError: There is no such decoder, or it cannot do what is asked.
    """
    decoder: Any = model if isinstance(model, TokenModel) else registry.load_decoder(model, device)
    if getattr(decoder, "tokens", None) is None:
        raise UserError("nobody knows what this decoder's tokens are; load a trained one, or give it its TokenFacts")
    if decoder.tokens.vocabulary is not None:
        refuse("decoders of text", codec=codec)
    used = None if decoder.tokens.vocabulary is not None else codec_for(decoder.tokens, codec, device)
    medium = "text" if used is None else used.info.media
    request = request_for(decoder, medium, prompt, reference, text, label, steps, seconds, size, count, speed, context)
    sampling = sampling_for(
        decoder, medium, temperature, top_k, top_p, min_p, typical, guidance, proposer, rule, window, passes, schedule,
        chooser, search, phrases, processors, against, zipar, wavefront, seed, context, context_weight,
    )  # fmt: skip
    if guidance != 1 and (request.label, request.text, request.reference) == (None, None, None):
        raise UserError("guidance leads towards a class, a text or a reference; give one")
    searched = sampling.search
    in_line = decoder.info.causal and searched is None and wavefront is None
    if stream is not None and (medium != "text" or count != 1 or not in_line):
        raise UserError("only the one text that a causal decoder draws comes piece by piece; leave the stream out")
    if searched is not None and not searched.draws and count > 1:
        raise UserError("this search finds the same each time; ask for one, or for the best of samples: best-of:8")
    files = () if output is None else tuple(files_of(output, medium, count))
    found = (
        write_on(decoder, request, sampling, progress, stream)
        if used is None
        else show(decoder, request, sampling, used, progress)
    )
    for index, file in enumerate(files):
        if used is None:
            write_text(file, found.text[index])
        else:
            write_media(file, found.media[index], found.tokens[index], used)
    return replace(found, files=files)
