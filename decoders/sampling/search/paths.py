"""Several continuations of each row that grow side by side: the model, the law and the layout behind each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.checks import fitting
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.fixed import certain
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.result import Exactness, Recorder
from zoo.decoders.sampling.rules.base import Verified
from zoo.decoders.sampling.search.candidates import Candidates, emitted_steps
from zoo.decoders.sampling.target import Target


class Paths:
    """K paths behind each of R prompts, a step a round. A round is `laws` (or `drawn`) and then `grow`.

    The prompt is read once for each row. Rows never look at each other.

    Attributes:
        codes: int64 `[R, K, T, Q]`, what came, up to the longest row's room; anything behind.
        logp: float32 `[R, K, T, Q]`, of each code; 0 for those that the layout fixes.
        lengths: int64 `[R, K]`, steps of each path.
        alive: bool `[R, K]`, paths that grow.
        grown: Rounds so far.

    Args:
        count: K.
        options: The others of `decode`: `lengths`, `cond`, `stop`, `forced`, `positions`.

    Raises:
        ValueError: As `decode`; fewer than one path.
    """

    def __init__(
        self,
        model: TokenModel,
        prompt: Int[Tensor, "C_times_R P Q"],
        steps: int | Int[Tensor, "R"],
        law: Law | None,
        count: int,
        *,
        lengths: Int[Tensor, "C_times_R"] | None = None,
        cond: Any = None,
        stop: int | Collection[int] = (),
        forced: Int[Tensor, "#R T Q"] | None = None,
        positions: Int[Tensor, "#R T *axes"] | None = None,
    ):
        if count < 1:
            raise ValueError(f"{count} paths a row; expected at least 1")
        law = law or Law()
        lengths, self.room = fitting(model, prompt, lengths, steps, law, 1, forced)
        self.rows, self.count, self.info = len(self.room), count, model.info
        self.recorder = Recorder(self.rows)
        most, device = int(self.room.max()), prompt.device
        self._target = Target(model, prompt, lengths, law, most, cond, positions)
        self._begin = lengths[: self.rows]
        self._row = torch.arange(self.rows, device=device)[:, None]
        self._last = prompt[self._row, self._begin[:, None] - 1].expand(-1, count, -1)
        self._target.select(self._row.expand(-1, count).flatten())
        self._stops = torch.tensor([stop] if isinstance(stop, int) else sorted(stop), dtype=torch.int64, device=device)
        self._forced = forced
        self.codes = prompt.new_zeros(self.rows, count, most, prompt.shape[2])
        self.logp = torch.zeros(self.codes.shape, device=device)
        self.lengths = torch.zeros(self.rows, count, dtype=torch.int64, device=device)
        self.alive = torch.ones(self.rows, count, dtype=torch.bool, device=device)
        self.grown = 0
        self.recorder.prefill_seconds = self.recorder.lap()

    @property
    def at(self) -> Int[Tensor, "R"]:
        """The absolute step that each row's next one is."""
        return self._begin + self.grown

    def fixed(self) -> Int[Tensor, "R 1 Q"]:
        """What the layout fixes of the next step; -1 is free."""
        if self._forced is None or not self._forced.shape[1]:
            return self._begin.new_full((self.rows, 1, self.info.codebooks), -1)
        table, last = self._forced.expand(self.rows, -1, -1), self._forced.shape[1] - 1
        step = self.at[:, None]
        return table[self._row, step.clamp(max=last)].masked_fill((step > last)[..., None], -1)

    def laws(self) -> Float[Tensor, "R K Q V"]:
        """The law of each path's next step, by one forward pass; token 0 for certain where the layout fixes one.

        Where the codes of a step depend on each other, that of the first code only.
        """
        steps = self.at.repeat_interleave(self.count)[:, None]
        draft = Draft.empty(len(steps), self.info.codebooks, steps.device)
        scores = self._target.score(self._last.flatten(0, 1), draft, steps)
        return certain(scores.logp[:, 0].unflatten(0, (self.rows, self.count)), self.fixed() >= 0)

    def stuck(self) -> Bool[Tensor, "R K"]:
        """Behind `laws`: which of those that are alive can't go on, as their law leaves no token possible."""
        return self._target.law.stuck().to(self.alive.device).view_as(self.alive) & self.alive

    def refuse(self, stuck: Bool[Tensor, "R K"]) -> None:
        """Say why these paths are stuck.

        Raises:
            ValueError: One of them is.
        """
        self._target.law.hold(stuck.flatten().long(), None)

    def drawn(
        self, pick: Callable[[int, Float[Tensor, "R K V"]], Int[Tensor, "R K"]]
    ) -> tuple[Int[Tensor, "R K Q"], Float[Tensor, "R K Q"]]:
        """A step of each path, code by code, and the log-probability of each code.

        Args:
            pick: Tokens of one codebook, given its number and the laws.
        """
        laws, fixed = self.laws(), self.fixed().expand(-1, self.count, -1)
        tokens, logp = torch.zeros_like(fixed), torch.zeros(fixed.shape, device=fixed.device)
        for book in range(self.info.codebooks):
            if book and self.info.depth:
                slot = torch.zeros(self.rows * self.count, dtype=torch.int64, device=fixed.device)
                known = tokens.where(fixed < 0, fixed).flatten(0, 1)
                laws = certain(self._target.within(slot, known).unflatten(0, fixed.shape[:2]), fixed >= 0)
            tokens[..., book] = pick(book, laws[:, :, book])
            logp[..., book] = laws[:, :, book].gather(-1, tokens[..., book, None])[..., 0]
        return tokens, logp

    def ending(self) -> Bool[Tensor, "R 1 V"]:
        """Which tokens of the first codebook end their path, as its law has them."""
        tokens = torch.arange(self.info.vocabulary, device=self._stops.device)
        fixed = self.fixed()[..., :1]
        ends = torch.isin(tokens.where(fixed < 0, fixed), self._stops)
        return ends | (self.grown + 1 >= self.room)[:, None, None]

    def extended(
        self, tokens: Int[Tensor, "R K Q"], logp: Float[Tensor, "R K Q"], parent: Int[Tensor, "R K"]
    ) -> tuple[Int[Tensor, "R K T Q"], Float[Tensor, "R K T Q"]]:
        """Codes and log-probabilities of paths with a step more; the path itself does not grow."""
        codes, past = self.codes[self._row, parent], self.logp[self._row, parent]
        fixed = self.fixed()
        codes[:, :, self.grown], past[:, :, self.grown] = tokens.where(fixed < 0, fixed), logp
        return codes, past

    def grow(
        self,
        tokens: Int[Tensor, "R K Q"],
        logp: Float[Tensor, "R K Q"],
        parent: Int[Tensor, "R K"] | None = None,
    ) -> None:
        """Every path that is alive gets a step; then those end that the step or their room ends.

        Args:
            parent: The path that each one goes on from, and is alive if that was; default: itself.

        Raises:
            ValueError: A path that is alive is stuck.
        """
        ends = self.ending().expand(-1, self.count, -1).gather(2, tokens[..., :1])[..., 0]
        moves, rows = self.alive.flatten(), self.rows * self.count
        verified = Verified(moves.long().new_zeros(rows), None, tokens.flatten(0, 1))
        self._target.law.hold(moves.long(), None)
        self._target.law.settle(verified.n, None)
        self._target.commit(verified, moves.long())
        if parent is None:
            parent = torch.arange(self.count, device=tokens.device).expand(self.rows, -1)
        else:
            self._target.select((self._row * self.count + parent).flatten())
        self.codes, self.logp = self.extended(tokens, logp, parent)
        self.alive = self.alive[self._row, parent]
        step = self.codes[:, :, self.grown]
        self._last = step.where(self.alive[..., None], self._last)
        self._target.law.advance(step.flatten(0, 1), self.alive.flatten())
        self.lengths = self.lengths[self._row, parent] + self.alive
        self.alive = self.alive & ~ends
        self.grown += 1
        nothing = torch.zeros(self.rows, dtype=torch.int64, device=tokens.device)
        self.recorder.round(nothing, nothing, nothing, target=1, draft=0)

    def candidates(self, exactness: Exactness) -> Candidates:
        """All paths, as they are."""
        return candidates_of(self.codes, self.logp, self.lengths, exactness, self.recorder)


def candidates_of(
    codes: Int[Tensor, "R K T Q"],
    logp: Float[Tensor, "R K T Q"],
    lengths: Int[Tensor, "R K"],
    exactness: Exactness,
    recorder: Recorder,
) -> Candidates:
    """Cut to the longest, with nothing behind the length of each."""
    longest = int(lengths.max())
    behind = (torch.arange(longest, device=lengths.device) >= lengths[..., None])[..., None]
    codes, logp = codes[:, :, :longest].masked_fill(behind, -1), logp[:, :, :longest].masked_fill(behind, 0)
    trace = recorder.trace()
    emitted = emitted_steps(trace, lengths.amax(1))
    return Candidates(codes, lengths, logp, exactness, replace(trace, emitted=emitted))
