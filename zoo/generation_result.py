"""What generation gives: text or media, and how fast and how exactly they were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from zoo.codecs.base import Tokens
from zoo.decoders.sampling import Exactness, Result

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
    """

    medium: str
    results: tuple[Result, ...]
    drawn: int
    text: tuple[str, ...] = ()
    media: tuple[Float[Tensor, "channel *axes"], ...] = ()
    rate: int = 0
    tokens: tuple[Tokens, ...] = ()
    files: tuple[Path, ...] = ()

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
        `accepted_length`: how many of these steps had been drafted, None without drafts.
        """
        traces = [result.trace for result in self.results]
        rounds = max(1, sum(int((trace.emitted > 0).sum()) for trace in traces))  # one pass may find nothing to say
        # Of masked decoding, candidates are drafts and all that stand come out; behind a draft, one step more does.
        drafts = any(int(trace.drafted.sum()) and not trace.accepted.equal(trace.emitted) for trace in traces)
        accepted = sum(int(trace.accepted.sum()) for trace in traces)
        return {
            "medium": self.medium,
            "tokens": self.drawn,
            "seconds": self.seconds,
            "tokens_per_second": self.drawn / self.seconds,
            "passes": sum(int(trace.target_forwards.sum()) for trace in traces),
            "steps_per_pass": sum(int(trace.emitted.sum()) for trace in traces) / rounds,
            "accepted_length": accepted / rounds if drafts else None,
            "exactness": str(self.exactness),
        }
