"""What generation gives: text or media, and how fast and how exactly they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from zoo.codecs.base import Tokens
from zoo.decoders.sampling import Exactness, Result, Trace

LEAST_EXACT_LAST = (Exactness.IDENTICAL, Exactness.DISTRIBUTION, Exactness.APPROXIMATE)


@dataclass(frozen=True)
class Generated:
    """What `zoo.generate` made: `text`, or `media` with their `tokens`; one for each of `count`.

    Attributes:
        medium: "text", "audio" or "image".
        results: Of the loops that ran.
        drawn: Tokens or codes that came out.
        text: Prompt and what came behind it.
        media: float32 `[channel, time]` in [-1, 1], or `[3, height, width]` in [0, 1].
        rate: Samples a second, in Hz; 0 without sound.
        tokens: Of these media, a batch of one each.
        files: What was written.
        cut: Pieces of text that a decoder which ends by itself had not ended when there was no more room.
    """

    medium: str
    results: tuple[Result, ...]
    drawn: int
    text: tuple[str, ...] = ()
    media: tuple[Float[Tensor, "channel *axes"], ...] = ()
    rate: int = 0
    tokens: tuple[Tokens, ...] = ()
    files: tuple[Path, ...] = ()
    cut: int = 0

    @property
    def seconds(self) -> float:
        """That drawing took, without loading and without the codec."""
        return sum(float(result.trace.seconds.sum()) + result.trace.prefill_seconds for result in self.results)

    @property
    def exactness(self) -> Exactness:
        """The least exact of all results."""
        return max((result.exactness for result in self.results), key=LEAST_EXACT_LAST.index)

    def facts(self) -> dict[str, Any]:
        """Counts and speed, as plain values.

        `passes`: forward passes of the decoder; `steps_per_pass`: what a row got of each that it took part in;
        `accepted_length`: how many of these steps had been drafted, None without drafts; `cut`: see the attribute.
        """
        traces = [result.trace for result in self.results]
        # Of masked decoding, candidates are drafts and all that stand come out; behind a draft, one step more does.
        by_steps = [trace for trace in traces if not (trace.drafted.any() and trace.accepted.equal(trace.emitted))]
        drafts = any(trace.drafted.any() for trace in by_steps)
        accepted = sum(int(trace.accepted.sum()) for trace in by_steps)
        return {
            "medium": self.medium,
            "tokens": self.drawn,
            "seconds": self.seconds,
            "tokens_per_second": self.drawn / self.seconds,
            "passes": sum(int(trace.target_forwards.sum()) for trace in traces),
            "steps_per_pass": sum(int(trace.emitted.sum()) for trace in traces) / rounds_of(traces),
            "accepted_length": accepted / rounds_of(by_steps) if drafts else None,
            "exactness": str(self.exactness),
            "cut": self.cut,
        }


def rounds_of(traces: Sequence[Trace]) -> int:
    """Passes that rows took part in; 1 at least, as a decoder of one pass may find nothing to say."""
    return max(1, sum(int((trace.emitted > 0).sum()) for trace in traces))
