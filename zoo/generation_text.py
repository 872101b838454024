"""Text from decoders of a vocabulary, as it comes."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import torch

from zoo.codecs.errors import UserError
from zoo.codecs.image.tiling import Progress
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.processors import Grammar
from zoo.decoders.sampling.proposers import Outcome
from zoo.generation_codes import Sampling, draw_codes, most_frames
from zoo.generation_request import Request
from zoo.generation_result import Generated
from zoo.vocabulary import Vocabulary

STEPS = 256


def write_on(
    decoder: TokenModel,
    request: Request,
    sampling: Sampling,
    progress: Progress | None,
    stream: Callable[[str], None] | None,
) -> Generated:
    """Go on with a text until the vocabulary's end, or for so many steps.

    Raises:
        UserError: There is nothing to go on with, or no room for it.
    """
    vocabulary, layout, prompt = decoder.tokens.vocabulary, decoder.tokens.layout, str(request.prompt or "")
    given, alone = vocabulary.encode((request.context or "") + prompt), vocabulary.encode(prompt)
    if not alone and decoder.info.causal and not layout.begin:
        raise UserError("this decoder goes on with a text; give the beginning of one: --prompt")
    most = most_frames(layout, decoder.info.context)
    room = most - len(given)
    if room < (request.steps or 1):
        whole = "prompt" if request.context is None else "prompt with its context"
        raise UserError(
            f"the {whole} has {len(given)} tokens and the decoder room for {most} in all; shorten the {whole} or the"
            " steps"
        )
    shape = (len(given) + (request.steps or min(STEPS, room)),)
    cond = request.conditions(decoder, request.count, [request.text or ""] * request.count)
    printer = None
    if stream is not None:
        printer = Printer(vocabulary, stream, prompt)
    drawn = draw_codes(
        decoder, layout, [shape] * request.count, range(request.count), cond, sampling,
        torch.tensor(given, dtype=torch.int64)[None], vocabulary.end, progress, printer,
        None if request.context is None else torch.tensor(alone, dtype=torch.int64)[None],
    )  # fmt: skip
    came = [codes[0, len(given) :] for codes in drawn.codes]
    came = [tokens[tokens >= 0].tolist() for tokens in came]  # unrolled decoders may leave places out
    for processor in sampling.law.processors:
        if isinstance(processor, Grammar) and not all(map(processor.complete, came)):
            steps = shape[0] - len(given)
            raise UserError(
                str(processor.error(f"was not at its end after {steps} tokens; give more steps, or one that ends"))
            )
    texts = tuple(prompt + decoded(vocabulary, tokens) for tokens in came)
    return Generated("text", tuple(drawn.results), sum(map(len, came)), text=texts)


class Printer:
    """Hands on the text of the first row as its tokens come, with the first of them what it goes on with."""

    def __init__(self, vocabulary: Vocabulary, stream: Callable[[str], None], prompt: str = "") -> None:
        self.vocabulary, self.stream, self.prompt = vocabulary, stream, prompt
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, outcome: Outcome) -> None:
        tokens = outcome.tokens[0, : int(outcome.count[0]), 0].tolist()
        if text := self.prompt + self.utf8.decode(self.vocabulary.decode(tokens)):
            self.stream(text)
        self.prompt = ""


def decoded(vocabulary: Vocabulary, tokens: list[int]) -> str:
    """The text of tokens up to the end; the beginning of a character that is not complete is left out."""
    if vocabulary.end in tokens:
        tokens = tokens[: tokens.index(vocabulary.end)]
    return codecs.getincrementaldecoder("utf-8")("replace").decode(vocabulary.decode(tokens))
