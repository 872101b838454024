"""What chooses the places that a masked decoder fills, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.codecs.errors import UserError
from zoo.configs import suggestion
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts.base import Special
from zoo.decoders.sampling import schedules
from zoo.decoders.sampling.choosers import NAMES, Adaptive, Chooser, Confidence, Judge, Learned, Ranked, Rescored
from zoo.filter_files import read_filter

CHOICE = {"text": 0.0, "audio": 0.0, "image": 4.5}  # noise in the order of filling in; MaskGIT's pictures take that
SCHEDULE = {"text": "linear", "audio": "cosine", "image": "cosine"}  # that of text is LLaDA's
WITH_NETWORKS = {
    "adaptive": ("adaptive:MODEL",),
    "learned": ("learned:FILE",),
    "rescored": ("rescored", "rescored:MODEL"),
}
CHOOSERS = tuple(sorted({*NAMES} | {written for ways in WITH_NETWORKS.values() for written in ways}))
"""As they are written; those without a network take their settings behind the name: "threshold:0.8"."""

Made = Callable[[Conditions | None], Chooser]
"""Makes the chooser for rows of some conditions."""


def schedule_for(medium: str, schedule: str | None) -> str:
    """The schedule of that name; default: that of the medium.

    Raises:
        UserError: No schedule has the name.
    """
    if schedule is not None and schedule not in schedules.SCHEDULES:
        raise UserError(f"there is no schedule {schedule!r}{suggestion(schedule, schedules.SCHEDULES)}")
    return schedule or SCHEDULE[medium]


def chooser_for(decoder: TokenModel, medium: str, chooser: str | Chooser | Made | None) -> Made:
    """The chooser of that name, as `CHOOSERS` has them; default: confidence, with the noise that the medium takes.

    Raises:
        UserError: No chooser has the name, it takes no such settings, or the other network is of other tokens.
    """
    usual = Confidence(CHOICE[medium])
    if not isinstance(chooser, str):
        made = usual if chooser is None else chooser
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
