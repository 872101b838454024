"""What callers and proposers give to the loop, checked where it comes in."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.proposers.base import Context, Proposer
from zoo.decoders.sampling.rules import Rule
from zoo.decoders.sampling.rules.base import leading


def fitting(
    model: TokenModel,
    prompt: Tensor,
    lengths: Tensor | None,
    steps: int | Tensor,
    law: Law,
    window: int,
    forced: Tensor | None,
    positions: Tensor | None = None,
) -> tuple[Int[Tensor, "C_times_R"], Int[Tensor, "R"]]:
    """Steps of each prompt, and steps to add to each row.

    Raises:
        ValueError: What `stream` was given doesn't fit.
    """
    info, copies = model.info, len(law.streams)
    if not info.causal:
        raise ValueError("this model is not causal; decode it with `decode_masked`")
    if prompt.ndim != 3 or prompt.shape[2] != info.codebooks or not prompt.shape[1] or not len(prompt):
        raise ValueError(
            f"the prompt is {list(prompt.shape)}; expected [rows, steps, {info.codebooks}] with at least one step, "
            "such as a token that begins every sequence"
        )
    if len(prompt) % copies:
        raise ValueError(f"{len(prompt)} rows for a law of {copies} streams; give every row once for each stream")
    rows = len(prompt) // copies
    if lengths is None:
        lengths = torch.full((len(prompt),), prompt.shape[1], device=prompt.device)
    if tuple(lengths.shape) != (len(prompt),) or not 1 <= lengths.min() <= lengths.max() <= prompt.shape[1]:
        raise ValueError(f"lengths {lengths.tolist()} for a prompt {list(prompt.shape)}; expected one a row, from 1 on")
    room = torch.full((rows,), steps, device=prompt.device) if isinstance(steps, int) else steps.clone()
    if tuple(room.shape) != (rows,) or room.min() < 1:
        raise ValueError(f"steps are {steps}; expected at least 1, for all rows or for each of {rows}")
    if window < 1:
        raise ValueError(f"the window is {window}; expected at least 1 slot; leave the proposer out to draft nothing")
    if forced is not None and (forced.ndim != 3 or forced.shape[2] != info.codebooks or len(forced) not in (1, rows)):
        raise ValueError(f"forced tokens are {list(forced.shape)}; expected [{rows} or 1, steps, {info.codebooks}]")
    most = int((lengths + room.repeat(copies)).max())
    if most > info.context:
        raise ValueError(
            f"{most} steps, prompt included, for a model of {info.context}; shorten the prompt or the steps"
        )
    axes = () if info.axes == 1 else (info.axes,)
    if positions is not None and (
        tuple(positions.shape[2:]) != axes or len(positions) not in (1, rows) or positions.shape[1] < most - 1
    ):
        wanted = ", ".join(map(str, (f"{rows} or 1", f"{most - 1} or more", *axes)))
        raise ValueError(f"positions are {list(positions.shape)}; expected [{wanted}], one for each step that is read")
    return lengths, room


def promised(draft: Draft, ctx: Context, slots: int, rule: Rule, proposer: Proposer) -> Draft:
    """The draft with zeros where nothing is, what the layout fixes filled in, and no longer than there is room.

    Raises:
        ValueError: Not what a proposer may give.
    """
    name, cards = type(proposer).__name__, ctx.model.info.cards
    if not isinstance(draft, Draft):
        raise ValueError(f"{name} drafted {type(draft).__name__}; expected a Draft, which may be empty")
    if draft.slots > slots or tuple(draft.tokens.shape) != (ctx.rows, draft.slots, len(cards)):
        raise ValueError(
            f"{name} drafted {list(draft.tokens.shape)}; asked for [{ctx.rows}, {slots} or less, {len(cards)}]"
        )
    if tuple(draft.count.shape) != (ctx.rows,):
        raise ValueError(
            f"{name} drafted a count of {list(draft.count.shape)}; expected one for each of {ctx.rows} rows"
        )
    if draft.parent is not None and not rule.trees:
        raise ValueError(f"{name} drafts trees, which the rule {type(rule).__name__} does not take")
    if draft.parent is not None and ctx.model.info.depth and len(cards) > 1:
        raise ValueError(f"{name} drafts trees, but the codes of a step depend on each other here; draft chains")
    count = torch.where(ctx.room > 0, draft.count, 0)
    if ctx.model.checked and not torch.equal(count, count.clamp(0, draft.slots)):
        raise ValueError(f"{name} drafted {count.tolist()} nodes into {draft.slots} slots")
    if draft.parent is None:  # the step behind the draft comes for nothing
        count = torch.minimum(count, (ctx.room - 1).clamp(min=0))
    draft = replace(draft, count=count)
    if draft.parent is not None:
        _check_parents(draft, name, ctx.model.checked)
    tokens, forced = draft.tokens, ctx.forced_of(draft)
    if draft.logq is not None and not tokens.is_floating_point():
        draft = _without_gaps(draft, ctx, name, forced)
    if forced is not None:
        tokens = torch.where(forced >= 0, forced, tokens)
    tokens = tokens.where(draft.present()[..., None], 0)
    if ctx.model.checked and not tokens.is_floating_point():
        bad = (tokens < 0) | (tokens >= (cards[0] if len(set(cards)) == 1 else tokens.new_tensor(cards)))
        if (bad if forced is None else bad & (forced < 0)).any():
            raise ValueError(f"{name} drafted tokens outside the vocabulary {cards}")
    return replace(draft, tokens=tokens)


def _check_parents(draft: Draft, name: str, checked: bool) -> None:
    assert draft.parent is not None, "who asks has seen to it"
    if draft.parent.shape != draft.tokens.shape[:2]:
        wanted = list(draft.tokens.shape[:2])
        raise ValueError(f"{name} drafted a tree with parents of {list(draft.parent.shape)}; expected {wanted}")
    if not checked:
        return
    slot = torch.arange(draft.slots, device=draft.tokens.device)
    bad = (draft.present() & ((draft.parent < -1) | (draft.parent >= slot))).any(1)
    if bad.any():
        raise ValueError(
            f"{name} drafted a tree of parents {draft.parent[bad][0].tolist()}; expected of each node a slot before its"
            " own, or -1 for the last known step"
        )


def _without_gaps(draft: Draft, ctx: Context, name: str, forced: Int[Tensor, "R N Q"] | None) -> Draft:
    """The draft whose chains end where a node's own law calls it impossible; of trees the rules know such nodes."""
    assert draft.logq is not None, "who asks has seen to it"
    wanted = (*draft.tokens.shape, ctx.model.info.vocabulary)
    if tuple(draft.logq.shape) != wanted:
        raise ValueError(f"{name} drafted from laws of {list(draft.logq.shape)}; expected {list(wanted)}")
    if ctx.model.checked and (draft.logq.amax(-1).isnan() & draft.present()[..., None]).any():
        raise ValueError(f"{name} drafted from laws that hold NaN; its model or its law is at fault")
    if draft.parent is not None or not draft.slots:
        return draft
    own = draft.logq.gather(-1, draft.tokens.clamp(0, wanted[-1] - 1)[..., None])[..., 0]
    drawn = ~own.isneginf() if forced is None else ~own.isneginf() | (forced >= 0)
    return replace(draft, count=torch.minimum(draft.count, leading(drawn.all(-1))))
