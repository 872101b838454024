"""What searches return: several candidates of each row, and the best of them as a `Result`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.sampling.result import Exactness, Result, Trace


@dataclass(frozen=True)
class Candidates:
    """K continuations of each row, without the prompt.

    Attributes:
        codes: int64 `[R, K, S, Q]`, -1 behind a candidate's length.
        lengths: int64 `[R, K]`, steps, a stop token included; 0 where a row has fewer candidates.
        logp: float32 `[R, K, S, Q]`, as in `Result`.
        exactness: Of each candidate by itself.
        trace: Of the pass that all candidates of a row share; `emitted` counts the steps of the longest.
    """

    codes: Int[Tensor, "R K S Q"]
    lengths: Int[Tensor, "R K"]
    logp: Float[Tensor, "R K S Q"]
    exactness: Exactness
    trace: Trace

    def taken(self, index: Int[Tensor, "R J"]) -> Candidates:
        """Those of these numbers."""
        row = torch.arange(len(index), device=index.device)[:, None]
        return Candidates(
            self.codes[row, index], self.lengths[row, index], self.logp[row, index], self.exactness, self.trace
        )

    def each(self, row: int) -> list[tuple[Int[Tensor, "S Q"], Float[Tensor, "S Q"]]]:
        """Codes and log-probabilities of each candidate of a row, cut to its length."""
        parts = zip(self.codes[row], self.logp[row], self.lengths[row].tolist(), strict=True)
        return [(codes[:length], logp[:length]) for codes, logp, length in parts]


@dataclass(frozen=True)
class Ranked(Result):
    """The best candidate of each row, and all of them.

    Attributes:
        candidates: Best first.
        scores: float64 `[R, K]`, what they are ranked by; -inf where a row has fewer candidates.
    """

    candidates: Candidates
    scores: Float[Tensor, "R K"]


def ranked(candidates: Candidates, scores: Float[Tensor, "R K"]) -> Ranked:
    """Candidates in the order of these scores; of equal ones the first is better.

    What comes out has another law than the candidates: the result is approximate.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    best = candidates.taken(order)
    lengths = best.lengths[:, 0]
    longest = int(lengths.max())
    return Ranked(
        best.codes[:, 0, :longest],
        lengths,
        best.logp[:, 0, :longest],
        Exactness.APPROXIMATE,
        replace(best.trace, emitted=emitted_steps(best.trace, lengths)),
        best,
        scores.gather(1, order),
    )


def emitted_steps(trace: Trace, lengths: Int[Tensor, "R"]) -> Int[Tensor, "T R"]:
    """One a round, up to these lengths: what is dropped in the end does not come out."""
    return (torch.arange(len(trace.seconds))[:, None] < lengths.cpu()).long()
