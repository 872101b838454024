"""Where two runs of a decoder that goes step by step part, and by how much the best choice was ahead there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.bench_requests import Job
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling import Law, Noise, Result
from zoo.generation_codes import Sampling, given_steps, known_steps
from zoo.token_facts import positions_of

GREEDY = Law(temperature=0.0)


class Parting(NamedTuple):
    """The first other step, counted from the first that was drawn, and the gap of the best two scores there."""

    step: int
    gap: float


def parting(
    decoder: Any, job: Job, number: int, sampling: Sampling, plain: Sequence[Result], other: Sequence[Result]
) -> Parting | None:
    """Where what came out is no longer what one step at a time gives; None if it is that throughout.

    Args:
        number: Of the request: the id of its noise.
        sampling: Of both: law and seed.
        plain, other: Results of all loops, of one row.
    """
    ours, theirs = drawn(other), drawn(plain)
    both = min(len(ours), len(theirs))
    differs = (ours[:both] != theirs[:both]).nonzero()
    if not len(differs):
        return None
    step, book = differs[0].tolist()
    layout = decoder.tokens.layout
    known = given_steps(layout, job.shape, job.prompt)[: known_steps(layout, job.shape, job.prompt)]
    places = positions_of(layout, decoder.info, job.shape)
    found = scores(
        decoder,
        torch.cat((known, theirs[:step]))[None],
        sampling.law,
        sampling.noise([number]),
        theirs[step],
        sampling.conditions(job.cond),
        places,
    )
    return Parting(step, lead(found[book]))


def drawn(results: Sequence[Result]) -> Int[Tensor, "N Q"]:
    """The steps of a row that was drawn alone, in order."""
    return torch.cat([result.codes[0, : int(result.lengths[0])] for result in results]).cpu()


@torch.no_grad()
def scores(
    model: TokenModel,
    tokens: Int[Tensor, "1 N Q"],
    law: Law = GREEDY,
    noise: Noise | None = None,
    codes: Int[Tensor, "Q"] | None = None,
    cond: Any = None,
    positions: Int[Tensor, "1 T *axes"] | None = None,
) -> Float[Tensor, "Q V"]:
    """What decides on the step behind these: of each codebook the largest wins.

    Logits where the law leaves nothing to chance, else log-probabilities and the noise of that step.

    Args:
        noise: Default: `Noise(0)`.
        codes: Of that step, for models whose codes of a step depend on each other.
        cond: Of all streams of the law.
        positions: Of the steps; default: their order.
    """
    steps, copies = tokens.shape[1], len(law.streams)
    positions = torch.arange(steps)[None] if positions is None else positions[:, :steps]
    positions = positions.expand(copies, *positions.shape[1:]).to(tokens.device)
    logits, hidden = model(tokens.repeat(copies, 1, 1), positions, model.init_state(copies, steps, cond))
    logits = logits[:, -1:]
    if model.info.depth and codes is not None:
        logits = model.depth(hidden[:, -1:], codes.clamp(min=0).expand(copies, 1, -1))
    running = law.start(tokens)
    logits = running.combine(logits)
    if law.certain:
        return logits[0, 0]
    behind = torch.tensor([[steps]], device=tokens.device)
    return (running(logits) + (noise or Noise(0)).gumbel(behind, *logits.shape[2:]))[0, 0]


def lead(scores: Float[Tensor, "V"]) -> float:
    """By how much the best is ahead of the second best."""
    best, second = scores.topk(2).values
    return float(best - second)
