"""The masked loop: draw candidates for all open places at once, keep some, until none is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.choosers import Chooser, Confidence, View
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.result import Recorder, Result
from zoo.decoders.sampling.schedules import Schedule, find, places_left

_DRAW, _CHOOSE = 4, 5  # names of streams, others than those of rules


@torch.no_grad()
def decode_masked(
    model: TokenModel,
    prompt: Int[Tensor, "R S Q"] | tuple[int, int],
    steps: int | Sequence[int] = 12,
    law: Law | Callable[[float], Law] | None = None,
    noise: Noise | None = None,
    schedule: str | Schedule = "cosine",
    chooser: Chooser | None = None,
    *,
    lengths: Int[Tensor, "R"] | None = None,
    cond: Any = None,
    positions: Int[Tensor, "#R S *axes"] | None = None,
) -> Result:
    """Fill the open places of a grid of tokens.

    Each step runs the model once on all that is there, open places as the mask token. Known tokens never change. The
    noise of a candidate depends on row, step of the loop, place and codebook alone.

    Args:
        model: Its logits at a place are the law of what stands there; it knows a mask token, its codebook's card.
        prompt: int64 `[R, S, Q]`, -1 where a place is open. Or rows and places: all open.
        steps: Of the loop, for all codebooks together; or of each codebook in turn, the first one first (SoundStorm,
            arXiv 2305.09636, takes 16, 1, 1, ...). A row has no more than it has open places.
        law: What candidates are drawn from, default the model's own; or a law for each step, from the share of the
            steps that is done before it, in [0, 1). Of several streams, `cond` has rows for all, streams first.
        noise: Default: `Noise(0)`.
        schedule: How many places are open behind each step; a name in `schedules.SCHEDULES`, or a function.
        chooser: Which candidates are kept; default: those of the highest confidence.
        lengths: Places of each row, if they differ; what lies behind is hidden from the others.
        cond: What `model.init_state` takes.
        positions: Of the places, for models of several axes; default: 0, 1, ...

    Returns:
        All places, known ones included, with the log-probability of each token under the law that it was drawn from; 0
        for known ones. A round of the trace is a step: drafted are candidates, accepted and emitted those that were
        kept.

    Raises:
        ValueError: A prompt, lengths or steps that don't fit; tokens outside the vocabulary; a law with processors, as
            places come in no order; a model without mask token; a chooser that breaks its promise; NaN logits.
    """
    info, noise, schedule, chooser = model.info, noise or Noise(0), find(schedule), chooser or Confidence()
    _check(model, steps)
    codes, inside = open_grid(prompt, lengths, model)
    law_at = law if callable(law) and not isinstance(law, Law) else lambda _: law or Law()
    copies = streams_of(law_at(0.0))
    rows, places, _ = codes.shape
    state = model.init_state(rows * copies, 0, cond)
    at = torch.arange(places, device=codes.device).expand(rows, -1)
    mask = None if lengths is None else copied(_visible(inside, info.causal), copies)
    masked = torch.tensor(info.cards, device=codes.device)
    known = codes >= 0
    filled, logp = torch.zeros_like(known), torch.zeros(codes.shape, device=codes.device)
    first = torch.zeros(rows, dtype=torch.int64, device=codes.device)  # open before the first step of a level
    recorder = Recorder(rows)
    recorder.prefill_seconds = recorder.lap()
    for number, (books, step, count) in enumerate(_plan(steps, info.codebooks)):
        level = torch.tensor(books, device=codes.device)
        is_open = inside[..., None] & ~known & ~filled & level
        now = is_open.flatten(1).sum(1)
        if step == 0:
            first = now
        if not now.any():
            continue
        tokens = codes.where((known | filled), masked).where(inside[..., None], 0)
        output = model(copied(tokens, copies), repeated(positions, rows, copies), state, mask)
        law_now = law_at(step / count)
        running = law_now.start(tokens, checked=model.checked)
        logits = running.combine(output.logits)
        laws = running(logits)
        step_noise = Quiet() if law_now.certain else noise.derive(_DRAW, number)
        drawn = draw(laws, step_noise.gumbel(at, *laws.shape[2:]))
        progress = (step + 1) / count
        view = View(
            candidates=torch.where(is_open, drawn, codes.where(known | filled, -1)),
            open=is_open,
            filled=filled,
            left=places_left(schedule, progress, first, now),
            logits=logits,
            logp=laws,
            hidden=output.hidden[:rows],
            progress=progress,
            noise=noise.derive(_CHOOSE, number),
        )
        kept = is_open | filled if progress == 1 else _kept(chooser, view) | (filled & ~level)
        new = kept & is_open
        codes = torch.where(new, drawn, codes)
        logp = torch.where(new, view.log_prob(laws), logp)
        filled = kept
        came = new.flatten(1).sum(1)
        recorder.round(now, came, came, target=1, draft=0)
    codes, logp = codes.where(inside[..., None], -1), logp.where(filled, 0.0)
    return Result(codes, inside.sum(1), logp, chooser.exactness, recorder.trace())


def _plan(steps: int | Sequence[int], codebooks: int) -> list[tuple[list[bool], int, int]]:
    """For each step: the codebooks that it fills, its number within their level, and how many steps that has."""
    if isinstance(steps, int):
        return [([True] * codebooks, step, steps) for step in range(steps)]
    levels = [[book == level for book in range(codebooks)] for level in range(codebooks)]
    return [(books, step, count) for books, count in zip(levels, steps, strict=True) for step in range(count)]


def _check(model: TokenModel, steps: int | Sequence[int]) -> None:
    if model.info.specials < 1:
        raise ValueError("this model knows no mask token; decode it with `decode`")
    counts = [steps] if isinstance(steps, int) else list(steps)
    if min(counts, default=0) < 1 or not (isinstance(steps, int) or len(counts) == model.info.codebooks):
        books = model.info.codebooks
        raise ValueError(f"steps are {steps}; expected at least 1, or as many for each of {books} codebooks")


def open_grid(
    prompt: Tensor | tuple[int, int], lengths: Tensor | None, model: TokenModel
) -> tuple[Int[Tensor, "R S Q"], Bool[Tensor, "R S"]]:
    """The places, and which of them each row has; or what doesn't fit."""
    info = model.info
    if isinstance(prompt, tuple):
        prompt = torch.full((*prompt, info.codebooks), -1, device=next(model.parameters(), torch.empty(0)).device)
    if prompt.ndim != 3 or prompt.shape[2] != info.codebooks or not prompt.numel():
        raise ValueError(f"the prompt is {list(prompt.shape)}; expected [rows, places, {info.codebooks}]")
    if prompt.shape[1] > info.context:
        raise ValueError(f"{prompt.shape[1]} places for a model of {info.context}")
    if lengths is None:
        lengths = torch.full((len(prompt),), prompt.shape[1], device=prompt.device)
    if tuple(lengths.shape) != (len(prompt),) or not 1 <= lengths.min() <= lengths.max() <= prompt.shape[1]:
        raise ValueError(f"lengths {lengths.tolist()} for a prompt {list(prompt.shape)}; expected one a row, from 1 on")
    inside = torch.arange(prompt.shape[1], device=prompt.device) < lengths[:, None]
    bad = inside[..., None] & ((prompt < -1) | (prompt >= torch.tensor(info.cards, device=prompt.device)))
    if bad.any():
        row, place, book = bad.nonzero()[0].tolist()
        raise ValueError(
            f"token {prompt[row, place, book].item()} (row {row}, place {place}, codebook {book}) is outside the "
            f"vocabulary; ids lie in 0 .. {info.cards[book] - 1}, and -1 is open"
        )
    return prompt, inside


def streams_of(law: Law) -> int:
    """How many streams a law has that is to be drawn from in no order."""
    if law.processors:
        raise ValueError("the law has processors, which look at a prefix; places of masked decoding come in no order")
    return len(law.streams)


def _visible(inside: Bool[Tensor, "R S"], causal: bool) -> Bool[Tensor, "R S S"]:
    """What each place sees: the places of its row, those up to itself if the model is causal."""
    visible = inside[:, None].expand(-1, inside.shape[1], -1)
    return visible.tril() if causal else visible


def copied(x: Tensor, copies: int) -> Tensor:
    """One copy of the rows for each stream."""
    return x.repeat(copies, *[1] * (x.ndim - 1))


def repeated(positions: Tensor | None, rows: int, copies: int) -> Tensor | None:
    """Positions of all rows of all streams."""
    return None if positions is None else copied(positions.expand(rows, *positions.shape[1:]), copies)


def _kept(chooser: Chooser, view: View) -> Bool[Tensor, "R S Q"]:
    kept = chooser.choose(view)
    if (kept & ~(view.open | view.filled)).any():
        raise ValueError(f"{type(chooser).__name__} keeps places that are known, outside the row, or of another level")
    return kept
