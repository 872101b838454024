"""Tokens that the layout fixes: certain to the rule, free of charge in log-probabilities, nobody's merit in the trace.

They may be ids that no law knows, so rules see token 0 in their place.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome
from zoo.decoders.sampling.rules import Scores, Verified, in_line, slot_of


class Structure:
    """What a layout fixes, handed out where a round may meet it: most rounds of most layouts meet nothing.

    Args:
        forced: As `stream` takes it.
    """

    def __init__(self, forced: Int[Tensor, "#R T Q"] | None):
        self._table, self._before = None, [0]
        if forced is not None:
            self._table = torch.cat((forced, torch.full_like(forced[:, :1], -1)), 1)  # behind the last, all is free
            self._before += (forced >= 0).any(2).any(0).cumsum(0).tolist()

    def between(self, first: int, last: int) -> Int[Tensor, "#R T_plus_1 Q"] | None:
        """The table of all absolute steps; None if nothing is fixed from `first` to `last`, these included."""
        most = len(self._before) - 1
        return self._table if self._before[min(first, most)] < self._before[min(last + 1, most)] else None


def as_certain(draft: Draft, scores: Scores, ctx: Context) -> tuple[Draft, Scores]:
    """What the rule sees: a token that the layout fixes is token 0, of probability 1, in the draft and in all laws."""
    forced = ctx.forced_at(scores.steps)
    if forced is None:
        return draft, scores
    fixed = forced >= 0
    nodes = fixed[torch.arange(ctx.rows, device=fixed.device)[:, None], draft.before()]
    tokens = draft.tokens.masked_fill(nodes, 0)
    logq = None if draft.logq is None else certain(draft.logq, nodes)
    return replace(draft, tokens=tokens, logq=logq), scores._replace(logp=certain(scores.logp, fixed))


def certain(logp: Float[Tensor, "*rows V"], where: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows V"]:
    """The laws, with token 0 for certain where something is fixed."""
    first = torch.full_like(logp[..., 0], 0)[..., None]
    fixed = torch.cat((first, torch.full_like(logp[..., 1:], -torch.inf)), -1)
    return torch.where(where[..., None], fixed, logp)


def restored(verified: Verified, ctx: Context) -> Verified:
    """The verdict with the layout's own tokens in the next step."""
    if ctx.forced is None:
        return verified
    return verified._replace(next=ctx.fix(verified.next[:, None], (ctx.length + verified.n)[:, None])[:, 0])


def log_probs(
    ctx: Context, judged: Draft, seen: Scores, verified: Verified, laws: Float[Tensor, "R Q V"]
) -> Float[Tensor, "R K Q"]:
    """Log-probability of each step that came out."""
    row = torch.arange(ctx.rows, device=laws.device)
    last, forced = verified.next, ctx.forced_at(seen.steps)
    if forced is not None:
        fixed = forced[row, slot_of(verified)] >= 0
        last, laws = last.masked_fill(fixed, 0), certain(laws, fixed)
    if not judged.slots:
        return ctx.law.log_prob(laws, last)[:, None]
    chain = judged.parent is None  # laws are large, and lie in order there
    before = seen.logp[:, : judged.slots] if chain else seen.logp[row[:, None], judged.before()]
    nodes = ctx.law.log_prob(before, judged.tokens)
    return in_line(verified, nodes, ctx.law.log_prob(laws, last))


def counted(ctx: Context, outcome: Outcome) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"], Int[Tensor, "R"]]:
    """Drafted, accepted and emitted; steps that the layout fixes altogether were not bet on."""
    draft, verified = outcome.draft, outcome.verified
    forced = ctx.forced_of(draft)
    if forced is None or not draft.slots:
        return draft.count, torch.minimum(verified.n, outcome.count), outcome.count
    free = draft.present() & (forced < 0).any(-1)
    line = in_line(verified, free, torch.zeros_like(outcome.finished))
    came = torch.arange(line.shape[1], device=line.device) < outcome.count[:, None]
    return free.sum(1), (line & came).sum(1), outcome.count
