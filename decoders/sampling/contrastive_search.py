"""Contrastive search: of a few probable tokens, the one that is least like what stands already."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.decode import decode
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.result import Exactness, Result
from zoo.decoders.sampling.rules.base import Rule, Scores, Streams, Verified, slot_of


def contrastive_search(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P 1"],
    steps: int | Int[Tensor, "R"],
    candidates: int = 5,
    penalty: float = 0.6,
    law: Law | None = None,
    *,
    lengths: Int[Tensor, "C_times_R"] | None = None,
    cond: Any = None,
    positions: Int[Tensor, "#R T *axes"] | None = None,
    **options: Any,
) -> Result:
    """Continue a prompt by the candidate of the largest (1 - penalty) x probability - penalty x likeness, step by step.

    Su et al., "A Contrastive Framework for Neural Text Generation" (arXiv 2202.06417). Likeness is the largest cosine
    between the hidden state of a candidate, once it is read, and those of all steps before it, the prompt included.
    Nothing is random. Hidden states are those of `Output`.

    Output: identical to reading the candidates one by one and taking the best; it is no draw from the law.

    Cost: a forward pass of 1 + `candidates` slots a step, as a tree; the prompt is read twice. Hidden states of all
    steps are kept, and compared with each candidate's.

    Args:
        model: Of one codebook, able to run trees.
        candidates: How many of the most probable tokens are looked at; 1 is greedy.
        penalty: In [0, 1]; 0 is greedy.
        law: Gives the probabilities; tokens that it forbids are no candidates.
        options: `stop` and `forced`, as `decode` takes them; so are the other arguments.

    Raises:
        ValueError: A setting out of its range, a model of several codebooks; as `decode`.
    """
    if candidates < 1 or not 0 <= penalty <= 1:
        raise ValueError(f"{candidates} candidates and a penalty of {penalty}; expected at least 1, and [0, 1]")
    if model.info.codebooks > 1:
        raise ValueError(f"contrastive search is for models of one codebook; this one has {model.info.codebooks}")
    if lengths is None:
        lengths = torch.full((len(prompt),), prompt.shape[1], device=prompt.device)
    search = _Search(prompt, lengths, cond, positions, min(candidates, model.info.vocabulary), penalty)
    return decode(
        model, prompt, steps, law, proposer=search, rule=search, window=search.candidates, lengths=lengths, cond=cond,
        positions=positions, **options,
    )  # fmt: skip


class _Search(Rule, Proposer):
    """Proposes the candidates as a star, and accepts one of them; what follows it is decided in the next round.

    Proposer and rule in one, as one keeps the hidden states that the other compares with.
    """

    exactness = Exactness.IDENTICAL
    trees = True
    densities = False
    needs_draft = True

    def __init__(
        self, prompt: Tensor, lengths: Tensor, cond: Any, positions: Tensor | None, candidates: int, penalty: float
    ):
        self.prompt, self.lengths, self.cond, self.positions = prompt, lengths, cond, positions
        self.candidates, self.penalty = candidates, penalty
        self._past: Float[Tensor, "R S D"]  # of every step that was read, of length 1
        self._logp: Float[Tensor, "R V"]  # behind the last known step

    def start(self, ctx: Context) -> None:
        rows, longest, _ = self.prompt.shape
        there = torch.arange(longest, device=self.lengths.device) < self.lengths[:, None]
        places = None if self.positions is None else self._copied(self.positions[:, :longest], ctx)
        state = ctx.model.init_state(rows, 0, self.cond)
        output = ctx.model(self.prompt.where(there[..., None], 0), places, state)
        row = torch.arange(rows, device=self.lengths.device)
        last = output.logits[row, self.lengths - 1][:, None]
        self._logp = ctx.law.fork()(ctx.law.combine(last))[:, 0, 0]
        hidden = normalize(output.hidden[: ctx.rows].float(), dim=-1)
        self._past = torch.cat((hidden, hidden.new_zeros(ctx.rows, ctx.capacity - longest, hidden.shape[-1])), 1)

    def propose(self, ctx: Context, n: int) -> Draft:
        logp, tokens = self._logp.topk(n)
        count = torch.isfinite(logp).sum(1)
        return Draft(tokens[..., None], count, torch.full_like(tokens, -1))

    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        known = scores.steps[:, 0]
        before = torch.arange(self._past.shape[1], device=known.device) < known[:, None]
        cosine = normalize(scores.hidden[:, 1:].float(), dim=-1) @ self._past.mT
        likeness = cosine.masked_fill(~before[:, None], -torch.inf).amax(-1)
        p = scores.logp[:, 0, 0].exp().gather(1, draft.tokens[..., 0])
        score = ((1 - self.penalty) * p - self.penalty * likeness).masked_fill(~draft.present(), -torch.inf)
        n = (draft.count > 0).long()
        return Verified(n, score.argmax(1, keepdim=True), draft.tokens[:, 0], undecided=n > 0)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        row, slot = torch.arange(ctx.rows, device=ctx.length.device), slot_of(outcome.verified)
        self._logp = outcome.scores.logp[row, slot, 0]
        self._past[row, ctx.length - 1] = normalize(outcome.scores.hidden[row, slot].float(), dim=-1)

    def _copied(self, positions: Tensor, ctx: Context) -> Tensor:
        positions = positions.expand(ctx.rows, *positions.shape[1:])
        return positions.repeat(len(self.prompt) // ctx.rows, *[1] * (positions.ndim - 1))
