"""The autoregressive loop: propose, verify, commit, for any model, layout, law, proposer and rule."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer, write_line
from zoo.decoders.sampling.result import Recorder, Result
from zoo.decoders.sampling.rules import Rule, Scores, Verified, find, in_line, slot_of
from zoo.decoders.sampling.target import Target


def decode(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    law: Law | None = None,
    noise: Noise | None = None,
    proposer: Proposer | None = None,
    rule: str | Rule = "equal",
    **options: Any,
) -> Result:
    """Continue a prompt. `stream` does the same and hands out steps as they come; see there for the arguments."""
    rounds = stream(model, prompt, steps, law, noise, proposer, rule, **options)
    while True:
        try:
            next(rounds)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def stream(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    law: Law | None = None,
    noise: Noise | None = None,
    proposer: Proposer | None = None,
    rule: str | Rule = "equal",
    *,
    lengths: Int[Tensor, "C_times_R"] | None = None,
    cond: Any = None,
    stop: int | Collection[int] = (),
    window: int = 5,
    forced: Int[Tensor, "#R T Q"] | None = None,
    positions: Int[Tensor, "#R T *axes"] | None = None,
) -> Generator[Outcome, None, Result]:
    """Continue a prompt, round by round; each round gives every unfinished row at least one step.

    The next absolute step of a row is its prompt's length: decoding on from what came out gives what decoding on would
    have given, under the same noise and the rule `equal`.

    Args:
        model: The target, causal, in eval mode.
        prompt: int64 `[R, P, Q]`, at least one step. For laws of C streams `[C x R, P, Q]`, the first stream's R rows
            first; streams may differ in prompt, length and condition, and get the same steps.
        steps: How many steps to add, for all rows or for each.
        law: Default: the model's own law.
        noise: Default: `Noise(0)`.
        proposer: Default: one step at a time.
        rule: What stands of a draft; a name in `rules.RULES`, or a rule.
        lengths: int64, steps of each row's prompt if they differ, one for each row of `prompt`.
        cond: What `model.init_state` takes, of the rows of `prompt`.
        stop: Tokens of the first codebook that end their row; they are its last step.
        window: Most slots of a draft.
        forced: int64 `[R or 1, T, Q]`, tokens that the layout fixes, by absolute step; -1, and behind T, is free. They
            may be input-only ids. They are known to drafts, and drawn from no law.
        positions: See `Target`.

    Yields:
        What each round gave; `tokens` and `count` are the steps to play, print or draw.

    Returns:
        All of it; `return` value of the generator.

    Raises:
        ValueError: Prompt, lengths, steps, window or rows of streams that don't fit; steps beyond the model's context;
            a model that is not causal; a proposer that breaks its promise; NaN logits; a law that leaves no token
            possible.
    """
    law, noise, rule = law or Law(), noise or Noise(0), find(rule)
    lengths, room = _fitting(model, prompt, lengths, steps, law, window)
    recorder, most, slots = Recorder(len(room)), int(room.max()), window if proposer is not None else 0
    target = Target(model, prompt, lengths, law, most + slots, cond, positions)
    ctx = _context(target, prompt, lengths, room, most, slots, rule, forced)
    begin, logp = ctx.length, torch.zeros(ctx.tokens.shape, device=prompt.device)
    stops = torch.tensor([stop] if isinstance(stop, int) else sorted(stop), dtype=torch.int64, device=prompt.device)
    noise = Quiet() if law.certain else noise
    if proposer is not None:
        proposer.start(ctx)
    recorder.prefill_seconds = recorder.lap()
    round = 0
    while (longest := int(ctx.room.max())) > 0:
        streams = rule.streams(noise, round)
        ctx.noise, round = streams.draft, round + 1
        draft = Draft.empty(ctx.rows, prompt.shape[2], prompt.device)
        if proposer is not None and (longest > 1 or rule.needs_draft):
            draft = _promised(proposer.propose(ctx, slots), ctx, slots, rule, proposer)
        scores = target.score(ctx.last, draft, ctx.length[:, None] + draft.block_depth())
        judged, seen = _fixed_for_certain(draft, scores, ctx)
        verified = rule.verify(judged, seen, streams)
        verified = verified._replace(next=ctx.fix(verified.next[:, None], (ctx.length + verified.n)[:, None])[:, 0])
        verified, laws = target.settle(verified, seen, streams.draw)
        outcome = _outcome(ctx, draft, scores, verified, rule, stops)
        write_line(logp, ctx.length, _logp(ctx, judged, seen, verified, laws))
        recorder.round(*_counts(ctx, outcome), target=1, draft=draft.forwards)
        target.commit(verified, outcome.count)
        target.law.advance(verified.next, outcome.count == verified.n + 1)
        ctx.extend(outcome, target.hidden)
        if proposer is not None:
            proposer.observe(ctx, outcome)
        yield outcome
    index = begin[:, None] + torch.arange(most, device=prompt.device)
    emitted = ctx.length - begin
    behind = (torch.arange(most, device=prompt.device) >= emitted[:, None])[..., None]
    row = torch.arange(ctx.rows, device=prompt.device)[:, None]
    codes, logp = ctx.tokens[row, index].masked_fill(behind, -1), logp[row, index].masked_fill(behind, 0)
    longest = int(emitted.max())
    return Result(codes[:, :longest], emitted, logp[:, :longest], rule.exactness, recorder.trace())


def _fitting(
    model: TokenModel, prompt: Tensor, lengths: Tensor | None, steps: int | Tensor, law: Law, window: int
) -> tuple[Int[Tensor, "C_times_R"], Int[Tensor, "R"]]:
    """Steps of each prompt, and steps to add to each row; or what doesn't fit."""
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
    most = int((lengths + room.repeat(copies)).max())
    if most > info.context:
        raise ValueError(
            f"{most} steps, prompt included, for a model of {info.context}; shorten the prompt or the steps"
        )
    return lengths, room


def _context(
    target: Target, prompt: Tensor, lengths: Tensor, room: Tensor, most: int, slots: int, rule: Rule,
    forced: Tensor | None,
) -> Context:  # fmt: skip
    rows, codebooks = len(room), prompt.shape[2]
    if forced is not None:
        forced = torch.cat((forced, torch.full_like(forced[:, :1], -1)), 1)  # behind the last, all is free
    return Context(
        tokens=torch.cat((prompt[:rows], prompt.new_zeros(rows, most + slots + 1, codebooks)), 1),
        length=lengths[:rows].clone(),
        room=room,
        law=target.law,
        noise=Quiet(),  # until a round begins
        model=target.model,
        state=target.state,
        hidden=target.hidden,
        densities=rule.densities,
        slots=slots,
        forced=forced,
    )


def _promised(draft: Draft, ctx: Context, slots: int, rule: Rule, proposer: Proposer) -> Draft:
    """The draft with zeros where nothing is, what the layout fixes filled in, and no longer than there is room.

    Raises:
        ValueError: Not what a proposer may give.
    """
    name, cards = type(proposer).__name__, ctx.model.info.cards
    if draft.slots > slots or tuple(draft.tokens.shape) != (ctx.rows, draft.slots, len(cards)):
        raise ValueError(
            f"{name} drafted {list(draft.tokens.shape)}; asked for [{ctx.rows}, {slots} or less, {len(cards)}]"
        )
    if draft.parent is not None and not rule.trees:
        raise ValueError(f"{name} drafts trees, which the rule {type(rule).__name__} does not take")
    draft = replace(draft, count=torch.where(ctx.room > 0, draft.count, 0))
    if ctx.model.checked and not draft.tokens.is_floating_point():
        forced = ctx.forced_at(ctx.length[:, None] - 1 + draft.depth())
        bad = (draft.tokens < 0) | (draft.tokens >= torch.tensor(cards, device=draft.tokens.device))
        bad &= draft.present()[..., None] if forced is None else draft.present()[..., None] & (forced < 0)
        if bad.any() or not ((draft.count >= 0) & (draft.count <= draft.slots)).all():
            raise ValueError(f"{name} drafted tokens outside the vocabulary {cards}, or more nodes than slots")
    if draft.parent is None:  # the step behind the draft comes for nothing
        draft = replace(draft, count=torch.minimum(draft.count, (ctx.room - 1).clamp(min=0)))
    tokens = ctx.fix(draft.tokens, ctx.length[:, None] - 1 + draft.depth())
    return replace(draft, tokens=tokens.where(draft.present()[..., None], 0))


def _fixed_for_certain(draft: Draft, scores: Scores, ctx: Context) -> tuple[Draft, Scores]:
    """What the rule sees: a token that the layout fixes is token 0, of probability 1, in the draft and in all laws."""
    forced = ctx.forced_at(scores.steps)
    if forced is None:
        return draft, scores
    fixed = forced >= 0
    nodes = fixed[torch.arange(ctx.rows, device=fixed.device)[:, None], draft.before()]
    tokens = draft.tokens.masked_fill(nodes, 0)
    logq = None if draft.logq is None else _certain(draft.logq, nodes)
    return replace(draft, tokens=tokens, logq=logq), scores._replace(logp=_certain(scores.logp, fixed))


def _certain(logp: Float[Tensor, "*rows V"], where: Bool[Tensor, "*rows"]) -> Float[Tensor, "*rows V"]:
    first = torch.full_like(logp[..., 0], 0)[..., None]
    certain = torch.cat((first, torch.full_like(logp[..., 1:], -torch.inf)), -1)
    return torch.where(where[..., None], certain, logp)


def _outcome(ctx: Context, draft: Draft, scores: Scores, verified: Verified, rule: Rule, stops: Tensor) -> Outcome:
    """The steps that come out: the accepted nodes and the step behind them, up to the first stop or the last wanted."""
    tokens = in_line(verified, draft.tokens, verified.next)
    count = torch.minimum(verified.n + 1, ctx.room)
    if verified.undecided is not None:
        count = torch.minimum(verified.n + (~verified.undecided).long(), ctx.room)
        if not count[ctx.room > 0].all():
            raise ValueError(
                f"{type(rule).__name__} gave row {int(count.argmin())} no step; it must accept one or decide"
            )
    finished = count >= ctx.room
    if len(stops):
        place = torch.arange(tokens.shape[1], device=tokens.device)
        ends = torch.isin(tokens[..., 0], stops) & (place < count[:, None])
        count = torch.where(ends.any(1), ends.int().argmax(1) + 1, count)
        finished = finished | ends.any(1)
    return Outcome(draft, scores, verified, tokens, count, finished)


def _logp(
    ctx: Context, judged: Draft, seen: Scores, verified: Verified, laws: Float[Tensor, "R Q V"]
) -> Float[Tensor, "R K Q"]:
    """Log-probability of each step that came out."""
    row = torch.arange(ctx.rows, device=laws.device)
    last, forced = verified.next, ctx.forced_at(seen.steps)
    if forced is not None:
        fixed = forced[row, slot_of(verified)] >= 0
        last, laws = last.masked_fill(fixed, 0), _certain(laws, fixed)
    nodes = ctx.law.log_prob(seen.logp[row[:, None], judged.before()], judged.tokens)
    return in_line(verified, nodes, ctx.law.log_prob(laws, last))


def _counts(ctx: Context, outcome: Outcome) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"], Int[Tensor, "R"]]:
    """Drafted, accepted and emitted; steps that the layout fixes altogether were not bet on."""
    draft, verified = outcome.draft, outcome.verified
    free = draft.present()
    forced = ctx.forced_at(ctx.length[:, None] - 1 + draft.depth())
    if forced is not None:
        free = free & (forced < 0).any(-1)
    line = in_line(verified, free, torch.zeros_like(outcome.finished))
    came = torch.arange(line.shape[1], device=line.device) < outcome.count[:, None]
    return free.sum(1), (line & came).sum(1), outcome.count
