"""The masked loop: draw candidates for all open places at once, keep some, until none is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.choosers import Chooser, Confidence
from zoo.decoders.sampling.filling import Filling, stages
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.passes import Ahead, Passes
from zoo.decoders.sampling.result import Recorder, Result
from zoo.decoders.sampling.schedules import Schedule, find


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
    ahead: int = 0,
    lengths: Int[Tensor, "R"] | None = None,
    cond: Any = None,
    positions: Int[Tensor, "#R S *axes"] | None = None,
    report: Callable[[float], None] | None = None,
) -> Result:
    """Fill the open places of a grid of tokens.

    Each step runs the model once on all that is there, open places as the mask token. Known tokens never change. The
    noise of a candidate depends on row, step of the loop, place and codebook alone.

    Args:
        model: Its logits at a place are the law of what stands there; it knows a mask token, its codebook's card.
        prompt: int64 `[R, S, Q]`, -1 where a place is open. Or rows and places: all open.
        steps: Of the loop, for all codebooks together; or of each codebook in turn, the first one first (SoundStorm,
            arXiv 2305.09636, takes 16, 1, 1, ...). A row has no more than it has open places, and fewer if the chooser
            keeps more than the schedule asks.
        law: What candidates are drawn from, default the model's own; or a law for each step, from the share of the
            steps of its level that is done before it, in [0, 1). Of several streams, `cond` has rows for all, streams
            first.
        noise: Default: `Noise(0)`.
        schedule: How many places are open behind each step; a name in `schedules.SCHEDULES`, or a function.
        chooser: Which candidates are kept; default: those of the highest confidence.
        ahead: Steps that the model drafts itself, to be confirmed in the same pass: the same tokens in fewer, larger
            passes; see `Ahead`.
        lengths: Places of each row, if they differ; what lies behind is hidden from the others.
        cond: What `model.init_state` takes.
        positions: Of the places, for models of several axes; default: 0, 1, ...
        report: Called behind each step with the share of all steps that are done.

    Returns:
        All places, known ones included, with the log-probability of each token under the law that it was drawn from; 0
        for known ones. A round of the trace is a step: drafted are candidates, accepted and emitted those that were
        kept; draft forwards are those of models that the chooser asks.

    Raises:
        ValueError: A prompt, lengths or steps that don't fit; tokens outside the vocabulary; a law with processors, as
            places come in no order; a model without mask token; a chooser that breaks its promise; NaN logits.
    """
    info, chooser = model.info, chooser or Confidence()
    _check(model, steps, ahead)
    codes, inside = open_grid(prompt, lengths, model)
    law_at = law if callable(law) and not isinstance(law, Law) else lambda _: law or Law()
    plan = stages(steps, info.codebooks, codes.device)
    laws = [law_at(stage.step / stage.count) for stage in plan]
    copies, rows = streams_of(laws[0]), len(codes)
    mask = None if lengths is None else visible(inside, info.causal)
    positions = None if positions is None else positions.expand(rows, *positions.shape[1:])
    filling = Filling(
        info, codes >= 0, inside, plan, laws, noise or Noise(0), find(schedule), chooser, positions, model.checked
    )
    if ahead:
        passes: Passes = Ahead(model, rows, copies, cond, mask, ahead)
    else:  # with memory, what a prefix of conditions says is computed once
        passes = Passes(model, rows, copies, cond, mask, 0 if cond is None else codes.shape[1])
    grid = filling.begin(codes)
    recorder = Recorder(rows)
    recorder.prefill_seconds = recorder.lap()
    for number in range(len(plan)):
        now = filling.open(grid, number).flatten(1).sum(1)
        if now.any():
            answer = passes.ask(filling, grid, number)
            before, grid = grid, filling.step(grid, answer.output, number)
            came = (grid.filled & ~before.filled).flatten(1).sum(1)
            recorder.round(now, came, came, answer.target, answer.draft + filling.asks(number))
        if report is not None:
            report((number + 1) / len(plan))
    codes, logp = grid.codes.where(inside[..., None], -1), grid.logp.where(grid.filled, 0.0)
    return Result(codes, inside.sum(1), logp, chooser.exactness, recorder.trace())


def _check(model: TokenModel, steps: int | Sequence[int], ahead: int) -> None:
    if model.info.specials < 1:
        raise ValueError("this model knows no mask token; decode it with `decode`")
    counts = [steps] if isinstance(steps, int) else list(steps)
    if min(counts, default=0) < 1 or not (isinstance(steps, int) or len(counts) == model.info.codebooks):
        books = model.info.codebooks
        raise ValueError(f"steps are {steps}; expected at least 1, or as many for each of {books} codebooks")
    if ahead < 0:
        raise ValueError(f"{ahead} steps ahead; expected 0, which drafts nothing, or more")


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


def visible(inside: Bool[Tensor, "R S"], causal: bool) -> Bool[Tensor, "R S S"]:
    """What each place sees: the places of its row, those up to itself if the model is causal."""
    visible = inside[:, None].expand(-1, inside.shape[1], -1)
    return visible.tril() if causal else visible
