"""How a masked decoder fills in: in how many passes, how many places in each, and which; by default as it learned.

And how an unrolled one restores: in how many passes, and which codes each changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.configs import suggestion
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts.base import Special
from zoo.decoders.masked import Masking
from zoo.decoders.sampling import schedules
from zoo.decoders.sampling.choosers import (
    NAMES,
    Adaptive,
    Chooser,
    Confidence,
    Judge,
    Learned,
    Ranked,
    Rescored,
    Spans,
)
from zoo.filter_files import read_filter

PASSES = 16
CHOICE = {"text": 0.0, "audio": 0.0, "image": 4.5}  # noise in the order of filling in; MaskGIT's pictures take that
SCHEDULE = {"text": "linear", "audio": "cosine", "image": "cosine"}  # that of text is LLaDA's
WITH_NETWORKS = {
    "adaptive": ("adaptive:MODEL",),
    "learned": ("learned:FILE",),
    "rescored": ("rescored", "rescored:MODEL"),
}
CHOOSERS = tuple(sorted({*NAMES} | {written for ways in WITH_NETWORKS.values() for written in ways}))
"""As they are written; those without a network take their settings behind the name: "threshold:0.8"."""

CHANGES: tuple[Literal["random", "uncertain"], ...] = ("random", "uncertain")

Made = Callable[[Conditions | None], Chooser]
"""Makes the chooser for rows of some conditions."""


def passes_for(decoder: TokenModel, passes: Sequence[int]) -> int | list[int]:
    """For `decode_masked`: of all codebooks together, or of each in turn if that is what the decoder learned.

    One number for such a decoder is that of the first codebook; each finer one, which matters less and is known better,
    gets half as many. (): `PASSES`, or one for a decoder that learned with all hidden. Unrolled ones restore all
    codebooks together.

    Raises:
        UserError: Several numbers, and another number of codebooks, or all are restored together.
    """
    books, masking = decoder.info.codebooks, decoder.tokens.masking
    if decoder.tokens.unrolled and len(passes) > 1:
        raise UserError(f"passes {list(passes)} for a decoder that restores all codebooks together; give one number")
    if decoder.tokens.unrolled:
        return passes[0] if passes else PASSES
    if len(passes) > 1 and len(passes) != books:
        raise UserError(f"passes {list(passes)} for {books} codebooks; give one number for each, or one for all")
    if len(passes) > 1:
        return list(passes)
    (first,) = passes or (1 if masking and masking.schedule == "all" else PASSES,)
    by_level = told_the_level(decoder) if masking is None else masking.by_level
    return [max(1, first >> book) for book in range(books)] if by_level and books > 1 else first


def told_the_level(decoder: TokenModel) -> bool:
    """Whether a masked decoder knows which codebook it fills, as those do that learned by level."""
    masked = bare(decoder)
    return getattr(masked, "levels", None) is not None or len(getattr(masked, "windows", ())) > 0


@dataclass(frozen=True)
class Change:
    """Which codes a pass of an unrolled decoder changes; see `zoo.decoders.unrolled_denoising.decode_unrolled`."""

    choose: Literal["random", "uncertain"] = "random"
    share: float = 1.0


def change_for(chooser: str | Chooser | Made | None) -> Change:
    """What "random:0.3" or "uncertain:0.3" names; default: all.

    Raises:
        UserError: Another chooser, no share, or one that cannot be.
    """
    name, _, share = str(chooser or "random:1").partition(":")
    found = next((each for each in CHANGES if each == name), None)
    if not isinstance(chooser, str | None) or found is None:
        raise UserError(
            f"an unrolled decoder changes codes that are {' or '.join(CHANGES)}, not by {name}; give one of these with"
            " the share of all that a pass changes, as in uncertain:0.3"
        )
    if not 0 < (value := _number(share)) <= 1:
        raise UserError(f"a pass cannot change a share of {share}; give one above 0 and up to 1, as in {name}:0.3")
    return Change(found, value)


def schedule_for(decoder: TokenModel, medium: str, schedule: str | None) -> str:
    """The schedule of that name; default: that by which the decoder learned, or if nobody noted it that of the medium.

    Raises:
        UserError: No schedule has the name.
    """
    if schedule is not None and schedule not in schedules.SCHEDULES:
        raise UserError(f"there is no schedule {schedule!r}{suggestion(schedule, schedules.SCHEDULES)}")
    masking: Masking | None = decoder.tokens.masking
    learned = masking.schedule if masking and masking.schedule in schedules.SCHEDULES else SCHEDULE[medium]
    return schedule or learned


def chooser_for(decoder: TokenModel, medium: str, chooser: str | Chooser | Made | None) -> Made:
    """The chooser of that name, as `CHOOSERS` has them.

    Default: confidence, with the noise that the medium takes; of spans, if the decoder learned to fill these in.

    Raises:
        UserError: No chooser has the name, it takes no such settings, or the other network is of other tokens.
    """
    usual = Confidence(CHOICE[medium])
    if not isinstance(chooser, str):
        span = 1 if decoder.tokens.masking is None else decoder.tokens.masking.span
        default = Spans(span, order=usual) if span > 1 else usual
        made = default if chooser is None else chooser
        return (lambda _: made) if isinstance(made, Chooser) else made
    name, _, value = chooser.partition(":")
    if name not in NAMES and name not in WITH_NETWORKS:
        raise UserError(f"there is no chooser {name!r}{suggestion(name, (*NAMES, *WITH_NETWORKS))}")
    try:
        if name == "learned":
            learned = Learned(read_filter(Path(value)), order=usual)
            return lambda _: learned
        if name in WITH_NETWORKS:
            return _with_judge(decoder, name, value, usual.temperature)
        plain = _with_settings(name, value, usual)
        return lambda _: plain
    except ValueError as error:
        raise UserError(str(error)) from None


def _with_settings(name: str, value: str, usual: Ranked) -> Chooser:
    kind: Any = NAMES[name]
    settings = [field for field in fields(kind) if not field.kw_only]
    given = value.split(",") if value else []
    if len(given) > len(settings):
        takes = f"takes {', '.join(field.name for field in settings)}" if settings else "takes no settings"
        raise UserError(f"the chooser {name} {takes}; {value!r} is more than that")
    if name == "confidence" and not given:
        return usual
    own = {"order": usual} if any(field.name == "order" for field in fields(kind)) else {}
    return kind(*map(_number, given), **own)


def _number(text: str) -> float:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise UserError(f"{text!r} is no setting of a chooser; give numbers, as in threshold:0.8") from None


def _with_judge(decoder: TokenModel, name: str, model: str, temperature: float) -> Made:
    if name == "rescored" and not model:  # by itself, not told its condition
        if not decoder.info.conditioning:
            raise UserError("this decoder takes no condition that it could do without; name a model: rescored:MODEL")
        alone = Rescored(Judge(decoder), temperature=temperature)
        return lambda _: alone
    if not model:
        raise UserError(f"name the model that is asked, too: {name}:MODEL")
    judge: Any = registry.load_decoder(model, next(decoder.parameters()).device)
    own, other = decoder.tokens, judge.tokens
    begins = other.layout.begin and not own.layout.begin
    if begins:  # one more step in front, of which the judge is told
        other = replace(other, layout=replace(other.layout, begin=False))
    if what := own.difference(other):
        raise UserError(f"the decoder {model} is of another {what}; what it is asked about must be of the same tokens")
    begin = tuple(judge.tokens.layout.special(Special.BEGIN).tolist()) if begins else None
    takes = judge.info.conditioning

    def made(cond: Conditions | None) -> Chooser:
        asked = Judge(judge, cond if takes else None, begin)
        return Adaptive(asked) if name == "adaptive" else Rescored(asked, temperature=temperature)

    made(None)  # said now if it cannot be
    return made
