"""Drafting one step after the other from a model's logits, as draft models and parts of the target do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.proposers.base import Context

Logits = Float[Tensor, "R 1 Q V"]


Stands = Callable[[Logits, Float[Tensor, "#R 1 #Q #V"], Int[Tensor, "R 1 Q"]], Float[Tensor, "R"]]
"""Logits of a step, the noise that it was drawn with, and the step -> the chance that it stands if all before it do."""


def surest(logits: Logits, gumbel: Tensor, step: Tensor) -> Float[Tensor, "R"]:
    """The product of the largest probabilities of all codes, before temperature."""
    return logits[:, 0].softmax(-1).amax(-1).prod(-1)


def draw_chain(
    ctx: Context,
    n: int,
    logits: Logits,
    behind: Callable[[Int[Tensor, "R 1 Q"]], Logits],
    confident: float = 0.0,
    stands: Stands = surest,
) -> Draft:
    """At most `n` steps, drawn under the target's law from the noise that the rule names.

    Args:
        logits: Of the step behind the known ones.
        behind: Takes the next step of each row and gives the logits behind it.
        confident: A row's draft ends with the step that makes the chance that all of it stands fall below this. Huang
            et al., "SpecDec++" (arXiv 2405.19715), show that such a threshold is the best policy; Kangaroo (arXiv
            2404.18911) stops by the drafter's own probabilities, too. 0: never.
        stands: Estimates that chance, step by step.
    """
    n = min(n, int(ctx.room.max()) - 1)
    if n < 1:
        return Draft.empty(ctx.rows, ctx.tokens.shape[2], ctx.length.device)
    law, tokens, laws = ctx.law.drafting(), [], []
    count, sure = (ctx.room - 1).clamp(0, n), torch.ones_like(logits[:, 0, 0, 0])
    steps = (ctx.length[:, None] + torch.arange(n, device=ctx.length.device)).split(1, 1)
    noise = ctx.noise.gumbel(torch.cat(steps, 1), *logits.shape[2:])  # at once: half of its time is the calls
    noises = noise.split(1, 1) if noise.shape[1] > 1 else (noise,) * n
    for step, gumbel in enumerate(noises):
        if step:
            logits = behind(tokens[-1])
        logp = law(logits)
        tokens.append(ctx.fix(draw(logp, gumbel), steps[step]))
        laws.append(logp)
        law.advance(tokens[-1][:, 0], ctx.room > step + 1)
        if confident:
            sure = sure * stands(logits, gumbel, tokens[-1])
            count = torch.where(sure < confident, count.clamp(max=step + 1), count)
            if int(count.max()) <= step + 1:
                break
    return Draft(torch.cat(tokens, 1), count, None, torch.cat(laws, 1) if ctx.densities else None, len(tokens))
