"""What decoding returns: the codes, how they relate to plain decoding, and what each call of the target gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Exactness(StrEnum):
    """How a method's output relates to decoding with the same model and law, one step at a time.

    Up to float rounding: a block of slots may be summed in another order than one slot, and where two tokens are
    equally good within that rounding, the choice may differ.
    """

    IDENTICAL = "identical"
    """The same tokens."""
    DISTRIBUTION = "distribution"
    """Other tokens of the same law."""
    APPROXIMATE = "approximate"
    """Another law."""


@dataclass(frozen=True)
class Trace:
    """Counts for each round (a call of the target) and row; the prefill of the prompt is no round.

    Attributes:
        drafted: int64 `[rounds, R]`, steps (or nodes of trees) that were proposed.
        accepted: int64 `[rounds, R]`, of these, how many were emitted. Steps fixed by the layout count in neither.
        emitted: int64 `[rounds, R]`, steps that came out; 0 once a row is finished.
        target_forwards: int64 `[rounds]`, forward passes of the target.
        draft_forwards: int64 `[rounds]`, forward passes of draft models.
        seconds: float64 `[rounds]`. On a GPU, calls return before they are done: only the sum means something there.
        prefill_seconds: Before the first round.
    """

    drafted: Int[Tensor, "T R"]
    accepted: Int[Tensor, "T R"]
    emitted: Int[Tensor, "T R"]
    target_forwards: Int[Tensor, "T"]
    draft_forwards: Int[Tensor, "T"]
    seconds: Float[Tensor, "T"]
    prefill_seconds: float

    @property
    def tokens_per_forward(self) -> Float[Tensor, "R"]:
        """Steps of each row for each forward pass of the target that it took part in."""
        took_part = (self.emitted > 0).to(self.target_forwards.dtype)
        return self.emitted.sum(0) / (took_part * self.target_forwards[:, None]).sum(0)

    @property
    def acceptance(self) -> Float[Tensor, "R"]:
        """Share of the drafted steps that were accepted; NaN if nothing was drafted."""
        return self.accepted.sum(0) / self.drafted.sum(0)


@dataclass(frozen=True)
class Result:
    """What was decoded, without the prompt.

    Attributes:
        codes: int64 `[R, S, Q]`, -1 behind a row's length.
        lengths: int64 `[R]`, steps of each row, a stop token included.
        logp: float32 `[R, S, Q]`, natural logarithm of each token's probability under the law that it was drawn from;
            0 for tokens fixed by the layout, and behind a row's length.
        exactness: What the method declares.
        trace: Counts and times.
    """

    codes: Int[Tensor, "R S Q"]
    lengths: Int[Tensor, "R"]
    logp: Float[Tensor, "R S Q"]
    exactness: Exactness
    trace: Trace


@dataclass
class Recorder:
    """Collects a trace round by round, without asking the device."""

    rows: int
    prefill_seconds: float = 0.0
    _rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _calls: list[tuple[int, int, float]] = field(default_factory=list)
    _lap: float = field(default_factory=perf_counter)

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._lap = self._lap, perf_counter()
        return self._lap - before

    def round(self, drafted: Tensor, accepted: Tensor, emitted: Tensor, target: int, draft: int) -> None:
        self._rows.append((drafted, accepted, emitted))
        self._calls.append((target, draft, self.lap()))

    def trace(self) -> Trace:
        none = torch.zeros(3, 0, self.rows, dtype=torch.int64)
        counts = torch.stack([torch.stack(parts) for parts in self._rows], 1).cpu() if self._rows else none
        drafted, accepted, emitted = counts
        return Trace(
            drafted,
            accepted,
            emitted,
            target_forwards=torch.tensor([target for target, _, _ in self._calls], dtype=torch.int64),
            draft_forwards=torch.tensor([draft for _, draft, _ in self._calls], dtype=torch.int64),
            seconds=torch.tensor([seconds for _, _, seconds in self._calls], dtype=torch.float64),
            prefill_seconds=self.prefill_seconds,
        )
