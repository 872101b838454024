"""The model whose output counts, with its state and the law behind it: it scores blocks and commits what stands."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.rules.base import Scores, Verified, slot_of


class Target:
    """R rows of output in streams x R rows of the model, the streams one behind the other.

    All known steps of a row but the last are committed; each block begins with that last one.

    Args:
        model: Any token model that is causal.
        prompt: int64 `[streams x R, P, Q]`; what lies behind a row's length is ignored.
        lengths: int64 `[streams x R]`, at least 1.
        law: Its streams say how many contexts there are.
        room: Steps that will be committed behind the prompt, and slots of the largest draft.
        cond: Condition of the model's rows.
        positions: int64 `[R or 1, T]` or `[R or 1, T, axes]`, the position of each absolute step, for models of several
            axes and for steps in another order than their places; default: the step.
    """

    def __init__(
        self,
        model: TokenModel,
        prompt: Int[Tensor, "C_times_R P Q"],
        lengths: Int[Tensor, "C_times_R"],
        law: Law,
        room: int,
        cond: Any = None,
        positions: Int[Tensor, "#R T *axes"] | None = None,
    ):
        self.model, self.info = model, model.info
        self.copies = len(law.streams)
        rows, longest, _ = prompt.shape
        self.rows = rows // self.copies
        there = torch.arange(longest, device=prompt.device) < lengths[:, None]
        prompt = prompt.where(there[..., None], 0)
        self.state = model.init_state(rows, longest + room, cond)
        self.positions = positions
        self.law = law.start(prompt[: self.rows], lengths[: self.rows], model.checked)
        self.hidden: Tensor | None = None
        if longest > 1:
            index = torch.arange(longest - 1, device=prompt.device).expand(rows, -1)
            hidden = model(prompt[:, :-1], self._positions(index), self.state).hidden
            self.state.commit(None, lengths - 1)
            last = (lengths[: self.rows] - 2).clamp(0)
            row = torch.arange(self.rows, device=prompt.device)
            self.hidden = hidden[row, last] * (lengths[: self.rows] > 1)[:, None]

    def score(self, last: Int[Tensor, "R Q"], draft: Draft, steps: Int[Tensor, "R S"]) -> Scores:
        """The law behind the last known step and behind each node, by one forward pass; moves the law along the draft.

        Args:
            steps: Absolute step that the law of each slot is about.
        """
        tokens = self._copied(torch.cat((last[:, None], draft.tokens), 1))
        index = self.state.length[:, None] + self._copied(draft.block_depth())
        mask = draft.block_mask()
        output = self.model(tokens, self._positions(index), self.state, None if mask is None else self._copied(mask))
        logits, hidden = output.logits, output.hidden
        if self.info.depth and draft.slots:  # else only the first code of the next step is asked for yet
            logits = self.model.depth(hidden, torch.cat((tokens[:, 1:], torch.zeros_like(tokens[:, :1])), 1))
        logp = self.law.block(self.law.combine(logits), draft)
        self._hidden = hidden
        return Scores(logp, steps, hidden[: self.rows], self.info.depth)

    def settle(self, verified: Verified, scores: Scores, noise: Noise) -> tuple[Verified, Float[Tensor, "R Q V"]]:
        """Move the law back to the accepted nodes, and draw the codes of the next step that depend on others of it.

        Returns:
            The verdict with `next` complete, and the law of each of its codes.
        """
        self.law.settle(verified.n, verified.path)
        row, slot = torch.arange(self.rows, device=verified.n.device), slot_of(verified)
        if not self.info.depth or self.info.codebooks == 1:
            return verified, scores.logp[row, slot]
        next = verified.next.clone()
        gumbel = noise.gumbel(scores.steps[row, slot][:, None], self.info.codebooks, self.info.vocabulary)[:, 0]
        for book in range(1, self.info.codebooks):
            logp = self.within(slot, next)
            next[:, book] = torch.where(next[:, book] < 0, draw(logp, gumbel)[:, book], next[:, book])
        return verified._replace(next=next), logp

    def within(self, slot: Int[Tensor, "R"], codes: Int[Tensor, "R Q"]) -> Float[Tensor, "R Q V"]:
        """Laws of the codes of the step behind a slot of the last block, each given those before it; -1 is unknown."""
        row = torch.arange(len(self._hidden), device=slot.device)
        hidden = self._hidden[row, self._copied(slot)][:, None]
        logits = self.model.depth(hidden, self._copied(codes.clamp(min=0))[:, None])
        return self.law(self.law.combine(logits))[:, 0]

    def commit(self, verified: Verified, count: Int[Tensor, "R"]) -> None:
        """Make the last known step and the first `count` - 1 accepted nodes steps of the past; 0 commits nothing."""
        index = None
        if verified.path is not None:
            index = torch.cat((verified.path.new_zeros(self.rows, 1), verified.path + 1), 1)
            index = self._copied(index)
        row = torch.arange(self.rows, device=count.device)
        self.hidden = self._hidden[row, slot_of(verified)]
        self.state.commit(index, self._copied(count))

    def select(self, rows: Int[Tensor, "S"]) -> None:
        """Row s becomes a copy of row `rows[s]`: its past, its law and its positions. Rows may repeat and be left out.

        Between `commit` and the next `score`.
        """
        every = torch.cat([rows + stream * self.rows for stream in range(self.copies)])
        if len(rows) == self.rows:
            self.state.reorder(every)
        else:
            self.state = self.state.select(every)
        self.law = self.law.fork(rows)
        self.hidden = None if self.hidden is None else self.hidden[rows]
        if self.positions is not None and len(self.positions) > 1:
            self.positions = self.positions[rows]
        self.rows = len(rows)

    def _copied(self, x: Tensor) -> Tensor:
        """One copy for each stream; tensors with a row axis of 1 fit as they are."""
        return x if self.copies == 1 or len(x) == 1 != self.rows else x.repeat(self.copies, *[1] * (x.ndim - 1))

    def _positions(self, index: Int[Tensor, "R N"]) -> Tensor:
        """Of absolute steps; those of slots that only fill the block up stay within what the model knows."""
        if self.positions is None:
            return index.clamp(max=self.info.context - 1)
        table = self._copied(self.positions)
        row = torch.arange(len(table), device=index.device)[:, None]
        return table[row, index.clamp(max=table.shape[1] - 1)]
