"""The autoregressive loop: propose, verify, commit, for any model, layout, law, proposer and rule."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.checks import fitting, promised
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.fixed import Structure, as_certain, counted, log_probs, restored
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer, write_line
from zoo.decoders.sampling.result import Recorder, Result
from zoo.decoders.sampling.rules import Rule, Scores, Verified, find, in_line
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
    lengths, room = fitting(model, prompt, lengths, steps, law, window, forced, positions)
    recorder, most, slots = Recorder(len(room)), int(room.max()), window if proposer is not None else 0
    target = Target(model, prompt, lengths, law, most + slots, cond, positions)
    ctx, structure = _context(target, prompt, lengths, room, most, slots, rule), Structure(forced)
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
        ctx.forced = structure.between(int(ctx.length.min()), int(ctx.length.max()) + slots)
        if proposer is not None and (longest > 1 or rule.needs_draft):
            draft = promised(proposer.propose(ctx, slots), ctx, slots, rule, proposer)
        else:
            draft = Draft.empty(ctx.rows, prompt.shape[2], prompt.device)
        scores = target.score(ctx.last, draft, ctx.length[:, None] + draft.block_depth())
        judged, seen = as_certain(draft, scores, ctx)
        verified = restored(rule.verify(judged, seen, streams), ctx)
        verified, laws = target.settle(verified, seen, streams.draw)
        outcome = _outcome(ctx, draft, scores, verified, rule, stops)
        write_line(logp, ctx.length, log_probs(ctx, judged, seen, verified, laws))
        recorder.round(*counted(ctx, outcome), target=1, draft=draft.forwards)
        target.commit(verified, outcome.count)
        target.law.advance(verified.next, outcome.count == verified.n + 1)
        target.law.hold(outcome.count, verified.path)
        target.law.came(outcome.tokens, outcome.count)
        ctx.extend(outcome, target.hidden)
        if proposer is not None:
            proposer.observe(ctx, outcome)
        yield outcome
    return _result(ctx, begin, logp, rule, recorder)


def _context(
    target: Target, prompt: Tensor, lengths: Tensor, room: Tensor, most: int, slots: int, rule: Rule
) -> Context:
    rows, codebooks = len(room), prompt.shape[2]
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
        positions=target.positions,
    )


def _outcome(ctx: Context, draft: Draft, scores: Scores, verified: Verified, rule: Rule, stops: Tensor) -> Outcome:
    """The steps that come out: the accepted nodes and the step behind them, up to the first stop or the last wanted."""
    tokens = in_line(verified, draft.tokens, verified.next)
    count = torch.minimum(verified.n + 1, ctx.room)
    if verified.undecided is not None:
        count = torch.minimum(verified.n + (~verified.undecided).long(), ctx.room)
        if not count[ctx.room > 0].all():
            row = int(((count == 0) & (ctx.room > 0)).int().argmax())
            raise ValueError(f"{type(rule).__name__} gave row {row} no step; it must accept a node or decide")
    finished = count >= ctx.room
    if len(stops):
        place = torch.arange(tokens.shape[1], device=tokens.device)
        ends = torch.isin(tokens[..., 0], stops) & (place < count[:, None])
        count = torch.where(ends.any(1), ends.int().argmax(1) + 1, count)
        finished = finished | ends.any(1)
    return Outcome(draft, scores, verified, tokens, count, finished)


def _result(ctx: Context, begin: Tensor, logp: Tensor, rule: Rule, recorder: Recorder) -> Result:
    """What lies behind each row's prompt, in line."""
    lengths = ctx.length - begin
    step = torch.arange(int(lengths.max()), device=lengths.device)
    row, index = torch.arange(ctx.rows, device=lengths.device)[:, None], begin[:, None] + step
    behind = (step >= lengths[:, None])[..., None]
    codes, logp = ctx.tokens[row, index].masked_fill(behind, -1), logp[row, index].masked_fill(behind, 0)
    return Result(codes, lengths, logp, rule.exactness, recorder.trace())
