"""What is asked of a decoder, checked against what it can do, and how its codes are to be drawn."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.codecs.errors import UserError
from zoo.codecs.files import printable
from zoo.configs import suggestion
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.conditioning import BYTES, ConditionEncoder, Conditions, text_ids
from zoo.decoders.layouts import Flat, Raster
from zoo.decoders.next_scale import NextScaleDecoder
from zoo.decoders.parallel import ParallelDecoder
from zoo.decoders.sampling import Law
from zoo.decoders.sampling import guidance as streams_of
from zoo.decoders.sampling.choosers import Chooser
from zoo.decoders.sampling.processors import Processor
from zoo.decoders.sampling.proposers import Proposer
from zoo.decoders.sampling.rules import Rule
from zoo.decoders.sampling.search import Named, NGrams, with_phrases
from zoo.decoders.sampling.search import find as find_search
from zoo.decoders.two_stage import TwoStageDecoder
from zoo.decoders.zipper import Zipper
from zoo.generation_choice import Made, change_for, chooser_for, passes_for, schedule_for
from zoo.generation_codes import Sampling
from zoo.generation_drafts import amateur_for, drafter, processors_for, read_text, rule_for, sees_one_code
from zoo.pipeline import refuse
from zoo.token_facts import TokenFacts

PHRASES = "beam:8"  # the search for phrases, if nobody names one
TEMPERATURE = {"text": 0.8, "audio": 1.0, "image": 1.0}
CONTEXT = 0.5  # weight of a context, if nobody says
SELF = "self"
AHEAD = 3  # steps that a masked decoder drafts for itself


@dataclass(frozen=True)
class Request:
    """See `zoo.generate`; texts are read and the label is a number."""

    prompt: str | Path | None
    reference: str | Path | None
    text: str | None
    label: int | None
    steps: int | None
    seconds: float | None
    size: tuple[int, int] | None
    count: int
    speed: float | None
    context: str | None = None

    def conditions(
        self,
        decoder: TokenModel,
        rows: int,
        texts: Sequence[str] = (),
        durations: Sequence[Float[Tensor, "byte"] | None] = (),
        reference: Int[Tensor, "Q T"] | None = None,
    ) -> Conditions | None:
        """Of so many rows, each with its text if there are any, and durations if these are known; None for nothing.

        Args:
            reference: Codes of the reference, the same for all.
        """
        place = next(decoder.parameters()).device
        parts: dict[str, Any] = {}
        if self.label is not None:
            parts["labels"] = torch.full((rows,), self.label, device=place)
        if any(texts):
            parts["text"] = told(decoder, texts).to(place)
            known = [each for each in durations if each is not None]
            if known:
                parts["durations"] = pad_sequence(known, batch_first=True).to(place)
        if reference is not None:
            parts["reference"] = reference.T.to(place).expand(rows, -1, -1)
        return Conditions(**parts) if parts else None


def request_for(
    decoder: TokenModel,
    medium: str,
    prompt: str | Path | None,
    reference: str | Path | None,
    text: str | Path | None,
    label: str | int | None,
    steps: int | None,
    seconds: float | None,
    size: tuple[int, int] | None,
    count: int,
    speed: float | None,
    context: str | Path | None = None,
) -> Request:
    """What a decoder of that medium is asked for.

    Raises:
        UserError: It cannot do that.
    """
    facts, kinds = decoder.tokens, decoder.info.conditioning
    check_whole(steps=steps, count=count)
    for name, value in {"steps": steps, "seconds": seconds, "count": count, "speed": speed}.items():
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{name} is {value}; ask for more than 0")
    if text is not None and "text" not in kinds:
        takes = f"takes {', '.join(kinds)}, and no text" if kinds else "takes no text"
        raise UserError(f"this decoder {takes}; leave it out, or to go on with a text, give it as the prompt")
    if text is not None:
        check_texts(decoder)
    if reference is not None and "reference" not in kinds:
        raise UserError("this decoder does not learn from a reference; leave it out, or go on with it as the prompt")
    if isinstance(bare(decoder), ParallelDecoder):
        if medium == "image":
            raise UserError("decoders of one pass decide how many codes there are, and a picture needs all of its own")
        refuse(
            "decoders of one pass, whose length comes with it", prompt=prompt, steps=steps, seconds=seconds, speed=speed
        )
    if medium == "text":
        refuse("decoders of text", reference=reference, seconds=seconds, size=size, speed=speed)
        prompt = None if prompt is None else words_of("prompt", prompt)
    elif medium == "image":
        refuse("pictures", reference=reference, seconds=seconds, steps=steps, speed=speed, context=context)
    else:
        refuse("sound", size=size, context=context)
        if not first_stage_of(decoder).info.causal:
            refuse("decoders that fill in", steps=steps)
        if text is None or seconds is not None:
            refuse("sound without text, or of a given length", speed=speed)
    for file, use in ((prompt if medium != "text" else None, "goes on with"), (reference, "takes as a reference")):
        if file is not None and not os.path.isfile(file):
            raise UserError(f"{printable(file)}: is no file; what this decoder {use} is a token file or media")
    number = None if label is None else label_number(facts, kinds, label)
    if medium == "audio" and text is not None and number is None and reference is None and facts.labels:
        number = 0 if "labels" in kinds else None
    words = None if text is None else words_of("text", text)
    before = None if context is None else words_of("context", context)
    if before == "":
        raise UserError("the context is empty; give what the text is to rest on, or leave it out")
    return Request(prompt, reference, words, number, steps, seconds, size, count, speed, before)


def words_of(what: str, text: str | Path) -> str:
    """See `read_text`.

    Raises:
        UserError: What can only be a file's name, and there is no such file.
    """
    if not os.path.isfile(text) and (isinstance(text, Path) or re.fullmatch(r"\S+\.txt", text)):
        raise UserError(f"{printable(text)}: is no file; name one that holds the {what}, or give the {what} itself")
    return read_text(text)


def check_whole(**options: Any) -> None:
    """Raise for options that are given and no whole numbers."""
    for name, value in options.items():
        if value is not None and not isinstance(value, Integral):
            raise UserError(f"{name} is {value}; give a whole number")


def check_texts(decoder: TokenModel) -> None:
    """Raise if the text that a decoder is conditioned on is of another vocabulary than that which came with it."""
    vocabulary = decoder.tokens.text_vocabulary
    sizes = [module.config.text for module in decoder.modules() if isinstance(module, ConditionEncoder)]
    ids = BYTES if vocabulary is None else vocabulary.size
    size = next(filter(None, sizes), ids)
    if size == ids:
        return
    if vocabulary is not None:
        raise UserError(f"this decoder's text is of a vocabulary of {size}, and its tokenizer has {ids}; restore it")
    raise UserError(
        f"this decoder's text is of a vocabulary of {size} that nobody gave; text comes as its {BYTES} bytes here:"
        " give the decoder its tokenizer, `TokenFacts(..., text_vocabulary=TextVocabulary.read(FILE))`"
    )


def told(decoder: TokenModel, texts: Sequence[str]) -> Int[Tensor, "R M"]:
    """Ids of texts as a decoder is told them.

    Raises:
        UserError: A text is longer than what reads it can.
    """
    ids = text_ids(texts, decoder.tokens.text_vocabulary)
    if isinstance(decoder, Zipper) and ids.shape[1] > (context := decoder.reader.info.context):
        raise UserError(
            f"the text has {ids.shape[1]} tokens, and the tower that reads it was made for {context}; shorten it"
        )
    return ids


def label_number(facts: TokenFacts, kinds: Sequence[str], label: str | int) -> int:
    """Of a class by its name or number.

    Raises:
        UserError: There are no classes, or not this one.
    """
    if "labels" not in kinds:
        raise UserError(f"this decoder knows no classes; leave {label!r} out")
    if label in facts.labels:
        return facts.labels.index(label)
    if str(label).isdecimal() and (not facts.labels or int(label) < len(facts.labels)):
        return int(label)
    raise UserError(f"this decoder knows no class {label!r}{suggestion(str(label), facts.labels)}")


def sampling_for(
    decoder: TokenModel,
    medium: str,
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
    processors: Sequence[str | Processor] | None = None,
    against: str | TokenModel | None = None,
    zipar: int | None = None,
    wavefront: int | None = None,
    seed: int = 0,
    context: str | Path | None = None,
    context_weight: float | None = None,
) -> Sampling:
    """How codes of that medium are drawn; of a decoder of two stages, those of the first.

    Raises:
        UserError: Settings out of range, names that do not exist, or what this decoder has no use for.
    """
    if isinstance(decoder, TwoStageDecoder):
        refuse("decoders whose second stage takes one pass for each codebook", passes=passes, schedule=schedule,
               chooser=chooser)  # fmt: skip
    decoder, ahead, change = first_stage_of(decoder), 0, None
    check_whole(window=window, zipar=zipar, wavefront=wavefront, seed=seed)
    if not 0 < guidance < float("inf"):
        raise UserError(
            f"guidance is {guidance}; give a number above 0: 1 keeps to class and text as learned, 2 more strongly"
        )
    if search is not None or phrases:
        refuse("a search, which chooses by itself", proposer=proposer, rule=rule, window=window)
    if not decoder.info.causal:
        refuse(
            "decoders that do not go step by step", search=search, phrases=phrases or None,
            processor=processors or None, against=against, zipar=zipar, wavefront=wavefront, context=context,
        )  # fmt: skip
    if decoder.info.causal:
        refuse("decoders that go step by step", passes=passes, schedule=schedule, chooser=chooser)
    elif isinstance(bare(decoder), NextScaleDecoder):
        refuse(
            "decoders of scales", proposer=proposer, rule=rule, window=window, passes=passes, schedule=schedule,
            chooser=chooser,
        )  # fmt: skip
    elif isinstance(bare(decoder), ParallelDecoder):
        refuse(
            "decoders of one pass", proposer=proposer, rule=rule, window=window, passes=passes, schedule=schedule,
            chooser=chooser, guidance=None if guidance == 1 else guidance,
        )  # fmt: skip
    elif decoder.tokens.unrolled:
        refuse("unrolled decoders", proposer=proposer, rule=rule, window=window, schedule=schedule)
        change, chooser = change_for(chooser), None
    elif proposer == SELF:
        refuse("what a decoder drafts for itself", rule=rule)
        proposer, window, ahead = None, None, window or AHEAD
    else:
        refuse(f"decoders that do not go step by step, unless it is {SELF!r}", proposer=proposer)
        refuse("decoders that do not go step by step", rule=rule)
    if proposer is None:
        refuse("drawing without drafts; name a proposer", rule=rule, window=window)
    counts = () if passes is None else tuple(passes) if isinstance(passes, Sequence) else (passes,)
    for each in counts:
        check_whole(passes=each)
    if min(counts, default=1) < 1 or (window or 1) < 1:
        raise UserError(f"passes {list(counts)} and a window of {window}: ask for 1 or more")
    if zipar is not None:
        refuse("rows side by side", proposer=proposer, rule=rule, window=window, search=search, against=against)
        layout = decoder.tokens.layout
        if medium != "image" or not isinstance(layout, Raster | Flat):
            raise UserError(
                "rows side by side are for decoders of pictures, cell by cell and row by row (Raster, Flat); this one's"
                f" layout is {type(layout).__name__}, of {medium}: leave zipar out"
            )
    if wavefront is not None:
        refuse(
            "steps in flight", proposer=proposer, rule=rule, window=window, search=search, phrases=phrases or None,
            against=against, zipar=zipar,
        )  # fmt: skip
        if wavefront < 1:
            raise UserError(f"a wavefront of {wavefront} steps: ask for 1 or more")
    if context is None:
        refuse("a prompt without a context", context_weight=context_weight)
    elif guidance != 1 or against is not None:
        raise UserError("a context changes the law by streams, as guidance and another decoder do; take one of them")
    weight = CONTEXT if context_weight is None else context_weight
    if not 0 < weight < float("inf"):
        raise UserError(
            f"the context's weight is {weight}; give a number above 0, or put the context in front of the prompt, where"
            " it is read and no more"
        )
    if guidance != 1 and not decoder.info.conditioning:
        raise UserError("guidance leads towards a condition, and this decoder takes none; leave it out")
    try:
        searched = search_for(decoder, search, phrases)
        usual = TEMPERATURE[medium] if searched is None or searched.draws else 1.0
        if isinstance(bare(decoder), ParallelDecoder) or change is not None:  # places don't know what others draw
            usual = 0.0
        heat = usual if temperature is None else temperature
        amateur = None if against is None else amateur_for(decoder, against)
        if amateur is not None and guidance != 1:
            raise UserError("guidance and another decoder both change the law by streams; take one of them")
        law = Law(
            temperature=heat, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical,
            processors=processors_for(decoder, processors or ()),
            streams=streams_of(guidance if context is None else 1 + weight) if amateur is None else amateur.streams,
            plausible=None if amateur is None else amateur.plausible,
        )  # fmt: skip
        alone = searched is None and wavefront is None and zipar is None
        one_code = alone and sees_one_code(decoder, proposer, law)
        judge, drafts = rule_for(rule), None if proposer is None else drafter(decoder, proposer, one_code)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Sampling(
        law, seed, drafts, judge, window or 5, passes_for(decoder, counts),
        schedule_for(decoder, medium, schedule), ahead, chooser_for(decoder, medium, chooser), searched,
        amateur and amateur.model, zipar, wavefront, one_code,
        change,
    )  # fmt: skip


def first_stage_of(decoder: TokenModel) -> TokenModel:
    """What goes step by step of a decoder of two stages, as a decoder of its own tokens; any other as it is."""
    if not isinstance(decoder, TwoStageDecoder):
        return decoder
    facts: Any = decoder.tokens
    decoder.coarse.tokens = replace(facts, layout=decoder.steps)
    return decoder.coarse


def search_for(decoder: TokenModel, search: str | Named | None, phrases: Sequence[str]) -> Named | None:
    """The search of that name; for phrases, which are text, a beam search with them.

    Raises:
        UserError: Phrases for a decoder that does not write.
        ValueError: No such search, or one that takes no phrases.
    """
    counted = None if decoder.tokens.vocabulary is None else partial(ngrams_of, decoder)
    found = find_search(search, counted) if isinstance(search, str) else search
    if not phrases:
        return found
    if decoder.tokens.vocabulary is None:
        raise UserError("phrases are for decoders of text; leave them out")
    encode = decoder.tokens.vocabulary.encode
    front = len(encode(""))  # tokens that published models have in front of each text, and a phrase has not
    return with_phrases(found or find_search(PHRASES), [encode(each)[front:] for each in phrases])


def ngrams_of(decoder: TokenModel, file: str) -> NGrams:
    """How often each token of a decoder of text follows others in that file.

    Raises:
        UserError: There is no such file, or no text in it.
    """
    if not os.path.isfile(file):
        raise UserError(f"{printable(file)}: is no file; n-grams are counted in one of text like what is wanted")
    if not (words := read_text(file)):
        raise UserError(f"{printable(file)}: is empty; n-grams are counted in text like what is wanted")
    return NGrams([decoder.tokens.vocabulary.encode(words)], decoder.info.vocabulary)
