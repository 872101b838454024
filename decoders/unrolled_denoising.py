"""Training that restores ruined codes, and what came of restoring them, and decoding that does so again and again.

Savinov et al., "Step-unrolled Denoising Autoencoders for Text Generation" (arXiv 2112.06749), SUNDAE; Salem et al.,
"UT5: Pretraining Non autoregressive T5 with unrolled denoising" (arXiv 2311.08552), whose model is an encoder-decoder.
Any decoder that is not causal is trained this way, such as a `MaskedDecoder`, or a `ConditionedMasked` with an encoder
and cross-attention. No place is ever masked: all hold a code at all times, and may change it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.masked import masked_loss
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.masked import open_grid, streams_of
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.passes import copied, repeated
from zoo.decoders.sampling.result import Exactness, Recorder, Result
from zoo.decoders.state import State

_SHARE, _HIT, _CODE, _DRAW, _CHOOSE = range(5)  # names of streams of noise


def ruined(codes: Int[Tensor, "R S Q"], cards: tuple[int, ...], noise: Noise) -> Int[Tensor, "R S Q"]:
    """In each row, a random share of the codes is replaced by random ones, which may be the same by chance.

    Args:
        codes: -1 behind a row's end, where 0 comes out.
    """
    at = _places(codes)
    share = noise.derive(_SHARE).uniform(at[:, :1], 1)
    hit = noise.derive(_HIT).uniform(at, codes.shape[2]) < share
    return torch.where(hit, _random(at, cards, noise), codes).where(codes >= 0, 0)


def unrolled_loss(
    model: TokenModel,
    codes: Int[Tensor, "R S Q"],
    noise: Noise,
    steps: int = 2,
    state: State | None = None,
    positions: Int[Tensor, "R S *axes"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of all codes, nats each: given ruined ones, then given those drawn from what the model made of it.

    The mean over the passes; what was drawn passes no gradients on.

    Args:
        codes: -1 behind a row's end; or rows filled up with an end token, for a model that is to find lengths.
        noise: Says what is ruined and drawn; derive another for each training step.
        steps: Passes.
        state: Without memory, of the condition.
    """
    there = codes >= 0
    visible = there[:, None, :, 0].expand(-1, codes.shape[1], -1)
    tokens, losses, at = ruined(codes, model.info.cards, noise), [], _places(codes)
    for step in range(steps):
        logits = model(tokens, positions, state, visible).logits
        losses.append(masked_loss(logits, codes))
        if step + 1 < steps:
            gumbel = noise.derive(_DRAW, step).gumbel(at, *logits.shape[2:])
            tokens = draw(logits.detach().log_softmax(-1), gumbel).where(there, 0)
    return torch.stack(losses).mean()


@torch.no_grad()
def decode_unrolled(
    model: TokenModel,
    prompt: Int[Tensor, "R S Q"] | tuple[int, int],
    steps: int = 8,
    law: Law | None = None,
    noise: Noise | None = None,
    share: float = 1.0,
    choose: Literal["random", "uncertain"] = "random",
    *,
    lengths: Int[Tensor, "R"] | None = None,
    cond: Any = None,
    positions: Int[Tensor, "#R S *axes"] | None = None,
    report: Callable[[float], None] | None = None,
) -> Result:
    """Begin with random codes and let the model restore them, step by step; known ones never change.

    Args:
        model: Not causal; its logits at a place are the law of what should stand there.
        prompt: int64 `[R, S, Q]`, -1 where a code is wanted. Or rows and places: everywhere.
        steps: Forward passes.
        law: What new codes are drawn from; default: the most probable ones. The papers take temperatures far below 1.
            Of several streams, `cond` has rows for all, streams first.
        noise: Default: `Noise(0)`. That of a code depends on row, step of the loop, place and codebook alone.
        share: Of a row's wanted codes, how many may change in a step; in the first, all do.
        choose: Which: random ones, or those that are the least probable where they stand.
        lengths: Places of each row, if they differ.
        cond: What `model.init_state` takes.
        positions: Of the places, for models of several axes.
        report: Called behind each step with the share of all steps that are done.

    Returns:
        All places, known ones included, with the log-probability of each code under the law that it was drawn from
        last; 0 for known ones. The trace has one round, of all steps.

    Raises:
        ValueError: A causal model, no step, a share outside (0, 1]; a prompt, lengths or a law that don't fit.
    """
    if model.info.causal or steps < 1 or not 0 < share <= 1:
        raise ValueError(
            f"{steps} steps, a share of {share}: give at least one step, a share above 0 and at most 1, and a model "
            "that is not causal"
        )
    law, noise = law or Law(temperature=0), noise or Noise(0)
    known, inside = open_grid(prompt, lengths, model)
    copies, rows, at = streams_of(law), len(known), _places(known)
    wanted = (known < 0) & inside[..., None]
    codes = torch.where(wanted, _random(at, model.info.cards, noise), known).where(inside[..., None], 0)
    state, places = model.init_state(rows * copies, 0, cond), repeated(positions, rows, copies)
    visible = copied(inside[:, None].expand(-1, inside.shape[1], -1), copies)
    logp, recorder = torch.zeros(codes.shape, device=codes.device), Recorder(rows)
    recorder.prefill_seconds = recorder.lap()
    for step in range(steps):
        running = law.start(codes, checked=model.checked)
        logits = running.combine(model(copied(codes, copies), places, state, visible).logits)
        laws = running(logits)
        drawn = draw(laws, (Quiet() if law.certain else noise.derive(_DRAW, step)).gumbel(at, *laws.shape[2:]))
        turn = noise.derive(_CHOOSE, step).uniform(at, codes.shape[2])
        if choose == "uncertain":
            turn = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        change = _first(turn, wanted, share if step else 1.0)
        codes = torch.where(change, drawn, codes)
        logp = torch.where(change, laws.gather(-1, drawn[..., None])[..., 0], logp)
        if report is not None:
            report((step + 1) / steps)
    came = wanted.flatten(1).sum(1)
    recorder.round(came, came, came, target=steps, draft=0)
    return Result(codes.where(inside[..., None], -1), inside.sum(1), logp, Exactness.APPROXIMATE, recorder.trace())


def _first(turn: Float[Tensor, "R S Q"], wanted: Tensor, share: float) -> Tensor:
    """bool `[R, S, Q]`: that share of what is wanted, rounded up, of the lowest turns."""
    rank = turn.masked_fill(~wanted, torch.inf).flatten(1).argsort(dim=1, stable=True).argsort(1)
    count = (share * wanted.flatten(1).sum(1)).ceil()
    return (rank < count[:, None]).view_as(wanted) & wanted


def _places(codes: Int[Tensor, "R S Q"]) -> Int[Tensor, "R S"]:
    return torch.arange(codes.shape[1], device=codes.device).expand(codes.shape[:2])


def _random(at: Int[Tensor, "R S"], cards: tuple[int, ...], noise: Noise) -> Int[Tensor, "R S Q"]:
    """Codes, all equally probable."""
    sizes = torch.tensor(cards, device=at.device)
    return (noise.derive(_CODE).uniform(at, len(cards)) * sizes).long()
